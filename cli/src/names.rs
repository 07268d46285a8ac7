//! Reads a process's snapshot, and finds in it what a person calls by name. Pure, but for fetching it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use millrace_model::{Ejected, Mesh, ObjectName, Protocol, Snapshot, Workload, outlier::Pool};
use serde::Deserialize;

use crate::{Failure, client::Client, config::Process};

#[derive(Deserialize)]
struct Config {
    snapshot: Option<Snapshot>,
}

/// The snapshot that a process works by; the empty one where it has none yet.
pub(crate) async fn mesh(run_dir: &Path, process: Process) -> Result<Mesh, Failure> {
    let Config { snapshot } = Client::new(process, run_dir).json("/config").await?;
    Ok(Mesh::new(Arc::new(snapshot.unwrap_or_default())))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    ejected: Vec<Out>,
}

#[derive(Deserialize)]
struct Out {
    service: ObjectName,
    port: u16,
    endpoint: SocketAddr,
}

/// The endpoints that the agent leaves out because connections to them fail.
pub(crate) async fn ejected(run_dir: &Path) -> Result<Ejected, Failure> {
    let Status { ejected } = Client::new(Process::Agent, run_dir).json("/status").await?;
    let mut all = Ejected::default();
    for Out { service, port, endpoint } in ejected {
        // Of the virtual address only port and family count.
        all.insert(Pool::at(&service, SocketAddr::new(endpoint.ip(), port)), endpoint);
    }
    Ok(all)
}

/// The node that the agent is of.
pub(crate) async fn node(run_dir: &Path) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Of {
        node: String,
    }
    let Of { node } = Client::new(Process::Agent, run_dir).json("/status").await?;
    Ok(node)
}

/// The workload that `text` names: `namespace/name`, or one of its addresses.
pub(crate) fn workload(mesh: &Mesh, text: &str) -> Result<Arc<Workload>, Failure> {
    let found = match (text.parse::<IpAddr>(), text.parse::<ObjectName>()) {
        (Ok(address), _) => mesh.workload_at(address),
        (Err(_), Ok(name)) => mesh.snapshot.workloads.get(&name),
        (Err(_), Err(_)) => {
            return Err(Failure::Usage(format!("{text:?} is neither a pod (namespace/name) nor an address")));
        }
    };
    found.cloned().ok_or_else(|| {
        let known = list(mesh.snapshot.workloads.keys());
        Failure::Usage(format!("no workload {text} in generation {}; there is {known}", mesh.snapshot.generation))
    })
}

/// Which family of addresses is wanted of a name that has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// The first address of any.
    First,
    /// The first IPv6 address.
    V6,
}

/// The address that `text` means: an address with port, or a service's or pod's name with port.
pub(crate) fn target(mesh: &Mesh, text: &str, (family, protocol): (Family, Protocol)) -> Result<SocketAddr, Failure> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .ok_or_else(|| Failure::Usage(format!("{text:?} has no port: write {text}:80")))?;
    if host.contains(':') {
        return Err(Failure::Usage(format!("write an IPv6 address with a port as [{host}]:{port}")));
    }
    let name = object(host).ok_or_else(|| {
        Failure::Usage(format!("{host:?} is neither an address, nor name.namespace, nor namespace/name"))
    })?;
    let snapshot = &mesh.snapshot;
    let addresses = match (snapshot.services.get(&name), snapshot.workloads.get(&name)) {
        (Some(service), _) => {
            if !service.ports.iter().any(|p| p.port == port && p.protocol == protocol) {
                let ports: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
                return Err(Failure::Usage(format!(
                    "service {name} has no {} port {port}; it has {}",
                    if protocol == Protocol::Udp { "UDP" } else { "TCP" },
                    ports.join(" ")
                )));
            }
            if service.addresses.is_empty() {
                let endpoints = mesh.endpoints_of(&name).into_iter().flat_map(|e| &e.endpoints);
                let addresses: Vec<String> = endpoints.map(|e| e.address.to_string()).collect();
                let addresses = addresses.join(" ");
                return Err(Failure::Usage(format!(
                    "service {name} is headless: its name means its pods; ask for one of {addresses}"
                )));
            }
            &service.addresses
        }
        (None, Some(workload)) => &workload.addresses,
        (None, None) => {
            let known = list(snapshot.services.keys());
            return Err(Failure::Usage(format!("no service or pod {name}; the services are {known}")));
        }
    };
    let wanted = addresses.iter().find(|address| family == Family::First || address.is_ipv6());
    let address = wanted.ok_or_else(|| Failure::Usage(format!("{name} has no IPv6 address")))?;
    Ok(SocketAddr::new(*address, port))
}

/// What a name in a command means: `namespace/name`, or as DNS has it, `name.namespace[.svc[.…]]`.
pub(crate) fn object(host: &str) -> Option<ObjectName> {
    if let Ok(name) = host.parse() {
        return Some(name);
    }
    let mut labels = host.split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(name), Some(namespace), None | Some("svc")) if !name.is_empty() && !namespace.is_empty() => {
            Some(ObjectName::new(namespace, name))
        }
        _ => None,
    }
}

