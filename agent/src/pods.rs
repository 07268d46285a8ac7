//! Holds the pods of this node: finds their network namespaces, opens the listeners inside, and has the kernel steer to them.
//!
//! Order for a new pod: listeners open, then the lookup link, then (in `node`) the kernel's tables. A pod that can't be
//! captured is pending, with the reason on status, and tried again: its namespace appears by a mount, which gives no event.

mod entrant;
mod gone;
mod guard;
pub mod hosts;
mod links;
pub mod listener;
mod namespace;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_abi::{Guard, ListenerKey, ListenerKind as Steering, Pod as Entry};
use millrace_model::{Membership, Mesh, ObjectName, Workload};
use millrace_node::{
    clock,
    wire::node::{Family, ListenerKind},
};

pub use entrant::Entrant;
pub use links::addresses_inside;
pub(crate) use namespace::open_namespace;

use crate::{
    config::Switch,
    kernel::{
        AttachError, Kernel, netns_of,
        plan::{Namespace, Namespaces, addr},
    },
    kubelet::{Looked, Sandboxes},
};

/// How long a pod that left the mesh is served as before: until every node that hears the control plane has surely heard
/// that it left, and what they had sent on its way has come. In that time it is reached by tunnels and in plain text alike.
pub const LINGER: Duration = Duration::from_secs(10);

/// The pods of a node, by name.
pub struct Pods {
    node: Arc<str>,
    entrant: Entrant,
    host: u64,
    /// Namespaces whose lookup link is attached.
    attached: BTreeSet<u64>,
    /// Those of them that an agent before this one attached, and that have its program still: with the id of the
    /// workload that it wrote each down for.
    inherited: BTreeMap<u64, Option<u64>>,
    guards: guard::Guards,
    hosts: hosts::Hosts,
    pods: BTreeMap<ObjectName, Pod>,
    gone: gone::Gone,
    /// Where those are whose manifests don't say.
    sandboxes: Arc<Sandboxes>,
}

/// What an agent before this one left in the kernel.
#[derive(Debug)]
pub struct Left<'l> {
    /// The namespaces whose lookup links are attached.
    pub attached: BTreeSet<u64>,
    /// What it wrote down of whose they are.
    pub entries: &'l BTreeMap<u64, Entry>,
    /// Its guards, by the index of the host's end.
    pub guards: BTreeMap<u32, Guard>,
    /// The directory of cgroups that its programs stand at.
    pub cgroup: &'l Path,
    /// Where pods' logs are.
    pub logs: &'l Path,
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
    /// Why what it sends is not judged; None: it is.
    pub unguarded: Option<String>,
    /// The listeners that the kernel steers to.
    steered: BTreeSet<ListenerKind>,
    opening: namespace::Opening,
    /// When it left the mesh, having been captured.
    left: Option<Instant>,
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

impl Found {
    /// The device and inode of its file.
    pub fn file(&self) -> (u64, u64) {
        self.file
    }

    /// The namespace of a socket, whose cookie was asked for.
    fn by(socket: BorrowedFd<'_>, cookie: u64) -> io::Result<Self> {
        let namespace = netns_of(socket)?;
        let file = namespace::id(namespace.as_fd())?;
        Ok(Self { namespace: Arc::new(namespace), cookie, file })
    }
}

impl Pod {
    /// True where every listener is open, steered to, and the lookup link attached.
    pub fn is_captured(&self) -> bool {
        self.pending.is_none() && self.workload.membership != Membership::Outside
    }

    /// True where it left the mesh so lately that others may still send to it as if it had not. It ends at one moment, in
    /// [`Pods::has_left`]: who asks twice in between is told the same.
    fn lingers(&self) -> bool {
        self.left.is_some()
    }

    /// What the Snapshot says of it now.
    fn turns(&mut self, workload: Arc<Workload>) {
        let (was, is) = (self.workload.membership, workload.membership);
        self.workload = workload;
        self.left = match (was, is) {
            (Membership::Outside, Membership::Outside) => self.left,
            (Membership::Pending | Membership::Enrolled, Membership::Outside) if !self.listeners.is_empty() => {
                Some(clock::now())
            }
            (_, Membership::Pending | Membership::Enrolled | Membership::Outside | Membership::Host) => None,
        };
    }
}

impl Pods {
    /// No pods yet.
    pub fn new(node: Arc<str>, left: Left<'_>, anti_spoofing: Switch) -> io::Result<Self> {
        let Left { attached, entries, guards, cgroup, logs } = left;
        let (entrant, host) = (Entrant::start()?, listener::cookie()?);
        let owner = |cookie: &u64| (*cookie, entries.get(cookie).map(|entry| entry.id));
        let inherited = attached.iter().map(owner).collect();
        let guards = guard::Guards::new(anti_spoofing, guards);
        let hosts = hosts::Hosts::new(cgroup, logs);
        Ok(Self {
            node,
            entrant,
            host,
            attached,
            inherited,
            guards,
            hosts,
            pods: BTreeMap::new(),
            gone: gone::Gone::default(),
            sandboxes: Arc::default(),
        })
    }

