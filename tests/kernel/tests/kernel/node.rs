//! A scratch node: namespaces on a bridge as its pods, a threaded cgroup of its own, its own copy of the programs.
//!
//! A test's threads are the applications: one that enters a pod's namespace and the node's cgroup is what a process of
//! that pod is to the kernel.

mod datagram;
mod guard;
mod host;
mod leftovers;
mod pod;
mod proxy;

use std::{
    fs,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use aya::maps::{HashMap, Map, MapData};
use millrace_abi::{
    Addr, Dest, DestKind, Pod as PodValue, PodKind, ProbeKey, Reason, ServiceKey, ServiceValue, SlotKey, SlotValue,
};
use millrace_abi::{Verdict, VerdictKey, config, map};
use millrace_agent::kernel::{Capacities, Kernel, Missing, Options, Write};

pub(crate) use self::{
    datagram::{Echo, heard, is_silent, udp_header},
    leftovers::sweep,
    pod::{Family, PATIENCE, Pod, bytes, port_bytes, socket_addr},
    proxy::{Asked, Proxy},
};

/// Where cgroup2 is, by /proc/mounts.
pub(crate) fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is not mounted");
    line.split(' ').nth(1).unwrap().into()
}

/// The cgroup that this process is in while its threads are in nodes' cgroups. Gone with its last user, so that a run
/// leaves nothing.
struct Domain(PathBuf);

static USERS: Mutex<usize> = Mutex::new(0);

/// What killed runs left goes before the first node of this one.
static SWEPT: Once = Once::new();

impl Domain {
    fn join() -> Self {
        SWEPT.call_once(|| sweep(&cgroup2()));
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = cgroup2().join(format!("{}{}", leftovers::PREFIX, std::process::id()));
        if *users == 0 {
            fs::create_dir(&domain).unwrap();
            fs::write(domain.join("cgroup.procs"), "0").unwrap();
        }
        *users += 1;
        Self(domain)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        *users -= 1;
        if *users == 0 {
            let root = self.0.parent().unwrap_or(&self.0);
            if let Err(error) = fs::write(root.join("cgroup.procs"), "0").and_then(|()| fs::remove_dir(&self.0)) {
                eprintln!("{}: {error}", self.0.display());
            }
        }
    }
}

/// Runs `ip` with these words.
pub(crate) fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A node and its pods. Dropped, it leaves nothing behind.
pub(crate) struct Node {
    name: String,
    options: Options,
    kernel: Mutex<Option<Kernel>>,
    bridge: String,
    cgroup: PathBuf,
    n_pods: AtomicU32,
    _domain: Domain, // The last to go.
}

impl Node {
    /// A node without pods, its programs attached.
    pub(crate) fn new() -> Self {
        Self::without(Missing::default())
    }

