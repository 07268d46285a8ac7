//! Reaches an endpoint, by whichever of the three ways: straight to a pod of this node, through a tunnel to another's, plainly to
//! what is not of the mesh. Each asks the same policies and shows the same client as a connection that is not parsed.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use millrace_model::{
    Facts, Mesh, Workload,
    resolve::{Backend, Hop},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    body::Outgoing,
    stream::Carried,
    upstream::{Ends, Speak},
};
use crate::{
    application::{self, Called},
    dial::{Connected, dial},
    fault::{Fault, Why},
    home::{Home, Pod},
    limits::Account,
    outbound,
    pick::{Candidate, Turn},
    stock::Family,
    worker::Worker,
};

/// What a stream or connection to an endpoint may have under way each way: a bulk answer fills no more than this for a client that
/// has stopped reading.
const WINDOW: u32 = 1024 * 1024;

/// A connection that speaks HTTP, and what moves its bytes.
pub(crate) struct Opened {
    pub(crate) sender: Sender,
    pub(crate) driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// By which requests are sent.
pub(crate) enum Sender {
    /// One at a time.
    One(http1::SendRequest<Outgoing>),
    /// Many at once.
    Two(http2::SendRequest<Outgoing>),
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) home: Home,
    /// What the pod may take of this proxy.
    pub(crate) account: Arc<Account>,
    pub(crate) workload: Arc<Workload>,
    /// What the endpoint is shown as its client.
    pub(crate) shown: SocketAddr,
}

/// Opens a connection to `backend`.
pub(crate) async fn open(
    worker: &Arc<Worker>,
    mesh: &Mesh,
    caller: &Caller,
    (backend, ends): (&Backend, &Ends),
) -> Result<Opened, Fault> {
    let proxy = &worker.proxy;
    match &backend.hop {
        Hop::Local(workload) => {
            let facts = Facts {
                identity: Some(caller.workload.identity.clone()),
                address: caller.shown.ip(),
                port: backend.address.port(),
            };
            application::authorized(mesh, workload, &facts)?;
            // It is there for as long as this connection: whether the pod is, is asked of the mesh.
            let (present, home) = Home::new(Pod { name: workload.name.clone(), uid: workload.instance.clone() });
            let Connected { socket, held } =
                application::dial_shown(proxy, &home, backend.address, caller.shown).await?;
            orderly(&socket);
            let proxy = proxy.clone();
            let stop = async move {
                let why = application::denied_or_gone(&proxy, &home, Called::Known(facts)).await;
                tracing::debug!(reason = why.name(), "a connection to an application is closed");
                drop((present, held));
            };
            speak(socket, ends.speaks, stop).await
        }
        Hop::Tunnel(peer) => {
            let candidate =
                Candidate { address: backend.address, weight: backend.weight, peer: peer.clone(), turn: Turn::First };
            let tunnel = outbound::ends((&caller.home, &caller.workload), caller.shown, &candidate);
            let (place, stream) =
                outbound::attempt(worker, (&caller.account, &tunnel), &candidate, caller.shown).await?;
            let stop = async move {
                let _place = place;
                std::future::pending::<()>().await;
            };
            speak(Carried::new(stream), ends.speaks, stop).await
        }
        Hop::Plain => {
            let unconnected = proxy.stock.take(&caller.home.pod, Family::of(backend.address.ip())).await?;
            let Connected { socket, held } = dial(unconnected, backend.address).await?;
            let stop = async move {
                let _held = held;
                std::future::pending::<()>().await;
            };
            speak(socket, ends.speaks, stop).await
        }
        Hop::Pending(_) => Err(Why::BackendPending.into()),
    }
}

/// Between requests a connection is closed without a reset: it has nothing to say of any.
fn orderly(socket: &TcpStream) {
    if let Err(why) = SockRef::from(socket).set_linger(None) {
        tracing::debug!(%why, "a connection will be reset as it ends");
    }
}

/// Begins to speak HTTP; the driver ends with the connection, or when `stop` does.
async fn speak(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    speaks: Speak,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<Opened, Fault> {
    let io = TokioIo::new(io);
    Ok(match speaks {
        Speak::One => {
            let (send, connection) = http1::Builder::new().handshake(io).await.map_err(|_broken| Why::ConnectFailed)?;
            Opened { sender: Sender::One(send), driver: Box::pin(driven(connection, stop)) }
        }
        Speak::Two => {
            let (send, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW * 4)
                .handshake(io)
                .await
                .map_err(|_broken| Why::ConnectFailed)?;
            Opened { sender: Sender::Two(send), driver: Box::pin(driven(connection, stop)) }
        }
    })
}

async fn driven(connection: impl Future<Output = hyper::Result<()>>, stop: impl Future<Output = ()>) {
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to an endpoint broke");
            }
        }
        () = stop => {}
    }
}
