//! Shows a node as its agent and its control plane see it, and what of it is amiss.

mod text;

use std::{collections::BTreeMap, path::Path};

use millrace_model::{Mesh, Protocol, ServicePort};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Ending, Failure,
    client::Client,
    config::{Format, Process},
    names, out,
};

/// What the agent answers. Fields that this version does not know are let pass; those missing are empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Agent {
    node: String,
    generation: u64,
    control: Control,
    proxy: Option<Proxy>,
    workloads: Vec<Workload>,
    ejected: Vec<Ejected>,
    maps: Vec<Map>,
    failures: Vec<String>,
    tuning: Tuning,
}

/// How the node is tuned.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Tuning {
    profile: Option<String>,
    settings: Vec<Setting>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Setting {
    field: String,
    wanted: Option<String>,
    in_force: String,
    note: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Ejected {
    service: String,
    port: u16,
    endpoint: String,
    workload: Option<String>,
    cause: String,
    failures: u64,
    times: u64,
    since_s: f64,
    returns_in_s: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Control {
    connected: bool,
    since_s: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Proxy {
    name: String,
    version: String,
    generation: u64,
    connected: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Workload {
    name: String,
    identity: String,
    addresses: Vec<String>,
    listeners: Vec<String>,
    state: String,
    unguarded: Option<String>,
    udp: String,
    certificate_expires_s: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Map {
    map: String,
    entries: u64,
    capacity: u64,
}

/// What the control plane answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Plane {
    generation: u64,
    nodes: BTreeMap<String, Node>,
    diagnostics: Vec<Value>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Node {
    sent: u64,
    applied: u64,
    connected: bool,
    n_listening: u64,
    failures: Vec<String>,
}

/// Shows the node at `run_dir`. It is enough that one of agent and control plane answers.
pub(crate) async fn status(run_dir: &Path, format: Format) -> Result<Ending, Failure> {
    let agent = Client::new(Process::Agent, run_dir).json::<Value>("/status").await;
    let plane = Client::new(Process::Control, run_dir).json::<Value>("/status").await;
    let (agent, plane) = match (agent, plane) {
        (Err(why), Err(_)) => return Err(why),
        (agent, plane) => (agent.ok(), plane.ok()),
    };
    let whose = if agent.is_some() { Process::Agent } else { Process::Control };
    let mesh = names::mesh(run_dir, whose).await.unwrap_or_default();
    match format {
        Format::Json => out::print_json(&json!({"agent": agent, "control": plane, "services": services(&mesh)}))?,
        Format::Table => {
            let agent = agent.map(|value| read::<Agent>(Process::Agent, value)).transpose()?;
            let plane = plane.map(|value| read::<Plane>(Process::Control, value)).transpose()?;
            out::print(&text::text(agent.as_ref(), plane.as_ref(), &services(&mesh)))?
        }
    };
    Ok(Ending::Yes)
}

fn read<T: for<'d> Deserialize<'d>>(process: Process, value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|source| Failure::Unreadable { process, path: "/status".to_owned(), source })
}

/// A service as the node knows it.
#[derive(Clone, Debug, Serialize)]
struct Service {
    name: String,
    addresses: Vec<String>,
    ports: Vec<String>,
    n_ready: usize,
    n_endpoints: usize,
}

fn port(ServicePort { port, protocol, name: _ }: &ServicePort) -> String {
    match protocol {
        Protocol::Tcp => port.to_string(),
        Protocol::Udp => format!("{port}/UDP"),
    }
}

fn services(mesh: &Mesh) -> Vec<Service> {
    let services = mesh.snapshot.services.values();
    services
        .map(|service| {
            let endpoints = mesh.endpoints_of(&service.name);
            let is_ready = |e: &&millrace_model::Endpoint| {
                e.readiness == millrace_model::service::Readiness::Ready && e.weight > 0
            };
            Service {
                name: service.name.to_string(),
                addresses: service.addresses.iter().map(ToString::to_string).collect(),
                ports: service.ports.iter().map(port).collect(),
                n_ready: endpoints.map_or(0, |e| e.endpoints.iter().filter(is_ready).count()),
                n_endpoints: endpoints.map_or(0, |e| e.endpoints.len()),
            }
        })
        .collect()
}
