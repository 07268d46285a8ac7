//! Reads the command line into a Config. All bad settings are reported together; nothing else reads flags or the system's files.

mod parse;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Parser, Subcommand, ValueEnum};

pub use parse::{ControlAddress, User};

use crate::kubelet::{self, Kubelet};

/// The agent of one node: kernel programs, pods, certificates, and the proxy's socket.
#[derive(Clone, Debug, Parser)]
#[command(name = "millrace-agent", version, about)]
pub struct Args {
    /// What to do; `run` where none is given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Every setting, before or after the command.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the program can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the node's agent until SIGTERM, which leaves kernel programs and maps in place.
    Run,
    /// Say which kernel features are there, and what a missing one costs.
    Check {
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Take kernel programs, maps and pins out of this node. Workloads then talk without the mesh.
    Leave,
}

/// How output is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// The settings, as given.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// The node's name, as the control plane knows it.
    #[arg(long, global = true, value_name = "NAME")]
    pub node: Option<String>,
    /// The control plane's address.
    #[arg(long, global = true, value_name = "https://HOST:PORT")]
    pub control: Option<String>,
    /// The file that holds the token to join with: a join token, or a service account's, read again as it rotates; needed until the node has a certificate.
    #[arg(long, global = true, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// The file that holds the mesh's roots, as PEM; needed where the token is a service account's.
    #[arg(long, global = true, value_name = "FILE")]
    pub roots_file: Option<PathBuf>,
    /// Where sockets are made: proxy.sock and agent-admin.sock.
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/millrace")]
    pub run_dir: PathBuf,
    /// Where the node's key, certificate and last snapshot are kept.
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/millrace")]
    pub state_dir: PathBuf,
    /// The BPF file system; mounted if it is missing.
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// The cgroup2 directory whose processes are captured; the root of cgroup2 where none is given.
    #[arg(long, global = true, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Who the proxy runs as: only this user and root may connect to proxy.sock.
    #[arg(long, global = true, value_name = "NAME|UID:GID", default_value = "15008:15008")]
    pub proxy_user: String,
    /// Where the node's processes are: pods of a kubelet are found by their cgroups.
    #[arg(long, global = true, value_name = "DIR", default_value = kubelet::PROC)]
    pub proc: PathBuf,
    /// Where a kubelet keeps its pods' logs: a folder's name says a pod's uid.
    #[arg(long, global = true, value_name = "DIR", default_value = kubelet::LOGS)]
    pub pod_logs: PathBuf,
    /// Whether the kernel writes a flow record for each connect decided.
    #[arg(long, global = true, value_enum, default_value_t = Switch::On)]
    pub flows: Switch,
    /// Whether what pods send in another's name is dropped at the host's end of their interfaces.
    #[arg(long, global = true, value_enum, default_value_t = Switch::On)]
    pub anti_spoofing: Switch,
    /// Whether kernel programs log each decision: for debugging; slow.
    #[arg(long, global = true, value_enum, default_value_t = Switch::Off)]
    pub kernel_log: Switch,
    /// For tests: a feature of the kernel, by its name in `check`, to be taken for missing. May be given again.
    #[arg(long, global = true, value_name = "FEATURE", hide = true)]
    pub force_missing: Vec<String>,
}

/// The system's files that settings are read against.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// `/proc/self/mounts`: where cgroup2 is.
    pub mounts: String,
    /// `/etc/passwd`: who a user name is.
    pub passwd: String,
}

impl Files {
    /// Reads them. A system without `/etc/passwd` has no user names.
    pub fn read() -> io::Result<Self> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Ok(Self { mounts: fs::read_to_string("/proc/self/mounts")?, passwd })
    }
}

/// A task and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Run the agent.
    Run(Box<Config>),
    /// Print the kernel's features; some are to be taken for missing.
    Check(Format, Vec<String>),
    /// Take everything out.
    Leave(Place),
}

/// Where a node's kernel programs and pins are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's directory of pins, for this schema.
    pub pins: PathBuf,
    /// The cgroup2 directory that the programs are attached to.
    pub cgroup: PathBuf,
}

