//! States which process stands for a pod, by a `/proc` and a folder of logs made of plain files.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path, sync::Arc};

use millrace_model::ObjectName;

use super::{
    Company, Kubelet, Looked, Own, Sandbox, Sandboxes, Word, confirm, look::look, process::Process, told::Words,
};

impl Sandboxes {
    /// One pod, found with these addresses.
    pub(crate) fn of(pod: &ObjectName, addresses: &[IpAddr], company: Company) -> Self {
        let process = Arc::new(Process::open(Path::new("/proc"), "self").unwrap());
        let namespace = Arc::new(process.namespace().unwrap());
        let own = Own { namespace, file: (0, 1), addresses: addresses.to_vec(), company, process: Some(process) };
        Self { looked: Looked::Kubelet, pods: [(pod.clone(), Sandbox::Own(own))].into(), ..Self::default() }
    }
}

struct Node {
    kubelet: Kubelet,
    folder: tempfile::TempDir,
    before: Sandboxes,
}

fn web() -> ObjectName {
    ObjectName::new("shop", "web")
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet { proc: folder.path().join("proc"), logs: folder.path().join("logs") };
        fs::create_dir_all(&kubelet.proc).unwrap();
        fs::create_dir_all(&kubelet.logs).unwrap();
        Self { kubelet, folder, before: Sandboxes::default() }
    }

    fn logs(&self, pod: &str) {
        fs::create_dir_all(self.kubelet.logs.join(pod)).unwrap();
    }

    /// A process of the pod of this uid, which began then, in the network of this name, or in the node's.
    fn runs(&self, number: u32, uid: &str, (began, network): (u32, Option<&str>)) {
        let own = self.kubelet.proc.join(number.to_string());
        fs::create_dir_all(own.join("ns")).unwrap();
        fs::write(own.join("cgroup"), format!("0::/kubepods/burstable/pod{uid}/c\n")).unwrap();
        fs::write(own.join("stat"), format!("{number} (p) S{} {began} 0\n", " 0".repeat(18))).unwrap();
        let file = network.map(|name| self.folder.path().join(name));
        if let Some(file) = &file {
            fs::write(file, "").unwrap();
        }
        let file = file.unwrap_or_else(|| "/proc/self/ns/net".into());
        std::os::unix::fs::symlink(file, own.join("ns/net")).unwrap();
    }

    fn ends(&self, number: u32) {
        fs::remove_dir_all(self.kubelet.proc.join(number.to_string())).unwrap();
    }

    fn look(&mut self) -> Option<Own> {
        self.before = look(&self.kubelet, &BTreeSet::from([web()]), &self.before);
        self.before.own(&web()).cloned()
    }

    fn is(&self, found: Option<&Own>, network: &str) -> bool {
        let file = fs::metadata(self.folder.path().join(network)).unwrap();
        found.is_some_and(|own| {
            own.file == (std::os::unix::fs::MetadataExt::dev(&file), std::os::unix::fs::MetadataExt::ino(&file))
        })
    }
}

/// A container may make namespaces of its own, and an older process's number may be higher.
#[test]
fn a_pods_namespace_is_that_of_its_oldest_process() {
    let mut node = Node::new();
    node.logs("shop_web_aa-1");
    node.logs("shop_web-2_aa-2");
    node.runs(9, "aa-1", (100, Some("pods")));
    node.runs(8, "aa-1", (101, Some("nested")));
    node.runs(7, "aa-2", (1, Some("anothers")));
    let found = node.look();
    assert!(node.is(found.as_ref(), "pods"));
    assert_eq!(found.unwrap().company, Company::Others);
}

#[test]
fn what_a_runtime_runs_in_the_nodes_network_is_passed_over_and_a_pod_there_is_not_looked_for() {
    let mut node = Node::new();
    node.logs("shop_web_aa");
    node.runs(5, "aa", (1, None));
    assert!(node.look().is_none());
    assert!(!node.before.may_have(&web()), "it shares its node's network");
    node.ends(5);
    node.runs(6, "aa", (1, None));
    node.runs(7, "aa", (2, Some("pods")));
    assert!(node.before.may_have(&ObjectName::new("shop", "other")));
    let found = node.look();
    assert!(node.is(found.as_ref(), "pods"));
}