/// Who has an address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'m> {
    Service(&'m ObjectName),
    Workload(&'m ObjectName),
}

impl<'m> Owner<'m> {
    pub(crate) fn of(mesh: &'m Mesh, address: SocketAddr) -> Option<Self> {
        if let Some(service) = mesh.service_at(address.ip(), address.port(), Protocol::Tcp) {
            return Some(Self::Service(&service.name));
        }
        mesh.workload_at(address.ip()).map(|workload| Self::Workload(&workload.name))
    }

    pub(crate) fn name(self) -> &'m ObjectName {
        match self {
            Self::Service(name) | Self::Workload(name) => name,
        }
    }
}

/// A service as DNS names it and a pod as Kubernetes does, so that the two are told apart where they are called alike.
impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(ObjectName { namespace, name }) => write!(f, "{name}.{namespace}"),
            Self::Workload(name) => name.fmt(f),
        }
    }
}

/// How many names a message lists before it stops.
const MAX_LISTED: usize = 12;

fn list<'n>(names: impl Iterator<Item = &'n ObjectName>) -> String {
    let names: Vec<String> = names.map(ToString::to_string).collect();
    match names.len() {
        0 => "none".to_owned(),
        n if n > MAX_LISTED => {
            format!(
                "{} and {} more",
                names.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(" "),
                n - MAX_LISTED
            )
        }
        _ => names.join(" "),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use millrace_model::{
        Encryption, Identity, Membership, Mesh, ObjectName, Protocol, Service, ServicePort, Snapshot, Workload,
    };

    use super::{Family, target, workload};

    pub(crate) fn mesh() -> Mesh {
        let name = ObjectName::new("shop", "web");
        let workload = Workload {
            name: name.clone(),
            instance: "1".into(),
            identity: Identity::new("td", "shop", "web"),
            addresses: vec![[10, 0, 0, 1].into(), "fd10::1".parse().unwrap()],
            node: "a".into(),
            zone: None,
            netns: None,
            membership: Membership::Enrolled,
            encryption: Encryption::default(),
            policies: [].into(),
            probe_ports: [].into(),
            telemetry: None,
            network: None,
        };
        let service = |name: &str, addresses| Service {
            name: ObjectName::new("shop", name),
            addresses,
            ports: vec![ServicePort { port: 80, protocol: Protocol::Tcp, name: "".into() }],
            traffic: Default::default(),
        };
        let services =
            [service("reviews", vec![[10, 96, 0, 1].into(), "fd96::1".parse().unwrap()]), service("peers", vec![])];
        Mesh::new(Arc::new(Snapshot {
            generation: 3,
            workloads: [(name, Arc::new(workload))].into(),
            services: services.into_iter().map(|s| (s.name.clone(), Arc::new(s))).collect(),
            ..Snapshot::default()
        }))
    }

    #[test]
    fn every_way_to_name_a_target_means_an_address() {
        let mesh = mesh();
        for (text, family, address) in [
            ("10.9.9.9:443", Family::First, "10.9.9.9:443"),
            ("[fd10::9]:443", Family::First, "[fd10::9]:443"),
            ("reviews.shop:80", Family::First, "10.96.0.1:80"),
            ("reviews.shop.svc:80", Family::First, "10.96.0.1:80"),
            ("reviews.shop.svc.cluster.local:80", Family::V6, "[fd96::1]:80"),
            ("shop/reviews:80", Family::First, "10.96.0.1:80"),
            ("shop/web:9000", Family::V6, "[fd10::1]:9000"),
        ] {
            assert_eq!(target(&mesh, text, (family, Protocol::Tcp)).unwrap().to_string(), address, "{text}");
        }
    }

    #[test]
    fn a_target_that_means_nothing_says_what_is_there() {
        let mesh = mesh();
        for (text, says) in [
            ("reviews.shop", "no port"),
            ("reviews.shop:81", "it has 80"),
            ("peers.shop:80", "headless"),
            ("nobody.shop:80", "shop/reviews"),
            ("fd10::1:80:99999", "no port"),
            ("fd10:0:0:0:0:0:0:1:80", "[fd10:0:0:0:0:0:0:1]:80"),
            ("reviews:80", "name.namespace"),
        ] {
            let error = target(&mesh, text, (Family::First, Protocol::Tcp)).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_caller_is_found_by_name_and_by_any_address() {
        let mesh = mesh();
        for text in ["shop/web", "10.0.0.1", "fd10::1", "::ffff:10.0.0.1"] {
            assert_eq!(&*workload(&mesh, text).unwrap().name.name, "web", "{text}");
        }
        assert!(workload(&mesh, "shop/nobody").unwrap_err().to_string().contains("shop/web"));
        assert!(workload(&mesh, "web").is_err());
    }
}
