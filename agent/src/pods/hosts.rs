//! Finds the pods that share the node's network by their cgroups: a process in one of those is that pod's, in whatever namespace of
//! its own making, and never the host's.
//!
//! A manifest says which cgroup, or else the kubelet does: the folder of the pod's logs has its name and its uid, and the cgroup the uid.
//! What lies where a kubelet keeps its pods and is none that is known is a pod's all the same.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use millrace_abi::cgroup_key;
use millrace_model::{Membership, Mesh, ObjectName, Workload};
use rustix::fs::statfs;

use crate::{kernel::plan::Namespace, kubelet::logs};

/// CGROUP2_SUPER_MAGIC of linux/magic.h.
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// Where a kubelet keeps its pods, beneath the root, by its two drivers.
const KUBELETS: [&str; 2] = ["kubepods.slice", "kubepods"];

/// How deep beneath that a pod's cgroup lies: in its class of service, or not.
const DEPTH: u32 = 2;

/// The pods of this node that share its network.
#[derive(Debug)]
pub struct Hosts {
    /// The directory of cgroups that programs stand at.
    root: PathBuf,
    /// Where a kubelet keeps its pods' logs.
    logs: PathBuf,
    pods: BTreeMap<ObjectName, Host>,
    /// Where unknown ones are, by key.
    unknown: Vec<u64>,
}

/// One of them.
#[derive(Debug)]
pub struct Host {
    /// What the Snapshot says of it.
    pub workload: Arc<Workload>,
    /// Its key in PODS, or why it is not known by one.
    pub key: Result<u64, String>,
    /// Its cgroup, where that was found.
    pub path: Option<PathBuf>,
}

impl Hosts {
    pub(super) fn new(root: &Path, logs: &Path) -> Self {
        Self { root: root.to_owned(), logs: logs.to_owned(), pods: BTreeMap::new(), unknown: Vec::new() }
    }

    /// True for a workload that is found by its cgroup, if at all.
    pub(super) fn is_one(&self, workload: &Workload) -> bool {
        let is_cgroup = || workload.netns.as_ref().is_some_and(|path| Path::new(&**path).starts_with(&self.root));
        workload.membership == Membership::Host || workload.membership == Membership::Outside && is_cgroup()
    }

    /// Takes in what the Snapshot says, and looks for what is not found yet. True where something changed.
    pub(super) fn sync(&mut self, mesh: &Mesh, node: &str) -> bool {
        let before: Vec<_> = self.keys().collect();
        let local = mesh.on(node);
        let wanted: Vec<_> = local.filter(|w| self.is_one(w)).cloned().collect();
        let mut held = std::mem::take(&mut self.pods);
        for workload in wanted {
            let same = held.remove(&workload.name).filter(|host| host.workload.instance == workload.instance);
            // Its cgroup goes with the pod: one made again under its name, at once, has another.
            let held = same.and_then(|host| Some((host.key.ok()?, host.path?)));
            let held = held.filter(|(key, path)| id(path).is_ok_and(|id| cgroup_key(id) == *key));
            let (key, path) = match held.map_or_else(|| self.find(&workload), Ok) {
                Ok((key, path)) => (Ok(key), Some(path)),
                Err(why) => (Err(why), None),
            };
            self.pods.insert(workload.name.clone(), Host { workload, key, path });
        }
        self.unknown = KUBELETS.iter().filter_map(|name| id(&self.root.join(name)).ok()).map(cgroup_key).collect();
        before != self.keys().collect::<Vec<_>>()
    }

    fn find(&self, workload: &Workload) -> Result<(u64, PathBuf), String> {
        let path = match &workload.netns {
            Some(path) => PathBuf::from(&**path),
            None => self.by_name(&workload.name)?,
        };
        // Beneath the programs, or they would never see it.
        if !path.starts_with(&self.root) {
            return Err(format!("its cgroup {} is not beneath {}", path.display(), self.root.display()));
        }
        let id = id(&path).map_err(|why| format!("its cgroup {} can't be used: {why}", path.display()))?;
        Ok((cgroup_key(id), path))
    }

    /// The cgroup of the pod of this name, by the one of its uids that has a cgroup: logs stay for a while where a pod is gone.
    fn by_name(&self, name: &ObjectName) -> Result<PathBuf, String> {
        let pods = logs::pods(&self.logs).map_err(|why| format!("{} can't be read: {why}", self.logs.display()))?;
        let uids = pods.filter_map(|pod| pod.ok().filter(|(pod, _)| pod == name).map(|(_, uid)| uid));
        let mut found = uids.filter_map(|uid| self.by_uid(&uid));
        match (found.next(), found.next()) {
            (Some(path), None) => Ok(path),
            (None, _) => Err("no cgroup beneath a kubelet's has its uid in its name".to_owned()),
            (Some(_), Some(_)) => Err("a pod that had its name before is not gone yet".to_owned()),
        }
    }