    /// The same, of a kernel that lacks this.
    pub(crate) fn without(missing: Missing) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}{}-{}", leftovers::PREFIX, std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let domain = Domain::join();
        let cgroup = domain.0.join(&name);
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.type"), "threaded").unwrap();
        let bridge = format!("{name}-br");
        ip(&format!("netns add {bridge}"));
        // With an address of its own: else it takes the lowest of its ports', another one as a pod goes, and what is sent to the former
        // is lost for seconds.
        ip(&format!("-n {bridge} link add br0 address 02:00:00:00:00:01 type bridge"));
        ip(&format!("-n {bridge} link set br0 up"));
        ip(&format!("-n {bridge} addr add 10.77.0.1/24 dev br0"));
        ip(&format!("-n {bridge} addr add fd77::1/64 dev br0 nodad"));
        let pins = PathBuf::from(leftovers::PINS).join(&name).join(format!("v{}", millrace_abi::SCHEMA));
        let options = Options { pins, cgroup: cgroup.clone(), missing, ..Options::default() };
        let n_pods = AtomicU32::new(0);
        // Before the programs are loaded: one that is refused must leave nothing behind either.
        let node = Self { name, options, kernel: Mutex::new(None), bridge, cgroup, n_pods, _domain: domain };
        let kernel = Kernel::open(&node.options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        *node.kernel.lock().unwrap() = Some(kernel);
        node
    }

    /// The node's programs and maps.
    pub(crate) fn kernel(&self) -> Guard<'_> {
        Guard(self.kernel.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends this "agent" and starts another, which finds the pins.
    pub(crate) fn restart_agent(&self) {
        let mut kernel = self.kernel.lock().unwrap();
        *kernel = None;
        *kernel = Some(Kernel::open(&self.options).unwrap_or_else(|error| panic!("{}", chain(&error))));
    }

    /// Ends this "agent" and starts one whose pins are of this name, with maps of this room. It has not taken over yet.
    pub(crate) fn succeed(&mut self, pins: &str, capacities: Capacities) {
        let mut kernel = self.kernel.lock().unwrap();
        *kernel = None;
        self.options.pins.set_file_name(pins);
        self.options.capacities = capacities;
        *kernel = Some(Kernel::open(&self.options).unwrap_or_else(|error| panic!("{}", chain(&error))));
    }

    /// A namespace that the agent knows nothing of.
    pub(crate) fn stranger(&self) -> Pod {
        let n = 2 + self.n_pods.fetch_add(1, Ordering::Relaxed);
        Pod::new(&self.name, &self.bridge, &self.cgroup, n)
    }

    /// A pod of the mesh, with its listeners open.
    pub(crate) fn pod(&self) -> Pod {
        let pod = self.stranger();
        self.enrol(&pod, DestKind::Local, 0);
        self.kernel().attach_pod(pod.netns.as_fd(), pod.cookie).unwrap_or_else(|error| panic!("{}", chain(&error)));
        pod
    }

    /// A pod of the mesh, and what the proxy holds of it.
    pub(crate) fn pod_with_proxy(&self) -> (Pod, Proxy) {
        let pod = self.pod();
        let proxy = Proxy::new(self, &pod);
        (pod, proxy)
    }

    /// Makes a namespace known as this kind.
    pub(crate) fn know(&self, pod: &Pod, kind: PodKind) {
        let value = PodValue { id: pod.id, v4: pod.v4, v6: pod.v6, kind: kind as u32, reserved: 0 };
        self.write(&Write::SetPod(pod.cookie, value));
    }

    /// Makes a namespace a pod of the mesh, reached in this way, in this policy group.
    pub(crate) fn enrol(&self, pod: &Pod, kind: DestKind, group: u64) {
        self.know(pod, PodKind::Mesh);
        let dest = Dest { id: pod.id, group, kind: kind as u32, udp: 0 };
        self.write(&Write::SetDest(pod.v4, dest));
        self.write(&Write::SetDest(pod.v6, dest));
    }

    /// Makes these addresses a workload on another node.
    pub(crate) fn remote(&self, id: u64, addresses: &[&str]) {
        for address in addresses {
            let dest = Dest { id, group: 0, kind: DestKind::Remote as u32, udp: 0 };
            self.write(&Write::SetDest(addr(address), dest));
        }
    }

    /// The node's own namespace, at the bridge's address, as the agent registers it.
    pub(crate) fn host(&self) -> Pod {
        let host = Pod::host(&self.bridge, &self.cgroup);
        let value = PodValue { id: 0, v4: [0; 16], v6: [0; 16], kind: PodKind::Host as u32, reserved: 0 };
        self.write(&Write::SetPod(host.cookie, value));
        host
    }

    /// Lets the host reach this port of the pod as such.
    pub(crate) fn probe(&self, pod: &Pod, port: u16) {
        for addr in [pod.v4, pod.v6] {
            self.write(&Write::SetProbe(ProbeKey { addr, port: port.to_be_bytes(), reserved: [0; 2] }));
        }
    }

    /// Lets this pod call the group on every port, or forbids it.
    pub(crate) fn verdict(&self, source: &Pod, group: u64, allow: u32) {
        let key = VerdictKey { source: source.id, group, port: [0; 2], reserved: [0; 6] };
        self.write(&Write::SetVerdict(key, Verdict { policy: 7, allow, reserved: 0 }));
    }

    /// A service with this table of backends, each a slot of its own and so of equal weight.
    pub(crate) fn service(&self, address: &str, table: u32, backends: &[(Addr, u16)]) {
        for (slot, (addr, port)) in (0..).zip(backends) {
            let port = port.to_be_bytes();
            let value = SlotValue { addr: *addr, alias_addr: *addr, port, alias_port: port, threshold: u32::MAX };
            self.write(&Write::SetSlot(SlotKey { table, slot }, value));
        }
        let n_slots = u32::try_from(backends.len()).unwrap();
        self.write(&Write::SetService(service_key(address), ServiceValue { table, n_slots, affinity_s: 0, flags: 0 }));
    }

    /// One map write.
    pub(crate) fn write(&self, write: &Write) {
        self.kernel().write(write).unwrap_or_else(|error| panic!("{write:?}: {}", chain(&error)));
    }

    /// Turns flow records on.
    pub(crate) fn record_flows(&self) {
        self.kernel().configure(config::FLOWS).unwrap();
    }

    /// How often this was decided.
    pub(crate) fn count(&self, reason: Reason) -> u64 {
        self.kernel().counters().unwrap().into_iter().find(|(other, _)| *other == reason).unwrap().1
    }

    /// How many hand-off records there are.
    pub(crate) fn handoffs(&self) -> u64 {
        self.kernel().handoffs().unwrap().0
    }

    /// How many hand-off records are counted for a pod; None where nothing was ever counted.
    pub(crate) fn pending(&self, pod: &Pod) -> Option<i64> {
        let data = MapData::from_pin(self.pins().join(map::PENDING)).unwrap();
        let pending: HashMap<_, u64, i64> = Map::HashMap(data).try_into().unwrap();
        pending.get(&pod.cookie, 0).ok()
    }

    /// The node's cgroup.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The directory of pins.
    pub(crate) fn pins(&self) -> &Path {
        &self.options.pins
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Errors are said and left: a test that fails has its own to show, and the next run's names are others.
        if let Err(error) = millrace_agent::kernel::leave(&self.options.pins) {
            eprintln!("{}: {}", self.name, chain(&error));
        }
        pod::remove_netns(&self.bridge);
        if let Err(error) = fs::remove_dir(&self.cgroup) {
            eprintln!("{}: {error}", self.cgroup.display());
        }
    }
}

/// The node's programs, locked.
pub(crate) struct Guard<'n>(MutexGuard<'n, Option<Kernel>>);

impl std::ops::Deref for Guard<'_> {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.0.as_ref().unwrap()
    }
}

impl std::ops::DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Kernel {
        self.0.as_mut().unwrap()
    }
}

/// An address and port of a service, as its key.
pub(crate) fn service_key(address: &str) -> ServiceKey {
    let address: std::net::SocketAddr = address.parse().unwrap();
    ServiceKey { addr: bytes(address.ip()), port: port_bytes(address.port()), protocol: 6, reserved: 0 }
}

/// Waits for what nothing tells of; five seconds at most, after which the test says what is missing.
pub(crate) fn until(is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// An address, as the maps have it.
pub(crate) fn addr(address: &str) -> Addr {
    bytes(address.parse().unwrap())
}

/// Marks a socket as the proxy's own, as the agent does.
pub(crate) fn exempt(node: &Node, socket: BorrowedFd<'_>) {
    node.kernel().exempt(socket).unwrap_or_else(|error| panic!("{}", chain(&error)));
}

/// An error and its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
