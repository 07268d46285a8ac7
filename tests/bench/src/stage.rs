//! Where everything is measured: two labs of the same plan side by side, one with the mesh, one without; in the one without, the
//! other proxies.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod,
    clock::until,
    place::Place,
    process::{Process, run},
};

use serde_json::{Value, json};

use crate::{
    bare,
    load::{Load, Measured, Task},
    machine::Memory,
    peer::{
        certificates::Certificates,
        envoy::{self, Way},
        haproxy,
    },
    serve::{ECHO, HTTP, HTTP2, ROUTED, SINK},
};

/// What a proxy logs where it writes no line for each connection.
const NO_CONNECTIONS: &str = "info,connection=off";

/// How long a proxy or server may take to listen.
const READY: Duration = Duration::from_secs(20);

/// What a load may take beyond its warm-up and window.
const SLACK: Duration = Duration::from_secs(30);

/// Set in every pod, for all alike: a load that connects and closes thousands of times a second would otherwise wait for ports.
const FOR_MANY_CONNECTIONS: [(&str, &str); 2] =
    [("net/ipv4/ip_local_port_range", "10240 65535"), ("net/ipv4/tcp_tw_reuse", "1")];

const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

const CLIENT: &str = "shop/client";
const NEAR: &str = "shop/near";
const FAR: &str = "shop/web";

/// Programs of others.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// Envoy.
    pub envoy: Option<PathBuf>,
    /// haproxy.
    pub haproxy: Option<PathBuf>,
    /// TCP's congestion control of all namespaces; None for the machine's.
    pub congestion_control: Option<String>,
    /// Whether our proxies write a line for each connection, as they do unless told otherwise.
    pub connection_lines: bool,
}

/// The ways from a client to a server that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the other node, with nothing between.
    Direct,
    /// To the other node through the mesh, by a service.
    Mesh,
    /// To the other node through two Envoys with so many workers each.
    Envoy(u16, Way),
    /// To the other node through two haproxys.
    Haproxy,
    /// Within the node, with nothing between.
    NearDirect,
    /// Within the node in the mesh, by the pod's address.
    NearMesh,
    /// Within the node in the mesh, by a service.
    NearService,
    /// To the other node through the mesh, by a service whose requests have a route.
    Routed,
    /// To the other node through two Envoys with so many workers each, which carry requests alone.
    Requests(u16, Way),
    /// Within the node in the mesh, by a service whose requests have a route.
    NearRouted,
    /// Within the node through one Envoy with so many workers, without TLS.
    NearEnvoy(u16),
    /// Within the node through one haproxy, without TLS.
    NearHaproxy,
    /// Within the node through the least that a proxy can do.
    NearBare,
    /// To the other node through a pair of them, with TLS between.
    Bare,
}

impl Route {
    /// Whether the mesh carries it.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Mesh | Self::NearMesh | Self::NearService | Self::Routed | Self::NearRouted)
    }

    /// Whether Envoys do.
    pub fn is_envoy(self) -> bool {
        matches!(self, Self::Envoy(..) | Self::Requests(..) | Self::NearEnvoy(_))
    }

    /// As the table calls it.
    pub fn name(self) -> String {
        match self {
            Self::Direct | Self::NearDirect => "no mesh".to_owned(),
            Self::Mesh | Self::NearMesh | Self::Routed | Self::NearRouted => "Millrace".to_owned(),
            Self::NearService => "Millrace, by service".to_owned(),
            Self::Envoy(1, way) | Self::Requests(1, way) => format!("two Envoys, 1 worker{}", parsing(way)),
            Self::Envoy(n, way) | Self::Requests(n, way) => format!("two Envoys, {n} workers{}", parsing(way)),
            Self::NearEnvoy(1) => "an Envoy, 1 worker".to_owned(),
            Self::NearEnvoy(n) => format!("an Envoy, {n} workers"),
            Self::NearHaproxy => "a haproxy, 2 threads".to_owned(),
            Self::Haproxy => "two haproxys, 2 threads".to_owned(),
            Self::NearBare => "the floor: bytes passed on".to_owned(),
            Self::Bare => "the floor: bytes carried by one TLS".to_owned(),
        }
    }
}

