//! Serves HTTP to an application of this node that calls a routed port of a service.
//!
//! Reads from [`serve`], the life of a connection; `request` is the life of a request. `heads` and `wire` let nothing through that
//! HTTP's specification does not, before anybody parses; `coding` frames messages; `tables` says which rule; `filter` what becomes of heads; `upstream` and
//! `reach` by which connection an endpoint is asked, `ask` how in HTTP/1, `driven` in whose task that is polled; `forwarded` says who
//! asks, `retry` whether it is asked again, `session` by which endpoint; `body`, `received`, `pipe` and `stream` move bytes, `unread` and `waiting` charge for those that wait; `two` is a client's
//! HTTP/2, `upgrade` what is HTTP no more. Nothing here decides policy or a route.

mod ask;
mod body;
mod coding;
mod counts;
mod driven;
mod endpoint;
mod expect;
mod fault;
mod filter;
pub mod foreign;
mod forwarded;
mod heads;
mod mirror;
mod pipe;
mod reach;
mod received;
mod record;
mod request;
mod retry;
mod session;
mod stream;
mod tables;
mod turn;
mod two;
mod unread;
mod upgrade;
mod upstream;
mod waiting;
mod wire;

use std::{
    convert::Infallible,
    net::SocketAddr,
    os::fd::AsFd as _,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header::CONNECTION};
use hyper::{body::Incoming, ext::ReasonPhrase, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use millrace_model::Protocol;
use socket2::SockRef;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::{accept::Accepted, fault::Why, maps::Asked, rarely::Rarely, record::Record, unrouted, worker::Worker};
use coding::Reason;
use driven::Both;
use fault::Fault;
use heads::{Bad, Version};
use received::Received;
use request::Callers;
use waiting::Waiting;
use wire::Checked;

pub(crate) use counts::Counts;
pub(crate) use endpoint::Pools;
pub(crate) use mirror::Mirrors;
pub(crate) use record::{Requests, access_log, tap_route};
pub(crate) use retry::Budgets;
pub(crate) use tables::Tables;
pub(crate) use upstream::Upstreams;

/// How long a client may be silent before its first head is whole. It has connected to say something.
const FIRST_HEAD: Duration = Duration::from_secs(60);

/// How long it may be silent between two requests, and take for a head: connections are kept for as long by most pools.
const NEXT_HEAD: Duration = Duration::from_secs(600);

/// How long a connection without a request is kept when the proxy is to end: its client's next one ends it.
const LAST_REQUEST: Duration = Duration::from_secs(5);

/// What may wait to be parsed or written: the longest head whole.
const BUFFER: usize = heads::MAX_HEAD + 16 * 1024;

/// How long a client that was refused is still listened to, so that what it sends does not reset what it is told.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Whether a connection was one for here.
pub(crate) enum Taken {
    /// It was, and ended so.
    Ended(Result<(), Why>),
    /// It is to be carried as it is, to what was asked for.
    Not(TcpStream, Result<Asked, Why>),
}

/// Serves a connection to a routed port to its end.
pub(crate) async fn take(
    worker: &Arc<Worker>,
    accepted: &mut Accepted,
    socket: TcpStream,
    record: &mut Record,
) -> Taken {
    let asked = match asked(worker, &socket) {
        Ok(asked) => asked,
        // Told by whoever carries connections as they are.
        Err(why) => return Taken::Not(socket, Err(why)),
    };
    let mesh = worker.proxy.current();
    let (address, port) = (asked.address.ip(), asked.address.port());
    let Some(service) = mesh.service_at(address, port, Protocol::Tcp) else { return Taken::Not(socket, Ok(asked)) };
    let routes = mesh.snapshot.routes.get(&service.name);
    let is_routed = routes.is_some_and(|routes| routes.route(port, &accepted.home.pod.name.namespace));
    record.asked = Some(asked.address);
    if is_routed {
        drop(mesh);
        accepted.pending = None;
        return Taken::Ended(Box::pin(serve(worker, accepted, (socket, asked.address), record)).await);
    }
    // The kernel picks an endpoint for every connection but those to a routed port.
    if asked.backend == asked.address {
        drop(mesh);
        return Taken::Ended(Box::pin(unrouted::serve(worker, accepted, (socket, asked.address), record)).await);
    }
    Taken::Not(socket, Ok(asked))
}

/// What an application asked for.
fn asked(worker: &Worker, socket: &TcpStream) -> Result<Asked, Why> {
    match worker.proxy.welcome()?.maps.original(socket.as_fd()) {
        Ok(Some(asked)) => Ok(asked),
        Ok(None) => Err(Why::NoOriginal),
        Err(why) => {
            tracing::warn!(%why, "what an application asked for can't be read");
            Err(Why::OriginalUnreadable)
        }
    }
}

/// One connection, until client or proxy ends it.
async fn serve(
    worker: &Arc<Worker>,
    accepted: &Accepted,
    (socket, asked): (TcpStream, SocketAddr),
    record: &mut Record,
) -> Result<(), Why> {
    record.carrying();
    let callers = Arc::new(Callers::new(worker.clone(), accepted, asked));
    let mut checked = Checked::new(socket, callers.turn.clone());
    let version = match timeout(FIRST_HEAD, checked.version()).await {
        Ok(Ok(Some(version))) => version,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(_reset)) => return Err(Why::ClientReset),
        Err(_silent) => return Ok(()),
    };
    let gone = accepted.home.gone();
    tokio::pin!(gone);
    let mut gone = Rarely::new(gone);
    let ended = tokio::select! {
        biased;
        ended = async {
            match version {
                Version::One => Box::pin(one(&callers, checked)).await,
                Version::Two => Box::pin(two::serve(&callers, checked)).await,
            }
        } => ended,
        () = &mut gone => Err(Why::Gone),
    };
    if let Some(bad) = callers.turn.bad() {
        tracing::debug!(reason = bad.name(), source = %accepted.home.pod.name, "a client's bytes are no HTTP");
        worker.proxy.metrics.http.broken(bad.name());
        record::unreadable(&callers, bad);
    }
    ended
}

