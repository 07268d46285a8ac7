//! Finds the network namespaces of the pods that a kubelet runs on this node, by the processes in their cgroups. Pods are touched by
//! nothing, and neither the container runtime nor the API server is asked.
//!
//! Two things are the kubelet's word, and a pod can write neither: the folder of its logs, whose name says which uid a pod of this
//! name has, and the cgroup of its processes, whose path says the uid. A pod's namespace is that of the oldest of its processes
//! that is not in the node's own: the runtime's, which holds the namespace, began before any of the pod's.

pub mod logs;
mod look;
mod process;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_model::ObjectName;
use millrace_node::clock;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use crate::pods::{Entrant, addresses_inside};
use process::Process;
use told::Words;
pub use told::{Known, Teller, Word, route};

/// Where a kubelet keeps its pods' logs, in folders named `<namespace>_<name>_<uid>`; only root writes there.
pub const LOGS: &str = "/var/log/pods";
/// Where the node's processes are.
pub const PROC: &str = "/proc";

/// How often what was found is looked at again, and what was not is looked for. That a process joins a cgroup gives no event.
const RETRY: Duration = Duration::from_millis(500);
/// How often one that came lately is looked for: its containers start some tenths of a second after its namespace is there.
const OFTEN: Duration = Duration::from_millis(50);
/// For how long a pod came lately. Images are pulled once the namespace is there; what takes longer waits for something else.
const LATELY: Duration = Duration::from_secs(30);
/// How often those are looked at again that were found in their node's network: some runtimes put a process of their own into a pod's
/// cgroup before the pod's first.
const HOSTS: Duration = Duration::from_secs(5);
/// A look costs as much as the node has processes: this many times what it took is rested after it, a twentieth of one core.
const REST: u32 = 19;

/// Where the kubelet's traces are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubelet {
    /// The processes of the node: `/proc`, or where a container has the node's mounted.
    pub proc: PathBuf,
    /// The folder of pods' logs.
    pub logs: PathBuf,
}

/// What was found of the pods that were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sandboxes {
    /// Whether a look was had, and if so whether a kubelet runs here.
    pub looked: Looked,
    pods: BTreeMap<ObjectName, Sandbox>,
    faults: BTreeMap<ObjectName, String>,
}

/// Whether there is anything to be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Looked {
    /// Nobody knows yet.
    #[default]
    NotYet,
    /// There is no kubelet: pods are where their manifests say.
    NoKubelet,
    /// There is one.
    Kubelet,
}

/// Where a pod is.
#[derive(Clone, Debug)]
pub enum Sandbox {
    /// In a network namespace of its own.
    Own(Own),
    /// In its node's.
    Host(Arc<Process>),
}

/// A pod's own network namespace.
#[derive(Clone, Debug)]
pub struct Own {
    /// Keeps it.
    pub namespace: Arc<OwnedFd>,
    /// The device and inode of its file.
    pub file: (u64, u64),
    /// The addresses that it had when it was found: those of its lowest interface that is not loopback, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Whether anything could have changed them by then.
    pub company: Company,
    /// By which it was found; None: it was told of, and no process is there yet.
    process: Option<Arc<Process>>,
}

/// Who was in a pod's cgroup as its addresses were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// The runtime's process alone: nothing of the pod's ran, and the addresses are those that the node's network gave it.
    Nobody,
    /// Others: the addresses may be their doing.
    Others,
}

impl PartialEq for Sandbox {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Own(one), Self::Own(other)) => one == other,
            (Self::Host(_), Self::Host(_)) => true,
            (Self::Own(_), Self::Host(_)) | (Self::Host(_), Self::Own(_)) => false,
        }
    }
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        let Self { namespace: _, file, addresses, company, process } = self;
        *file == other.file
            && *addresses == other.addresses
            && *company == other.company
            && process.as_ref().map(Arc::as_ptr) == other.process.as_ref().map(Arc::as_ptr)
    }
}

impl Sandboxes {
    /// The pod's own namespace, where it was found.
    pub fn own(&self, pod: &ObjectName) -> Option<&Own> {
        match self.pods.get(pod)? {
            Sandbox::Own(own) => Some(own),
            Sandbox::Host(_) => None,
        }
    }

    fn without_hosts(&self) -> Self {
        let own = |(name, sandbox): (&ObjectName, &Sandbox)| match sandbox {
            Sandbox::Own(_) => Some((name.clone(), sandbox.clone())),
            Sandbox::Host(_) => None,
        };
        Self { looked: self.looked, pods: self.pods.iter().filter_map(own).collect(), faults: self.faults.clone() }
    }

    /// Whether the pod can be expected to be found here, if it is not yet.
    pub fn may_have(&self, pod: &ObjectName) -> bool {
        match self.looked {
            Looked::NotYet => true,
            Looked::NoKubelet => false,
            Looked::Kubelet => !matches!(self.pods.get(pod), Some(Sandbox::Host(_))),
        }
    }

