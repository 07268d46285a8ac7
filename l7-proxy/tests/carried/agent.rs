//! An agent that speaks the real hand-over protocol, and does what a test says instead of watching pods.

use std::{
    collections::VecDeque,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use millrace_model::{Identity, ObjectName, Snapshot};
use millrace_node::{
    credentials::KeyMaterial,
    handover::{self, Connection, Listener, Packet},
    wire::{
        self,
        node::{Denial, Family, FromAgent, FromProxy, ListenerKind, from_agent, from_proxy},
    },
};
use prost::Message as _;
use socket2::SockRef;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::netns::{Netns, sockets};

/// What a test has the agent say.
pub(crate) enum Say {
    Snapshot(Arc<Snapshot>),
    Keys(Identity, KeyMaterial),
    Retire(Identity),
    Listeners(ObjectName, Vec<(ListenerKind, OwnedFd)>),
    Close(ObjectName),
    Drain(u64),
}

/// Where the sockets that a proxy asks for are made, and what it gets as socket storage.
#[derive(Clone)]
pub(crate) struct Makes {
    pub(crate) sockets_in: Option<Netns>,
    pub(crate) storage: fn() -> [OwnedFd; 2],
}

/// The agent's end of it all.
pub(crate) struct FakeAgent {
    pub(crate) say: mpsc::Sender<Say>,
    pub(crate) denials: mpsc::Receiver<Denial>,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) returned: mpsc::Receiver<(String, usize)>,
    task: JoinHandle<()>,
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Inside {
    says: mpsc::Receiver<Say>,
    denials: mpsc::Sender<Denial>,
    applied: watch::Sender<u64>,
    returned: mpsc::Sender<(String, usize)>,
    makes: Makes,
}

pub(crate) const UID: &str = "uid-1";

impl FakeAgent {
    pub(crate) fn start(path: &Path, makes: Makes) -> Self {
        let listener = Listener::bind(path, 0o666).unwrap();
        let (say, says) = mpsc::channel(64);
        let (denials_in, denials) = mpsc::channel(64);
        let (applied_in, applied) = watch::channel(0);
        let (returned_in, returned) = mpsc::channel(64);
        let inside = Inside { says, denials: denials_in, applied: applied_in, returned: returned_in, makes };
        let task = tokio::spawn(async move {
            let (connection, _) = listener.accept().await.unwrap();
            serve(connection, inside).await;
        });
        Self { say, denials, applied, returned, task }
    }

    /// Dies, with its sockets.
    pub(crate) async fn stop(&mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }

    pub(crate) async fn say(&self, say: Say) {
        if let Say::Listeners(_, listeners) = &say {
            listeners.iter().for_each(|(kind, listener)| prepare(*kind, listener));
        }
        self.say.send(say).await.ok().unwrap();
    }

    /// Waits until the proxy serves by this generation.
    pub(crate) async fn applied(&mut self, generation: u64) {
        self.applied.wait_for(|applied| *applied >= generation).await.unwrap();
    }
}

async fn receive(connection: &Connection) -> Option<Packet<FromProxy>> {
    let packet = connection.receive::<FromProxy>().await.ok().flatten()?;
    handover::check_from_proxy(&packet.message, packet.descriptors.len()).expect("a proxy speaks well");
    Some(packet)
}

async fn send(connection: &Connection, kind: from_agent::Kind, descriptors: &[OwnedFd]) {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    // The proxy may be gone: the test that ended it knows.
    drop(connection.send(&FromAgent { kind: Some(kind) }, &borrowed).await);
}

async fn serve(connection: Connection, mut inside: Inside) {
    let Some(Packet { message, .. }) = receive(&connection).await else { return };
    assert!(matches!(message.kind, Some(from_proxy::Kind::Hello(_))), "Hello comes first");
    let welcome = from_agent::Kind::Welcome(wire::node::Welcome { node: "here".to_owned() });
    send(&connection, welcome, &(inside.makes.storage)()).await;
    let mut opening = VecDeque::from([()]);
    loop {
        tokio::select! {
            packet = receive(&connection) => match packet {
                Some(packet) => {
                    if let Some(from_proxy::Kind::Applied(_)) = &packet.message.kind {
                        opening.clear();
                    }
                    hear(&connection, &inside, packet).await;
                }
                None => return,
            },
            Some(say) = inside.says.recv(), if opening.is_empty() => speak(&connection, say).await,
        }
    }
}

async fn hear(connection: &Connection, inside: &Inside, packet: Packet<FromProxy>) {
    match packet.message.kind.unwrap() {
        from_proxy::Kind::Hello(_) => panic!("Hello twice"),
        from_proxy::Kind::Returned(returned) => {
            let said = (returned.workload.unwrap().name, packet.descriptors.len());
            inside.returned.send(said).await.unwrap();
        }
        from_proxy::Kind::Want(want) => {
            let (is_v4, count) = (want.family == i32::from(Family::V4), usize::try_from(want.count).unwrap());
            let made = match &inside.makes.sockets_in {
                Some(netns) => netns.sockets(is_v4, count),
                None => sockets(is_v4, count),
            };
            let wire::node::Want { workload, uid, family, count } = want;
            let answer = wire::node::Sockets { workload, uid, family, count };
            send(connection, from_agent::Kind::Sockets(answer), &made).await;
        }
        from_proxy::Kind::Applied(applied) => {
            inside.applied.send_replace(applied.generation);
        }
        from_proxy::Kind::Denial(denial) => inside.denials.send(denial).await.unwrap(),
        from_proxy::Kind::Outcome(_) => {} // What the agent makes of it is the agent's.
    }
}

fn name(name: &ObjectName) -> Option<wire::mesh::ObjectName> {
    Some(wire::mesh::ObjectName { namespace: name.namespace.to_string(), name: name.name.to_string() })
}

async fn speak(connection: &Connection, say: Say) {
    let uid = UID.to_owned();
    let (kind, descriptors) = match say {
        Say::Snapshot(snapshot) => {
            let memory = handover::seal("snapshot", &wire::encode_snapshot(&snapshot)).unwrap();
            (
                from_agent::Kind::Snapshot(wire::node::Snapshot {
                    generation: snapshot.generation,
                    settings: None,
                    from: 0,
                }),
                vec![memory],
            )
        }
        Say::Keys(identity, material) => {
            let bytes = wire::node::KeyMaterial::from(&material).encode_to_vec();
            let memory = handover::seal("keys", &bytes).unwrap();
            (from_agent::Kind::Keys(wire::node::Keys { identity: identity.to_string() }), vec![memory])
        }
        Say::Retire(identity) => {
            (from_agent::Kind::Retire(wire::node::Retire { identity: identity.to_string() }), vec![])
        }
        Say::Listeners(workload, listeners) => {
            let kinds = listeners.iter().map(|(kind, _)| i32::from(*kind)).collect();
            let listeners = listeners.into_iter().map(|(_, listener)| listener).collect();
            (from_agent::Kind::Listeners(wire::node::Listeners { workload: name(&workload), uid, kinds }), listeners)
        }
        Say::Close(workload) => (from_agent::Kind::Close(wire::node::Close { workload: name(&workload), uid }), vec![]),
        Say::Drain(deadline_ms) => (from_agent::Kind::Drain(wire::node::Drain { deadline_ms }), vec![]),
    };
    send(connection, kind, &descriptors).await;
}

/// Gives a listener the options that an agent makes it with.
fn prepare(kind: ListenerKind, listener: &OwnedFd) {
    let listener = SockRef::from(listener);
    listener.set_tcp_nodelay(true).unwrap();
    if kind != ListenerKind::TunnelV4 {
        listener.set_linger(Some(Duration::ZERO)).unwrap();
    }
}
