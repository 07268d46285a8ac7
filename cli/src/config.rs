//! Says what the command line can be. Nothing else reads it, nor the environment.

use std::{fmt, net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Shown after every command's options.
const EXIT_CODES: &str = "Exit codes:
  0  it is done, or the answer is yes
  1  the answer is no, or a check failed
  2  the command line is wrong, or you may not
  3  the process asked can't be reached";

/// Millrace, a service mesh without sidecars: runs one on this host, and asks a node what it does and why.
#[derive(Clone, Debug, Parser)]
#[command(name = "millrace", version, about, after_help = EXIT_CODES, propagate_version = true)]
pub struct Args {
    /// Which node to ask: the directory with its admin sockets.
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/millrace")]
    pub run_dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run a mesh on this host from a directory of manifests: control plane, agent and proxy, until Ctrl-C.
    #[command(after_help = EXIT_CODES)]
    Run(Run),
    /// Take kernel programs, maps and pins out of this node. Its workloads then talk without the mesh.
    #[command(after_help = EXIT_CODES)]
    Leave(Leave),
    /// Show the node: what is captured, by which generation, with which certificates; and what is amiss. With --kubeconfig: the
    /// cluster's replicas, nodes and policies.
    #[command(after_help = EXIT_CODES)]
    Status(Ask),
    /// Show which kernel features are there, and what a missing one costs. Exits with 1 if a needed one is missing. With
    /// --kubeconfig: whether the cluster has what Millrace needs.
    #[command(after_help = EXIT_CODES)]
    Check(Ask),
    /// Say what happens to a connection and why, by the data plane's own code. Exits with 1 if it is refused.
    #[command(after_help = EXIT_CODES)]
    Explain(Explain),
    /// Show what becomes of requests to services with routes: every match in the order in which it is asked, and whose it is.
    #[command(after_help = EXIT_CODES)]
    Routes(Routes),
    /// Follow the connections that this node's kernel decides.
    #[command(after_help = EXIT_CODES)]
    Flows(Flows),
    /// Watch the requests that a pod of this node makes, as they end. Off unless a TelemetryPolicy that selects it says `tap: Enabled`.
    #[command(after_help = EXIT_CODES)]
    Tap(Tap),
    /// Say whether a process is ready, and why not. Exits with 1 if it is not: for probes.
    #[command(after_help = EXIT_CODES)]
    Ready {
        /// Which.
        #[arg(value_enum, default_value_t = Process::Agent)]
        process: Process,
    },
    /// Print a process's metrics, as Prometheus reads them.
    #[command(after_help = EXIT_CODES)]
    Metrics {
        /// Whose.
        #[arg(value_enum, default_value_t = Process::Agent)]
        process: Process,
    },
    /// Show or set what a process logs.
    #[command(after_help = EXIT_CODES)]
    LogLevel {
        /// Whose log.
        #[arg(value_enum)]
        process: Process,
        /// The new filter, such as `debug` or `info,millrace_agent=debug`; shows the filter in force where none is given.
        filter: Option<String>,
    },
    /// Show the mesh's roots and who believes them, or take the next step from one root to another: add, activate, retire.
    #[command(after_help = EXIT_CODES)]
    Root(Root),
    /// Show the nodes that were taken out of the mesh, take one out, or let one in again.
    #[command(after_help = EXIT_CODES)]
    Nodes(Nodes),
    /// Print completions for a shell.
    #[command(after_help = EXIT_CODES)]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the definitions of Millrace's kinds, for `kubectl apply -f -`.
    #[command(after_help = EXIT_CODES)]
    Crds(Crds),
}

/// A process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Process {
    /// The node's agent.
    Agent,
    /// The node's proxy.
    Proxy,
    /// The control plane.
    Control,
}

impl Process {
    /// Its name, as in its program's and its socket's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Proxy => "proxy",
            Self::Control => "control",
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// A question without more to it, to the node or to a cluster.
#[derive(Clone, Debug, clap::Args)]
pub struct Ask {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Which cluster, if one is asked.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// Which cluster to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct Cluster {
    /// Asks the cluster that this file leads to, not the node.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of that file; its current one where none is given.
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
}

/// What to do to the roots.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Root {
    /// The step.
    #[arg(value_enum, default_value_t = RootStep::Status)]
    pub step: RootStep,
    /// Take it though nodes are behind: their calls are refused until they have caught up.
    #[arg(long)]
    pub force: bool,
    /// How to print the roots.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// A step from one root to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RootStep {
    /// None: only show them.
    Status,
    /// Make the next root, and have it believed beside the others.
    Add,
    /// Have the next root sign, once every node believes it.
    Activate,
    /// Have former roots believed no more, once no certificate is under one.
    Retire,
    /// Take in root.pem and root.key as they were edited.
    Reload,
}

