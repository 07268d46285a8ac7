//! Opens the kernel programs: loads their object, takes over pinned maps and links, and makes what is missing.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, PerCpuArray, RingBuf},
    programs::{Program, ProgramError, ProgramFd},
};
use aya_log::EbpfLogger;
use millrace_abi::{
    BackendKey, Exempt, Failures, FlowEvent, ListenerKey, Original, Reason, capacity, map, udp::AskKey,
};
use rustix::{
    fs::{FlockOperation, flock, statfs},
    mount::{MountFlags, mount},
};

use super::{
    attach::{self, CGROUP, FORGED, Hook, INBOUND, NO_ORDER, ORDERS, SPOOF},
    btf,
    by_service::ByService,
    capacities::Capacities,
    error::AttachError,
    flows::{self, Record},
    leave,
    maps::{Failed, Layout, MapError, Tables},
    missing::{BY_SERVICE, MPTCP, Missing, ORDER, SEQUENCE},
    older::Older,
    reconcile::Maps,
    state::{State, Write},
    syscall,
    unmounted::Held,
};

/// The programs, built by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MILLRACE_EBPF"));

/// The BPF file system's magic number.
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// How far above the pins the BPF file system is mounted: `<bpffs>/millrace/<node>/v<SCHEMA>`.
pub(super) const PINS_DEPTH: usize = 3;

/// The verifier gives up where a signal waits for the thread that loads (kernel/bpf/verifier.c, `do_check`): it is asked
/// again, as often as libbpf does.
const TRIES: u32 = 5;

/// There in a kernel with MPTCP alone.
const MPTCP_SETTINGS: &str = "/proc/sys/net/mptcp";

/// Where the kernel's half of a node lives.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The directory of pins, `<bpffs>/millrace/<node>/v<SCHEMA>`: made where it is missing.
    pub pins: PathBuf,
    /// The cgroup2 directory that holds every process of the node.
    pub cgroup: PathBuf,
    /// Bits of `millrace_abi::config`.
    pub config: u32,
    /// How many entries maps hold. Where that is not the usual, `pins` is named by it.
    pub capacities: Capacities,
    /// Features to do without.
    pub missing: Missing,
}

/// A reason, and how often it was decided.
pub type Count = (Reason, u64);

/// The kernel's half of a node. Dropping it leaves programs, maps and links as they are.
pub struct Kernel {
    pub(super) pins: PathBuf,
    pub(super) held: Held,
    cgroup: fs::File,
    pub(super) ebpf: Ebpf,
    pub(super) tables: Tables,
    /// Pins of another set whose programs are in force until [`Self::take_over`].
    pub(super) older: Option<Older>,
    capacities: Capacities,
    missing: Missing,
    reasons: PerCpuArray<MapData, u64>,
    flows: RingBuf<MapData>,
    by_service: Option<Arc<ByService>>,
}

impl Kernel {
    /// Loads, and attaches.
    pub fn open(options: &Options) -> Result<Self, AttachError> {
        let mut kernel = Self::load(options)?;
        kernel.attach(options)?;
        Ok(kernel)
    }

    /// Loads the programs, takes over the maps that are pinned, and makes the rest. What is attached goes on as it is: an
    /// agent that runs still notices nothing.
    pub fn load(options: &Options) -> Result<Self, AttachError> {
        let Options { pins, cgroup, config: _, capacities, missing } = options;
        prepare(pins)?;
        let cgroup = fs::File::open(cgroup)
            .map_err(|source| AttachError::Target { what: cgroup.display().to_string(), source })?;
        let older = Older::find(pins)?;
        if let Some(older) = &older {
            tracing::info!(
                pins = older.name(),
                "kernel programs of other pins are in force: this version takes over from them"
            );
            older.carry(options)?;
        }
        let mut ebpf = load(options)?;
        let tables = Tables::open(|name, layout| descriptor(&ebpf, name, layout), (capacities, missing))?;
        for hook in CGROUP.iter().chain([&INBOUND, &SPOOF]).chain(&FORGED) {
            program(&mut ebpf, hook)?;
        }
        let by_service = if missing.lacks(BY_SERVICE) { None } else { Some(Arc::new(ByService::open(&mut ebpf)?)) };
        Ok(Self {
            pins: pins.clone(),
            held: Held::of(pins)?,
            cgroup,
            reasons: taken(&mut ebpf, map::REASONS)?,
            flows: taken(&mut ebpf, map::FLOWS)?,
            by_service,
            ebpf,
            tables,
            older,
            capacities: capacities.clone(),
            missing: missing.clone(),
        })
    }

