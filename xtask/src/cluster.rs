//! Starts, ends and shows a real Kubernetes made of processes on this host: etcd and an API server, and with nodes the rest.
//!
//! A cluster has a name and a folder; all that it runs is in that folder by process id, so two clusters never meet, `up` starts
//! what is missing, and `down` ends what `up` started and nothing else.

mod api;
pub(crate) mod binary;
mod definitions;
mod images;
mod node;
mod place;
mod process;
mod wire;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{clock, config::Config, console};

use binary::Binary;
use node::KubeProxy;
use place::Place;

/// The guard's place among what a cluster starts: ended last, as what is left of the rest is its to end.
const GUARD: u32 = 0;

/// Nodes of one machine: each takes half a gigabyte with nothing on it.
const MAX_NODES: i64 = 9;

/// What to do with a cluster.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Task {
    /// Starts what is missing of the cluster, and says where its kubeconfig is
    Up(Up),
    /// Ends the cluster and removes its state
    Down(Named),
    /// Says what runs of the cluster
    Status(Named),
    /// Builds the programs and starts nothing
    Build(Extent),
    /// Packs files into an image, and gives it to every node
    Load(Load),
    /// Waits for the cluster's owner to end, and ends the cluster
    #[command(hide = true)]
    Guard(Named),
    /// Passes the API server's port on loopback on to where it runs
    #[command(hide = true)]
    Relay(Named),
}

/// Which cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Named {
    /// Its name: clusters of different names run side by side
    #[arg(long, default_value = "default")]
    pub(crate) name: String,
}

/// How much of Kubernetes.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Extent {
    /// The API server and etcd alone: nothing acts on objects
    #[arg(long)]
    pub(crate) api_only: bool,
}

/// An image of files, made here.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Its full name, as docker.io/library/millrace:0.1.0
    #[arg(long)]
    pub(crate) image: String,
    /// Its files
    #[arg(value_name = "PLACE=SOURCE", required = true)]
    pub(crate) files: Vec<String>,
}

/// How a cluster is made.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) named: Named,
    #[command(flatten)]
    pub(crate) extent: Extent,
    /// How many nodes it has; they share this machine's kernel
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=MAX_NODES), conflicts_with = "api_only")]
    pub(crate) nodes: u8,
    /// Who carries services' addresses on the nodes
    #[arg(long, value_enum, default_value_t = KubeProxy::Nftables, conflicts_with = "api_only")]
    pub(crate) kube_proxy: KubeProxy,
    /// Which of Gateway API's kinds it knows
    #[arg(long, value_enum, default_value_t = Channel::Standard)]
    pub(crate) channel: Channel,
    /// The process that it is for: the cluster ends with it
    #[arg(long, value_name = "PID")]
    pub(crate) owner: Option<u32>,
}

/// A set of Gateway API's kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Channel {
    /// Those that are stable
    Standard,
    /// Those, and those that may still change
    Experimental,
}

impl Channel {
    /// The name of the folder that holds its definitions.
    fn folder(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Experimental => "experimental",
        }
    }
}

/// Builds what the cluster tests start.
pub(crate) fn prepare(config: &Config) -> Result<()> {
    binary::prepare(config, Binary::Api).map(|_| ())
}

/// Does it.
pub(crate) fn run(config: &Config, task: &Task) -> Result<()> {
    match task {
        Task::Up(options) => up(config, options),
        Task::Down(named) => down(&Place::new(config, &named.name)?),
        Task::Status(named) => status(&Place::new(config, &named.name)?),
        Task::Guard(named) => guard(&Place::new(config, &named.name)?),
        Task::Relay(named) => {
            let place = Place::new(config, &named.name)?;
            wire::relay(&place, place.ports()?.api)
        }
        Task::Load(load) => {
            let place = Place::new(config, &load.named.name)?;
            node::load(&place, &images::made(&place, &load.image, &load.files)?)
        }
        Task::Build(extent) => binary::prepare(config, Binary::of(*extent)).map(|_| ()),
    }
}