fn parsing(way: Way) -> &'static str {
    match way {
        Way::Tcp => " (TCP)",
        Way::Http => " (HTTP)",
        Way::Http2 => " (HTTP/2)",
    }
}

/// The labs. Dropped, everything in them ends.
#[derive(Debug)]
pub struct Stage {
    mesh: Lab,
    plain: Lab,
    envoys: Vec<(u16, [u32; 2])>,
    /// Those that carry requests alone.
    requests: Vec<(u16, [u32; 2])>,
    holders: Vec<u32>,
    has_haproxy: bool,
    own: PathBuf,
}

fn plan(name: &str) -> Plan {
    let ports = [(SINK, SINK), (ECHO, ECHO), (HTTP, HTTP), (ROUTED, HTTP), (HTTP2, HTTP2)];
    Plan::new(name)
        .node("a", [Pod::new(CLIENT), Pod::new(NEAR)])
        .node("b", [Pod::new(FAR)])
        .service(FAR, &ports)
        .service(NEAR, &ports)
}

impl Stage {
    /// Brings both labs up, with servers, and the others' proxies where they are given.
    pub fn up(programs: &Programs) -> Result<Self> {
        let own = std::env::current_exe()?;
        let (mut mesh, mut plain) = (Lab::up(&plan("bench"))?, Lab::up(&plan("bench-plain"))?);
        for lab in [&mut mesh, &mut plain] {
            for pod in [CLIENT, NEAR, FAR] {
                widen(&lab.place(pod)?)?;
            }
            if let Some(name) = &programs.congestion_control {
                for place in [CLIENT, NEAR, FAR, "a", "b"] {
                    control_congestion(&lab.place(place)?, name)?;
                }
            }
            for pod in [NEAR, FAR] {
                let mut command = lab.place(pod)?.command(&own)?;
                command.arg("serve");
                let mut server = Process::start(command, &format!("{}-serve", pod.replace('/', "-")), &lab.logs())?;
                server.says("listening", READY)?;
                lab.adopt(server);
            }
        }
        mesh.start_mesh()?;
        let mut holders = Vec::new();
        for node in ["a", "b"] {
            let mut command = mesh.place(node)?.command(mesh.binaries().path("millrace-holder")?)?;
            command.arg("--run-dir").arg(mesh.run_directory(node));
            let holder = Process::start(command, &format!("{node}-holder"), &mesh.logs())?;
            holders.push(holder.pid());
            mesh.adopt(holder);
        }
        let mut stage =
            Self { mesh, plain, envoys: Vec::new(), requests: Vec::new(), holders, has_haproxy: false, own };
        stage.route()?;
        if !programs.connection_lines {
            stage.write_no_connections()?;
        }
        stage.start_others(programs)?;
        Ok(stage)
    }

    /// Has our proxies write as little of each connection as the others do.
    fn write_no_connections(&self) -> Result<()> {
        for node in ["a", "b"] {
            let answer = self.mesh.admin(Part::Proxy(node)).request("PUT", "/log-level", NO_CONNECTIONS)?;
            ensure!(answer.status == 200, "{node}'s proxy does not take {NO_CONNECTIONS:?}: {}", answer.body.trim());
        }
        Ok(())
    }

