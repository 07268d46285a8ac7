//! Starts and removes a cluster's nodes: each is a network namespace, a mount namespace with `/run`, `/var/lib`, `/var/log` and a BPF
//! file system of its own, and a cgroup, in which containerd, a kubelet and kube-proxy run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    api::kubectl,
    images::{self, Image},
    place::Place,
    process, wire,
};
use crate::{clock, config::Config, console};

/// Where nodes' processes stand in the order in which a cluster's are started: behind the control plane's.
const FIRST: u32 = 10;
/// containerd on two busy cores takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked, and how often a cgroup is looked at that empties.
const LOOK: Duration = Duration::from_millis(50);
/// Where cgroups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// containerd's socket, in the node's own `/run`.
const SOCKET: &str = "/run/containerd/containerd.sock";
/// What a kubelet sets for the whole machine, and what many containers take; put back at the end.
const KERNEL: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "fs/inotify/max_user_instances",
];
/// A kubelet, containerd and its shims each watch files.
const INOTIFY: &str = "1024";
/// The programs of other packages that a node takes, with what Debian calls the package.
pub(super) const PROGRAMS: [(&str, &str); 4] =
    [("containerd", "containerd"), ("runc", "runc"), ("nft", "nftables"), ("conntrack", "conntrack")];
/// CNI's plugins, where Debian's package puts them.
const PLUGINS: &str = "/usr/lib/cni";
/// Where a node has links to them, and its chains, in its own `/var/lib`.
const NODE_PLUGINS: &str = "/var/lib/cni-bin";
const NODE_CHAINS: &str = "/var/lib/cni-conf";

/// Who carries a service's address to its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KubeProxy {
    /// kube-proxy, by nftables
    Nftables,
    /// Nobody
    None,
}

/// One node.
pub(super) struct Node<'p> {
    place: &'p Place,
    number: u8,
}

/// Refuses to begin where a program is missing.
pub(super) fn check(config: &Config) -> Result<()> {
    let missing = PROGRAMS.iter().filter(|(program, _)| config.program(program).is_none()).map(|(_, package)| *package);
    let plugins = (!Path::new(PLUGINS).join("ptp").exists()).then_some("containernetworking-plugins");
    let missing: Vec<&str> = missing.chain(plugins).collect();
    if !missing.is_empty() {
        bail!("a cluster with nodes needs these of Debian's packages too: {}", missing.join(" "));
    }
    Ok(())
}

/// Starts what is missing of all nodes, and returns when each is ready.
pub(super) fn up(place: &Place, n_nodes: u8, proxy: KubeProxy, images: &[Image]) -> Result<()> {
    keep_kernel(place)?;
    let nodes: Vec<Node<'_>> = (1..=n_nodes).map(|number| Node { place, number }).collect();
    for node in &nodes {
        node.folders()?;
        node.mounts()?;
        node.start(proxy, images)?;
    }
    for node in &nodes {
        let node = format!("node/{}", node.name());
        console::read(kubectl(place).args(["wait", "--for=create", &node, "--timeout=60s"]))?;
        console::read(kubectl(place).args(["wait", "--for=condition=Ready", &node, "--timeout=120s"]))?;
    }
    Ok(())
}

/// Gives every node an image.
pub(super) fn load(place: &Place, image: &Image) -> Result<()> {
    let numbers = (1..=u8::MAX).take_while(|number| Node { place, number: *number }.folder().exists());
    numbers.into_iter().try_for_each(|number| Node { place, number }.import(image))
}

/// Ends whatever is left in the nodes' cgroups, and removes them and what the nodes had.
pub(super) fn down(place: &Place) -> Result<()> {
    for number in (1..=u8::MAX).take_while(|number| Node { place, number: *number }.folder().exists()) {
        Node { place, number }.remove()?;
    }
    let held = place.folder.join("mounts");
    if held.exists() {
        // Bound to itself at the start; whoever made only half of it has nothing to undo.
        drop(Command::new("umount").arg("--lazy").arg(&held).output());
    }
    put_kernel_back(place)
}

