//! Runs the node: the one loop that owns kernel, pods and proxies. Each event is taken in whole before the next.
//!
//! A new Snapshot goes first to pods and proxies, and then to the kernel's maps, so that the proxy knows a destination
//! before the kernel sends connections for it. A proxy that is slow to say so holds the maps up for [`PROXY_FIRST`] at most.

mod departed;
mod enforce;
mod foretold;
mod order;
mod outliers;
mod publish;
mod room;
mod sealed;
mod tune;

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_model::Mesh;
use millrace_node::{clock, drain::Drain};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, watch},
    time::{Interval, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    certificates::Certificates,
    clock::monotonic,
    control::{Connected, Enrolled, Kept, Step},
    flows::{self, Moment, Names},
    join::Credentials,
    kernel::{Kernel, Record, State, plan::Basis, reconcile::Outcome},
    kubelet::Sandboxes,
    pods::Pods,
    proxy::{Ended, Event, Proxies, Said, Wanted},
    revoke::left::has_left,
    seat::Seat,
    state_dir::StateDir,
};

pub use publish::{Counted, Outputs};
pub use sealed::Sealed;

/// How long the maps wait for the proxy to apply a new Snapshot: it takes milliseconds, and policy has a second.
const PROXY_FIRST: Duration = Duration::from_millis(100);

/// How often pods that are pending are tried again, and what failed is tried again. A namespace appears by a bind
/// mount, for which the kernel gives no event.
const RETRY: Duration = Duration::from_millis(500);

/// How often flow records are read: their writer wakes nobody before half of their room is full, as that would cost each connect
/// 3 us.
const FLOWS: Duration = Duration::from_millis(75);

/// How long after its start an agent waits for a proxy before it says which listeners are open: until then what was
/// open before its restart is taken to be so still.
const SETTLE: Duration = Duration::from_secs(15);

/// What the loop reads.
pub struct Inputs {
    /// The mesh.
    pub mesh: watch::Receiver<Arc<Mesh>>,
    /// The certificates.
    pub keys: watch::Receiver<Arc<Certificates>>,
    /// Whether the control plane is there.
    pub connected: watch::Receiver<Connected>,
    /// What proves the node to the control plane.
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    /// What proxies say.
    pub proxies: mpsc::Receiver<Event>,
    /// Where a kubelet's pods are.
    pub sandboxes: watch::Receiver<Arc<Sandboxes>>,
    /// The end.
    pub drain: Drain,
    /// The right to write this node's maps.
    pub seat: Seat,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process shall end.
    Drained,
    /// A newer agent takes over.
    Yielded,
}

/// A node.
pub struct Node {
    name: Arc<str>,
    kernel: Kernel,
    /// ORIGINAL and CLIENT, for proxies.
    maps: [Arc<OwnedFd>; 2],
    /// ENDS, for listing sockets with it.
    ends: Arc<OwnedFd>,
    /// Readable as the ring of flow records becomes half full.
    told: Arc<AsyncFd<OwnedFd>>,
    /// What the kernel's maps hold.
    have: State,
    /// By what they hold it.
    basis: Basis,
    /// The generation that they hold.
    enforced: u64,
    outcome: Outcome,
    pods: Pods,
    proxies: Proxies,
    /// What the control plane said last.
    heard: Arc<Mesh>,
    /// That, and what is seen here of pods that it has not heard of.
    mesh: Arc<Mesh>,
    sandboxes: Arc<Sandboxes>,
    names: Names,
    sealed: Option<Sealed>,
    keys: Arc<Certificates>,
    connected: Connected,
    joined: Joined,
    /// Workloads whose listeners a proxy has been given: they stay enrolled while a proxy is replaced.
    enrolled: Enrolled,
    began: Instant,
    settled: Settled,
    /// When the maps shall be written, at the latest; None: they hold what they should.
    due: Option<Instant>,
    /// True where live connections could not all be judged by what the maps hold: they are with the next tick.
    judges_again: bool,
    /// Why the pins can't be put where they belong.
    unpinned: Option<String>,
    /// Addresses that were a workload's when UDP sockets were looked at last, and are not now.
    gone: BTreeSet<millrace_abi::Addr>,
    /// True where endpoints may have left services by UDP since sockets were looked at last.
    has_left: bool,
    room: room::Room,
    outlying: outliers::Outlying,
    departed: departed::Departed,
    asked: tune::Asked,
    order: order::Order,
    /// The last Snapshot, on disk.
    kept: Kept,
    outputs: Outputs,
    log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

/// Whether the node knows which of its listeners are open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    Yes,
    No,
}

