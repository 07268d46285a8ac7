//! Holds the pods of this node: finds their network namespaces, opens the listeners inside, and has the kernel steer to them.
//!
//! Order for a new pod: listeners open, then the lookup link, then (in `node`) the kernel's tables. A pod that can't be
//! captured is pending, with the reason on status, and tried again: its namespace appears by a mount, which gives no event.

mod entrant;
pub mod listener;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    sync::Arc,
};

use millrace_abi::{ListenerKey, ListenerKind as Steering};
use millrace_model::{Membership, Mesh, ObjectName, Workload};
use millrace_node::wire::node::{Family, ListenerKind};

pub use entrant::Entrant;

use crate::kernel::{
    AttachError, Kernel,
    plan::{Namespace, Namespaces, addr},
};

/// The pods of a node, by name.
pub struct Pods {
    node: Arc<str>,
    entrant: Entrant,
    host: u64,
    /// Namespaces whose lookup link is attached.
    attached: BTreeSet<u64>,
    /// Those of them that an agent before this one attached, and that have its program still.
    inherited: BTreeSet<u64>,
    pods: BTreeMap<ObjectName, Pod>,
}

/// One pod.
#[derive(Debug)]
pub struct Pod {
    /// What the Snapshot says of it.
    pub workload: Arc<Workload>,
    /// Its network namespace, once found.
    pub found: Option<Found>,
    /// Its listeners, by kind.
    pub listeners: BTreeMap<ListenerKind, Arc<OwnedFd>>,
    /// Why it is not captured; None: it is.
    pub pending: Option<String>,
    /// The listeners that the kernel steers to.
    steered: BTreeSet<ListenerKind>,
}

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Found {
    /// Keeps it, and enters it.
    pub namespace: Arc<OwnedFd>,
    /// By what the kernel's programs know it.
    pub cookie: u64,
    /// The device and inode of the file that was opened: another one at the same path is another namespace.
    file: (u64, u64),
}

impl Pod {
    /// True where every listener is open, steered to, and the lookup link attached.
    pub fn is_captured(&self) -> bool {
        self.pending.is_none() && self.workload.membership != Membership::Outside
    }
}

impl Pods {
    /// No pods yet; `attached` are the namespaces whose lookup links an agent before this one left.
    pub fn new(node: Arc<str>, attached: BTreeSet<u64>) -> io::Result<Self> {
        let (entrant, host, inherited) = (Entrant::start()?, listener::cookie()?, attached.clone());
        Ok(Self { node, entrant, host, attached, inherited, pods: BTreeMap::new() })
    }