    /// Attaches to the cgroup. Connections go on meanwhile: each link's program changes between one connect and the next. Where
    /// programs of an older set are in force they stay so, until the maps are filled and [`Self::take_over`] is called.
    pub fn attach(&mut self, options: &Options) -> Result<(), AttachError> {
        self.configure(options.config)?;
        let original = Layout { key: size_of::<i32>(), value: size_of::<Original>(), capacity: 0 };
        let original = descriptor(&self.ebpf, map::ORIGINAL, original)?;
        syscall::freeze(original.as_fd()).map_err(|source| MapError::Io { map: map::ORIGINAL, source })?;
        let held = Layout { key: size_of::<u64>(), value: size_of::<u32>(), capacity: capacity::FORGED };
        let held = descriptor(&self.ebpf, map::FORGED, held)?;
        for hook in &FORGED {
            let program = program(&mut self.ebpf, hook)?;
            syscall::attach_to_map(program.as_fd(), held.as_fd(), hook.attach_type)
                .map_err(|source| AttachError::Link { program: hook.program.to_owned(), source })?;
        }
        if self.older.is_some() { Ok(()) } else { self.attach_cgroup() }
    }

    pub(super) fn attach_cgroup(&mut self) -> Result<(), AttachError> {
        let orders: &[u32] = if self.missing.lacks(ORDER) { &NO_ORDER } else { &ORDERS };
        for hook in &CGROUP {
            let pin = self.pins.join(attach::cgroup_pin(hook.program));
            attach::to_cgroup(hook, program(&mut self.ebpf, hook)?.as_fd(), (&self.cgroup, orders), &pin)?;
        }
        Ok(())
    }

    /// Reads back every table.
    pub fn state(&self) -> Result<State, MapError> {
        self.tables.state()
    }

    /// Carries out one write.
    pub fn write(&mut self, write: &Write) -> Result<(), MapError> {
        self.tables.write(write)
    }

    /// Sets the bits of `millrace_abi::config`.
    pub fn configure(&mut self, config: u32) -> Result<(), MapError> {
        self.tables.config.set(&0, &config)
    }

    /// Steers what arrives in this network namespace, whose cookie is known.
    pub fn attach_pod(&mut self, netns: BorrowedFd<'_>, cookie: u64) -> Result<(), AttachError> {
        // An older set's program steers there: it is replaced with the others.
        if self.older.as_ref().is_some_and(|older| older.steers_in(cookie)) {
            return Ok(());
        }
        let pin = self.pins.join(attach::pod_pin(cookie));
        attach::to_netns(&INBOUND, program(&mut self.ebpf, &INBOUND)?.as_fd(), netns, &pin)
    }

    /// Stops steering in this network namespace, which may be gone.
    pub fn detach_pod(&mut self, cookie: u64) -> Result<(), AttachError> {
        if let Some(older) = &self.older {
            older.detach_pod(cookie)?;
        }
        let path = self.pins.join(attach::pod_pin(cookie));
        attach::detach(&path).map_err(|source| AttachError::Pin { path, source })
    }

    /// The cookies of the namespaces that are steered in, by this agent or one before it.
    pub fn attached_pods(&self) -> Result<BTreeSet<u64>, AttachError> {
        let mut pods = leave::pods(&self.pins)?;
        if let Some(older) = &self.older {
            pods.extend(older.pods()?);
        }
        Ok(pods)
    }

    /// Marks a socket as the proxy's own: nothing of the mesh touches its connects.
    pub fn exempt(&self, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.tables.exempt.set(&socket.as_raw_fd(), &Exempt { exempt: 1 })
    }

    /// What the proxy gets: ORIGINAL for reading alone, and CLIENT.
    pub fn proxy_maps(&self) -> Result<(OwnedFd, OwnedFd), MapError> {
        let original = syscall::open_read_only(&self.pins.join(map::ORIGINAL))
            .map_err(|source| MapError::Io { map: map::ORIGINAL, source })?;
        let client =
            syscall::open(&self.pins.join(map::CLIENT)).map_err(|source| MapError::Io { map: map::CLIENT, source })?;
        Ok((original, client))
    }