    /// Every pod, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectName, &Pod)> {
        self.pods.iter()
    }

    /// Those that share the node's network.
    pub fn hosts(&self) -> impl Iterator<Item = &hosts::Host> {
        self.hosts.iter()
    }

    /// The pod of this name and instance.
    pub fn get(&self, name: &ObjectName, instance: &str) -> Option<&Pod> {
        self.pods.get(name).filter(|pod| *pod.workload.instance == *instance)
    }

    /// Takes in where a kubelet's pods are.
    pub fn hear(&mut self, sandboxes: Arc<Sandboxes>) {
        self.sandboxes = sandboxes;
    }

    /// Whether the namespace of this pod of the node is to be found by the kubelet's word, if at all.
    pub fn is_sought(&self, workload: &Workload) -> bool {
        workload.netns.is_none() && workload.membership != Membership::Host
    }

    /// True for a pod that is held here: its manifest says where it is, or a kubelet may.
    fn is_held(&self, workload: &Workload) -> bool {
        let is_found = || !workload.addresses.is_empty() && self.sandboxes.may_have(&workload.name);
        !self.hosts.is_one(workload) && (workload.netns.is_some() || is_found())
    }

    /// True where some pod waits for its namespace or for its listeners.
    pub fn has_pending(&self) -> bool {
        self.pods.values().any(|pod| pod.pending.is_some())
    }

    /// Takes in what the Snapshot says now, and captures what can be. True where a pod changed.
    pub async fn sync(&mut self, mesh: &Mesh, kernel: &mut Kernel) -> bool {
        let node = self.node.clone();
        let mut changed = self.forget(mesh) | self.hosts.sync(mesh, &node);
        let local = mesh.on(&node);
        for workload in local.filter(|w| self.is_held(w)).cloned().collect::<Vec<_>>() {
            let name = workload.name.clone();
            let mut pod = self.pods.remove(&name).unwrap_or_else(|| Pod::new(workload.clone()));
            if pod.workload.addresses != workload.addresses {
                pod.steered.clear();
            }
            pod.turns(workload.clone());
            let before = (pod.pending.clone(), pod.listeners.len(), pod.found.as_ref().map(|f| f.cookie));
            pod.pending = self.capture(&mut pod, kernel).await.err();
            let after = (pod.pending.clone(), pod.listeners.len(), pod.found.as_ref().map(|f| f.cookie));
            if before != after {
                changed = true;
                let was_captured = pod.cookie().is_some_and(|cookie| self.attached.contains(&cookie));
                match &pod.pending {
                    None => tracing::info!(workload = %name, "the pod is captured"),
                    Some(reason) if self.sandboxes.looked == Looked::NotYet => {
                        tracing::debug!(workload = %name, reason, "the pod waits");
                    }
                    // By an agent before this one: what it lacks is on its way back.
                    Some(reason) if was_captured => tracing::info!(workload = %name, reason, "the pod waits"),
                    Some(reason) => tracing::warn!(workload = %name, reason, "the pod is pending"),
                }
            }
            self.pods.insert(name, pod);
        }
        self.guard(kernel).await;
        changed
    }

    /// Closes what belongs to pods that are gone, or were made again under their old name.
    fn forget(&mut self, mesh: &Mesh) -> bool {
        let (before, at) = (self.pods.len(), clock::now());
        let stays = |name: &&ObjectName| {
            let now = mesh.snapshot.workloads.get(*name);
            now.is_some_and(|now| now.netns.is_some() || self.is_held(now))
        };
        let held: BTreeSet<ObjectName> = self.pods.keys().filter(stays).cloned().collect();
        let gone = &mut self.gone;
        self.pods.retain(|name, pod| {
            let now = mesh.snapshot.workloads.get(name);
            let stays = now.is_some_and(|now| {
                now.instance == pod.workload.instance
                    && now.node == pod.workload.node
                    && now.netns == pod.workload.netns
            });
            let stays = stays && held.contains(name);
            if let Some(found) = pod.found.as_ref().filter(|_| !stays) {
                gone.add(found, at);
            }
            stays
        });
        self.pods.len() != before
    }

    /// Ends what pods that are gone have left in their namespaces.
    pub async fn sweep(&mut self) {
        let in_use = self.pods.values().filter_map(Pod::cookie).collect();
        self.gone.sweep(&self.entrant, &in_use, clock::now()).await;
    }

    /// Closes the listeners of pods that left the mesh, once the kernel sends nothing there any more.
    pub fn release(&mut self) {
        self.outside().for_each(|pod| pod.listeners.clear());
    }

    fn outside(&mut self) -> impl Iterator<Item = &mut Pod> {
        self.pods.values_mut().filter(|pod| pod.workload.membership == Membership::Outside && !pod.lingers())
    }

    /// True where a pod stops to be served as one of the mesh, its time being over: the kernel's tables still say so.
    pub fn has_left(&mut self, now: Instant) -> bool {
        let mut has_left = false;
        for pod in self.pods.values_mut() {
            if pod.left.take_if(|left| now.saturating_duration_since(*left) >= LINGER).is_some() {
                has_left = true;
            }
        }
        has_left
    }

    /// Finds the namespace, opens what is missing, and attaches. The error is the reason that status shows.
    async fn capture(&mut self, pod: &mut Pod, kernel: &mut Kernel) -> Result<(), String> {
        let found = self.find(pod).await?;
        if pod.workload.membership == Membership::Outside {
            return Ok(());
        }
        // An agent before this one captured it: its link gets this version's program before anything else happens.
        if self.inherited.contains_key(&found.cookie) {
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
        let (namespace, id) = match (self.opened(pod).await, &pod.found) {
            (Ok((_, id)), Some(found)) if found.file == id => return Ok(found.clone()),
            (Err(_), Some(found)) => return Ok(found.clone()),
            (Err(why), None) => return Err(why),
            (Ok(opened), _) => opened,
        };
        let look = || Ok((listener::cookie()?, links::inside()?));
        let seen = self.entrant.within(namespace.clone(), look).await;
        let (cookie, inside) = seen.map_err(|why| format!("its network namespace can't be entered: {why}"))?;
        if pod.workload.netns.is_none() {
            inside.is_of(&pod.workload)?;
        }
        if cookie == self.host {
            return Err("it shares the node's network namespace, and is not said to: spec.hostNetwork".to_owned());
        }
        if let Some((other, _)) = self.iter().find(|(_, other)| other.cookie() == Some(cookie)) {
            return Err(format!("it shares the network namespace of {other}"));
        }
        if self.cookie(pod).is_some_and(|before| before != cookie) {
            tracing::info!(workload = %pod.workload.name, "the pod has another network namespace now");
            pod.listeners.clear();
            pod.steered.clear();
        }
        let found = Found { namespace, cookie, file: id };
        pod.found = Some(found.clone());
        Ok(found)
    }

    /// The pod's namespace, by its manifest or by the kubelet's word.
    async fn opened(&self, pod: &mut Pod) -> Result<(Arc<OwnedFd>, (u64, u64)), String> {
        match &pod.workload.netns {
            Some(path) => match pod.opening.open(path).await {
                Ok((file, id)) => Ok((Arc::new(file.into()), id)),
                Err(why) => Err(format!("its network namespace {path} can't be opened: {why}")),
            },
            None => {
                let own =
                    self.sandboxes.own(&pod.workload.name).ok_or_else(|| self.sandboxes.fault(&pod.workload.name))?;
                Ok((own.namespace.clone(), own.file))
            }
        }
    }

    /// Takes back a listener that somebody kept through a restart of the agent: the cookie of its namespace. The error is
    /// why it is not taken.
    pub fn adopt(
        &mut self,
        name: &ObjectName,
        instance: &str,
        kind: ListenerKind,
        socket: OwnedFd,
    ) -> Result<u64, String> {
        let pod = self.get(name, instance).ok_or("the workload is gone")?;
        let cookie = self.cookie(pod).ok_or("the workload's network namespace is not known")?;
        let is_found = pod.found.is_some();
        if pod.workload.membership == Membership::Outside {
            return Err("the workload is not in the mesh".to_owned());
        }
        listener::check(socket.as_fd(), kind, cookie)?;
        // Its path leads there no more, but the pod lives on: its listener does.
        let found =
            if is_found { None } else { Some(Found::by(socket.as_fd(), cookie).map_err(|why| why.to_string())?) };
        if let Some(pod) = self.pods.get_mut(name) {
            pod.found = pod.found.take().or(found);
            pod.listeners.entry(kind).or_insert_with(|| Arc::new(socket));
        }
        Ok(cookie)
    }

    /// Unconnected, exempt sockets in the workload's namespace.
    pub async fn sockets(
        &self,
        (name, instance): (&ObjectName, &str),
        family: Family,
        count: usize,
        kernel: &Kernel,
    ) -> Result<Vec<OwnedFd>, String> {
        let found = self.get(name, instance).and_then(|pod| pod.found.as_ref()).ok_or("no such workload")?;
        let make = move || (0..count).map(|_| listener::unconnected(family)).collect::<io::Result<Vec<_>>>();
        let sockets = self.entrant.within(found.namespace.clone(), make).await.map_err(|why| why.to_string())?;
        for socket in &sockets {
            kernel.exempt(socket.as_fd()).map_err(|why| chain(&why))?;
        }
        Ok(sockets)
    }

    /// What `work` gives inside each namespace of the mesh, by cookie. Work that fails is told, left out, and counted.
    pub async fn within_each<T: Send + 'static>(
        &self,
        work: impl Fn() -> io::Result<T> + Clone + Send + 'static,
    ) -> (BTreeMap<u64, T>, usize) {
        let (mut done, mut n_failed) = (BTreeMap::new(), 0);
        let mesh = self.pods.values().filter(|pod| pod.workload.membership != Membership::Outside);
        for found in mesh.filter_map(|pod| pod.found.as_ref()) {
            match self.entrant.within(found.namespace.clone(), work.clone()).await {
                Ok(result) => drop(done.insert(found.cookie, result)),
                Err(why) => {
                    n_failed += 1;
                    tracing::warn!(error = &why as &dyn std::error::Error, "a pod's namespace can't be read");
                }
            }
        }
        (done, n_failed)
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

    /// The namespace of a pod: the one that was found, else the one that an agent before this one wrote down for it.
    fn cookie(&self, pod: &Pod) -> Option<u64> {
        pod.cookie().or_else(|| {
            let id = pod.workload.id();
            self.inherited.iter().find(|(_, owner)| **owner == Some(id)).map(|(cookie, _)| *cookie)
        })
    }

    /// Whose each known namespace is, for the kernel's tables.
    pub fn namespaces(&self) -> Namespaces {
        let pods = self.pods.iter().filter_map(|(name, pod)| {
            let cookie = self.cookie(pod)?;
            match pod.workload.membership {
                Membership::Outside if pod.lingers() && self.attached.contains(&cookie) => {
                    Some((cookie, Namespace::Mesh(name.clone())))
                }
                Membership::Outside | Membership::Host => Some((cookie, Namespace::Outside(name.clone()))),
                // Not before its link is there, and still when only its listeners are not: what is captured stays so.
                Membership::Pending | Membership::Enrolled if self.attached.contains(&cookie) => {
                    Some((cookie, Namespace::Mesh(name.clone())))
                }
                Membership::Pending | Membership::Enrolled => None,
            }
        });
        pods.chain([(self.host, Namespace::Host)]).chain(self.hosts.keys()).collect()
    }

    /// Detaches the lookup links of namespaces that are no pod's of the mesh any more: last, after the kernel's tables.
    pub fn detach(&mut self, kernel: &mut Kernel) -> Result<(), AttachError> {
        // The tables steer to them no more. One that comes back is steered to anew.
        self.outside().for_each(|pod| pod.steered.clear());
        for cookie in self.stale() {
            kernel.detach_pod(cookie)?;
            self.attached.remove(&cookie);
            self.inherited.remove(&cookie);
        }
        Ok(())
    }

    /// Attached namespaces that are certain to be no pod's of the mesh.
    fn stale(&self) -> Vec<u64> {
        let namespaces = self.namespaces();
        // While some pod's namespace is unknown, any link that nobody claims may be its: to remove it would let in plain text.
        let mut in_mesh = self.pods.values().filter(|pod| pod.workload.membership != Membership::Outside);
        let is_unknown = in_mesh.any(|pod| self.cookie(pod).is_none());
        let is_stale = |cookie: &u64| match namespaces.get(cookie) {
            Some(Namespace::Mesh(_)) => false,
            Some(Namespace::Outside(_) | Namespace::Host) => true,
            // Of cgroups, which have no link.
            Some(Namespace::HostMesh(_) | Namespace::HostOutside(_) | Namespace::HostUnknown) => false,
            None => !(is_unknown && self.inherited.contains_key(cookie)),
        };
        self.attached.iter().copied().filter(is_stale).collect()
    }
}

impl Pod {
    pub(crate) fn new(workload: Arc<Workload>) -> Self {
        let (listeners, steered, opening) = (BTreeMap::new(), BTreeSet::new(), namespace::Opening::default());
        Self { workload, found: None, listeners, pending: None, unguarded: None, steered, opening, left: None }
    }

    /// Found in the namespace of this cookie.
    #[cfg(test)]
    pub(crate) fn found_at(self, cookie: u64) -> Self {
        let namespace = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        Self { found: Some(Found { namespace, cookie, file: (0, cookie) }), ..self }
    }

    pub(crate) fn cookie(&self) -> Option<u64> {
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

#[cfg(test)]
mod tests;
