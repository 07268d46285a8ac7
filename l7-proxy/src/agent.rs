//! Speaks with the agent: registers, takes what it gives (snapshots, keys, listeners, sockets), tells it of refusals.
//!
//! While the agent is away the proxy serves on with what it has, and comes back to it with the listeners it holds.

mod message;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use millrace_model::{Mesh, Snapshot};
use millrace_node::{
    clock, credentials,
    drain::Trigger,
    handover::{self, Connection, Packet},
    wire::{
        self,
        node::{FromAgent, FromProxy, from_agent, from_proxy},
    },
};
use tokio::sync::{mpsc, watch};

use crate::{
    accept::Command,
    home::{Home, Pod},
    maps::SocketMaps,
    outliers::Outcome,
    proxy::{Missing, Proxy, Welcome},
    record::Denial,
    stock::Want,
};

/// The first wait before the agent is looked for again: a restart takes about as long.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// The longest such wait: how late a proxy may learn that its agent is back.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// The largest snapshot read: some 100,000 workloads.
const MAX_SNAPSHOT: usize = 256 * 1024 * 1024;

/// The largest key material read: a chain, a key and some roots.
const MAX_KEYS: usize = 256 * 1024;

/// Answers that wait for the agent's socket: one for each generation, and it takes them as fast as it sends.
const ANSWERS: usize = 64;

/// How often the stock is looked through for what a burst left over.
const TRIM: Duration = Duration::from_secs(15);

/// Makes socket storage of the two descriptors that come with Welcome.
pub type MakeMaps = fn(OwnedFd, OwnedFd) -> Arc<dyn SocketMaps>;

/// This proxy's side of the hand-over.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The agent's socket.
    pub(crate) path: PathBuf,
    /// The name that this proxy registers under.
    pub(crate) name: String,
    /// What socket storage is made by.
    pub(crate) make_maps: MakeMaps,
    /// What all connections share.
    pub(crate) proxy: Arc<Proxy>,
    /// Where a new mesh is put.
    pub(crate) mesh: watch::Sender<Arc<Mesh>>,
    /// Where the acceptor is told.
    pub(crate) acceptor: mpsc::Sender<Command>,
    /// Begins the drain when the agent says so.
    pub(crate) trigger: Arc<Trigger>,
    /// Pods whose listeners are held.
    pub(crate) pods: BTreeMap<Pod, Held>,
}

/// A pod's listeners, to be given back to the next agent.
#[derive(Debug)]
pub(crate) struct Held {
    listeners: Vec<(wire::node::ListenerKind, Arc<OwnedFd>)>,
    home: Home,
    /// Dropped when the pod goes: that ends its connections.
    here: watch::Sender<()>,
}