    /// Every pod, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectName, &Pod)> {
        self.pods.iter()
    }

    /// The pod of this name and uid.
    pub fn get(&self, name: &ObjectName, uid: &str) -> Option<&Pod> {
        self.pods.get(name).filter(|pod| *pod.workload.uid == *uid)
    }

    /// True where some pod waits for its namespace or for its listeners.
    pub fn has_pending(&self) -> bool {
        self.pods.values().any(|pod| pod.pending.is_some())
    }

    /// Takes in what the Snapshot says now, and captures what can be. True where a pod changed.
    pub async fn sync(&mut self, mesh: &Mesh, kernel: &mut Kernel) -> bool {
        let mut changed = self.forget(mesh);
        let node = self.node.clone();
        let local = mesh.snapshot.workloads.values().filter(|w| w.node == node);
        for workload in local.filter(|w| w.netns.is_some()) {
            let name = workload.name.clone();
            let mut pod = self.pods.remove(&name).unwrap_or_else(|| Pod::new(workload.clone()));
            if pod.workload.addresses != workload.addresses {
                pod.steered.clear();
            }
            pod.workload = workload.clone();
            let before = (pod.pending.clone(), pod.listeners.len(), pod.found.as_ref().map(|f| f.cookie));
            pod.pending = self.capture(&mut pod, kernel).await.err();
            let after = (pod.pending.clone(), pod.listeners.len(), pod.found.as_ref().map(|f| f.cookie));
            if before != after {
                changed = true;
                let was_captured = pod.cookie().is_some_and(|cookie| self.attached.contains(&cookie));
                match &pod.pending {
                    None => tracing::info!(workload = %name, "the pod is captured"),
                    // By an agent before this one: what it lacks is on its way back.
                    Some(reason) if was_captured => tracing::info!(workload = %name, reason, "the pod waits"),
                    Some(reason) => tracing::warn!(workload = %name, reason, "the pod is pending"),
                }
            }
            self.pods.insert(name, pod);
        }
        changed
    }

    /// Closes what belongs to pods that are gone, left the mesh, or were made again under their old name.
    fn forget(&mut self, mesh: &Mesh) -> bool {
        let before = self.pods.len();
        self.pods.retain(|name, pod| {
            let now = mesh.snapshot.workloads.get(name);
            now.is_some_and(|now| {
                now.uid == pod.workload.uid && now.node == pod.workload.node && now.netns == pod.workload.netns
            })
        });
        let mut changed = self.pods.len() != before;
        for (name, pod) in &mut self.pods {
            let is_outside = mesh.snapshot.workloads.get(name).is_some_and(|w| w.membership == Membership::Outside);
            if is_outside && !pod.listeners.is_empty() {
                pod.listeners.clear();
                pod.steered.clear();
                changed = true;
            }
        }
        changed
    }

    /// Finds the namespace, opens what is missing, and attaches. The error is the reason that status shows.
    async fn capture(&mut self, pod: &mut Pod, kernel: &mut Kernel) -> Result<(), String> {
        let found = self.find(pod).await?;
        if pod.workload.membership == Membership::Outside {
            return Ok(());
        }
        // An agent before this one captured it: its link gets this version's program before anything else happens.
        if self.inherited.contains(&found.cookie) {
            self.attach(&found, kernel)?;
        }
        let missing = listener::kinds(&pod.workload).filter(|kind| !pod.listeners.contains_key(kind));
        for kind in missing.collect::<Vec<_>>() {
            let opened = self.entrant.within(found.namespace.clone(), move || listener::open(kind)).await;
            pod.listeners.insert(kind, Arc::new(opened.map_err(|why| unopened(kind, &why))?));
        }
        for (kind, socket) in &pod.listeners {
            if pod.steered.insert(*kind) {
                steer(&pod.workload, *kind, socket, kernel).inspect_err(|_| {
                    pod.steered.remove(kind);
                })?;
            }
        }
        if !self.attached.contains(&found.cookie) {
            self.attach(&found, kernel)?;
        }
        Ok(())
    }

    fn attach(&mut self, found: &Found, kernel: &mut Kernel) -> Result<(), String> {
        kernel.attach_pod(found.namespace.as_fd(), found.cookie).map_err(|why| chain(&why))?;
        self.attached.insert(found.cookie);
        self.inherited.remove(&found.cookie);
        Ok(())
    }

    /// The pod's namespace, as its path shows it now. One that was found stays while its path is gone: the pod may live on.
    async fn find(&self, pod: &mut Pod) -> Result<Found, String> {
        let path = pod.workload.netns.clone().ok_or("no network namespace is named")?;
        let opened =
            File::open(&*path).and_then(|file| file.metadata().map(|found| (file, (found.dev(), found.ino()))));
        let (file, id) = match (opened, &pod.found) {
            (Ok((_, id)), Some(found)) if found.file == id => return Ok(found.clone()),
            (Err(_), Some(found)) => return Ok(found.clone()),
            (Err(why), None) => return Err(format!("its network namespace {path} can't be opened: {why}")),
            (Ok(opened), _) => opened,
        };
        let namespace: Arc<OwnedFd> = Arc::new(file.into());
        let cookie = self.entrant.within(namespace.clone(), listener::cookie).await;
        let cookie = cookie.map_err(|why| format!("its network namespace {path} can't be entered: {why}"))?;
        if cookie == self.host {
            return Err("it shares the node's network namespace: such pods are not captured yet".to_owned());
        }
        if let Some((other, _)) = self.iter().find(|(_, other)| other.cookie() == Some(cookie)) {
            return Err(format!("it shares the network namespace of {other}"));
        }
        if pod.found.is_some() {
            tracing::info!(workload = %pod.workload.name, "the pod has another network namespace now");
            pod.listeners.clear();
            pod.steered.clear();
        }
        let found = Found { namespace, cookie, file: id };
        pod.found = Some(found.clone());
        Ok(found)
    }

    /// Takes back a listener that somebody kept through a restart of the agent. The error is why it is not taken.
    pub fn adopt(&mut self, name: &ObjectName, uid: &str, kind: ListenerKind, socket: OwnedFd) -> Result<(), String> {
        let pod = self.pods.get_mut(name).filter(|pod| *pod.workload.uid == *uid).ok_or("the workload is gone")?;
        if pod.listeners.contains_key(&kind) {
            return Ok(());
        }
        let found = pod.found.as_ref().ok_or("the workload's network namespace is not known")?;
        if pod.workload.membership == Membership::Outside {
            return Err("the workload is not in the mesh".to_owned());
        }
        listener::check(socket.as_fd(), kind, found.cookie)?;
        pod.listeners.insert(kind, Arc::new(socket));
        Ok(())
    }

    /// Unconnected, exempt sockets in the workload's namespace.
    pub async fn sockets(
        &self,
        (name, uid): (&ObjectName, &str),
        family: Family,
        count: usize,
        kernel: &Kernel,
    ) -> Result<Vec<OwnedFd>, String> {
        let found = self.get(name, uid).and_then(|pod| pod.found.as_ref()).ok_or("no such workload")?;
        let make = move || (0..count).map(|_| listener::unconnected(family)).collect::<io::Result<Vec<_>>>();
        let sockets = self.entrant.within(found.namespace.clone(), make).await.map_err(|why| why.to_string())?;
        for socket in &sockets {
            kernel.exempt(socket.as_fd()).map_err(|why| chain(&why))?;
        }
        Ok(sockets)
    }

    /// What `work` gives inside each namespace of the mesh, by cookie. Work that fails is told, and left out.
    pub async fn within_each<T: Send + 'static>(
        &self,
        work: impl Fn() -> io::Result<T> + Clone + Send + 'static,
    ) -> BTreeMap<u64, T> {
        let mut done = BTreeMap::new();
        let mesh = self.pods.values().filter(|pod| pod.workload.membership != Membership::Outside);
        for found in mesh.filter_map(|pod| pod.found.as_ref()) {
            match self.entrant.within(found.namespace.clone(), work.clone()).await {
                Ok(result) => drop(done.insert(found.cookie, result)),
                Err(why) => tracing::warn!(error = &why as &dyn std::error::Error, "a pod's namespace can't be read"),
            }
        }
        done
    }

    /// What `work` gives inside the namespace of this cookie.
    pub async fn within<T: Send + 'static>(
        &self,
        cookie: u64,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let found = self.pods.values().filter_map(|pod| pod.found.as_ref()).find(|found| found.cookie == cookie);
        self.entrant.within(found.ok_or(io::ErrorKind::NotFound)?.namespace.clone(), work).await
    }

    /// The steering entries that were written to the kernel.
    pub fn steered(&self) -> impl Iterator<Item = ListenerKey> {
        self.pods.values().flat_map(|pod| pod.steered.iter().filter_map(|kind| steering(&pod.workload, *kind)))
    }

    /// Whose each known namespace is, for the kernel's tables.
    pub fn namespaces(&self) -> Namespaces {
        let pods = self.pods.iter().filter_map(|(name, pod)| {
            let cookie = pod.cookie()?;
            match pod.workload.membership {
                Membership::Outside => Some((cookie, Namespace::Outside(name.clone()))),
                // Not before its link is there, and still when only its listeners are not: what is captured stays so.
                Membership::Pending | Membership::Enrolled if self.attached.contains(&cookie) => {
                    Some((cookie, Namespace::Mesh(name.clone())))
                }
                Membership::Pending | Membership::Enrolled => None,
            }
        });
        pods.chain([(self.host, Namespace::Host)]).collect()
    }

    /// Detaches the lookup links of namespaces that are no pod's of the mesh any more: last, after the kernel's tables.
    pub fn detach(&mut self, kernel: &mut Kernel) -> Result<(), AttachError> {
        let namespaces = self.namespaces();
        let is_mesh = |cookie: &u64| matches!(namespaces.get(cookie), Some(Namespace::Mesh(_)));
        let stale: Vec<u64> = self.attached.iter().copied().filter(|cookie| !is_mesh(cookie)).collect();
        for cookie in stale {
            kernel.detach_pod(cookie)?;
            self.attached.remove(&cookie);
            self.inherited.remove(&cookie);
        }
        Ok(())
    }
}