#[test]
fn a_pod_made_again_is_found_again_and_its_predecessors_logs_and_processes_are_not_it() {
    let mut node = Node::new();
    node.logs("shop_web_aa");
    node.runs(5, "aa", (1, Some("first")));
    let found = node.look();
    assert!(node.is(found.as_ref(), "first"));
    assert_eq!(node.look(), found, "nothing changed, so nothing is new");
    // The first is on its way out.
    node.logs("shop_web_bb");
    node.runs(6, "bb", (2, Some("second")));
    node.ends(5);
    let found = node.look();
    assert!(node.is(found.as_ref(), "second"));
    let mut both = Node { before: Sandboxes::default(), ..node };
    both.runs(5, "aa", (1, Some("first")));
    let found = both.look();
    assert!(both.is(found.as_ref(), "second"), "of two, the one that began last");
}

#[test]
fn where_no_kubelet_runs_nothing_is_expected_and_why_a_pod_is_not_found_is_said() {
    let mut node = Node::new();
    assert!(node.look().is_none());
    assert!(node.before.may_have(&web()) && node.before.fault(&web()).contains("--proc"));
    node.logs("shop_web_aa");
    node.runs(5, "aa", (1, Some("pods")));
    fs::remove_file(node.kubelet.proc.join("5/ns/net")).unwrap();
    assert!(node.look().is_none());
    assert!(node.before.fault(&web()).contains("SYS_PTRACE"));
    node.kubelet.logs = "/nowhere".into();
    node.look();
    assert!(node.before.may_have(&web()), "a folder that can't be read for once says nothing");
    node.before = Sandboxes::default();
    node.look();
    assert!(!node.before.may_have(&web()));
}

/// Who begins between the two looks may have changed what was read; who begins later has not.
#[test]
fn a_pod_is_alone_only_if_it_was_before_and_after_its_addresses_were_read() {
    let mut node = Node::new();
    node.logs("shop_web_aa");
    node.runs(5, "aa", (1, Some("pods")));
    let company = |now: &Sandboxes| now.own(&web()).unwrap().company;
    let new = BTreeSet::from([web()]);
    node.look();
    let mut now = node.before.clone();
    confirm(&mut now, &new, &look(&node.kubelet, &new, &Sandboxes::default()));
    assert_eq!(company(&now), Company::Nobody);
    node.runs(6, "aa", (2, Some("pods")));
    node.look();
    assert_eq!(company(&node.before), Company::Nobody, "what was so stays so");
    confirm(&mut now, &new, &look(&node.kubelet, &new, &Sandboxes::default()));
    assert_eq!(company(&now), Company::Others);
}

/// A runtime makes the network before any process.
#[test]
fn a_pod_that_was_told_of_is_there_until_it_is_found_and_no_longer_than_that() {
    let mut node = Node::new();
    let mut words = Words::default();
    fs::write(node.folder.path().join("pods"), "").unwrap();
    let file = fs::metadata(node.folder.path().join("pods")).unwrap();
    let file = (std::os::unix::fs::MetadataExt::dev(&file), std::os::unix::fs::MetadataExt::ino(&file));
    let namespace = Arc::new(fs::File::open("/proc/self/ns/net").unwrap().into());
    let start = millrace_node::clock::now();
    words.hear(Word { pod: web(), namespace, file }, start);
    let mut seen = |node: &mut Node, at| {
        let mut now = look(&node.kubelet, &BTreeSet::from([web()]), &node.before);
        words.overlay(&mut now, at);
        node.before = now.clone();
        now.own(&web()).cloned()
    };
    assert_eq!(seen(&mut node, start).map(|own| (own.file, own.company)), Some((file, Company::Nobody)));
    node.logs("shop_web_aa");
    node.runs(5, "aa", (1, Some("pods")));
    let found = seen(&mut node, start).unwrap();
    assert!(found.file == file && found.process.is_some());
    node.ends(5);
    assert!(seen(&mut node, start).is_none(), "it was found, and has ended");
    let namespace = Arc::new(fs::File::open("/proc/self/ns/net").unwrap().into());
    words.hear(Word { pod: web(), namespace, file }, start);
    let mut seen = |at| {
        let mut now = Sandboxes::default();
        words.overlay(&mut now, at);
        now.own(&web()).is_some()
    };
    assert!(seen(start));
    assert!(!seen(start + super::told::BEGINS), "its sandbox never began");
}
