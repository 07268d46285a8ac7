//! The scenes about what the mesh does without being asked: capture, encryption, getting out of the way.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    Demo,
    shop::{SERVERS, VISITOR},
    stage::{Tone, bytes, human},
    tree, wire,
};
use crate::{
    capture::tls::{TLS_1_3, X25519MLKEM768},
    clock,
    lab::Lab,
    mesh::Part,
    process,
    shop::Hop,
    topology::Names,
};

/// What the visitor asks for: it makes every service of the shop speak.
const ORDER: &str = "http://web/order";

/// A line of the answer of orders, on the other node: what an eavesdropper would like to see.
const SECRET: &str = "\"order\": \"placed\"";

/// How long a packet that was sent may take to be in the capture's file.
const WRITTEN: Duration = Duration::from_secs(5);

/// Same-node calls made to show that no proxy carries them.
const SAME_NODE_CALLS: u32 = 200;

pub(super) fn without_the_mesh(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    stage.whisper(format!(
        "real processes in network namespaces mr{}-*, on this kernel, Linux {}",
        lab.number(),
        kernel()?
    ));
    for pod in &lab.topology().pods {
        let node = lab.pod(&pod.plan.name)?.node();
        let (v4, v6) = (pod.addresses.v4, pod.addresses.v6);
        stage.say(format!("node {node}  {:<18} {v4:<12} {v6}", pod.plan.name));
    }
    lab.name_services(Names::Pods)?;
    stage.say("names lead straight to pods: there is nobody who balances");
    let capture = lab.capture("a", "clear")?;
    let hop = order(lab)?;
    let n = tree::edges(&hop).len();
    stage.check(n == 6, format!("curl {ORDER} works: {n} calls, {} between the nodes", between(&hop)));
    let lines = capture.shows(WRITTEN, "the answer is on the wire", |flows| {
        let seen = ["GET /place", SECRET].map(|needle| wire::clear_line(flows, needle));
        seen.into_iter().collect::<Option<Vec<_>>>().context("orders' answer is not seen")
    })?;
    stage.say(format!("captured on node a's uplink:  {}", stage.tone(Tone::Bad, lines.join(" … "))));
    stage.check(lines.len() == 2, "anyone on the wire between the nodes reads question and answer");
    Ok(())
}

pub(super) fn mesh_starts(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    lab.name_services(Names::Services)?;
    let took = lab.start_mesh()?;
    let n_pods = lab.topology().pods.len();
    stage.say(format!(
        "control, and an agent and a proxy on each node: ready in {}",
        stage.tone(Tone::Strong, human(took))
    ));
    let n_running = lab.still_run()?;
    stage.check(
        n_running == SERVERS.len(),
        format!("{n_pods} pods are in the mesh; the {n_running} processes in them run on, not restarted"),
    );
    let inside = std::fs::read_to_string(lab.pod("shop/web")?.place()?.cgroup.join("cgroup.procs"))?;
    stage.check(inside.lines().count() == 1, "processes in web's pod: 1, the shop itself; no sidecar");
    for node in ["a", "b"] {
        let proxy = lab.admin(Part::Proxy(node)).metrics()?.names().len();
        ensure!(proxy > 0, "the proxy of node {node} has no metrics");
    }
    Ok(())
}

pub(super) fn hop_by_hop(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, capture, path } = demo;
    *capture = Some(lab.capture("a", "mesh")?);
    let before = tunnelled(lab)?;
    let hop = order(lab)?;
    let pod = |address| owner(lab, address).unwrap_or("?".to_owned());
    let same_node = stage.tone(Tone::Faint, "same node: kernel alone");
    let legend = tree::Legend { pod: &pod, same_node, between: stage.tone(Tone::Good, "other node: mTLS") };
    stage.whisper(format!(
        "{:<22} {:<5} {:>8}  {:<24} {}",
        "service", "node", "took", "accept() saw", "how it was called"
    ));
    tree::draw(&hop, "a", &legend).iter().for_each(|line| stage.say(line));
    let (crossing, carried) = (between(&hop), tunnelled(lab)? - before);
    stage.check(
        carried == crossing as f64,
        format!("{crossing} calls cross nodes; the proxies carried {carried} connections, one each"),
    );
    let edges = tree::edges(&hop);
    let wrong: Vec<String> = edges.iter().filter_map(|edge| saw_another(lab, edge)).collect();
    stage.check(
        wrong.is_empty(),
        format!("each of the {} servers saw its caller's own address {}", edges.len(), wrong.join("; ")),
    );
    *path = Some(hop);
    Ok(())
}