    /// Why the pod's namespace is not known.
    pub fn fault(&self, pod: &ObjectName) -> String {
        match (self.looked, self.faults.get(pod)) {
            (Looked::NotYet, _) => "its network namespace was not looked for yet".to_owned(),
            (Looked::NoKubelet | Looked::Kubelet, Some(why)) => why.clone(),
            (Looked::NoKubelet | Looked::Kubelet, None) => {
                "no process of it is found by its cgroup: does --proc show the node's processes?".to_owned()
            }
        }
    }
}

/// The pods of this node whose namespaces nobody names.
pub type Sought = Arc<BTreeSet<ObjectName>>;

/// Looks for the pods that are sought, and says what it finds, for as long as somebody listens.
pub async fn follow(
    kubelet: Kubelet,
    mut sought: watch::Receiver<Sought>,
    found: watch::Sender<Arc<Sandboxes>>,
    mut told: mpsc::Receiver<Word>,
) -> io::Result<()> {
    let (kubelet, entrant) = (Arc::new(kubelet), Entrant::start()?);
    let mut words = Words::default();
    let mut since: BTreeMap<ObjectName, Instant> = BTreeMap::new();
    let mut hosts_at = clock::now();
    loop {
        let names = sought.borrow_and_update().clone();
        let began = clock::now();
        since.retain(|name, _| names.contains(name));
        for name in names.iter() {
            since.entry(name.clone()).or_insert(began);
        }
        let before = found.borrow().clone();
        let known = if began.duration_since(hosts_at) < HOSTS {
            before.clone()
        } else {
            hosts_at = began;
            Arc::new(before.without_hosts())
        };
        let mut now = look(&kubelet, (names.clone(), known)).await?;
        words.overlay(&mut now, began);
        let new = read_addresses(&mut now, &before, &entrant).await;
        if !new.is_empty() {
            // Only if nobody of the pod's has come until after they were read are they surely not its doing.
            let again = look(&kubelet, (Arc::new(new.clone()), Arc::default())).await?;
            confirm(&mut now, &new, &again);
        }
        let is_lacking = |name: &&ObjectName| !now.pods.contains_key(*name) && now.looked == Looked::Kubelet;
        let is_late = |name: &ObjectName| since.get(name).is_some_and(|since| began.duration_since(*since) < LATELY);
        let shortest = if names.iter().filter(is_lacking).any(is_late) { OFTEN } else { RETRY };
        found.send_if_modified(|held| {
            let is_new = **held != now;
            if is_new {
                *held = Arc::new(now);
            }
            is_new
        });
        let rest = clock::now().duration_since(began).saturating_mul(REST).max(shortest);
        tokio::select! {
            changed = sought.changed() => if changed.is_err() { return Ok(()) },
            Some(word) = told.recv() => words.hear(word, clock::now()),
            () = sleep(rest) => {}
        }
    }
}

async fn look(kubelet: &Arc<Kubelet>, (names, before): (Sought, Arc<Sandboxes>)) -> io::Result<Sandboxes> {
    let kubelet = kubelet.clone();
    tokio::task::spawn_blocking(move || look::look(&kubelet, &names, &before)).await.map_err(io::Error::other)
}

/// Reads the addresses in namespaces that are new: of which pods. One without is looked at again: its network is being made.
async fn read_addresses(now: &mut Sandboxes, before: &Sandboxes, entrant: &Entrant) -> BTreeSet<ObjectName> {
    let mut new = BTreeSet::new();
    let mut unmade = Vec::new();
    for (name, sandbox) in &mut now.pods {
        let Sandbox::Own(own) = sandbox else { continue };
        // What was read once stays so: later they may be the pod's doing.
        if let Some(held) = before.own(name).filter(|held| held.file == own.file) {
            (own.addresses, own.company) = (held.addresses.clone(), held.company);
            continue;
        }
        match entrant.within(own.namespace.clone(), addresses_inside).await {
            Ok(addresses) if addresses.is_empty() => {
                unmade.push((name.clone(), "its network namespace has no address yet".to_owned()));
            }
            Ok(addresses) => {
                own.addresses = addresses;
                new.insert(name.clone());
            }
            Err(why) => unmade.push((name.clone(), format!("its network namespace can't be entered: {why}"))),
        }
    }
    for (name, why) in unmade {
        now.pods.remove(&name);
        now.faults.insert(name, why);
    }
    new
}

/// Of those that are new, whose addresses were read with nobody about before nor after. Those that were told of have not begun.
fn confirm(now: &mut Sandboxes, new: &BTreeSet<ObjectName>, again: &Sandboxes) {
    for (name, sandbox) in now.pods.iter_mut().filter(|(name, _)| new.contains(*name)) {
        let Sandbox::Own(own) = sandbox else { continue };
        let is_it = |again: &&Own| again.file == own.file && again.company == Company::Nobody;
        if own.process.is_some() && again.own(name).filter(is_it).is_none() {
            own.company = Company::Others;
        }
    }
}

#[cfg(test)]
mod tests;