    /// The cgroup that a kubelet made for the pod of this uid: `pod<uid>`, or with slices, where a minus means a level, with `_`.
    fn by_uid(&self, uid: &str) -> Option<PathBuf> {
        let names = [format!("pod{uid}"), format!("pod{}.slice", uid.replace('-', "_"))];
        let is_it = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            names.iter().any(|wanted| name.ends_with(wanted.as_str())).then(|| path.to_owned())
        };
        KUBELETS.iter().find_map(|name| search(&self.root.join(name), DEPTH, &is_it))
    }

    /// Whose each cgroup is, for the kernel's tables.
    pub(super) fn keys(&self) -> impl Iterator<Item = (u64, Namespace)> {
        let unknown = self.unknown.iter().map(|key| (*key, Namespace::HostUnknown));
        unknown.chain(self.pods.iter().filter_map(|(name, host)| {
            let key = *host.key.as_ref().ok()?;
            Some((
                key,
                match host.workload.membership {
                    Membership::Host => Namespace::HostMesh(name.clone()),
                    Membership::Outside | Membership::Pending | Membership::Enrolled => {
                        Namespace::HostOutside(name.clone())
                    }
                },
            ))
        }))
    }

    /// Every one.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Host> {
        self.pods.values()
    }
}

/// A cgroup's id, which is its directory's inode.
fn id(path: &Path) -> io::Result<u64> {
    if statfs(path)?.f_type != CGROUP2_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no cgroup of version 2"));
    }
    Ok(fs::metadata(path)?.ino())
}

/// Whether a folder is the one looked for, or holds it.
type IsIt<'i> = dyn Fn(&Path) -> Option<PathBuf> + 'i;

fn search(below: &Path, depth: u32, is_it: &IsIt<'_>) -> Option<PathBuf> {
    let entries = fs::read_dir(below).ok()?;
    let folders: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    let found = folders.iter().find_map(|path| is_it(path));
    found.or_else(|| if depth == 0 { None } else { folders.iter().find_map(|path| search(path, depth - 1, is_it)) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use std::path::Path;

    use millrace_model::ObjectName;

    use super::Hosts;

    /// Logs outlive their pod; only one that has a cgroup is it.
    #[test]
    fn a_pods_cgroup_is_found_by_what_the_kubelet_calls_its_logs() {
        let (root, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let hosts = Hosts::new(root.path(), logs.path());
        let pod = ObjectName::new("kube-system", "proxy");
        let log = |name: &str| fs::create_dir_all(logs.path().join(name)).unwrap();
        let cgroup = |path: &str| {
            fs::create_dir_all(root.path().join(path)).unwrap();
            root.path().join(path)
        };
        assert!(Hosts::new(root.path(), Path::new("/nowhere")).by_name(&pod).is_err());
        log("kube-system_proxy_aaa-1");
        log("kube-system_proxy_bbb-2");
        log("kube-system_proxy-2_ccc-3");
        cgroup("kubepods/podccc-3");
        assert!(hosts.by_name(&pod).unwrap_err().contains("no cgroup"));
        let own = cgroup("kubepods/burstable/podbbb-2");
        assert_eq!(hosts.by_name(&pod), Ok(own));
        cgroup("kubepods/podaaa-1");
        assert!(hosts.by_name(&pod).unwrap_err().contains("not gone yet"));
    }

    /// As a kubelet makes them, by either driver. Only cgroups have ids; that they are found needs none.
    #[test]
    fn a_pods_cgroup_is_found_by_its_uid() {
        let uid = "0f1b2c3d-1111-2222-3333-444455556666";
        for path in [
            "kubepods/burstable/pod0f1b2c3d-1111-2222-3333-444455556666",
            "kubepods/pod0f1b2c3d-1111-2222-3333-444455556666",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0f1b2c3d_1111_2222_3333_444455556666.slice",
        ] {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join(path).join("container")).unwrap();
            fs::create_dir_all(root.path().join("kubepods/pod-of-another")).unwrap();
            let hosts = Hosts::new(root.path(), Path::new("/nowhere"));
            assert_eq!(hosts.by_uid(uid), Some(root.path().join(path)));
            assert_eq!(hosts.by_uid("0f1b2c3d-9999-2222-3333-444455556666"), None);
        }
    }
}
