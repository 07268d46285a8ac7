//! Ten thousand services with a route each: what the client's node holds of them, how long until all are in force, how soon one change
//! is, and what a request costs among them. Beside it one Envoy that is told the same: a virtual host and a cluster for each.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod,
    clock::until,
    process::{Process, run},
};
use serde_json::json;

use crate::{
    clock, console,
    figure::{Better, Figure, Goal},
    load::{Load, Measured},
    machine::Memory,
    peer::envoy,
    serve::HTTP,
};

/// The figure's name.
pub const NAME: &str = "l7.scale";

/// Services.
const SERVICES: usize = 10_000;

/// Before there are so many.
const FEW: usize = 10;

/// Services in one file: a change of one rewrites its file alone.
const IN_A_FILE: usize = 100;

/// Changes measured, one after the other.
const CHANGES: usize = 21;

/// How soon one must be in force.
const CHANGE_MS: f64 = 200.0;

/// How long all may take to be in force, and an Envoy to listen.
const READY: Duration = Duration::from_secs(240);

/// How long one change may take before it counts as lost.
const LOST: Duration = Duration::from_secs(30);

/// How long memory is left alone before it is read: both sides give freed memory back some seconds after a load.
const REST: Duration = Duration::from_secs(8);

/// Connections of the load, its warm-up and its window.
const CONNECTIONS: usize = 64;
/// Before it is counted.
const WARM: Duration = Duration::from_secs(1);
/// Counted.
const WINDOW: Duration = Duration::from_secs(4);

/// Rounds in which a request among few services and one among all are measured in turn.
const ROUNDS: usize = 5;

/// What a request may cost among all, beside one among few: the noise of a round.
const FLAT: f64 = 1.05;

const CLIENT: &str = "shop/client";
const SERVER: &str = "shop/web";

fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new(CLIENT), Pod::new(SERVER)])
        .node("b", [Pod::new("shop/far")])
        .service(SERVER, &[(80, HTTP)])
}

/// The address of a service: 10.120.0.0/16 is nobody's in a lab.
fn address(index: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(10, 120, u8::try_from(index / 250)?, u8::try_from(index % 250 + 1)?))
}

/// A service and its route, which marks answers with an edition.
fn pair(index: usize, edition: usize) -> Result<String> {
    let (name, address) = (format!("s{index}"), address(index)?);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIPs": [address], "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": HTTP}]},
    });
    let mark = json!([{"name": "x-edition", "value": edition.to_string()}]);
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": name, "port": 80}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": mark}}],
                "backendRefs": [{"name": "web", "port": 80}]}],
        },
    });
    Ok(format!("---\n{service}\n---\n{route}\n"))
}

/// A lab in which this is measured.
struct Scene {
    lab: Lab,
}

impl Scene {
    fn up(name: &str) -> Result<Self> {
        let lab = Lab::up(&plan(name))?;
        let mut command = lab.place(SERVER)?.command(&std::env::current_exe()?)?;
        command.arg("serve");
        let mut server = Process::start(command, "serve", &lab.logs())?;
        server.says("listening", LOST)?;
        let mut lab = lab;
        lab.adopt(server);
        Ok(Self { lab })
    }

    /// Writes one file of so many services.
    fn write(&self, file: usize, (count, edition): (usize, usize)) -> Result<()> {
        let all = (file * IN_A_FILE..count.min((file + 1) * IN_A_FILE)).map(|index| pair(index, edition));
        self.lab.manifests().write(&format!("scale-{file}.yaml"), &all.collect::<Result<String>>()?)?;
        Ok(())
    }

    /// Waits until a service's requests go by this edition of its route.
    fn in_force(&self, (index, edition): (usize, usize), patience: Duration) -> Result<()> {
        let url = format!("http://{}/1k", address(index)?);
        let ask = ["curl", "--silent", "--max-time", "5", "--output", "/dev/null", "--dump-header", "-", &url];
        let wanted = format!("x-edition: {edition}\r\n");
        until(patience, "the route is in force", || {
            let said = self.lab.pod(CLIENT)?.run(&ask)?.stdout;
            ensure!(said.contains(&wanted), "s{index} is asked by edition {edition}: {said}");
            Ok(())
        })?;
        Ok(())
    }

    /// What the control plane, the client's agent and its proxy have resident.
    fn memory(&self) -> Result<[f64; 3]> {
        let of = |part| -> Result<f64> { Ok(Memory::of(self.lab.pid(part)?)?.resident) };
        Ok([of(Part::Control)?, of(Part::Agent("a"))?, of(Part::Proxy("a"))?])
    }

    /// Processor time of a request to a service, of the whole machine, in microseconds.
    fn cost(&self, index: usize) -> Result<f64> {
        let target = SocketAddr::new(address(index)?.into(), 80);
        let mut command = self.lab.place(CLIENT)?.command(&std::env::current_exe()?)?;
        let seconds = |time: Duration| time.as_secs_f64().to_string();
        command.args(["load", &target.to_string(), "--warm", &seconds(WARM), "--window", &seconds(WINDOW)]);
        command.args(Load::Http { connections: CONNECTIONS }.arguments());
        let said = run(command, WARM + WINDOW + LOST)?.ok()?;
        let measured: Measured = serde_json::from_str(&said).with_context(|| format!("the load said {said:?}"))?;
        Ok(measured.cpu.busy / measured.operations * 1e6)
    }
}

