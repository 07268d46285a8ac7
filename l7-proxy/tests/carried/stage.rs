//! Two nodes on loopback: pod `web` on node a calls, pod `api` on node b answers. Real TLS, real hand-over; only the
//! kernel programs are played: what `connect` would record is recorded here, where `sk_lookup` would steer, tests connect.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use millrace_l7_proxy::{
    Config, Parts, Privileges, Running,
    maps::{Asked, SocketMaps},
};
use millrace_model::{Encryption, EncryptionMode, Identity, Membership, ObjectName, Policy, Snapshot, Workload};
use millrace_node::{drain::Drain, wire::node::ListenerKind};
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    agent::{FakeAgent, Makes, Say, UID},
    authority::Authority,
    netns::Netns,
};

/// Each test has a network of its own: 127.N.0.0/16.
static NETWORK: AtomicU8 = AtomicU8::new(10);

/// What `connect` would have recorded, by the address that the application connected from.
static ASKED: Mutex<Option<HashMap<SocketAddr, Asked>>> = Mutex::new(None);

/// Clients shown to applications, in order.
static SHOWN: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

/// An address that the played maps can't bear to be asked for.
pub(crate) const PANICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)), 1);

/// Longer than anything here takes; a test that waits this long has failed.
pub(crate) const SOON: Duration = Duration::from_secs(20);

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct PlayedMaps;

impl SocketMaps for PlayedMaps {
    fn original(&self, accepted: BorrowedFd<'_>) -> std::io::Result<Option<Asked>> {
        let peer = socket2::SockRef::from(&accepted).peer_addr()?.as_socket().unwrap();
        let asked = held(&ASKED).get_or_insert_default().get(&peer).copied();
        assert_ne!(asked.map(|asked| asked.address), Some(PANICS), "on purpose");
        Ok(asked)
    }

    fn show(&self, unconnected: BorrowedFd<'_>, client: SocketAddr) -> std::io::Result<()> {
        assert!(unconnected.as_raw_fd() > 2);
        held(&SHOWN).push(client);
        Ok(())
    }
}

/// How a connection ended that had to be refused: at once, or when read.
pub(crate) async fn refused(connected: std::io::Result<TcpStream>) -> ErrorKind {
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => return error.kind(),
    };
    match timeout(SOON, stream.read(&mut [0])).await.expect("a refusal comes") {
        Ok(n) => panic!("{n} bytes or an orderly end, where a reset was due"),
        Err(error) => error.kind(),
    }
}

/// Waits for what comes soon, and about which nothing tells.
pub(crate) async fn wait_for(is_so: impl Fn() -> bool, what: &str) {
    for _ in 0..400 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came: {what}");
}

/// What is asked for by the address of a pod.
pub(crate) fn asked(target: SocketAddr) -> Asked {
    Asked { address: target, backend: target, pick: Default::default() }
}

/// True once this client was shown to an application.
pub(crate) fn was_shown(client: SocketAddr) -> bool {
    SHOWN.lock().unwrap().contains(&client)
}

/// One node: its proxy, and the agent that plays its part.
pub(crate) struct Node {
    pub(crate) agent: FakeAgent,
    pub(crate) dir: TempDir,
    pub(crate) makes: Makes,
    pub(crate) metrics: Arc<Mutex<Registry>>,
    pub(crate) running: Running,
}

pub(crate) struct Stage {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) authority: Authority,
    pub(crate) web: Workload,
    pub(crate) api: Workload,
    /// Where pod api's applications listen.
    pub(crate) api_netns: Netns,
    /// Where pod web's applications are sent.
    pub(crate) outbound: SocketAddr,
    inbound: Vec<(ListenerKind, std::net::TcpListener)>,
    snapshot: Snapshot,
}

pub(crate) fn workload(name: &str, address: IpAddr, node: &str) -> Workload {
    Workload {
        name: ObjectName::new("shop", name),
        instance: UID.into(),
        identity: Identity::new("cluster.local", "shop", name),
        addresses: vec![address],
        node: node.into(),
        zone: None,
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: Default::default(),
        probe_ports: Default::default(),
        telemetry: None,
        network: None,
    }
}

impl Node {
    pub(crate) fn start(sockets_in: Option<Netns>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = || std::array::from_fn(|_| std::fs::File::open("/dev/null").unwrap().into());
        let makes = Makes { sockets_in, storage };
        let agent = FakeAgent::start(&dir.path().join("proxy.sock"), makes.clone());
        let config = Config {
            agent: dir.path().join("proxy.sock"),
            admin: dir.path().join("proxy-admin.sock"),
            name: "default".to_owned(),
            n_workers: 2,
            user: "15008:15008".parse().unwrap(),
            drain: SOON,
            access_log: None,
            privileges: Privileges::Kept,
        };
        let (trigger, drain) = Drain::new();
        let parts = Parts::new(&config, (Arc::new(trigger), drain), |_, _| Arc::new(PlayedMaps));
        let metrics = parts.metrics();
        Self { agent, dir, makes, metrics, running: parts.start().unwrap() }
    }