/// What to do to the nodes.
#[derive(Clone, Debug, clap::Args)]
pub struct Nodes {
    /// Take this node out: its certificates, and those of its pods, are refused everywhere from now on.
    #[arg(long, value_name = "NODE")]
    pub revoke: Option<String>,
    /// Let this node in again, with certificates that are younger than its revocation.
    #[arg(long, value_name = "NODE", conflicts_with = "revoke")]
    pub readmit: Option<String>,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// How to print definitions.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Crds {
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t = DefinitionFormat::Yaml)]
    pub output: DefinitionFormat,
}

/// How definitions are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DefinitionFormat {
    /// One YAML document each.
    Yaml,
    /// A JSON array.
    Json,
}

/// How to run a mesh on this host.
#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    /// The directory with the manifests; changes in it take effect at once.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// This host's name as a node: what `spec.nodeName` of its pods says. The host's own name where none is given.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Where the control plane listens for agents.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:15810")]
    pub listen: SocketAddr,
    /// Where keys and the last snapshot are kept: `control` and `agent` within it.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/millrace")]
    pub state_dir: PathBuf,
    /// The trust domain of every identity.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// The BPF file system; mounted if it is missing.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// The cgroup2 directory whose processes are captured; the root of cgroup2 where none is given.
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Who the proxy runs as.
    #[arg(long, value_name = "UID:GID", default_value = "15008:15008")]
    pub proxy_user: String,
}

/// Which node's programs to take out.
#[derive(Clone, Debug, clap::Args)]
pub struct Leave {
    /// The node's name, as `run` was given it. The host's own name where none is given.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Where `run` kept its state.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/millrace")]
    pub state_dir: PathBuf,
    /// The BPF file system.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// The cgroup2 directory given to `run`.
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
}

/// Which connection to explain.
#[derive(Clone, Debug, clap::Args)]
pub struct Explain {
    /// Who calls: a pod as `namespace/name`, or its address.
    #[arg(required_unless_present = "http")]
    pub from: Option<String>,
    /// What it calls, with a port: an address, `[v6]:port`, a service as `name.namespace:port`, or a service or pod as
    /// `namespace/name:port`.
    #[arg(value_name = "TO:PORT", required_unless_present = "http")]
    pub to: Option<String>,
    /// Asks about a request in place of a connection, such as "GET http://reviews/x": its rule, filters, backends and policies.
    /// Without a caller: what holds for pods of the service's own namespace.
    #[arg(long, value_name = "METHOD URL", conflicts_with_all = ["to", "v6", "udp"])]
    pub http: Option<String>,
    /// A header of that request, as `name: value`.
    #[arg(short = 'H', long, value_name = "HEADER", requires = "http")]
    pub header: Vec<String>,
    /// Takes the IPv6 address of a name that has both.
    #[arg(short = '6', long)]
    pub v6: bool,
    /// Asks about datagrams in place of connections.
    #[arg(long)]
    pub udp: bool,
    /// Whose snapshot to ask by; the agent's where none is given, the control plane's where the caller runs elsewhere.
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Which routes to show.
#[derive(Clone, Debug, clap::Args)]
pub struct Routes {
    /// Only of this service: `namespace/name`, or `name.namespace`.
    pub service: Option<String>,
    /// Which rule has this request, such as "GET http://reviews/x"; of the service, at the URL's port. Exits with 1 if none has.
    #[arg(long, value_name = "METHOD URL", requires = "service")]
    pub http: Option<String>,
    /// A header of that request, as `name: value`.
    #[arg(short = 'H', long, value_name = "HEADER", requires = "http")]
    pub header: Vec<String>,
    /// For requests of this namespace's pods; the service's own where none is given.
    #[arg(long, value_name = "NAMESPACE")]
    pub from: Option<String>,
    /// Whose snapshot to ask by.
    #[arg(long, value_enum, default_value_t = By::Agent)]
    pub by: By,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Whose snapshot a question is answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// What the node acts by.
    Agent,
    /// What the control plane compiled last.
    Control,
}

/// Whose requests to watch.
#[derive(Clone, Debug, clap::Args)]
pub struct Tap {
    /// The pod that calls: `namespace/name`.
    #[arg(value_name = "WORKLOAD")]
    pub workload: String,
    /// End after so many.
    #[arg(long, value_name = "N")]
    pub count: Option<usize>,
    /// How to print them.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Which flows to show.
#[derive(Clone, Debug, clap::Args)]
pub struct Flows {
    /// Only from this source: a pod as `namespace/name`, or a namespace as `namespace/`.
    #[arg(long, value_name = "SOURCE")]
    pub from: Option<String>,
    /// Only to this target: an address, an address with port, a pod or service as `namespace/name`, a service as
    /// `name.namespace`, or `namespace/`.
    #[arg(long, value_name = "TARGET")]
    pub to: Option<String>,
    /// Only with one of these verdicts, such as `denied`.
    #[arg(long, value_name = "VERDICT", value_delimiter = ',')]
    pub verdict: Vec<String>,
    /// Begin with the last N of those that the agent remembers; 10 where it is followed, all with --no-follow.
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Print what the agent remembers, and end.
    #[arg(long)]
    pub no_follow: bool,
    /// How to print them; JSON is one object a line.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}