/// Whether the node has a certificate of its own that holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Joined {
    Yes,
    No,
}

impl Node {
    /// A node whose kernel programs are attached, and whose maps hold `have`.
    pub fn new(
        name: Arc<str>,
        (kernel, have): (Kernel, State),
        pods: Pods,
        outputs: (StateDir, Outputs),
    ) -> anyhow::Result<Self> {
        let (dir, outputs) = outputs;
        let (original, client) = kernel.proxy_maps()?;
        Ok(Self {
            name,
            maps: [Arc::new(original), Arc::new(client)],
            ends: Arc::new(kernel.ends()?),
            told: Arc::new(watched(kernel.told()?)?),
            have,
            basis: Basis::default(),
            kernel,
            enforced: 0,
            outcome: Outcome::default(),
            pods,
            proxies: Proxies::default(),
            heard: Arc::default(),
            mesh: Arc::default(),
            sandboxes: Arc::default(),
            names: Names::default(),
            sealed: None,
            keys: Arc::default(),
            connected: Connected::default(),
            joined: Joined::No,
            enrolled: Enrolled::new(),
            began: clock::now(),
            settled: Settled::No,
            due: None,
            judges_again: false,
            unpinned: None,
            gone: BTreeSet::new(),
            has_left: false,
            room: room::Room::default(),
            outlying: outliers::Outlying::default(),
            departed: departed::Departed::default(),
            asked: tune::Asked::default(),
            order: order::Order::default(),
            kept: Kept::new(dir),
            outputs,
            log: None,
        })
    }

    /// Prints what kernel programs log, as they log it.
    pub fn log_kernel(&mut self) {
        self.log = self.kernel.logger();
    }

    /// Runs until the drain begins or a newer agent comes, and leaves kernel programs, maps and pods as they are.
    pub async fn run(mut self, mut inputs: Inputs) -> End {
        let (mut retry, mut flows, told) = (ticks(RETRY), ticks(FLOWS), self.told.clone());
        inputs.mesh.mark_changed();
        inputs.credentials.mark_changed();
        loop {
            // Before there is a Snapshot, nothing a proxy says can be judged: it waits to be welcomed.
            let is_known = self.mesh.snapshot.generation != 0;
            let due = self.due.unwrap_or_else(clock::now);
            tokio::select! {
                _ = inputs.drain.begun() => return End::Drained,
                Ok(()) = inputs.mesh.changed() => {
                    let mesh = inputs.mesh.borrow_and_update().clone();
                    self.take(mesh).await;
                }
                Ok(()) = inputs.sandboxes.changed() => {
                    let sandboxes = inputs.sandboxes.borrow_and_update().clone();
                    self.found(sandboxes).await;
                }
                Ok(()) = inputs.keys.changed() => {
                    self.keys = inputs.keys.borrow_and_update().clone();
                    self.offer();
                }
                Ok(()) = inputs.connected.changed() => {
                    self.connected = *inputs.connected.borrow_and_update();
                    self.publish();
                }
                Ok(()) = inputs.credentials.changed() => {
                    self.joined = if inputs.credentials.borrow_and_update().is_some() { Joined::Yes } else { Joined::No };
                    self.publish();
                }
                Some(event) = inputs.proxies.recv(), if is_known => self.hear(event).await,
                () = sleep_until(due.into()), if self.due.is_some() => self.enforce().await,
                _ = retry.tick() => {
                    if inputs.seat.is_wanted() {
                        return End::Yielded;
                    }
                    self.again().await;
                }
                _ = flows.tick() => self.drain_flows(),
                Ok(mut half_full) = told.readable() => {
                    half_full.clear_ready();
                    self.drain_flows();
                }
            }
        }
    }