    /// The value of a metric's line that begins with this text; 0 where there is none.
    pub(crate) fn metric(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics.lock().unwrap()).unwrap();
        let value = |l: &str| l.strip_prefix(line).map(|value| value.trim().parse::<u64>().unwrap());
        text.lines().filter_map(value).sum()
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// A stage whose first snapshot is changed before anybody sees it.
    pub(crate) async fn with(change: impl FnOnce(&mut Stage)) -> Self {
        let network = NETWORK.fetch_add(1, Ordering::Relaxed);
        let at = |host| IpAddr::V4(Ipv4Addr::new(127, network, 0, host));
        let api_netns = Netns::new();
        let (web, api) = (workload("web", at(1), "here"), workload("api", at(2), "there"));
        let authority = Authority::new();
        let outbound = TcpListener::bind((at(1), 0)).await.unwrap();
        let mut stage = Self {
            a: Node::start(None),
            b: Node::start(Some(api_netns.clone())),
            web,
            api,
            authority,
            api_netns,
            outbound: outbound.local_addr().unwrap(),
            inbound: [(ListenerKind::TunnelV4, 15008), (ListenerKind::PlaintextV4, 9000)]
                .map(|(kind, port)| (kind, std::net::TcpListener::bind((at(2), port)).unwrap()))
                .into(),
            snapshot: Snapshot { generation: 0, trust_domain: "cluster.local".into(), ..Snapshot::default() },
        };
        change(&mut stage);
        stage.publish(|_| ()).await;
        let key = stage.authority.issue(&stage.web.identity);
        stage.a.agent.say(Say::Keys(stage.web.identity.clone(), key)).await;
        let key = stage.authority.issue(&stage.api.identity);
        stage.b.agent.say(Say::Keys(stage.api.identity.clone(), key)).await;
        let outbound = vec![(ListenerKind::OutboundV4, OwnedFd::from(outbound.into_std().unwrap()))];
        stage.a.agent.say(Say::Listeners(stage.web.name.clone(), outbound)).await;
        stage.b.agent.say(Say::Listeners(stage.api.name.clone(), stage.api_listeners())).await;
        stage
    }

    /// Pod api's listeners, as an agent passes them: the same ones each time.
    pub(crate) fn api_listeners(&self) -> Vec<(ListenerKind, OwnedFd)> {
        self.inbound.iter().map(|(kind, listener)| (*kind, listener.try_clone().unwrap().into())).collect()
    }

    /// Leaves pod api's listeners to the proxy alone.
    pub(crate) fn let_go(&mut self) {
        self.inbound.clear();
    }

    /// What both proxies serve by.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::new(self.snapshot.clone())
    }

    /// Compiles the workloads as they are now, with this change, and waits until both proxies serve by it.
    pub(crate) async fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        for workload in [&self.web, &self.api] {
            self.snapshot.workloads.insert(workload.name.clone(), Arc::new(workload.clone()));
        }
        change(&mut self.snapshot);
        self.snapshot.generation += 1;
        for node in [&mut self.a, &mut self.b] {
            // Both proxies are told "here" by their agents; b's own pods are on "there" for a, and for b it dials none.
            node.agent.say(Say::Snapshot(Arc::new(self.snapshot.clone()))).await;
            node.agent.applied(self.snapshot.generation).await;
        }
    }

    /// Publishes a policy on pod api.
    pub(crate) async fn publish_policy(&mut self, policy: Policy) {
        self.api.policies.insert(policy.name.clone());
        self.publish(|snapshot| {
            snapshot.policies.insert(policy.name.clone(), Arc::new(policy));
        })
        .await;
    }

    /// Makes pod api refuse plain text.
    pub(crate) fn strict(&mut self) {
        self.api.encryption.default = EncryptionMode::Strict;
    }

    /// The address of an application of pod api.
    pub(crate) fn api_at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.api.addresses[0], port)
    }

    /// An application of pod api.
    pub(crate) fn api_listens(&self, port: u16) -> TcpListener {
        self.api_netns.listen(self.api_at(port))
    }

    /// A connection that pod web's application made to `target`, as the kernel would have captured it.
    pub(crate) async fn web_connects(&self, target: SocketAddr) -> TcpStream {
        self.web_connects_to(asked(target)).await
    }

    pub(crate) async fn web_connects_to(&self, asked: Asked) -> TcpStream {
        self.web_tries(asked).await.unwrap()
    }

    /// Refused fast enough, a connect itself sees the reset.
    pub(crate) async fn web_tries(&self, asked: Asked) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(self.web.addresses[0], 0)).unwrap();
        let own = socket.local_addr().unwrap();
        ASKED.lock().unwrap().get_or_insert_default().insert(own, asked);
        let connected = socket.connect(self.outbound).await?;
        connected.set_nodelay(true)?;
        Ok(connected)
    }
}
