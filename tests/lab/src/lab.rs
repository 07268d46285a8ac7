//! Brings a lab up, gives out its nodes and pods, and takes everything down again, also when a test panicked.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    binaries::Binaries,
    cgroup,
    manifests::{self, Manifests},
    mesh::Mesh,
    network,
    place::Place,
    plan::Plan,
    pod::Pod,
    process::{Process, tail},
    slot::{self, Slot},
    topology::{Names, Topology},
};

/// How much of each log is shown when a test fails.
const TAIL: usize = 25;

/// Within a lab's directory: a file per place.
const PLACES: &str = "places";

/// The place `name` (a node, or `namespace/pod`) of the newest lab that has one, whoever runs that lab.
pub fn find_place(name: &str) -> Result<Place> {
    let file = name.replace('/', "-");
    let found = slot::directories().into_iter().rev().find_map(|lab| fs::read(lab.join(PLACES).join(&file)).ok());
    let found = found.with_context(|| format!("no lab that runs has {name}"))?;
    Ok(serde_json::from_slice(&found)?)
}

/// A running lab. Fields are dropped in this order: processes before what they live in.
#[derive(Debug)]
pub struct Lab {
    name: String,
    pub(crate) mesh: Mesh,
    processes: Vec<Process>,
    manifests: Manifests,
    topology: Topology,
    binaries: Binaries,
    slot: Slot,
}

impl Lab {
    /// Makes the network of `plan` and writes its manifests; no process runs yet.
    pub fn up(plan: &Plan) -> Result<Self> {
        let (topology, slot) = (Topology::new(plan)?, Slot::take()?);
        let directory = slot.directory();
        fs::write(directory.join("name"), &plan.name)?;
        for sub in ["logs", "hosts", "tokens", PLACES] {
            fs::create_dir_all(directory.join(sub))?;
        }
        let manifests = Manifests::new(manifests::directory(&directory), directory.join("aside"))?;
        for object in manifests::objects(slot.number(), &topology) {
            manifests.apply(&object)?;
        }
        let lab = Self {
            name: plan.name.clone(),
            mesh: Mesh::default(),
            processes: Vec::new(),
            manifests,
            topology,
            binaries: Binaries::find()?,
            slot,
        };
        lab.name_services(Names::Services)?;
        for name in lab.topology.places().chain(lab.topology.in_hosts_network()) {
            let place = lab.place(name)?;
            cgroup::make(&place.cgroup)?;
            fs::write(directory.join(PLACES).join(name.replace('/', "-")), serde_json::to_string(&place)?)?;
        }
        network::make(lab.number(), &lab.topology)?;
        Ok(lab)
    }

    /// Its number: unique on this machine while it lives.
    pub fn number(&self) -> u32 {
        self.slot.number()
    }

    /// What it is for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        self.slot.directory()
    }

    /// Where its processes log.
    pub fn logs(&self) -> PathBuf {
        self.directory().join("logs")
    }

    /// What is in it, with addresses.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The control plane's directory.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// The programs it runs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The pod of this `namespace/name`.
    pub fn pod(&self, name: &str) -> Result<Pod<'_>> {
        Ok(Pod::new(self, self.topology.pod(name)?))
    }

    /// Where the processes of `wire`, of a node or of a pod (`namespace/name`) run.
    pub fn place(&self, name: &str) -> Result<Place> {
        let (top, netns) = (cgroup::of_lab(self.number())?, network::netns(self.number(), name));
        if name == "wire" || self.topology.node(name).is_ok() {
            return Ok(Place { netns, cgroup: top.join(name), hosts: None });
        }
        let pod = self.topology.pod(name)?;
        let Some(node) = self.topology.nodes.iter().find(|node| node.number == pod.node) else {
            bail!("{name} is on no node")
        };
        let cgroup = top.join(&node.name).join(pod.path());
        let netns = if pod.plan.host_network { network::netns(self.number(), &node.name) } else { netns };
        Ok(Place { netns, cgroup, hosts: Some(self.directory().join("hosts").join(&*pod.name.namespace)) })
    }

    /// Has the names of services lead there, in running pods too: their hosts files are these very files.
    pub fn name_services(&self, names: Names) -> Result<()> {
        for namespace in self.topology.namespaces() {
            fs::write(self.directory().join("hosts").join(namespace), self.topology.hosts(namespace, names))?;
        }
        Ok(())
    }

    /// Keeps a process running as long as the lab.
    pub fn adopt(&mut self, process: Process) {
        self.processes.push(process);
    }

    /// How many of the processes kept by the lab run; fails if one has ended.
    pub fn still_run(&mut self) -> Result<usize> {
        self.processes.iter_mut().try_for_each(Process::still_runs)?;
        Ok(self.processes.len())
    }

    /// Writes an object into the directory of manifests.
    pub fn apply(&self, object: &Value) -> Result<PathBuf> {
        self.manifests.apply(object)
    }

    /// Removes an object from the directory of manifests.
    pub fn remove(&self, object: &Value) -> Result<()> {
        self.manifests.remove(object)
    }

    /// Leaves everything running when this process ends; `millrace-demo down` removes it.
    pub fn keep(mut self) -> Result<()> {
        self.slot.keep()?;
        for process in self.processes.drain(..) {
            process.detach();
        }
        self.mesh.detach();
        Ok(())
    }

    /// The end of every log, for one who has to find out why a test failed.
    pub fn story(&self) -> String {
        let mut story = format!("lab {} ({}), its logs:\n", self.number(), self.name);
        for path in sorted(&self.logs()) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if !text.trim().is_empty() {
                story.push_str(&format!("--- {}\n{}\n", path.display(), tail(&text, TAIL)));
            }
        }
        story
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            // Nobody is left to tell if standard error is closed.
            drop(std::io::stderr().write_all(self.story().as_bytes()));
        }
    }
}

fn sorted(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

/// How long a whole lab may take to be ready; it takes two to four seconds on a quiet machine of two cores.
pub const READY: Duration = Duration::from_secs(60);
