//! Starts etcd and the API server, and waits until they answer.

use std::{process::Command, thread, time::Duration};

use anyhow::{Result, bail};

use super::{
    command,
    place::{Place, Ports},
    process, wire,
};
use crate::{clock, console};

/// An API server on two busy cores takes 20 s; ten times that is a fault.
const PATIENCE: Duration = Duration::from_secs(200);
/// How often it is asked: it tells nobody that it is ready.
const LOOK: Duration = Duration::from_millis(100);
/// Services' addresses, of both families.
const SERVICES: &str = "10.96.0.0/16,fd96::/112";
/// What acts on objects where there are nodes.
const ACTING: [(u32, &str); 2] = [(4, "kube-controller-manager"), (5, "kube-scheduler")];

/// Makes the keys, certificates and kubeconfigs that are not there.
pub(super) fn certificates(place: &Place, ports: &Ports) -> Result<()> {
    let mut make = command(place.program("certificates"));
    make.arg("--folder").arg(place.folder.join("secrets"));
    make.args(["--server", &format!("127.0.0.1:{}", ports.api)]);
    let nodes: Vec<String> = (1..=place.nodes()?).map(|node| format!("node-{node}={}", wire::address(node))).collect();
    if nodes.is_empty() {
        make.args(["--names", "10.96.0.1"]);
    } else {
        make.args(["--names", &format!("10.96.0.1,{}", wire::CONTROL), "--nodes", &nodes.join(",")]);
        make.args(["--inside", &format!("{}:{}", wire::CONTROL, ports.api)]);
    }
    console::run(&mut make)
}

/// Starts both, and returns when the API server is ready; where there are nodes, what acts on objects too.
pub(super) fn start(place: &Place, ports: &Ports) -> Result<()> {
    let has_nodes = place.nodes()? > 0;
    process::start_once(place, (1, "etcd"), &mut etcd(place, ports))?;
    process::start_once(place, (2, "kube-apiserver"), &mut api_server(place, ports, has_nodes))?;
    if has_nodes {
        let mut relay = command(std::env::current_exe()?);
        relay.args(["cluster", "relay", "--name", &place.name()]);
        process::start_once(place, (3, "relay"), &mut relay)?;
    }
    wait(place)?;
    for (order, name) in ACTING.into_iter().filter(|_| has_nodes) {
        process::start_once(place, (order, name), &mut acting(place, name))?;
    }
    Ok(())
}

fn wait(place: &Place) -> Result<()> {
    let deadline = clock::now() + PATIENCE;
    while !is_ready(place) {
        for name in ["etcd", "kube-apiserver"] {
            if !process::runs(place, name)? {
                bail!("{name} ended: see {}", place.folder.join("logs").join(format!("{name}.log")).display());
            }
        }
        if clock::now() >= deadline {
            bail!("the API server is not ready after {} s", PATIENCE.as_secs());
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

fn is_ready(place: &Place) -> bool {
    let mut ask = kubectl(place);
    ask.args(["get", "--raw", "/readyz", "--request-timeout=2s"]);
    ask.output().is_ok_and(|said| said.status.success())
}

/// kubectl as the administrator.
pub(super) fn kubectl(place: &Place) -> Command {
    let mut kubectl = command(place.program("kubectl"));
    kubectl.arg("--kubeconfig").arg(place.kubeconfig());
    kubectl.arg("--cache-dir").arg(place.folder.join("data/kubectl"));
    kubectl
}

/// One of the control plane's programs: on the wire, where there are nodes.
fn program(place: &Place, name: &str) -> Command {
    let wire = wire::path(&wire::namespace(place));
    if !wire.exists() {
        return command(place.program(name));
    }
    let mut enter = command("nsenter");
    enter.arg(format!("--net={}", wire.display())).arg(place.program(name));
    enter
}

/// Controllers, or the scheduler.
fn acting(place: &Place, name: &str) -> Command {
    let mut command = program(place, name);
    let kubeconfig = place.secret(&format!("{name}.kubeconfig"));
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}")).arg(&kubeconfig);
    }
    command.args(["--bind-address=127.0.0.1", "--leader-elect=false"]);
    if name == "kube-controller-manager" {
        let mut file = |flag: &str, name: &str| {
            command.arg(format!("--{flag}")).arg(place.secret(name));
        };
        file("service-account-private-key-file", "service-accounts.key");
        file("root-ca-file", "ca.crt");
        command.args(["--use-service-account-credentials=true", "--service-cluster-ip-range", SERVICES]);
    }
    command
}

fn etcd(place: &Place, ports: &Ports) -> Command {
    let clients = format!("http://127.0.0.1:{}", ports.etcd);
    let peers = format!("http://127.0.0.1:{}", ports.etcd_peers);
    let mut etcd = program(place, "etcd");
    etcd.arg("--data-dir").arg(place.folder.join("data/etcd"));
    etcd.args(["--name=cluster", "--log-level=warn"])
        // A cluster for tests needs to survive its processes' ends, not the machine's.
        .arg("--unsafe-no-fsync")
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("cluster={peers}")]);
    etcd
}

fn api_server(place: &Place, ports: &Ports, has_nodes: bool) -> Command {
    let mut server = program(place, "kube-apiserver");
    let mut file = |flag: &str, name: &str| {
        server.arg(format!("--{flag}")).arg(place.secret(name));
    };
    file("tls-cert-file", "apiserver.crt");
    file("tls-private-key-file", "apiserver.key");
    file("client-ca-file", "ca.crt");
    file("kubelet-client-certificate", "kubelet-client.crt");
    file("kubelet-client-key", "kubelet-client.key");
    file("kubelet-certificate-authority", "ca.crt");
    file("service-account-key-file", "service-accounts.pub");
    file("service-account-signing-key-file", "service-accounts.key");
    file("requestheader-client-ca-file", "front-proxy-ca.crt");
    file("proxy-client-cert-file", "front-proxy.crt");
    file("proxy-client-key-file", "front-proxy.key");
    server
        .args(["--etcd-servers", &format!("http://127.0.0.1:{}", ports.etcd)])
        .args(["--secure-port", &ports.api.to_string()])
        .args(["--service-account-issuer=https://kubernetes.default.svc.cluster.local"])
        .args(["--service-cluster-ip-range", SERVICES])
        .args(["--requestheader-allowed-names=front-proxy", "--requestheader-username-headers=X-Remote-User"])
        .args(["--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-"])
        .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged"])
        .args(["--runtime-config=certificates.k8s.io/v1beta1=true", "--feature-gates=ClusterTrustBundle=true"]);
    if has_nodes {
        // In its own namespace, where nobody else is; a webhook's service is reached at its pods, as nobody carries its address there.
        server.args(["--bind-address=0.0.0.0", "--advertise-address", wire::CONTROL, "--enable-aggregator-routing"]);
        server.arg("--kubelet-preferred-address-types=InternalIP");
    } else {
        server.args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]);
        // No controller makes the service account `default`, without which no pod would be admitted.
        server.arg("--disable-admission-plugins=ServiceAccount");
    }
    server
}