/// What one Envoy takes for as many: MiB, and seconds until it listens.
fn beside(program: &Path) -> Result<[f64; 2]> {
    let mut lab = Lab::up(&plan("l7-envoy"))?;
    let server = lab.pod(SERVER)?.addresses().v4;
    let file = lab.directory().join("envoy.json");
    std::fs::write(&file, envoy::many(SERVICES, server.into()).to_string())?;
    let mut command = lab.place(CLIENT)?.command(program)?;
    command.arg("--config-path").arg(&file);
    command.args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "warning"]);
    let begun = clock::now();
    let mut process = Process::start(command, "envoy", &lab.logs())?;
    let place = lab.place(CLIENT)?;
    let listens = until(READY, "it listens", || {
        process.still_runs()?;
        place.inside(|| TcpStream::connect(("127.0.0.1", envoy::MANY)))??;
        Ok(())
    });
    listens.with_context(|| process.errors())?;
    let took = begun.elapsed().as_secs_f64();
    let pid = process.pid();
    lab.adopt(process);
    std::thread::sleep(REST);
    Ok([Memory::of(pid)?.resident, took])
}

/// The figures.
pub fn measure(envoy: Option<&Path>) -> Result<Vec<Figure>> {
    console::progress("l7.scale: one Envoy with 10,000 clusters");
    let peer = envoy.map(beside).transpose()?;
    // Of two labs, so that rounds among few and among all can be in turn.
    let (mut few, mut many) = (Scene::up("l7-few")?, Scene::up("l7-many")?);
    for scene in [&mut few, &mut many] {
        scene.write(0, (FEW, 1))?;
        scene.lab.start_mesh()?;
        scene.in_force((FEW - 1, 1), LOST)?;
    }
    std::thread::sleep(REST);
    let alone = many.memory()?;
    console::progress("l7.scale: 10,000 services with a route each");
    let begun = clock::now();
    for file in 0..SERVICES.div_ceil(IN_A_FILE) {
        many.write(file, (SERVICES, 1))?;
    }
    many.in_force((SERVICES - 1, 1), READY)?;
    many.lab.settle()?;
    let loaded = begun.elapsed().as_secs_f64();
    std::thread::sleep(REST);
    let all = many.memory()?;
    let mut changes = Vec::new();
    for edition in 2..2 + CHANGES {
        let index = (edition * 7919) % SERVICES;
        let begun = clock::now();
        many.write(index / IN_A_FILE, (SERVICES, edition))?;
        many.in_force((index, edition), LOST)?;
        changes.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let (mut among_all, mut among_few) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        console::progress(&format!("l7.scale: requests, round {round}"));
        among_few.push(few.cost(0)?);
        among_all.push(many.cost(SERVICES - 1)?);
    }
    Ok(figures(&Found { alone, all, peer, loaded, changes, among_all, among_few }))
}

/// What was measured.
struct Found {
    alone: [f64; 3],
    all: [f64; 3],
    peer: Option<[f64; 2]>,
    loaded: f64,
    changes: Vec<f64>,
    among_all: Vec<f64>,
    among_few: Vec<f64>,
}

fn figures(found: &Found) -> Vec<Figure> {
    let Found { alone, all, peer, loaded, changes, among_all, among_few } = found;
    let [control, agent, proxy] = *all;
    let node = agent + proxy;
    let memory = Goal::at_most(0.15, 0.15);
    let figure = match peer {
        Some([mib, _]) => Figure::compared(NAME, "MiB", memory, &[node], &[*mib]).against("one Envoy"),
        None => Figure::alone(NAME, "MiB", Goal::none(Better::Lower), &[node]),
    };
    let parts = format!(
        "agent {agent:.0}, proxy {proxy:.0}; with {FEW} services {:.0} and {:.0}; control {control:.0}, with {FEW} {:.0}",
        alone[1], alone[2], alone[0]
    );
    let load = match peer {
        Some([_, seconds]) => {
            Figure::compared(NAME, "s", Goal::none(Better::Lower), &[*loaded], &[*seconds]).against("one Envoy's start")
        }
        None => Figure::alone(NAME, "s", Goal::none(Better::Lower), &[*loaded]),
    };
    vec![
        figure.case("memory of a node's agent and proxy").note(&parts),
        load.case("until all are in force, from files"),
        Figure::alone(NAME, "ms", Goal::at_most(CHANGE_MS, CHANGE_MS), changes)
            .case("one change, from its file to a request")
            .note("asked by curl again and again: 20 to 40 ms of it"),
        Figure::compared(NAME, "us/request", Goal::at_most(FLAT, 1.0), among_all, among_few)
            .against("among 10 services")
            .case("a request among 10,000"),
    ]
}