    /// A new Snapshot.
    async fn take(&mut self, mesh: Arc<Mesh>) {
        if mesh.snapshot.generation == 0 {
            return;
        }
        self.order.came(mesh.snapshot.generation);
        let step = Step::between(&self.heard.snapshot, &mesh.snapshot);
        self.kept.keep(step.as_ref(), &mesh.snapshot).await;
        self.sealed = Some(Sealed::new(step.as_ref(), &mesh.snapshot));
        self.heard = mesh;
        self.seek();
        let mesh = self.seen(&self.heard);
        self.names.turn(&mesh);
        self.departed.turn((&self.mesh, &mesh), &self.name, clock::now());
        self.has_left |= has_left(&self.mesh, &mesh);
        self.mesh = mesh;
        self.outlying.turn(&self.mesh, &self.name);
        self.pods.sync(&self.mesh, &mut self.kernel).await;
        self.offer();
        let wait = if self.proxies.serving().is_some() { PROXY_FIRST } else { Duration::ZERO };
        let now = clock::now();
        // Of changes that come closer together than a proxy takes them in, the first says how long the maps wait.
        self.due = self.due.filter(|due| *due > now).or(Some(now + wait));
    }

    /// Gives proxies what they lack, and tells what is so.
    fn offer(&mut self) {
        self.proxies.update(&Wanted {
            generation: self.mesh.snapshot.generation,
            snapshot: self.sealed.as_ref(),
            settings: &self.settings(),
            keys: &self.keys,
            pods: self.pods.iter().filter(|(_, pod)| foretold::is_told(&self.heard, pod)).collect(),
        });
        self.publish();
    }

    /// Something a proxy did.
    async fn hear(&mut self, Event { proxy, said }: Event) {
        match said {
            Said::Hello(hello, outgoing) => {
                self.proxies.join(proxy, hello, outgoing, (&self.name, self.maps.clone()));
            }
            Said::Returned(name, uid, sockets) => {
                for (kind, socket) in sockets {
                    match self.pods.adopt(&name, &uid, kind, socket) {
                        Ok(cookie) => self.proxies.returned(proxy, &name, (&uid, cookie), kind),
                        Err(why) => {
                            tracing::info!(workload = %name, why, "a listener that was brought back is not taken");
                            self.proxies.refused(proxy, &name, &uid);
                        }
                    }
                }
            }
            Said::Want(name, uid, family, count) => {
                let count = self.proxies.allow(proxy, count, clock::now());
                let made = self.pods.sockets((&name, &uid), family, count, &self.kernel).await;
                let sockets = made.unwrap_or_else(|why| {
                    tracing::debug!(workload = %name, why, "no sockets for the proxy");
                    Vec::new()
                });
                self.outputs.metrics.sockets.inc_by(sockets.len() as u64);
                self.proxies.give(proxy, (&name, &uid), family, sockets);
            }
            Said::Applied(generation, in_force) => {
                self.proxies.tuned(proxy, in_force);
                self.applied(proxy, generation).await;
            }
            Said::Denial(denial) => {
                self.outputs.metrics.flows.inc();
                self.outputs.flows.record(flows::from_proxy(denial, moment()));
            }
            Said::Outcome(endpoint, failed) => self.hear_outcome(endpoint, failed),
            Said::Left(why) => self.left(proxy, why),
        }
    }