    /// What lists UDP sockets that were connected by a service; None where this node does without.
    pub fn by_service(&self) -> Option<Arc<ByService>> {
        self.by_service.clone()
    }

    /// ENDS, for listing sockets with what it has of each.
    pub fn ends(&self) -> Result<OwnedFd, MapError> {
        syscall::open(&self.pins.join(map::ENDS)).map_err(|source| MapError::Io { map: map::ENDS, source })
    }

    /// Steers to this listening socket from now on. The entry goes with the last holder of the socket.
    pub fn set_listener(&mut self, key: ListenerKey, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.tables.listeners.set(&key, &socket.as_raw_fd())
    }

    /// How often each reason was decided since the maps were made.
    pub fn counters(&self) -> Result<Vec<Count>, MapError> {
        let count = |reason: Reason| {
            let values = self
                .reasons
                .get(&(reason as u32), 0)
                .map_err(|error| MapError::Io { map: map::REASONS, source: io::Error::other(error) })?;
            Ok((reason, values.iter().sum()))
        };
        Reason::ALL.into_iter().map(count).collect()
    }

    /// What becomes readable as the records that wait fill half of their room.
    pub fn told(&self) -> io::Result<OwnedFd> {
        self.flows.as_fd().try_clone_to_owned()
    }

    /// Hands every record that waits to `each`. Call this on a timer, and as [`Self::told`] says.
    pub fn records(&mut self, each: &mut dyn FnMut(Record)) {
        flows::drain(&mut self.flows, each);
    }

    /// As `records`, but the decisions alone: what ended meanwhile is passed over.
    pub fn flows(&mut self, each: &mut dyn FnMut(FlowEvent)) {
        self.records(&mut |record| match record {
            Record::Decided(event) => each(event),
            Record::Ended(_) => {}
        });
    }

    /// The backends that connections failed to, and how often.
    pub fn failures(&self) -> Result<Failed<SocketAddr>, MapError> {
        let each = |(key, failures): (BackendKey, Failures)| {
            let address = IpAddr::from(Ipv6Addr::from(key.addr)).to_canonical();
            (SocketAddr::new(address, u16::from_be_bytes(key.port)), failures)
        };
        Ok(self.tables.failures()?.into_iter().map(each).collect())
    }

    /// True where programs remember this ask by UDP, however old: none runs for what connected sockets exchange. One that can't be
    /// read is none: its answer is then judged as an ask.
    pub fn was_asked(&self, key: &AskKey) -> bool {
        self.tables.asked(key).is_ok_and(|found| found.is_some())
    }

    /// Forgets a backend's failures.
    pub fn forget_failures(&self, backend: SocketAddr) -> Result<(), MapError> {
        let port = backend.port().to_be_bytes();
        self.tables.forget_failures(&BackendKey { addr: super::plan::addr(backend.ip()), port, reserved: [0; 2] })
    }

    /// How many hand-offs there are, and how many pods have a count of theirs: walks both tables.
    pub fn handoffs(&self) -> Result<(u64, u64), MapError> {
        self.tables.n_handoffs()
    }

    /// How many entries each map holds at most.
    pub fn capacities(&self) -> &Capacities {
        &self.capacities
    }

    /// True where this node does without the feature.
    pub fn lacks(&self, feature: &str) -> bool {
        self.missing.lacks(feature)
    }

    /// A program of the object's.
    pub(super) fn loaded(&self, name: &str) -> Option<&Program> {
        self.ebpf.program(name)
    }

    /// What the programs log while the DEBUG bit is on; `flush` it on a timer. None where it was taken before.
    pub fn logger(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        EbpfLogger::init(&mut self.ebpf).ok()
    }
}

impl Maps for Kernel {
    fn write(&mut self, write: &Write) -> Result<(), MapError> {
        Self::write(self, write)
    }
}

/// Mounts the BPF file system where it is missing, and makes the directory of pins, for root alone.
pub(super) fn prepare(pins: &Path) -> Result<(), AttachError> {
    let root = pins.ancestors().nth(PINS_DEPTH).unwrap_or(pins);
    mount_bpffs(root).map_err(|source| AttachError::Mount { path: root.to_owned(), source })?;
    let why = |source| AttachError::Pin { path: pins.to_owned(), source };
    make(pins).map_err(why)?;
    fs::set_permissions(pins, fs::Permissions::from_mode(0o700)).map_err(why)
}