impl Node<'_> {
    fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    fn folder(&self) -> PathBuf {
        self.place.folder.join(self.name())
    }

    fn file(&self, name: &str) -> String {
        self.folder().join(name).display().to_string()
    }

    fn namespace(&self) -> String {
        wire::of_node(self.place, self.number)
    }

    fn mount_namespace(&self) -> PathBuf {
        self.place.folder.join("mounts").join(self.name())
    }

    /// The node's cgroup in every hierarchy.
    fn cgroup(&self) -> String {
        self.namespace()
    }

    fn folders(&self) -> Result<()> {
        for folder in ["lib", "log", "cgroup", "lib/cni-bin", "lib/cni-conf"] {
            fs::create_dir_all(self.folder().join(folder))?;
        }
        // A folder of the node's own: what is deployed may put a plugin beside the machine's.
        for plugin in fs::read_dir(PLUGINS)? {
            let plugin = plugin?;
            let link = self.folder().join("lib/cni-bin").join(plugin.file_name());
            if !link.exists() {
                std::os::unix::fs::symlink(plugin.path(), link)?;
            }
        }
        let name = self.cgroup();
        for hierarchy in hierarchies()? {
            let folder = hierarchy.join(&name);
            fs::create_dir_all(&folder)?;
            // Empty in a new cgroup of version 1, and nobody can be put in before they are filled.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if hierarchy.ends_with("cpuset") && folder.join(file).exists() {
                    fs::write(folder.join(file), fs::read(hierarchy.join(file))?)?;
                }
            }
        }
        fs::create_dir_all(version_2()?.join(&name).join("system"))?;
        let files = [("lib/cni-conf/node.conflist", self.network()), ("containerd.toml", self.containerd())];
        let more =
            [("kubelet.yaml", self.kubelet()), ("kube-proxy.yaml", self.kube_proxy()), ("resolv.conf", String::new())];
        for (name, text) in files.into_iter().chain(more) {
            let path = self.folder().join(name);
            fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
            // A kube-proxy ends when its file is written, even with the same.
            if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                fs::write(&path, text)?;
            }
        }
        Ok(())
    }

    /// Makes the mount namespace: what the node's programs and pods see as the machine's is the node's.
    fn mounts(&self) -> Result<()> {
        let held = self.place.folder.join("mounts");
        if !held.exists() {
            fs::create_dir_all(&held)?;
            // A mount namespace can be held only where mounts are not passed on.
            console::run(Command::new("mount").arg("--bind").arg(&held).arg(&held))?;
            console::run(Command::new("mount").arg("--make-private").arg(&held))?;
        }
        let file = self.mount_namespace();
        if file.exists() {
            return Ok(());
        }
        fs::write(&file, "")?;
        let mut unshare = Command::new("unshare");
        unshare.arg(format!("--mount={}", file.display())).args(["--propagation", "private", "true"]);
        console::run(&mut unshare)?;
        let script = "mount --rbind /sys/fs/cgroup $0/cgroup && mount -t sysfs sysfs /sys \
            && mount --rbind $0/cgroup /sys/fs/cgroup && umount --lazy $0/cgroup && mount -t bpf bpf /sys/fs/bpf \
            && mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/netns /run/lock \
            && mount --bind $0/lib /var/lib && mount --bind $0/log /var/log && mount --make-rshared /";
        let mut enter = self.enter();
        enter.args(["sh", "-c", script]).arg(self.folder());
        console::run(&mut enter)
    }

    fn enter(&self) -> Command {
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--net={}", wire::path(&self.namespace()).display()));
        enter.arg(format!("--mount={}", self.mount_namespace().display()));
        enter
    }

    /// Starts a program as one of the node's own.
    fn run(&self, order: u32, name: &str, words: &[&str]) -> Result<()> {
        let members = version_2()?.join(self.cgroup()).join("system/cgroup.procs");
        let mut command = Command::new("sh");
        command.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]).arg(members);
        command.arg("nsenter").args(self.enter().get_args());
        command.args(words);
        let order = FIRST + u32::from(self.number) * 10 + order;
        process::start_once(self.place, (order, &format!("{}-{name}", self.name())), &mut command)
    }

    fn start(&self, proxy: KubeProxy, images: &[Image]) -> Result<()> {
        self.run(0, "containerd", &["containerd", "--config", &self.file("containerd.toml")])?;
        let deadline = clock::now() + PATIENCE;
        while !self.ctr().arg("version").output().is_ok_and(|said| said.status.success()) {
            if clock::now() >= deadline {
                bail!("{}'s containerd does not answer: see its log in {}", self.name(), self.place.folder.display());
            }
            thread::sleep(LOOK);
        }
        for image in images {
            self.import(image)?;
        }
        let program = |name: &str| self.place.program(name).display().to_string();
        let kubeconfig = self.place.secret(&format!("{}.kubeconfig", self.name())).display().to_string();
        self.run(
            1,
            "kubelet",
            &[
                &program("kubelet"),
                "--config",
                &self.file("kubelet.yaml"),
                "--kubeconfig",
                &kubeconfig,
                "--root-dir=/var/lib/kubelet",
                "--cert-dir=/var/lib/kubelet/pki",
                "--hostname-override",
                &self.name(),
                "--node-ip",
                &wire::address(self.number),
            ],
        )?;
        match proxy {
            KubeProxy::Nftables => {
                self.run(2, "kube-proxy", &[&program("kube-proxy"), "--config", &self.file("kube-proxy.yaml")])
            }
            KubeProxy::None => Ok(()),
        }
    }

    fn ctr(&self) -> Command {
        let mut ctr = self.enter();
        ctr.args(["ctr", "--address", SOCKET, "--namespace", "k8s.io"]);
        ctr
    }

    fn import(&self, image: &Image) -> Result<()> {
        let has = console::read(self.ctr().args(["images", "ls", "--quiet"]))?;
        let note = self.folder().join(images::file(&image.name)).with_extension("loaded");
        let state = image.state()?;
        let is_loaded = fs::read_to_string(&note).is_ok_and(|loaded| loaded == state);
        if is_loaded && has.lines().any(|one| one == image.name) {
            return Ok(());
        }
        console::read(self.ctr().args(["images", "import"]).arg(&image.archive))?;
        Ok(fs::write(note, state)?)
    }

    fn remove(&self) -> Result<()> {
        let name = self.cgroup();
        let own = version_2()?.join(&name);
        if own.exists() {
            fs::write(own.join("cgroup.kill"), "1")?;
            let deadline = clock::now() + PATIENCE;
            while fs::read_to_string(own.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1")) {
                if clock::now() >= deadline {
                    bail!("processes of {} do not end: see {}", self.name(), own.join("cgroup.procs").display());
                }
                thread::sleep(LOOK);
            }
        }
        // With the namespace go its mounts: pods' file systems, the node's BPF file system and what was pinned there.
        if self.mount_namespace().exists() {
            drop(Command::new("umount").arg("--lazy").arg(self.mount_namespace()).output());
        }
        for hierarchy in hierarchies()? {
            remove_below(&hierarchy.join(&name));
        }
        Ok(())
    }

    fn network(&self) -> String {
        let pods = wire::pods(self.number);
        format!(
            r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": {{"type": "host-local", "dataDir": "/var/lib/cni",
    "ranges": [[{{"subnet": "{pods}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}
"#
        )
    }

    fn containerd(&self) -> String {
        let pause = images::PAUSE;
        format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  # A machine whose root may not lower the score of a process fails every pod without.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{NODE_PLUGINS}"
    conf_dir = "{NODE_CHAINS}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
        )
    }

    fn kubelet(&self) -> String {
        let (address, cgroup, resolv) = (wire::address(self.number), self.cgroup(), self.file("resolv.conf"));
        let secret = |name: String| self.place.secret(&name).display().to_string();
        let (ca, certificate, key) = (
            secret("ca.crt".to_owned()),
            secret(format!("{}.crt", self.name())),
            secret(format!("{}.key", self.name())),
        );
        format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
port: 10250
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix://{SOCKET}
resolvConf: {resolv}
clusterDomain: cluster.local
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {ca}}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {certificate}
tlsPrivateKeyFile: {key}
# The machine's disk is other people's too: it is no reason to evict a pod or to drop an image.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {{memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}}
serializeImagePulls: false
shutdownGracePeriod: 0s
"#
        )
    }

    fn kube_proxy(&self) -> String {
        let kubeconfig = self.place.secret("kube-proxy.kubeconfig").display().to_string();
        let node = self.name();
        format!(
            r"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {kubeconfig}}}
mode: nftables
clusterCIDR: 10.244.0.0/16
hostnameOverride: {node}
# These are the machine's, not the namespace's.
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
metricsBindAddress: 127.0.0.1:10249
healthzBindAddress: 127.0.0.1:10256
"
        )
    }
}

