//! Carries one proxy's packets: reads what it says into events, and writes what it is to be told.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use millrace_model::{ObjectName, outlier::Cause};
use millrace_node::{
    handover::{Connection, Fault, Listener, Malformed, Packet, check_from_proxy, read_outcome},
    wire::{
        Undecodable, convert,
        mesh::ObjectName as WireName,
        node::{
            Applied, Denial, Family, FromAgent, FromProxy, Hello, InForce, ListenerKind, Returned, Want,
            from_proxy::Kind,
        },
    },
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::QUEUE;
use crate::config::User;

/// A proxy says its name at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections served at once: more than proxies are known, so that one that is let go can come again meanwhile.
const MAX_CONNECTIONS: usize = 16;

/// The socket's group may write: the proxy's.
const MODE: u32 = 0o660;

/// One message for a proxy.
#[derive(Debug)]
pub struct Outgoing {
    /// What is said.
    pub message: FromAgent,
    /// What goes with it.
    pub descriptors: Vec<Arc<OwnedFd>>,
}

/// Something a proxy did.
#[derive(Debug)]
pub struct Event {
    /// Which proxy: a greater number came later.
    pub proxy: u64,
    /// What it did.
    pub said: Said,
}

/// What a proxy can do.
#[derive(Debug)]
pub enum Said {
    /// It said its name, its version and whether it drains, and can be told things.
    Hello(Hello, mpsc::Sender<Outgoing>),
    /// It holds these listeners of a workload.
    Returned(ObjectName, Arc<str>, Vec<(ListenerKind, OwnedFd)>),
    /// It wants this many sockets.
    Want(ObjectName, Arc<str>, Family, u32),
    /// It serves by this generation, and is tuned so.
    Applied(u64, Vec<InForce>),
    /// It refused a connection.
    Denial(Denial),
    /// A connection to an endpoint failed so, or was made after some that did.
    Outcome(SocketAddr, Option<Cause>),
    /// It is gone, or was let go; the reason, where there is one.
    Left(Option<Ended>),
}

/// Why a proxy's connection was ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The socket, or a packet on it.
    #[error("its connection failed")]
    Fault(#[from] Fault),
    /// A message that is not as it must be.
    #[error("it sent what it must not")]
    Malformed(#[from] Malformed),
    /// A name in a message can't be read.
    #[error("it sent a name that can't be read")]
    Name(#[from] Undecodable),
    /// The first message was not Hello, or came too late.
    #[error("it did not say its name first, within {HELLO_TIMEOUT:?}")]
    NoHello,
    /// Hello came again.
    #[error("it said its name twice")]
    TwoHellos,
    /// Only root may hold listeners for others.
    #[error("the user {0} may not be the holder")]
    NotHolder(u32),
}

/// Binds `path` for the proxies of `user`, in place of whoever did.
pub fn bind(path: &Path, user: User) -> io::Result<Listener> {
    let listener = Listener::bind(path, MODE)?;
    std::os::unix::fs::chown(path, None, Some(user.gid))?;
    Ok(listener)
}

/// Serves the proxies of `user` until the process ends.
pub async fn listen(listener: Listener, user: User, events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let mut proxy = 0;
    loop {
        let (connection, peer) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        if peer.uid != 0 && peer.uid != user.uid {
            tracing::warn!(uid = peer.uid, pid = peer.pid, "somebody who is not the proxy came to its socket");
            continue;
        }
        if connections.len() >= MAX_CONNECTIONS {
            tracing::warn!(pid = peer.pid, "too many connections to the proxy's socket");
            continue;
        }
        proxy += 1;
        connections.spawn(serve(connection, peer.uid, proxy, events.clone()));
    }
}

/// One proxy's connection, from its name to its end.
async fn serve(connection: Connection, uid: u32, proxy: u64, events: mpsc::Sender<Event>) {
    let ended = converse(&connection, uid, proxy, &events).await.err();
    // Where the node's loop has ended, so has everything else.
    drop(events.send(Event { proxy, said: Said::Left(ended) }).await);
}

async fn converse(connection: &Connection, uid: u32, proxy: u64, events: &mpsc::Sender<Event>) -> Result<(), Ended> {
    let first = timeout(HELLO_TIMEOUT, connection.receive::<FromProxy>()).await.map_err(|_late| Ended::NoHello)??;
    let Some(Packet { message, descriptors }) = first else { return Ok(()) };
    check_from_proxy(&message, descriptors.len())?;
    let Some(Kind::Hello(hello)) = message.kind else { return Err(Ended::NoHello) };
    if hello.name == super::HOLDER && uid != 0 {
        return Err(Ended::NotHolder(uid));
    }
    let (outgoing, queue) = mpsc::channel(QUEUE);
    if events.send(Event { proxy, said: Said::Hello(hello, outgoing) }).await.is_err() {
        return Ok(());
    }
    // Side by side, each at its own pace: a proxy that writes while we write must not make both wait.
    tokio::select! {
        read = read(connection, proxy, events) => read,
        written = write(connection, queue) => written,
    }
}

async fn read(connection: &Connection, proxy: u64, events: &mpsc::Sender<Event>) -> Result<(), Ended> {
    while let Some(Packet { message, descriptors }) = connection.receive::<FromProxy>().await? {
        check_from_proxy(&message, descriptors.len())?;
        let said = said(message, descriptors)?;
        if events.send(Event { proxy, said }).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes until the node's loop lets the proxy go.
async fn write(connection: &Connection, mut queue: mpsc::Receiver<Outgoing>) -> Result<(), Ended> {
    while let Some(Outgoing { message, descriptors }) = queue.recv().await {
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        connection.send(&message, &borrowed).await?;
    }
    Ok(())
}

/// A message that was checked, as what the proxy says by it.
fn said(message: FromProxy, descriptors: Vec<OwnedFd>) -> Result<Said, Ended> {
    let name = |name: Option<WireName>| convert::name_from(name, "workload");
    Ok(match message.kind.ok_or(Malformed::Kind)? {
        Kind::Hello(_) => return Err(Ended::TwoHellos),
        Kind::Returned(Returned { workload, uid, kinds }) => {
            let kinds = kinds.into_iter().map(|kind| ListenerKind::try_from(kind).unwrap_or_default());
            Said::Returned(name(workload)?, uid.into(), kinds.zip(descriptors).collect())
        }
        Kind::Want(Want { workload, uid, family, count }) => {
            Said::Want(name(workload)?, uid.into(), Family::try_from(family).unwrap_or_default(), count)
        }
        Kind::Applied(Applied { generation, in_force }) => Said::Applied(generation, in_force),
        Kind::Denial(denial) => Said::Denial(denial),
        Kind::Outcome(outcome) => {
            let (endpoint, failed) = read_outcome(&outcome)?;
            Said::Outcome(endpoint, failed)
        }
    })
}