/// Makes a directory and those above it. One that was just found there may be gone, where the last of other nodes leaves at that moment.
fn make(pins: &Path) -> io::Result<()> {
    const TRIES: usize = 3;
    let mut made = fs::create_dir_all(pins);
    for _ in 1..TRIES {
        if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            made = fs::create_dir_all(pins);
        }
    }
    made
}

fn mount_bpffs(root: &Path) -> io::Result<()> {
    let is_mounted = || statfs(root).is_ok_and(|found| found.f_type == BPF_FS_MAGIC);
    if is_mounted() {
        return Ok(());
    }
    fs::create_dir_all(root)?;
    // Two agents that start together must not mount it twice: the second mount would hide the first one's pins.
    let below = fs::File::open(root)?;
    flock(&below, FlockOperation::LockExclusive)?;
    if !is_mounted() {
        mount("bpf", root, "bpf", MountFlags::empty(), None)?;
    }
    Ok(())
}

/// Loads the object; maps that are pinned are taken over, others made and pinned.
fn load(options: &Options) -> Result<Ebpf, AttachError> {
    let Options { pins, capacities, missing, cgroup: _, config: _ } = options;
    let mut loader = EbpfLoader::new();
    for (name, entries) in capacities.other() {
        loader.map_max_entries(name, entries);
    }
    for name in map::ALL {
        loader.map_pin_path(name, pins.join(name));
    }
    let has_mptcp = u32::from(Path::new(MPTCP_SETTINGS).exists() && !missing.lacks(MPTCP));
    loader.override_global("MPTCP", &has_mptcp, true);
    // Where it is not known, no connection is compared: `check` says so.
    let write_seq = if missing.lacks(SEQUENCE) { 0 } else { write_seq().unwrap_or(0) };
    loader.override_global("WRITE_SEQ", &write_seq, true);
    let of_ends = btf::of_ends();
    for (name, at) in &of_ends {
        loader.override_global(name, at, true);
    }
    loader.load(OBJECT).map_err(|error| AttachError::Object(Box::new(error)))
}

/// Where a connecting socket keeps the number that its SYN will have.
pub(super) fn write_seq() -> io::Result<u32> {
    btf::offset("tcp_sock", "write_seq")
}

/// A descriptor of a map, which may have been pinned by another version.
fn descriptor(ebpf: &Ebpf, name: &'static str, expected: Layout) -> Result<OwnedFd, AttachError> {
    let missing = AttachError::Missing { what: "map", name };
    let data = match ebpf.map(name) {
        Some(
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::LpmTrie(data)
            | Map::SockHash(data)
            | Map::SkStorage(data),
        ) => data,
        _ => return Err(missing),
    };
    let why = |source| MapError::Io { map: name, source };
    let info = data.info().map_err(|error| why(io::Error::other(error)))?;
    let (key, value) = (info.key_size() as usize, info.value_size() as usize);
    if (Layout { key, value, capacity: info.max_entries() }) != expected {
        return Err(AttachError::Layout { map: name });
    }
    Ok(data.fd().as_fd().try_clone_to_owned().map_err(why)?)
}

/// A map in aya's own type.
fn taken<T: TryFrom<Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, AttachError> {
    let missing = AttachError::Missing { what: "map", name };
    ebpf.take_map(name).and_then(|map| T::try_from(map).ok()).ok_or(missing)
}

/// A program, loaded once.
#[expect(clippy::wildcard_enum_match_arm, reason = "aya's kinds of program, of which the object has three")]
pub(super) fn program<'e>(ebpf: &'e mut Ebpf, hook: &Hook) -> Result<&'e ProgramFd, AttachError> {
    let name = hook.program;
    let program = ebpf.program_mut(name).ok_or(AttachError::Missing { what: "program", name })?;
    let refused = |source| AttachError::Refused { program: name, source: Box::new(source) };
    let loaded = patiently(|| match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkSkb(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    });
    match loaded {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => program.fd().map_err(refused),
        Err(ProgramError::UnexpectedProgramType) => Err(AttachError::Missing { what: "program", name }),
        Err(source) => Err(refused(source)),
    }
}

/// Loads, and again where a signal that waited for this thread made the verifier give up.
pub(super) fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    for _ in 1..TRIES {
        match load() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            loaded => return loaded,
        }
    }
    load()
}
