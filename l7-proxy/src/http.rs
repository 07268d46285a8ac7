//! Serves HTTP to an application of this node that calls a routed port of a service.
//!
//! Reads from [`serve`], the life of a connection; `request` is the life of a request. `one` and `two` are a client's HTTP/1 and HTTP/2,
//! `wire` asks which of them it is, and `ask` is an endpoint's HTTP/1; `heads` takes nothing for a request that HTTP's specification does not; `tables` says which rule; `filter` what becomes of heads; `upstream` and
//! `reach` by which connection an endpoint is asked, `driven` in whose task that is polled; `forwarded` says who
//! asks, `retry` whether it is asked again, `session` by which endpoint; `body`, `coding`, `received`, `pipe` and `stream` move bytes, `unread` and `waiting` charge for those that wait;
//! `upgrade` is what is HTTP no more. Nothing here decides policy or a route.

mod ask;
mod body;
mod coding;
mod counts;
mod driven;
mod endpoint;
mod expect;
mod fault;
mod filter;
mod flaw;
pub mod foreign;
mod forwarded;
mod heads;
mod mirror;
mod one;
mod pipe;
mod reach;
mod received;
mod record;
mod request;
mod retry;
mod session;
mod stream;
mod tables;
mod two;
mod unread;
mod upgrade;
mod upstream;
mod waiting;
mod wire;

use std::{net::SocketAddr, os::fd::AsFd as _, sync::Arc, time::Duration};

use millrace_model::Protocol;
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{accept::Accepted, fault::Why, maps::Asked, rarely::Rarely, record::Record, unrouted, worker::Worker};
use heads::Version;
use request::Callers;
use wire::Client;

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
    let (mut client, began) = (Client::new(socket), Instant::now());
    let version = match timeout_at(began + FIRST_HEAD, client.version()).await {
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
                Version::One => Box::pin(one::serve(&callers, client, began)).await,
                Version::Two => Box::pin(two::serve(&callers, client)).await,
            }
        } => ended,
        () = &mut gone => Err(Why::Gone),
    };
    if let Some(bad) = callers.flaw.bad() {
        tracing::debug!(reason = bad.name(), source = %accepted.home.pod.name, "a client's bytes are no HTTP");
        worker.proxy.metrics.http.broken(bad.name());
        record::unreadable(&callers, bad);
    }
    ended
}

/// From here on closing says no more than that.
fn orderly(socket: &TcpStream) {
    if let Err(why) = SockRef::from(socket).set_linger(None) {
        tracing::debug!(%why, "a connection is reset as it ends");
    }
}