/// How to run the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's name.
    pub node: Arc<str>,
    /// The control plane's address.
    pub control: ControlAddress,
    /// The file that holds the token to join with.
    pub join_token_file: Option<PathBuf>,
    /// The file that holds the mesh's roots.
    pub roots_file: Option<PathBuf>,
    /// Where sockets are made.
    pub run_dir: PathBuf,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Where kernel programs and pins are.
    pub place: Place,
    /// Who the proxy runs as.
    pub proxy_user: User,
    /// Where a kubelet's traces are.
    pub kubelet: Kubelet,
    /// Whether flow records are written.
    pub flows: Switch,
    /// Whether forged packets of pods are dropped.
    pub anti_spoofing: Switch,
    /// Whether kernel programs log.
    pub kernel_log: Switch,
    /// Features of the kernel to be taken for missing.
    pub force_missing: Vec<String>,
}

/// Every setting that can't be used, with its mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<String>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} setting(s) can't be used:", self.0.len())?;
        self.0.iter().try_for_each(|complaint| write!(f, "\n  {complaint}"))
    }
}

impl std::error::Error for Invalid {}

impl Config {
    /// What the command line asks for.
    pub fn from_args(args: Args, files: &Files) -> Result<Task, Invalid> {
        let Args { command, settings } = args;
        let mut bad = Vec::new();
        let task = match command.unwrap_or(Command::Run) {
            Command::Check { output } => Some(Task::Check(output, settings.force_missing)),
            Command::Leave => place(&settings, files, &mut bad).map(Task::Leave),
            Command::Run => run(settings, files, &mut bad).map(Box::new).map(Task::Run),
        };
        match task {
            Some(task) if bad.is_empty() => Ok(task),
            Some(_) | None => Err(Invalid(bad)),
        }
    }
}

/// The value, or None and a complaint.
fn noted<T>(result: Result<T, String>, flag: &str, bad: &mut Vec<String>) -> Option<T> {
    result.map_err(|why| bad.push(format!("{flag}: {why}"))).ok()
}

fn place(settings: &Settings, files: &Files, bad: &mut Vec<String>) -> Option<Place> {
    let node = noted(parse::node(settings.node.as_deref()), "--node", bad);
    let cgroup = noted(parse::cgroup(settings.cgroup.as_deref(), &files.mounts), "--cgroup", bad);
    let schema = format!("v{}", millrace_abi::SCHEMA);
    Some(Place { pins: settings.bpffs.join("millrace").join(&*node?).join(schema), cgroup: cgroup? })
}

fn run(settings: Settings, files: &Files, bad: &mut Vec<String>) -> Option<Config> {
    let place = place(&settings, files, bad);
    let Settings {
        node,
        control,
        join_token_file,
        roots_file,
        run_dir,
        state_dir,
        bpffs: _,
        cgroup: _,
        proxy_user,
        proc,
        pod_logs,
        flows,
        anti_spoofing,
        kernel_log,
        force_missing,
    } = settings;
    let control = noted(parse::control(control.as_deref()), "--control", bad);
    let proxy_user = noted(parse::user(&proxy_user, &files.passwd), "--proxy-user", bad);
    for (flag, dir) in
        [("--run-dir", &run_dir), ("--state-dir", &state_dir), ("--proc", &proc), ("--pod-logs", &pod_logs)]
    {
        noted(absolute(dir), flag, bad);
    }
    Some(Config {
        node: node?.into(),
        control: control?,
        join_token_file,
        roots_file,
        run_dir,
        state_dir,
        place: place?,
        proxy_user: proxy_user?,
        kubelet: Kubelet { proc, logs: pod_logs },
        flows,
        anti_spoofing,
        kernel_log,
        force_missing,
    })
}

fn absolute(dir: &Path) -> Result<(), String> {
    if dir.is_absolute() { Ok(()) } else { Err(format!("{} is not an absolute path", dir.display())) }
}

#[cfg(test)]
mod tests;