/// The mounted hierarchies: one on most machines, one for each controller and one beside them on others.
fn hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(CGROUPS).join("cgroup.controllers").exists() {
        return Ok(vec![PathBuf::from(CGROUPS)]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(CGROUPS)? {
        let path = entry?.path();
        // A link is another name of a hierarchy that has two controllers.
        if path.join("cgroup.procs").exists() && !path.is_symlink() {
            found.push(path);
        }
    }
    Ok(found)
}

/// The hierarchy that programs are attached in and whose groups can be killed.
fn version_2() -> Result<PathBuf> {
    let found = hierarchies()?.into_iter().find(|path| path.join("cgroup.controllers").exists());
    found.context("no cgroup2 is mounted below /sys/fs/cgroup")
}

fn remove_below(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    // One that is not empty yet stays, and is used again.
    drop(fs::remove_dir(folder));
}

fn keep_kernel(place: &Place) -> Result<()> {
    let note = place.folder.join("kernel");
    if !note.exists() {
        let lines = KERNEL.iter().filter_map(|name| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
            Some(format!("{name} {}\n", value.trim()))
        });
        fs::write(&note, lines.collect::<String>())?;
    }
    Ok(fs::write("/proc/sys/fs/inotify/max_user_instances", INOTIFY)?)
}

fn put_kernel_back(place: &Place) -> Result<()> {
    let Ok(text) = fs::read_to_string(place.folder.join("kernel")) else { return Ok(()) };
    for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        fs::write(Path::new("/proc/sys").join(name), value).with_context(|| format!("{name} = {value}"))?;
    }
    Ok(())
}