impl Pod {
    pub(crate) fn new(workload: Arc<Workload>) -> Self {
        Self { workload, found: None, listeners: BTreeMap::new(), pending: None, steered: BTreeSet::new() }
    }

    fn cookie(&self) -> Option<u64> {
        self.found.as_ref().map(|found| found.cookie)
    }
}

/// The entry that steers to a listener of this kind. Outbound listeners have none: they are connected to by their port.
fn steering(workload: &Workload, kind: ListenerKind) -> Option<ListenerKey> {
    let steering = match kind {
        ListenerKind::PlaintextV4 | ListenerKind::PlaintextV6 => Steering::Plaintext,
        ListenerKind::TunnelV4 | ListenerKind::TunnelV6 => Steering::Tunnel,
        ListenerKind::OutboundV4 | ListenerKind::OutboundV6 | ListenerKind::Unspecified => return None,
    };
    let is_v4 = listener::address(kind)?.is_ipv4();
    let address = workload.addresses.iter().find(|address| address.is_ipv4() == is_v4)?;
    Some(ListenerKey { addr: addr(*address), kind: steering as u32 })
}

fn steer(workload: &Workload, kind: ListenerKind, socket: &OwnedFd, kernel: &mut Kernel) -> Result<(), String> {
    match steering(workload, kind) {
        Some(key) => kernel.set_listener(key, socket.as_fd()).map_err(|why| chain(&why)),
        None => Ok(()),
    }
}

fn unopened(kind: ListenerKind, why: &io::Error) -> String {
    let name = listener::name(kind);
    if why.kind() == io::ErrorKind::AddrInUse {
        return format!("its {name} listener is held elsewhere: by a proxy that will hand it back, or by the workload");
    }
    format!("its {name} listener can't be opened: {why}")
}

/// An error and what lies under it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let below = std::iter::successors(error.source(), |error| error.source());
    below.fold(error.to_string(), |text, error| format!("{text}: {error}"))
}