    /// Gives both services' requests a route each, and waits until the client's node parses them.
    fn route(&self) -> Result<()> {
        for service in [NEAR, FAR] {
            for (kind, port) in [("HTTPRoute", ROUTED), ("GRPCRoute", HTTP2)] {
                self.mesh.apply(&a_route(kind, service, port)?)?;
                let target = SocketAddr::new(self.mesh.topology().service(service)?.addresses.v4.into(), port);
                let counted = || -> Result<f64> {
                    Ok(self.mesh.admin(Part::Proxy("a")).metrics()?.sum("millrace_proxy_http_requests_total", &[]))
                };
                until(READY, &format!("{service}'s {kind} is in force"), || {
                    let before = counted()?;
                    let how = if port == HTTP2 { "--http2-prior-knowledge" } else { "--http1.1" };
                    let url = format!("http://{target}/bench.Echo/Get");
                    let said = self.mesh.pod(CLIENT)?.run(&[
                        "curl",
                        "-sS",
                        "--max-time",
                        "5",
                        "-o",
                        "/dev/null",
                        how,
                        &url,
                    ])?;
                    said.ok()?;
                    ensure!(counted()? > before, "no request was parsed");
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// The port of a service that answers HTTP/1.1 within the node and has no route, for what is to be told to somebody.
    pub const LISTENER: (&'static str, u16) = ("near", HTTP);

    /// The lab that has the mesh.
    pub fn mesh(&self) -> &Lab {
        &self.mesh
    }

    /// How many workers each set of Envoys has.
    pub fn envoys(&self) -> Vec<u16> {
        self.envoys.iter().map(|(n_workers, _)| *n_workers).collect()
    }

    /// The same of those that carry requests alone.
    pub fn requests_envoys(&self) -> Vec<u16> {
        self.requests.iter().map(|(n_workers, _)| *n_workers).collect()
    }

    /// Whether haproxy can be measured.
    pub fn has_haproxy(&self) -> bool {
        self.has_haproxy
    }

    /// Runs a load over a route against this port of the server.
    pub fn run(&self, route: Route, port: u16, load: Load, [warm, window]: [Duration; 2]) -> Result<Measured> {
        let (lab, target) = self.target(route, port)?;
        let mut command = lab.place(CLIENT)?.command(&self.own)?;
        let seconds = |time: Duration| time.as_secs_f64().to_string();
        command.args(["load", &target.to_string(), "--warm", &seconds(warm), "--window", &seconds(window)]);
        command.args(load.arguments());
        let said = run(command, warm + window + SLACK)?.ok();
        let said = said.with_context(|| format!("{load:?} over {}\n{}", route.name(), lab.story()))?;
        serde_json::from_str(&said).with_context(|| format!("the load said {said:?}"))
    }

    fn target(&self, route: Route, port: u16) -> Result<(&Lab, SocketAddr)> {
        let pod = |lab: &Lab, pod: &str| -> Result<SocketAddr> { Ok(lab.pod(pod)?.at(port)) };
        let service = |name: &str, port: u16| -> Result<SocketAddr> {
            Ok(SocketAddr::new(self.mesh.topology().service(name)?.addresses.v4.into(), port))
        };
        // The same server, by the port of the service that has a route.
        let routed = if port == HTTP { ROUTED } else { port };
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        Ok(match route {
            Route::Direct => (&self.plain, pod(&self.plain, FAR)?),
            Route::Mesh => (&self.mesh, service(FAR, port)?),
            Route::Envoy(n_workers, way) => (&self.plain, local(envoy::port(n_workers, port, way))),
            Route::Haproxy => (&self.plain, local(haproxy::port(port))),
            Route::NearDirect => (&self.plain, pod(&self.plain, NEAR)?),
            Route::NearMesh => (&self.mesh, pod(&self.mesh, NEAR)?),
            Route::NearService => (&self.mesh, service(NEAR, port)?),
            Route::NearRouted => (&self.mesh, service(NEAR, routed)?),
            Route::Routed => (&self.mesh, service(FAR, routed)?),
            Route::Requests(n_workers, way) => (&self.plain, local(envoy::requests_port(n_workers, port, way))),
            Route::NearEnvoy(n_workers) => (&self.plain, local(envoy::near_port(n_workers))),
            Route::NearHaproxy => (&self.plain, local(haproxy::NEAR)),
            Route::NearBare => (&self.plain, local(bare::NEAR)),
            Route::Bare => (&self.plain, local(bare::CLIENT + (port - SINK))),
        })
    }

    /// Memory of all processes of the mesh on both nodes, by kind: agents, proxies, holders.
    pub fn memory(&self) -> Result<[(&'static str, Memory); 3]> {
        let both = |pids: [u32; 2]| -> Result<Memory> { Ok(Memory::of(pids[0])?.plus(Memory::of(pids[1])?)) };
        let holders: [u32; 2] = self.holders.clone().try_into().ok().context("two holders")?;
        Ok([
            ("agents", both([self.mesh.pid(Part::Agent("a"))?, self.mesh.pid(Part::Agent("b"))?])?),
            ("proxies", both([self.mesh.pid(Part::Proxy("a"))?, self.mesh.pid(Part::Proxy("b"))?])?),
            ("holders", both(holders)?),
        ])
    }

    /// Memory of two Envoys, by how many workers each has.
    pub fn envoys_memory(&self) -> Result<Vec<(u16, Memory)>> {
        memory_of(&self.envoys)
    }

    /// The same of those that carry requests alone.
    pub fn requests_memory(&self) -> Result<Vec<(u16, Memory)>> {
        memory_of(&self.requests)
    }

    fn start_others(&mut self, programs: &Programs) -> Result<()> {
        let certificates = Certificates::make(&self.plain.directory().join("certificates"))?;
        let server: IpAddr = self.plain.pod(FAR)?.addresses().v4.into();
        let both: [IpAddr; 2] = [self.plain.pod(NEAR)?.addresses().v4.into(), server];
        if let Some(program) = &programs.envoy {
            for n_workers in [1, 2] {
                let texts = [envoy::client(n_workers, server, &certificates), envoy::server(n_workers, &certificates)];
                let port = envoy::port(n_workers, ECHO, Way::Tcp);
                let pids = self.start_envoys(program, (&n_workers.to_string(), n_workers), &texts, port)?;
                self.envoys.push((n_workers, pids));
            }
            for n_workers in [1, 2] {
                let texts = [
                    envoy::requests_client(n_workers, both, &certificates),
                    envoy::requests_server(n_workers, &certificates),
                ];
                let port = envoy::requests_port(n_workers, HTTP, Way::Http);
                let pids = self.start_envoys(program, (&format!("requests-{n_workers}"), n_workers), &texts, port)?;
                self.requests.push((n_workers, pids));
            }
        }
        self.start_bare(both, &certificates)?;
        if let Some(program) = &programs.haproxy {
            let n_threads = 2;
            let near = haproxy::client(both, n_threads, &certificates);
            let far = haproxy::server(n_threads, &certificates);
            for (end, pod, text) in [("client", CLIENT, near), ("server", FAR, far)] {
                let file = self.plain.directory().join(format!("haproxy-{end}.cfg"));
                fs::write(&file, text)?;
                let mut command = self.plain.place(pod)?.command(program)?;
                command.arg("-db").arg("-f").arg(&file);
                self.start_other(command, &format!("haproxy-{end}"), pod, haproxy::port(ECHO))?;
            }
            self.has_haproxy = true;
        }
        Ok(())
    }

    /// The floor: one within the node, and a pair for each protocol between nodes.
    fn start_bare(&mut self, [near, far]: [IpAddr; 2], certificates: &Certificates) -> Result<()> {
        let at = |address: IpAddr, port: u16| SocketAddr::new(address, port).to_string();
        let local: IpAddr = Ipv4Addr::LOCALHOST.into();
        let file = |name: &str| certificates.path(name).display().to_string();
        let mut all = vec![(CLIENT, "plain", vec![at(local, bare::NEAR), at(near, HTTP)])];
        for port in [HTTP, HTTP2] {
            let of = port - SINK;
            let (here, middle) = (at(local, bare::CLIENT + of), at(far, bare::SERVER + of));
            all.push((FAR, "server", vec![middle.clone(), at(local, port), file("bare-both.pem")]));
            all.push((CLIENT, "client", vec![here, middle, file("root.pem")]));
        }
        for (number, (pod, kind, arguments)) in all.into_iter().enumerate() {
            let mut command = self.plain.place(pod)?.command(&self.own)?;
            command.args(["bare", kind]).args(arguments);
            let mut process = Process::start(command, &format!("bare-{number}-{kind}"), &self.plain.logs())?;
            process.says("listening", READY)?;
            self.plain.adopt(process);
        }
        Ok(())
    }

    /// The client's and the server's, which listen on this port once they are ready.
    fn start_envoys(
        &mut self,
        program: &Path,
        (set, n_workers): (&str, u16),
        texts: &[Value; 2],
        port: u16,
    ) -> Result<[u32; 2]> {
        let mut pids = [0; 2];
        for (((end, pod), text), pid) in [("client", CLIENT), ("server", FAR)].iter().zip(texts).zip(&mut pids) {
            let file = self.plain.directory().join(format!("envoy-{set}-{end}.json"));
            fs::write(&file, text.to_string())?;
            let mut command = self.plain.place(pod)?.command(program)?;
            command.arg("--config-path").arg(&file).args(["--concurrency", &n_workers.to_string()]);
            command.args(["--disable-hot-restart", "--log-level", "warning"]);
            *pid = self.start_other(command, &format!("envoy-{set}-{end}"), pod, port)?;
        }
        Ok(pids)
    }

    fn start_other(&mut self, command: Command, name: &str, pod: &str, port: u16) -> Result<u32> {
        let place = self.plain.place(pod)?;
        let mut process = Process::start(command, name, &self.plain.logs())?;
        let listens = until(READY, &format!("{name} listens"), || {
            process.still_runs()?;
            place.inside(|| TcpStream::connect(("127.0.0.1", port)))??;
            Ok(())
        });
        listens.with_context(|| format!("{name}: {}", process.errors()))?;
        let pid = process.pid();
        self.plain.adopt(process);
        Ok(pid)
    }
}

/// A route of everything on this port of a service to the service itself.
fn a_route(kind: &str, service: &str, port: u16) -> Result<Value> {
    let (namespace, name) = service.split_once('/').context("a service's name")?;
    Ok(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"namespace": namespace, "name": format!("{name}-{port}")},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": name, "port": port}],
            "rules": [{"backendRefs": [{"name": name, "port": port}]}],
        },
    }))
}

fn memory_of(envoys: &[(u16, [u32; 2])]) -> Result<Vec<(u16, Memory)>> {
    let of = |(n, [a, b]): &(u16, [u32; 2])| -> Result<_> { Ok((*n, Memory::of(*a)?.plus(Memory::of(*b)?))) };
    envoys.iter().map(of).collect()
}

fn widen(place: &Place) -> Result<()> {
    place.inside(|| -> Result<()> {
        for (name, value) in FOR_MANY_CONNECTIONS {
            let path = format!("/proc/sys/{name}");
            fs::write(&path, value).with_context(|| format!("write {value} to {path}"))?;
        }
        Ok(())
    })?
}

fn control_congestion(place: &Place, name: &str) -> Result<()> {
    place.inside(|| {
        fs::write(CONGESTION_CONTROL, name)
            .with_context(|| format!("{name} is not to be had: see net.ipv4.tcp_available_congestion_control"))
    })?
}

/// The congestion control of connections that are made in this namespace.
pub fn congestion_control() -> Result<String> {
    Ok(fs::read_to_string(CONGESTION_CONTROL).context(CONGESTION_CONTROL)?.trim().to_owned())
}

/// Runs the load of the command line; here, in the pod.
pub fn load(task: Task, load: Load) -> Result<String> {
    ensure!(!task.window.is_zero(), "a window has a length");
    Ok(serde_json::to_string(&load.run(task)?)?)
}