pub(super) fn on_the_wire(demo: &mut Demo) -> Result<()> {
    let Demo { stage, capture, path, .. } = demo;
    let crossing = path.as_ref().map_or(0, between);
    let capture = capture.take().context("nothing was captured")?;
    let (sessions, outside, secret) = capture.shows(WRITTEN, "the tunnels are on the wire", |flows| {
        let sessions = wire::sessions(flows)?;
        ensure!(sessions.iter().all(|(_, session)| session.n_encrypted > 4), "a tunnel has carried nothing");
        let kept: Vec<_> = sessions.into_iter().map(|(flow, session)| (flow.source, flow.target, session)).collect();
        Ok((kept, wire::bytes_outside_tunnels(flows), wire::clear_line(flows, SECRET)))
    })?;
    for (source, target, session) in &sessions {
        let cipher = wire::cipher_name(session.cipher);
        let size = bytes(session.encrypted_bytes as u64);
        let (from, to) = (source.ip(), target);
        stage.say(format!("{from} → {to:<18} {cipher}, {} records, {size} encrypted", session.n_encrypted));
    }
    let n = sessions.len();
    let all = |is: &dyn Fn(&crate::capture::tls::Session) -> bool| sessions.iter().all(|(.., session)| is(session));
    stage.check(
        all(&|session| session.version == TLS_1_3),
        format!("{n} tunnels for {crossing} calls: every one TLS 1.3"),
    );
    stage.check(
        all(&|session| session.group == X25519MLKEM768),
        "key exchange: X25519MLKEM768, safe from a later quantum computer",
    );
    stage.check(all(&|session| !session.server_name), "the hellos name no service");
    stage.check(
        secret.is_none() && outside == 0,
        format!("{outside} bytes between pods outside the tunnels; {SECRET} is nowhere"),
    );
    Ok(())
}

pub(super) fn same_node(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    let url = format!("http://web/health?[1-{SAME_NODE_CALLS}]");
    let before = proxy_bytes(lab)?;
    let start = clock::now();
    let answers = lab.pod(VISITOR)?.run(&[
        "curl",
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}\n",
        "--header",
        "connection: close",
        &url,
    ])?;
    let took = start.elapsed() / SAME_NODE_CALLS;
    let n_ok = answers.stdout.lines().filter(|code| *code == "200").count();
    let through = proxy_bytes(lab)? - before;
    stage.say(format!("visitor → web, both on node a: {n_ok} calls on new connections, {} each", human(took)));
    stage.check(n_ok == SAME_NODE_CALLS as usize, format!("{n_ok} of {SAME_NODE_CALLS} answered"));
    stage.check(through == 0.0, format!("bytes through any proxy meanwhile: {through}"));
    Ok(())
}

pub(super) fn operator(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    let program = lab.binaries().path("millrace")?;
    let questions: [(&[&str], i32); 3] = [
        (&["status"], 0),
        (&["explain", "shop/cart", "database.shop:80"], 0),
        (&["explain", VISITOR, "database.shop:80"], 1), // "No" is said by the exit code too.
    ];
    for (arguments, expected) in questions {
        let mut command = lab.place("a")?.command(&program)?;
        command.arg("--run-dir").arg(lab.run_directory("a")).args(arguments);
        let output = process::run(command, WRITTEN)?;
        stage.say(stage.tone(Tone::Strong, format!("$ millrace {}", arguments.join(" "))));
        stage.say(output.stdout.trim_end());
        let code = output.status.code().unwrap_or(-1);
        stage.check(code == expected, format!("exit code {code} {}", output.stderr.trim()));
    }
    Ok(())
}

/// One order, as the visitor gets it.
pub(super) fn order(lab: &Lab) -> Result<Hop> {
    Ok(serde_json::from_str(&lab.pod(VISITOR)?.get(ORDER)?)?)
}

/// How many calls of a path go from one node to the other; the visitor is on node a.
fn between(root: &Hop) -> usize {
    let nodes: BTreeMap<String, String> =
        tree::edges(root).into_iter().map(|edge| (edge.to.clone(), edge.node.clone())).collect();
    let from = |edge: &tree::Edge| edge.from.as_ref().and_then(|pod| nodes.get(pod).cloned()).unwrap_or("a".to_owned());
    tree::edges(root).iter().filter(|edge| from(edge) != edge.node).count()
}

/// The short name of the pod that has this address.
fn owner(lab: &Lab, address: IpAddr) -> Option<String> {
    let pod = lab.topology().pods.iter().find(|pod| pod.addresses.both().contains(&address))?;
    Some(pod.name.name.to_string())
}

fn saw_another(lab: &Lab, edge: &tree::Edge) -> Option<String> {
    let caller = edge.from.as_deref().unwrap_or(VISITOR);
    let own = lab.pod(caller).ok()?.addresses().both();
    (!own.contains(&edge.saw)).then(|| format!("{} saw {} and not {caller}", edge.to, edge.saw))
}

/// Connections that proxies took from applications of their own node.
fn tunnelled(lab: &Lab) -> Result<f64> {
    let count = |node| -> Result<f64> {
        let metrics = lab.admin(Part::Proxy(node)).metrics()?;
        Ok(metrics.sum("millrace_proxy_connections_opened_total", &[("direction", "outbound")]))
    };
    Ok(count("a")? + count("b")?)
}

/// Bytes that any proxy carried.
fn proxy_bytes(lab: &Lab) -> Result<f64> {
    let count =
        |node| -> Result<f64> { Ok(lab.admin(Part::Proxy(node)).metrics()?.sum("millrace_proxy_bytes_total", &[])) };
    Ok(count("a")? + count("b")?)
}

fn kernel() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}