/// HTTP/1.
#[expect(clippy::large_futures, reason = "the one box of a request")]
async fn one(callers: &Arc<Callers>, checked: Checked) -> Result<(), Why> {
    let answer = callers.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (answer, turn) = (answer.clone(), answer.turn.clone());
        Box::pin(async move {
            let callers = answer.clone();
            let mut response = answer.answer(request.map(Received::One)).await?;
            if callers.is_closing.load(Ordering::Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            with_reason(&mut response);
            Ok::<_, Infallible>(response.map(|body| turn.with(body)))
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Waiting::new(checked, &callers.waits())), service);
    let mut drain = callers.worker.proxy.drain.clone();
    let draining = async {
        drain.begun().await;
        // Not at once: a request may be on its way just now, and would be lost. It is answered, and told that the connection closes.
        callers.is_closing.store(true, Ordering::Relaxed);
        tokio::time::sleep(LAST_REQUEST).await;
    };
    tokio::pin!(draining);
    let mut draining = Rarely::new(draining);
    let mut is_draining = false;
    let both = Both::at(&callers.desk);
    let ended = std::future::poll_fn(|cx| {
        if !is_draining && Pin::new(&mut draining).poll(cx).is_ready() {
            is_draining = true;
            // Nobody has asked for so long: it closes now, or with the answer that is under way.
            Pin::new(&mut connection).graceful_shutdown();
            both.look();
        }
        both.poll(cx, |cx| connection.poll_without_shutdown(cx))
    })
    .await;
    let parts = connection.into_parts();
    let checked = parts.io.into_inner().into_inner();
    if let (Ok(()), Some(mut lease)) = (&ended, callers.switch.take()) {
        let _held = callers.waits().charge(upgrade::HELD).map_err(Why::Limited)?;
        return Box::pin(upgrade::carry(checked.into_raw(parts.read_buf), &mut lease)).await;
    }
    match (ended, callers.turn.bad()) {
        (_, Some(_)) if checked.is_in_body() => {
            orderly(checked.socket());
            Ok(())
        }
        // It may speak anything: an answer in HTTP would be one more thing that it does not understand.
        (_, Some(Bad::NotHttp)) => {
            orderly(checked.socket());
            Ok(())
        }
        (_, Some(bad)) => {
            Box::pin(last_words(checked, &Fault::Bad(bad))).await;
            Ok(())
        }
        (Ok(()), None) => {
            orderly(checked.socket());
            Ok(())
        }
        (Err(error), None) => {
            tracing::debug!(%error, "a client's connection broke");
            Err(Why::ClientReset)
        }
    }
}

/// Has hyper write what the endpoint said of its status.
fn with_reason<B>(response: &mut Response<B>) {
    let reason = response.extensions_mut().remove().map(|Reason(reason)| ReasonPhrase::try_from(reason));
    if let Some(Ok(reason)) = reason {
        response.extensions_mut().insert(reason);
    }
}

/// From here on closing says no more than that.
fn orderly(socket: &TcpStream) {
    if let Err(why) = SockRef::from(socket).set_linger(None) {
        tracing::debug!(%why, "a connection is reset as it ends");
    }
}

/// Answers bytes that are no request, and closes.
async fn last_words(mut checked: Checked, fault: &Fault) {
    orderly(checked.socket());
    let text = format!(
        "HTTP/1.1 {}\r\ncontent-length: 0\r\nconnection: close\r\n{}: {}\r\n\r\n",
        fault.status(),
        crate::outbound::REASON,
        fault.name(),
    );
    let said = async {
        checked.write_all(text.as_bytes()).await?;
        checked.shutdown().await?;
        checked.drain().await
    };
    match timeout(LAST_WORDS, said).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client that was refused did not hear why"),
    }
}