/// Why a connection to the agent ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the agent can't be reached")]
    Unreachable(#[source] std::io::Error),
    #[error("the agent closed the connection")]
    Closed,
    #[error("the connection to the agent broke")]
    Broken(#[source] handover::Fault),
    #[error("the agent sent what it may not")]
    Malformed(#[source] handover::Malformed),
    #[error("the agent sent what can't be used: {0}")]
    Unusable(&'static str),
    #[error("what the agent passed can't be read")]
    Unreadable(#[source] std::io::Error),
    #[error("the agent's snapshot can't be decoded")]
    Undecodable(#[source] wire::Undecodable),
    #[error("nobody has anything to say any more")]
    Ending,
}

/// What is told to the agent, from all over the proxy.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) wants: mpsc::Receiver<Want>,
    pub(crate) denials: mpsc::Receiver<Denial>,
    pub(crate) outcomes: mpsc::Receiver<Outcome>,
}

impl Agent {
    /// Serves the agent, and looks for it again when it goes. Ends with the process.
    pub(crate) async fn run(mut self, mut outbox: Outbox) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = clock::now();
            let ended = self.session(&mut outbox).await;
            self.proxy.metrics.agent_connected.set(0);
            match ended {
                Ended::Ending => return,
                Ended::Unreachable(_) | Ended::Closed => {
                    tracing::info!(error = &ended as &dyn std::error::Error, "the agent is away");
                }
                Ended::Broken(_)
                | Ended::Malformed(_)
                | Ended::Unusable(_)
                | Ended::Unreadable(_)
                | Ended::Undecodable(_) => {
                    tracing::warn!(error = &ended as &dyn std::error::Error, "the agent is left");
                }
            }
            // While it drains it comes back too, and says so: what is open is judged by new policies still.
            if clock::now().saturating_duration_since(began) > LAST_WAIT {
                wait = FIRST_WAIT;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    /// One connection: opening, then both ways side by side, so that neither end can wait for the other for ever.
    async fn session(&mut self, outbox: &mut Outbox) -> Ended {
        let connection = match Connection::connect(&self.path).await {
            Ok(connection) => connection,
            Err(why) => return Ended::Unreachable(why),
        };
        // What the last agent was to be asked for: this one is asked anew.
        while outbox.wants.try_recv().is_ok() {}
        if let Err(ended) = self.open(&connection).await {
            return ended;
        }
        let (answers, mut to_send) = mpsc::channel(ANSWERS);
        let proxy = self.proxy.clone();
        let ended = tokio::select! {
            ended = self.listen(&connection, &answers) => ended,
            ended = tell(&connection, outbox, &mut to_send) => ended,
            ended = trim(&proxy) => ended,
        };
        ended.err().unwrap_or(Ended::Closed)
    }

    /// Hello, Welcome, what is held, what is served by.
    async fn open(&self, connection: &Connection) -> Result<(), Ended> {
        let draining = self.proxy.drain.deadline().is_some();
        let (name, version) = (self.name.clone(), env!("CARGO_PKG_VERSION").to_owned());
        let hello = wire::node::Hello { name, version, draining, takes_differences: true };
        send(connection, from_proxy::Kind::Hello(hello), &[]).await?;
        let Packet { message, descriptors } = receive(connection).await?;
        let Some(from_agent::Kind::Welcome(wire::node::Welcome { node })) = message.kind else {
            return Err(Ended::Unusable("the first message is not Welcome"));
        };
        let Ok([original, client]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return Err(Ended::Unusable("Welcome without its maps"));
        };
        tracing::info!(node, "registered with the agent");
        self.proxy.welcomed(Welcome { node: node.into(), maps: (self.make_maps)(original, client) });
        for (pod, held) in &self.pods {
            let kinds = held.listeners.iter().map(|(kind, _)| i32::from(*kind)).collect();
            let listeners: Vec<_> = held.listeners.iter().map(|(_, listener)| listener.as_fd()).collect();
            let returned = wire::node::Returned { workload: Some(pod.wire_name()), uid: pod.uid.to_string(), kinds };
            send(connection, from_proxy::Kind::Returned(returned), &listeners).await?;
        }
        let generation = self.mesh.borrow().snapshot.generation;
        send(connection, from_proxy::Kind::Applied(self.applied(generation)), &[]).await?;
        self.proxy.stock.ask_again();
        self.proxy.ready(Missing::Agent);
        self.proxy.metrics.agent_connected.set(1);
        Ok(())
    }

    async fn listen(&mut self, connection: &Connection, answers: &mpsc::Sender<FromProxy>) -> Result<(), Ended> {
        loop {
            let Packet { message, descriptors } = receive(connection).await?;
            let Some(kind) = message.kind else { return Err(Ended::Unusable("a message of no kind")) };
            if let Some(answer) = self.take(kind, descriptors).await? {
                answers.send(FromProxy { kind: Some(answer) }).await.map_err(|_closed| Ended::Closed)?;
            }
        }
    }

    /// Does what one message says.
    async fn take(
        &mut self,
        kind: from_agent::Kind,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<from_proxy::Kind>, Ended> {
        use from_agent::Kind as Said;
        match kind {
            Said::Welcome(_) => return Err(Ended::Unusable("a second Welcome")),
            Said::Snapshot(wire::node::Snapshot { generation: _, settings, from }) => {
                let settings = settings.unwrap_or_default();
                self.proxy.tuning.set(&settings);
                self.proxy.accounts.tune(settings.limits);
                return self.snapshot(from, &descriptors).map(Some);
            }
            Said::Keys(wire::node::Keys { identity }) => self.keys(&identity, &descriptors)?,
            Said::Retire(wire::node::Retire { identity }) => {
                let identity = identity.parse().map_err(|_malformed| Ended::Unusable("an identity that is none"))?;
                self.proxy.keys.retire(&identity);
            }
            Said::Listeners(wire::node::Listeners { workload, uid, kinds }) => {
                let pod = message::pod(workload, &uid)?;
                let kinds = kinds.into_iter().map(message::listener_kind).collect::<Result<Vec<_>, _>>()?;
                self.listeners(pod, kinds.into_iter().zip(descriptors.into_iter().map(Arc::new)).collect()).await?;
            }
            Said::Close(wire::node::Close { workload, uid }) => {
                let pod = message::pod(workload, &uid)?;
                let acceptor = self.acceptor().await;
                self.pods.remove(&pod);
                self.proxy.stock.close(&pod);
                self.proxy.accounts.close(&pod);
                acceptor.map(|acceptor| acceptor.send(Command::Close(pod)));
            }
            Said::Sockets(wire::node::Sockets { workload, uid, family, count: _ }) => {
                self.proxy.stock.put(&message::pod(workload, &uid)?, message::family(family)?, descriptors);
            }
            Said::Drain(wire::node::Drain { deadline_ms }) => {
                tracing::info!(deadline_ms, "a newer proxy has taken over");
                self.trigger.begin(clock::now() + Duration::from_millis(deadline_ms));
            }
        }
        Ok(None)
    }

    /// Turns to a Snapshot: a whole one, or by its difference to the one that is served by.
    fn snapshot(&self, from: u64, descriptors: &[OwnedFd]) -> Result<from_proxy::Kind, Ended> {
        let memory = descriptors.first().ok_or(Ended::Unusable("Snapshot without its memory"))?;
        let bytes = handover::unseal(memory.as_fd(), MAX_SNAPSHOT).map_err(Ended::Unreadable)?.into();
        let held = self.mesh.borrow().clone();
        let snapshot: Snapshot = if from == 0 {
            wire::decode_snapshot(bytes).map_err(Ended::Undecodable)?
        } else {
            let delta = wire::decode_update(bytes).map_err(Ended::Undecodable)?;
            // The agent that is come back to gives the whole.
            if delta.from != from || from != held.snapshot.generation {
                return Err(Ended::Unusable("a difference to another snapshot than is served by"));
            }
            held.snapshot.apply(&delta).map_err(|_other| Ended::Unusable("a difference to another snapshot"))?
        };
        let generation = snapshot.generation;
        let mesh = Arc::new(held.turned(Arc::new(snapshot)));
        // Without one there is no listener yet, and no connection.
        let welcome = self.proxy.welcome().ok();
        if let Some(welcome) = &welcome {
            self.proxy.outliers.turn((&*mesh, &*welcome.node));
        }
        self.mesh.send_replace(mesh.clone());
        if let Some(welcome) = &welcome {
            // After it: who is woken asks this one.
            self.proxy.judged.turn((&held, &mesh), &welcome.node);
        }
        self.proxy.metrics.generation.set(generation);
        self.proxy.ready(Missing::Snapshot);
        tracing::debug!(generation, "serving by a new snapshot");
        Ok(from_proxy::Kind::Applied(self.applied(generation)))
    }

    /// What is served by, and how this proxy is tuned.
    fn applied(&self, generation: u64) -> wire::node::Applied {
        wire::node::Applied { generation, in_force: self.proxy.in_force() }
    }

    fn keys(&self, identity: &str, descriptors: &[OwnedFd]) -> Result<(), Ended> {
        let identity = identity.parse().map_err(|_malformed| Ended::Unusable("an identity that is none"))?;
        let memory = descriptors.first().ok_or(Ended::Unusable("Keys without their memory"))?;
        let bytes = handover::unseal(memory.as_fd(), MAX_KEYS).map_err(Ended::Unreadable)?;
        let material = message::key_material(&bytes)?;
        let names = credentials::peer_identity(&material.chain);
        if names.as_ref().ok() != Some(&identity) {
            return Err(Ended::Unusable("a certificate that names another identity"));
        }
        tracing::debug!(%identity, "a key has come");
        self.proxy.keys.put(identity, material).map_err(|why| {
            tracing::error!(error = &why as &dyn std::error::Error, "a key is not usable");
            Ended::Unusable("a key")
        })
    }

    async fn listeners(
        &mut self,
        pod: Pod,
        listeners: Vec<(wire::node::ListenerKind, Arc<OwnedFd>)>,
    ) -> Result<(), Ended> {
        let acceptor = self.acceptor().await;
        let mut to_accept = Vec::with_capacity(listeners.len());
        for (kind, listener) in &listeners {
            rustix::io::ioctl_fionbio(listener, true).map_err(|errno| Ended::Unreadable(errno.into()))?;
            let (kind, family) = message::purpose(*kind)?;
            self.proxy.stock.open(&pod, family);
            to_accept.push((kind, listener.clone()));
        }
        // A listener that replaces another of the same pod takes over its connections' home too.
        let (here, home) = match self.pods.remove(&pod) {
            Some(Held { listeners: _, home, here }) => (here, home),
            None => Home::new(pod.clone()),
        };
        tracing::info!(pod = %pod.name, n_listeners = to_accept.len(), "listening for a pod");
        self.pods.insert(pod, Held { listeners, home: home.clone(), here });
        acceptor.map(|acceptor| acceptor.send(Command::Open(home, to_accept)));
        Ok(())
    }

    /// Room to tell the acceptor something, taken before anything is changed: what this process holds and what it accepts
    /// on must not part when the connection breaks in between. None once it drains and accepts nothing.
    async fn acceptor(&self) -> Option<mpsc::OwnedPermit<Command>> {
        self.acceptor.clone().reserve_owned().await.ok()
    }
}

/// Closes now and then what the stock keeps too many of.
#[expect(clippy::infinite_loop, reason = "it ends with the connection that it runs beside")]
async fn trim(proxy: &Proxy) -> Result<(), Ended> {
    loop {
        tokio::time::sleep(TRIM).await;
        proxy.stock.trim(clock::now());
    }
}

/// Sends what the proxy has to say, until the connection breaks.
async fn tell(
    connection: &Connection,
    outbox: &mut Outbox,
    answers: &mut mpsc::Receiver<FromProxy>,
) -> Result<(), Ended> {
    loop {
        let kind = tokio::select! {
            Some(FromProxy { kind: Some(kind) }) = answers.recv() => kind,
            Some(want) = outbox.wants.recv() => message::want(want),
            Some(denial) = outbox.denials.recv() => message::denial(denial),
            Some(Outcome { endpoint, failed }) = outbox.outcomes.recv() => {
                from_proxy::Kind::Outcome(handover::outcome(endpoint, failed))
            }
            else => return Err(Ended::Ending),
        };
        send(connection, kind, &[]).await?;
    }
}

async fn send(
    connection: &Connection,
    kind: from_proxy::Kind,
    descriptors: &[std::os::fd::BorrowedFd<'_>],
) -> Result<(), Ended> {
    connection.send(&FromProxy { kind: Some(kind) }, descriptors).await.map_err(Ended::Broken)
}

async fn receive(connection: &Connection) -> Result<Packet<FromAgent>, Ended> {
    let packet = connection.receive::<FromAgent>().await.map_err(Ended::Broken)?.ok_or(Ended::Closed)?;
    handover::check_from_agent(&packet.message, packet.descriptors.len()).map_err(Ended::Malformed)?;
    Ok(packet)
}