    async fn applied(&mut self, proxy: u64, generation: u64) {
        self.proxies.applied(proxy, generation);
        // The end of its opening: what it brought back is put to use before anything is opened anew.
        if generation == 0 || self.pods.has_pending() {
            self.pods.sync(&self.mesh, &mut self.kernel).await;
            self.due.get_or_insert_with(clock::now);
        }
        self.offer();
        let serves = self.proxies.serving().is_some_and(|peer| peer.applied == self.mesh.snapshot.generation);
        if serves && self.due.is_some() {
            self.enforce().await;
        }
    }

    fn left(&mut self, proxy: u64, why: Option<Ended>) {
        let Some(peer) = self.proxies.leave(proxy) else {
            if let Some(why) = why {
                tracing::warn!(error = &why as &dyn std::error::Error, "a proxy was let go");
            }
            return;
        };
        match why {
            Some(why) => tracing::warn!(name = peer.name, error = &why as &dyn std::error::Error, "a proxy is gone"),
            None => tracing::info!(name = peer.name, "a proxy has left"),
        }
        self.offer();
    }

    /// Tries again what is pending and what failed, and looks at what changes without an event.
    async fn again(&mut self) {
        if self.mesh.snapshot.generation == 0 {
            self.publish();
            return;
        }
        if self.pods.sync(&self.mesh, &mut self.kernel).await || !self.outcome.failures.is_empty() {
            self.due.get_or_insert_with(clock::now);
        }
        if self.pods.has_left(clock::now()) | self.departed.is_over(clock::now()) {
            self.due.get_or_insert_with(clock::now);
        }

        self.hold_pins();
        self.watch_outliers();
        // A moment after the maps: what was on its way to a pod that left is not cut off.
        if self.due.is_none() {
            self.pods.release();
        }
        self.pods.sweep().await;
        self.take_over();
        if self.judges_again {
            self.revoke(enforce::Look::All).await;
        }
        self.offer();
    }

    /// Sees to it that the pins are where the next agent looks for them. What goes wrong is said once.
    fn hold_pins(&mut self) {
        let failed = match self.kernel.hold_pins() {
            Ok(false) => None,
            Ok(true) => {
                tracing::warn!("the BPF file system was unmounted: it is mounted again, and all was pinned anew");
                None
            }
            Err(why) => Some(why.to_string()),
        };
        if let Some(why) = failed.as_ref().filter(|_| self.unpinned != failed) {
            tracing::error!(error = why, "the pins are not where they belong, and can't be put there");
        }
        self.unpinned = failed;
    }

    fn drain_flows(&mut self) {
        let (names, now, outputs) = (&self.names, moment(), &self.outputs);
        let at = clock::now();
        self.kernel.records(&mut |record| {
            outputs.metrics.flows.inc();
            match record {
                Record::Decided(event) => {
                    let decided = flows::Decided::of(&event, names, now);
                    outputs.edges.decided(&decided, names, at);
                    outputs.flows.record(decided);
                }
                Record::Ended(event) => {
                    let ended = flows::Ended::of(&event, names, now);
                    outputs.edges.ended(&ended, at);
                    outputs.flows.record(ended);
                }
            }
        });
        outputs.edges.sweep(at);
        match self.kernel.counters() {
            Ok(counters) => {
                outputs.metrics.decided(&counters);
                for (reason, count) in self.room.lacking(&counters, clock::now()) {
                    tracing::error!(reason = reason.name(), count, "the kernel had no room: see docs/OPERATING.md");
                }
            }
            Err(why) => tracing::debug!(error = &why as &dyn std::error::Error, "the kernel's counters can't be read"),
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

#[expect(unsafe_code, reason = "tokio asks for proof that the descriptor stays open")]
fn watched(ring: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, names one descriptor, and is moved in here: nothing closes it before the AsyncFd does.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

fn moment() -> Moment {
    Moment { unix: clock::unix_time(), monotonic: monotonic() }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