fn up(config: &Config, options: &Up) -> Result<()> {
    let began = clock::now();
    let place = Place::new(config, &options.named.name)?;
    sweep(&place)?;
    let n_nodes = if options.extent.api_only { 0 } else { options.nodes };
    if n_nodes > 0 {
        node::check(config)?;
    }
    let program = binary::prepare(config, Binary::of(options.extent))?;
    place.make(&program)?;
    place.keep_nodes(n_nodes)?;
    let owner = options.owner.map(process::Id::of).transpose()?;
    place.keep_owner(owner.as_ref())?;
    if owner.is_some() {
        let mut guard = command(std::env::current_exe()?);
        guard.args(["cluster", "guard", "--name", &options.named.name]);
        process::start_once(&place, (GUARD, "guard"), &mut guard)?;
    }
    let ports = place.ports()?;
    if n_nodes > 0 {
        wire::up(&place, n_nodes)?;
    }
    api::certificates(&place, &ports)?;
    api::start(&place, &ports)?;
    definitions::apply(config, &place, options.channel)?;
    if n_nodes > 0 {
        let images = images::prepare(config, &place, &binary::cache(config)?)?;
        node::up(&place, n_nodes, options.kube_proxy, &images)?;
    }
    // One that ends a moment after it was started leaves a cluster that takes objects and does nothing with them.
    if let Some(name) = process::ended(&place)?.first() {
        bail!("{name} ended: see {}", place.folder.join("logs").join(format!("{name}.log")).display());
    }
    console::say(&format!(
        "cluster {} is up after {:.1} s: export KUBECONFIG={}",
        options.named.name,
        (clock::now() - began).as_secs_f64(),
        place.kubeconfig().display()
    ));
    console::say(&format!("its kubectl is {}", place.program("kubectl").display()));
    Ok(())
}

fn down(place: &Place) -> Result<()> {
    if !place.folder.exists() {
        console::say(&format!("there is no cluster {}", place.name()));
        return Ok(());
    }
    // What was started last ends first: an API server without its store complains until it ends.
    let mut running = process::running(place)?;
    running.sort_by_key(|one| std::cmp::Reverse(one.order));
    // The guard is this process, or would end what is ended already.
    let own = std::process::id();
    for one in running.iter().filter(|one| one.id.pid != own) {
        one.end()?;
    }
    if place.nodes()? > 0 {
        node::down(place)?;
        wire::down(place)?;
    }
    fs::remove_dir_all(&place.folder)?;
    console::say(&format!("cluster {} is down", place.name()));
    Ok(())
}

/// Ends the cluster once its owner has ended, whichever way it did.
fn guard(place: &Place) -> Result<()> {
    if let Some(owner) = place.owner()? {
        owner.ended()?;
    }
    down(place)
}

fn status(place: &Place) -> Result<()> {
    let running = process::running(place)?;
    if running.is_empty() {
        bail!("nothing runs of cluster {}", place.name());
    }
    for one in &running {
        console::say(&format!("{:<24} process {}, {} MiB", one.name, one.id.pid, one.id.resident_mib()));
    }
    console::say(&format!("kubeconfig: {}", place.kubeconfig().display()));
    Ok(())
}

/// Ends clusters whose owners are gone, where their guard was killed too.
fn sweep(beside: &Place) -> Result<()> {
    let Some(parent) = beside.folder.parent().filter(|parent| parent.exists()) else { return Ok(()) };
    for entry in fs::read_dir(parent)? {
        let place = Place::at(entry?.path());
        if place.owner()?.is_some_and(|owner| !owner.lives()) {
            down(&place)?;
        }
    }
    Ok(())
}

/// A command that runs one of the cluster's programs.
fn command(program: impl AsRef<Path>) -> Command {
    Command::new(PathBuf::from(program.as_ref()))
}
