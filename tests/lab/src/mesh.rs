//! Runs the mesh in a lab: control in the wire's namespace, an agent and a proxy on each node, all by their real programs.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    admin::Admin,
    clock,
    lab::{Lab, READY},
    manifests, plan,
    process::Process,
    topology,
};

/// Where control listens, on the wire's address.
pub const CONTROL_PORT: u16 = 15443;

/// The processes of the mesh; empty until [`Lab::start_mesh`].
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    control: Option<Process>,
    agents: BTreeMap<String, Process>,
    proxies: BTreeMap<String, Process>,
    holders: BTreeMap<String, Process>,
    more_agent_flags: Vec<String>,
    more_proxy_flags: Vec<String>,
    shifted: BTreeMap<String, PathBuf>,
    more_control_flags: Vec<String>,
}

impl Mesh {
    pub(crate) fn detach(&mut self) {
        let agents = std::mem::take(&mut self.agents).into_values();
        let all = agents.chain(std::mem::take(&mut self.proxies).into_values()).chain(self.control.take());
        let all = all.chain(std::mem::take(&mut self.holders).into_values());
        all.for_each(Process::detach);
    }
}

/// A process of the mesh, by what a test says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The control plane.
    Control,
    /// The agent of a node.
    Agent(&'a str),
    /// The proxy of a node.
    Proxy(&'a str),
    /// The holder of a node's listeners; a lab has none unless a test starts one.
    Holder(&'a str),
}

impl Lab {
    /// Starts control, and an agent and a proxy on each node; returns when every node holds the whole mesh.
    pub fn start_mesh(&mut self) -> Result<Duration> {
        let start = clock::now();
        self.start(Part::Control)?;
        let names: Vec<String> = self.topology().nodes.iter().map(|node| node.name.clone()).collect();
        self.wait_ready(Part::Control)?;
        for node in &names {
            self.start(Part::Agent(node))?;
        }
        for node in &names {
            self.start(Part::Proxy(node))?;
        }
        for node in &names {
            self.wait_ready(Part::Agent(node))?;
            self.wait_ready(Part::Proxy(node))?;
        }
        self.settle()?;
        Ok(start.elapsed())
    }

    /// Has every agent started from now on run with these flags too.
    pub fn agent_flags(&mut self, flags: &[&str]) {
        self.mesh.more_agent_flags = flags.iter().map(ToString::to_string).collect();
    }

    /// Has every proxy started from now on run with these flags too.
    pub fn proxy_flags(&mut self, flags: &[&str]) {
        self.mesh.more_proxy_flags = flags.iter().map(ToString::to_string).collect();
    }

    /// Sets the date of a node's agent and proxy so many seconds ahead, or back. Call it before they are started, with 0; from
    /// then on it is in force at once.
    pub fn shift_clock(&mut self, node: &str, seconds: i64) -> Result<()> {
        let path = self.directory().join(format!("{node}-shift"));
        if let Some(path) = self.mesh.shifted.get(node) {
            // In place: it is mapped by who runs.
            let file = fs::File::options().write(true).open(path)?;
            return Ok(std::os::unix::fs::FileExt::write_all_at(&file, &seconds.to_ne_bytes(), 0)?);
        }
        fs::write(&path, seconds.to_ne_bytes())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        self.mesh.shifted.insert(node.to_owned(), path);
        Ok(())
    }

    /// Has control run with these flags too, started from now on.
    pub fn control_flags(&mut self, flags: &[&str]) {
        self.mesh.more_control_flags = flags.iter().map(ToString::to_string).collect();
    }

    /// A node's runtime directory: its sockets are in it.
    pub fn run_directory(&self, node: &str) -> PathBuf {
        self.directory().join(node).join("run")
    }

    /// Starts one process of the mesh.
    pub fn start(&mut self, part: Part<'_>) -> Result<()> {
        let (command, name) = match part {
            Part::Control => (self.control_command()?, "control".to_owned()),
            Part::Agent(node) => (self.agent_command(node)?, format!("{node}-agent")),
            Part::Proxy(node) => (self.proxy_command(node)?, format!("{node}-proxy")),
            Part::Holder(node) => (self.holder_command(node)?, format!("{node}-holder")),
        };
        let (mut command, node) = match part {
            Part::Control | Part::Holder(_) => (command, None),
            Part::Agent(node) | Part::Proxy(node) => (command, Some(node)),
        };
        if let Some(file) = node.and_then(|node| self.mesh.shifted.get(node)) {
            let library = self.binaries().directory().join("examples/libshift.so");
            ensure!(library.exists(), "{} is not built: `cargo build --examples` makes it", library.display());
            command.env("LD_PRELOAD", library).env("MILLRACE_LAB_SHIFT", file);
        }
        let process = Process::start(command, &name, &self.logs())?;
        let before = match part {
            Part::Control => self.mesh.control.replace(process),
            Part::Agent(node) => self.mesh.agents.insert(node.to_owned(), process),
            Part::Proxy(node) => self.mesh.proxies.insert(node.to_owned(), process),
            Part::Holder(node) => self.mesh.holders.insert(node.to_owned(), process),
        };
        ensure!(before.is_none(), "{part:?} runs already");
        Ok(())
    }

    /// Takes a process of the mesh out of the lab's hands, to stop or kill it.
    pub fn take(&mut self, part: Part<'_>) -> Result<Process> {
        let process = match part {
            Part::Control => self.mesh.control.take(),
            Part::Agent(node) => self.mesh.agents.remove(node),
            Part::Proxy(node) => self.mesh.proxies.remove(node),
            Part::Holder(node) => self.mesh.holders.remove(node),
        };
        process.with_context(|| format!("{part:?} does not run"))
    }

    /// The id of a process of the mesh.
    pub fn pid(&self, part: Part<'_>) -> Result<u32> {
        let process = match part {
            Part::Control => self.mesh.control.as_ref(),
            Part::Agent(node) => self.mesh.agents.get(node),
            Part::Proxy(node) => self.mesh.proxies.get(node),
            Part::Holder(node) => self.mesh.holders.get(node),
        };
        Ok(process.with_context(|| format!("{part:?} does not run"))?.pid())
    }

    /// The admin socket of a process of the mesh.
    pub fn admin(&self, part: Part<'_>) -> Admin {
        let socket = match part {
            Part::Control => self.directory().join("wire/run/control-admin.sock"),
            Part::Agent(node) => self.run_directory(node).join("agent-admin.sock"),
            Part::Proxy(node) => self.run_directory(node).join("proxy-admin.sock"),
            // It has none: there is nothing to ask it.
            Part::Holder(node) => self.run_directory(node).join("holder-admin.sock"),
        };
        Admin { socket }
    }

    /// Waits until a process of the mesh says it is ready.
    pub fn wait_ready(&mut self, part: Part<'_>) -> Result<()> {
        let admin = self.admin(part);
        clock::until(READY, &format!("{part:?} is ready"), || {
            let process = match part {
                Part::Control => self.mesh.control.as_mut(),
                Part::Agent(node) => self.mesh.agents.get_mut(node),
                Part::Proxy(node) => self.mesh.proxies.get_mut(node),
                Part::Holder(node) => self.mesh.holders.get_mut(node),
            };
            if let Some(Err(ended)) = process.map(Process::still_runs) {
                return Ok(Err(ended)); // No use in waiting on.
            }
            admin.ready().map(Ok)
        })?
        .0
    }

    /// Waits until every node has applied the newest generation and every pod of the mesh is enrolled.
    pub fn settle(&self) -> Result<Duration> {
        let (_, took) = clock::until(READY, "every node holds the newest generation", || {
            let status = self.admin(Part::Control).json("/status")?;
            self.has_settled(&status).with_context(|| format!("control says {status}"))
        })?;
        Ok(took)
    }

    fn has_settled(&self, status: &Value) -> Result<()> {
        let generation = status.get("generation").and_then(Value::as_u64).context("no generation")?;
        ensure!(generation > 0, "nothing is compiled yet");
        let nodes = status.get("nodes").context("no nodes")?;
        for node in &self.topology().nodes {
            let entry = nodes.get(&node.name).with_context(|| format!("{} is not connected", node.name))?;
            let applied = entry.get("applied").and_then(Value::as_u64).unwrap_or_default();
            ensure!(applied == generation, "{} is at generation {applied} of {generation}", node.name);
        }
        for node in &self.topology().nodes {
            let config = self.admin(Part::Agent(&node.name)).json("/config")?;
            let workloads = config.pointer("/snapshot/workloads").context("the agent shows no workloads")?;
            let text = workloads.to_string();
            ensure!(!text.contains("\"Pending\""), "{} still has pending workloads", node.name);
            let n_enrolled = text.matches("\"Enrolled\"").count();
            let n_pods = self.topology().pods.iter().filter(|pod| self.counts(pod)).count();
            ensure!(n_enrolled >= n_pods, "{} has {n_enrolled} enrolled workloads of {n_pods}", node.name);
        }
        Ok(())
    }

    /// Whether a pod is one to be captured, and there.
    fn counts(&self, pod: &topology::Pod) -> bool {
        pod.plan.is_in_mesh() && !pod.plan.host_network && self.manifests().has_pod(pod)
    }

    fn control_command(&self) -> Result<Command> {
        let (state, run) = (self.directory().join("wire/state"), self.directory().join("wire/run"));
        make_private(&state)?;
        fs::create_dir_all(&run)?;
        let mut command = self.place("wire")?.command(self.binaries().path("millrace-control")?)?;
        command
            .arg("--directory")
            .arg(manifests::directory(&self.directory()))
            .args(["--listen", &format!("{}:{CONTROL_PORT}", plan::WIRE.v4)])
            .arg("--admin")
            .arg(run.join("control-admin.sock"))
            .arg("--state-dir")
            .arg(state)
            .args(&self.mesh.more_control_flags);
        Ok(command)
    }

    fn agent_command(&self, node: &str) -> Result<Command> {
        let (run, state, bpffs) = (self.run_directory(node), self.state_directory(node), self.bpffs(node)?);
        fs::create_dir_all(&run)?;
        make_private(&state)?;
        let place = self.place(node)?;
        let mut command = place.command(self.binaries().path("millrace-agent")?)?;
        command
            .args(["--node", node, "--control", &format!("https://{}:{CONTROL_PORT}", plan::WIRE.v4)])
            .arg("--run-dir")
            .arg(run)
            .arg("--state-dir")
            .arg(&state)
            .arg("--bpffs")
            .arg(bpffs)
            .arg("--cgroup")
            .arg(place.cgroup)
            .args(["--flows", "on"])
            .args(&self.mesh.more_agent_flags);
        if !state.join("node.crt").exists() {
            command.arg("--join-token-file").arg(self.token(node)?);
        }
        Ok(command)
    }

    fn proxy_command(&self, node: &str) -> Result<Command> {
        let mut command = self.place(node)?.command(self.binaries().path("millrace-proxy")?)?;
        command.arg("--run-dir").arg(self.run_directory(node)).args(&self.mesh.more_proxy_flags);
        Ok(command)
    }

    fn holder_command(&self, node: &str) -> Result<Command> {
        let mut command = self.place(node)?.command(self.binaries().path("millrace-holder")?)?;
        command.arg("--run-dir").arg(self.run_directory(node));
        Ok(command)
    }

    /// A node's state directory.
    pub fn state_directory(&self, node: &str) -> PathBuf {
        self.directory().join(node).join("state")
    }

    /// A node's BPF file system, mounted where it is not yet.
    pub fn bpffs(&self, node: &str) -> Result<PathBuf> {
        let path = self.directory().join(node).join("bpf");
        if !path.exists() {
            fs::create_dir_all(&path)?;
            rustix::mount::mount("bpf", &path, "bpf", rustix::mount::MountFlags::empty(), None)
                .with_context(|| format!("mount a bpf file system at {}", path.display()))?;
        }
        Ok(path)
    }

    /// Takes all kernel programs of a node away, as one who took it over would: removes the pins that hold them.
    pub fn forget_kernel(&self, node: &str) -> Result<()> {
        Ok(fs::remove_dir_all(self.bpffs(node)?.join("millrace"))?)
    }

    /// A new join token for a node, in the file where its agent looks for one.
    pub fn token(&self, node: &str) -> Result<PathBuf> {
        let answer = self.admin(Part::Control).request("POST", "/tokens", &json!({"node": node}).to_string())?;
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let Some(token) = body.get("token").and_then(Value::as_str) else {
            bail!("control gives no token for {node}: {} {}", answer.status, answer.body)
        };
        let path = self.directory().join("tokens").join(node);
        fs::write(&path, token)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }
}

fn make_private(path: &Path) -> Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    Ok(())
}
