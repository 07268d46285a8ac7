//! Reaches an endpoint, by whichever of the three ways: straight to a pod of this node, through a tunnel to another's, plainly to
//! what is not of the mesh. Each asks the same policies and shows the same client as a connection that is not parsed.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use millrace_model::{
    Facts, Mesh, Workload,
    resolve::{Backend, Hop},
};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::{oneshot, watch},
};

use super::{
    ask::{Asker, Asking, Over},
    stream::{Filling, carried},
    unread::{Reading, Unread},
    upgrade::{Io, Switched},
    upstream::{Ends, Speak},
};
use crate::{
    application::{self, Called},
    dial::{Connected, dial},
    fault::{Fault, Why},
    gather::{Gather, Gathered, gathered},
    handshakes::Caller as Peer,
    home::{Home, Pod},
    limits::{Account, Waits},
    outbound,
    pick::{Candidate, Turn},
    rarely::Rarely,
    stock::Family,
    tunnel,
    worker::Worker,
};

/// What a stream from an endpoint may have under way: a bulk answer fills no more than this for a client that has stopped reading.
const WINDOW: u32 = 256 * 1024;

/// Windows that all streams of a connection have together: one for each of those in it.
const WINDOWS: u32 = 100;

/// The longest head of an answer.
const MAX_HEAD: u32 = 64 * 1024;

/// What a stream to an endpoint may have queued to send.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection that speaks HTTP, and what moves its bytes.
pub(crate) struct Opened {
    pub(crate) sender: Sender,
    pub(crate) driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// By which requests are sent.
pub(crate) enum Sender {
    /// One at a time.
    One(Asker, Switching),
    /// Many at once.
    Two(h2::client::SendRequest<Bytes>, Unread, Arc<Waits>),
}

/// Whether and how a connection comes to speak something else than HTTP.
#[derive(Debug)]
pub(crate) struct Switching {
    may_come: Arc<AtomicBool>,
    came: oneshot::Receiver<Switched>,
}

impl Switching {
    /// A request asks for it: what is left when HTTP has ended is kept.
    pub(crate) fn may_come(&self) {
        self.may_come.store(true, Ordering::Relaxed);
    }

    /// The connection, when its HTTP has ended.
    pub(crate) async fn come(&mut self) -> Option<Switched> {
        (&mut self.came).await.ok()
    }
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
    let waits = Arc::new(caller.account.waits(Peer::at(mesh, backend.address.ip())));
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
            speak(socket, ends.speaks, &waits, Beside::new(stop)).await
        }
        Hop::Tunnel(peer) => {
            let candidate =
                Candidate { address: backend.address, weight: backend.weight, peer: peer.clone(), turn: Turn::First };
            let tunnel = outbound::ends((&caller.home, &caller.workload), caller.shown, &candidate);
            let (place, stream) =
                outbound::attempt(worker, (&caller.account, &tunnel), &candidate, caller.shown).await?;
            let waits = stream.waits.clone();
            let stop = async move {
                let _place = place;
                std::future::pending::<()>().await;
            };
            let (stream, filling) = carried(stream);
            speak(stream, ends.speaks, &waits, Beside { filling: Some(filling), ..Beside::new(stop) }).await
        }
        Hop::Plain => {
            let unconnected = proxy.stock.take(&caller.home.pod, Family::of(backend.address.ip())).await?;
            let Connected { socket, held } = dial(unconnected, backend.address).await?;
            let stop = async move {
                let _held = held;
                std::future::pending::<()>().await;
            };
            speak(socket, ends.speaks, &waits, Beside::new(stop)).await
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

type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is polled beside a connection, before it.
struct Beside {
    /// Its end is the connection's.
    stop: Rarely<Stop>,
    filling: Option<Filling>,
}

impl Beside {
    fn new(stop: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { stop: Rarely::new(Box::pin(stop)), filling: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(filling) = &mut self.filling {
            filling.poll(cx);
        }
        Pin::new(&mut self.stop).poll(cx)
    }

    /// Charges what was not read; whether that may be.
    fn settle(&mut self) -> bool {
        match self.filling.as_mut().map_or(Ok(()), Filling::settle) {
            Ok(()) => true,
            Err(limit) => {
                tracing::debug!(limit = limit.name(), "what an endpoint sends is broken off: too much of it waits");
                false
            }
        }
    }

    /// This, of a connection that speaks HTTP no more.
    async fn go_on(mut self) {
        poll_fn(|cx| if self.poll(cx).is_ready() || !self.settle() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// Begins to speak HTTP; the driver ends with the connection, or when what is beside it does.
async fn speak(io: impl Io + 'static, speaks: Speak, waits: &Arc<Waits>, beside: Beside) -> Result<Opened, Fault> {
    Ok(match speaks {
        Speak::One => {
            let (asker, asking) = Asking::new(io, waits);
            let may_come = Arc::new(AtomicBool::new(false));
            let (switched, came) = oneshot::channel();
            let driver = Box::pin(one(asking, beside, (may_come.clone(), switched)));
            Opened { sender: Sender::One(asker, Switching { may_come, came }), driver }
        }
        Speak::Two => {
            let unread = Unread::new(waits);
            let (io, gather) = gathered(Reading::new(io, unread.clone()));
            let handshake = client().handshake::<_, Bytes>(io);
            let (send, connection) = handshake.await.map_err(|_broken| Why::ConnectFailed)?;
            gather.begin();
            let driver = Box::pin(two((connection, gather), beside, (unread.clone(), waits.tight())));
            Opened { sender: Sender::Two(send, unread, waits.clone()), driver }
        }
    })
}

fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * WINDOWS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// A connection of HTTP/1, to its end or until it speaks something else.
async fn one<T: Io + 'static>(
    mut asking: Asking<T>,
    mut beside: Beside,
    (may_come, switched): (Arc<AtomicBool>, oneshot::Sender<Switched>),
) {
    let ended = poll_fn(|cx| {
        if beside.poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let over = asking.poll(cx);
        if !beside.settle() {
            return Poll::Ready(None);
        }
        over.map(Some)
    });
    match ended.await {
        Some(Over::Switched(io, read)) if may_come.load(Ordering::Relaxed) => {
            let switched = switched.send(Switched { io: Box::new(io), read, beside: Box::pin(beside.go_on()) });
            // Who asked for it has gone, and the connection with it.
            drop(switched);
        }
        Some(Over::Lost(lost)) => tracing::debug!(%lost, "a connection to an endpoint has ended"),
        Some(Over::Switched(..)) | None => {}
    }
}

/// A connection of HTTP/2, and who sends what it gathers.
type Spoken<T> = (h2::client::Connection<Gathered<Reading<T>>, Bytes>, Gather<Reading<T>>);

/// A connection of HTTP/2, to its end.
async fn two<T: Io>(
    (mut connection, gather): Spoken<T>,
    mut beside: Beside,
    (unread, mut tight): (Unread, watch::Receiver<bool>),
) {
    loop {
        let ended = poll_fn(|cx| {
            if beside.poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let ended = Pin::new(&mut connection).poll(cx);
            gather.flush(cx);
            unread.look();
            if beside.settle() { ended } else { Poll::Ready(Ok(())) }
        });
        let ended = tokio::select! {
            ended = ended => ended,
            Ok(()) = tight.changed() => {
                tunnel::resized(connection.set_initial_window_size(tunnel::window(&mut tight, WINDOW)));
                continue;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to an endpoint broke");
        }
        return;
    }
}
