//! Speaks HTTP/2 with a client: its connection, its streams, and why each ends.
//!
//! h2 alone, without hyper above it: so it is known how much of every window is used, a stream that is reset is dropped at once with all
//! that was begun for it, and all streams of a connection end with it.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response};
use http_body::Body as _;
use tokio::time::{Instant, Sleep, timeout};

use super::{
    FIRST_HEAD, NEXT_HEAD,
    body::{Answer, Late},
    expect::Asked,
    fault::Fault,
    heads, orderly,
    pipe::{Cut, pipe, said},
    received::Received,
    request::{self, Callers},
    unread::{Reading, Unread},
    wire::Client,
};
use crate::{
    fault::Why,
    frames::{self, Counted, why_ended},
    gather::gathered,
    limits::Waits,
    tunnel,
};

/// Requests at once in one client's connection.
pub(super) const STREAMS: u32 = 256;

/// What a client may have under way in one stream: 256 MB/s at a millisecond. Over a tunnel's 4 MiB, and no farther than this node.
pub(super) const WINDOW: u32 = 256 * 1024;

/// What a stream may have queued to send, for a client that takes none of it.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that were reset before they were seen here. More is the "rapid reset" attack, and ends the connection.
const RESET_UNSEEN: usize = 64;

/// Streams reset here for what their client did wrong, over a connection's life.
const RESET_FOR_ERRORS: usize = 1024;

/// Streams reset here whose late frames are still forgiven, and for how long.
const RESET_HERE: usize = 1024;
const RESET_FORGIVEN: Duration = Duration::from_secs(5);

/// How long a connection must have been without a request before it is ended for the sake of a drain. A client's library may lose a request
/// that it was about to send when it is told to go: it is told when it hardly has one.
const QUIET: Duration = Duration::from_secs(1);

/// How long before the drain's deadline a connection that always has requests is told all the same.
const LAST_CALL: Duration = Duration::from_secs(10);

// All windows at once: less, and a few streams that are not read would stop all others of the connection.
const _: () = assert!(STREAMS as u64 * WINDOW as u64 <= i32::MAX as u64);

fn server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * STREAMS)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(heads::MAX_HEAD).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .max_concurrent_reset_streams(RESET_HERE)
        .max_local_error_reset_streams(Some(RESET_FOR_ERRORS))
        .reset_stream_duration(RESET_FORGIVEN);
    builder
}

/// One connection, from its preface.
pub(super) async fn serve(callers: &Arc<Callers>, client: Client) -> Result<(), Why> {
    orderly(&client.socket);
    let waits = callers.waits();
    let unread = Unread::new(&waits);
    let (io, answered) = Counted::of_requests(Reading::new(client, unread.clone()));
    let (io, gather) = gathered(io);
    let mut connection = match timeout(FIRST_HEAD, server().handshake::<_, Bytes>(io)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) | Err(_) => return Err(Why::ClientReset),
    };
    gather.begin();
    let mut drain = callers.worker.proxy.drain.clone();
    let mut tight = callers.account.tight();
    let (silent, idle) = (tunnel::peer_is_silent(connection.ping_pong()), tokio::time::sleep(NEXT_HEAD));
    tokio::pin!(silent, idle);
    let last_call = tokio::time::sleep(NEXT_HEAD);
    tokio::pin!(last_call);
    let (mut known, mut is_closing) = (None, false);
    let mut streams = FuturesUnordered::new();
    loop {
        let is_idle = streams.is_empty();
        tokio::select! {
            // What streams have to send is sent by the connection, which is polled after them.
            biased;
            Some(()) = streams.next(), if !is_idle => {
                idle.as_mut().reset(Instant::now() + if known.is_some() { QUIET } else { NEXT_HEAD });
            }
            asked = std::future::poll_fn(|cx| {
                let asked = connection.poll_accept(cx);
                unread.look();
                // Not between two requests that have come together: their answers may go together too.
                if asked.is_pending() {
                    gather.flush(cx);
                }
                asked
            }) => match asked {
                Some(Ok((request, respond))) => {
                    let life = stream(callers.clone(), (request, respond), unread.clone(), (waits.clone(), answered.clone()));
                    streams.push(Box::pin(life));
                }
                Some(Err(error)) => {
                    let reason = why_ended(&error, &answered);
                    tracing::debug!(reason, %error, source = %callers.home.pod.name, "a client's connection broke");
                    // One that just went away has sent nothing that is wrong.
                    if !error.is_io() && !error.is_remote() {
                        callers.worker.proxy.metrics.http.broken(reason);
                    }
                    return Err(Why::ClientReset);
                }
                None => return Ok(()),
            },
            () = &mut silent => return Err(Why::ClientReset),
            Ok(()) = tight.changed() => tunnel::resized(connection.set_initial_window_size(tunnel::window(&mut tight, WINDOW))),
            deadline = drain.sooner(known) => {
                known = Some(deadline);
                idle.as_mut().reset(Instant::now() + QUIET);
                last_call.as_mut().reset(deadline.checked_sub(LAST_CALL).map_or_else(Instant::now, Instant::from_std));
            }
            () = until_either((idle.as_mut(), is_idle), (last_call.as_mut(), known.is_some())), if !is_closing => {
                // Streams that are open go on; the client makes new ones in another connection.
                is_closing = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// Waits for the first of two that counts.
async fn until_either((one, is_one): (Pin<&mut Sleep>, bool), (other, is_other): (Pin<&mut Sleep>, bool)) {
    tokio::select! {
        () = one, if is_one => {}
        () = other, if is_other => {}
        else => std::future::pending().await,
    }
}

/// One stream: a request, and its answer. It ends at once where its client resets it.
async fn stream(
    callers: Arc<Callers>,
    (request, mut respond): (Request<RecvStream>, SendResponse<Bytes>),
    unread: Unread,
    (waits, answered): (Arc<Waits>, frames::Carried),
) {
    let mut request = request.map(|recv| Received::two(recv, &unread));
    let mut asked = Asked::enter(&mut request);
    let mut answering = Box::pin(callers.clone().answer(request));
    let answer = loop {
        tokio::select! {
            answer = &mut answering => break answer,
            _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
            () = Asked::come(asked.as_ref()) => {
                asked = None;
                // A client that has gone meanwhile is told nothing.
                drop(respond.send_informational(Asked::word()));
            }
        }
    };
    drop(answering);
    answered.one_more();
    match answer {
        Ok(answer) => Box::pin(answer_with(respond, answer, &waits)).await,
        Err(never) => match never {},
    }
}

/// Sends an answer, head and body.
async fn answer_with(mut respond: SendResponse<Bytes>, answer: Response<Answer>, waits: &Arc<Waits>) {
    let (head, mut body) = answer.into_parts();
    let (is_whole, is_grpc) = (body.is_end_stream(), request::is_grpc(&head.headers));
    // A client that has gone meanwhile is told nothing.
    let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), is_whole) else { return };
    if is_whole {
        return;
    }
    match pipe(&mut body, &mut stream, waits).await {
        // Whole, or its client wants no more of it.
        Ok(()) | Err(Cut::Reset) => {}
        Err(Cut::Broken(error)) => {
            tracing::debug!(error = &*error as &dyn std::error::Error, "an answer broke off");
            let fault = if error.is::<Late>() { Fault::RequestTimeout } else { Fault::Broken };
            match said(&error) {
                // The endpoint's own word.
                Some(reason) => stream.send_reset(reason),
                None if is_grpc => drop(stream.send_trailers(fault.grpc_trailers())),
                None => stream.send_reset(Reason::INTERNAL_ERROR),
            }
        }
    }
}
