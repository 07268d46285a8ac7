//! NodeProfiles: what one asks is in force on its node alone, live where it can be; status says what is not, and why.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, Part, clock, peer::Steady};
use serde_json::{Value, json};

use crate::scene::{self, CALL};

/// An edit of the directory is in force within this time.
const IN_FORCE: Duration = Duration::from_secs(2);

fn profile(spec: &Value) -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "NodeProfile",
        "metadata": {"name": "edge"},
        "spec": spec,
    })
}

/// A setting of a node, as its agent tells it: what is wanted, what is in force, and the note.
fn setting(lab: &Lab, node: &str, field: &str) -> Result<[String; 3]> {
    let status = lab.admin(Part::Agent(node)).json("/status")?;
    let rows = status.pointer("/tuning/settings").and_then(Value::as_array).context("no settings on status")?;
    let row = rows.iter().find(|row| row["field"] == field).with_context(|| format!("no {field} in {rows:?}"))?;
    Ok(["wanted", "in_force", "note"].map(|part| row[part].as_str().unwrap_or_default().to_owned()))
}

/// Waits until a setting is in force.
pub(crate) fn comes(lab: &Lab, (node, field): (&str, &str), expected: &str) -> Result<()> {
    clock::until(IN_FORCE, &format!("{field} of {node} is {expected}"), || {
        let [_, in_force, note] = setting(lab, node, field)?;
        ensure!(in_force == expected, "it is {in_force}: {note}");
        Ok(())
    })?;
    Ok(())
}

/// The proxy's threads that carry connections.
fn workers(lab: &Lab, node: &str) -> Result<usize> {
    let mut n_workers = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", lab.pid(Part::Proxy(node))?))? {
        let name = std::fs::read_to_string(thread?.path().join("comm")).unwrap_or_default(); // It may have just ended.
        n_workers += usize::from(name.starts_with("worker-"));
    }
    Ok(n_workers)
}

/// The congestion controls of the established connections of a pod to or at this port.
fn algorithms(lab: &Lab, pod: &str, port: u16) -> Result<Vec<String>> {
    let said = lab.pod(pod)?.run(&["ss", "-tinHO", "state", "established"])?.ok()?;
    let of_port = said.lines().filter(|line| line.contains(&format!(":{port} ")));
    let known = ["cubic", "reno", "bbr", "dctcp"];
    Ok(of_port.flat_map(|line| line.split(' ').filter(|word| known.contains(word))).map(str::to_owned).collect())
}

#[test]
fn a_profile_is_in_force_on_its_node_alone_and_goes_without_a_trace() {
    scene::mesh(&scene::two_nodes("profile"), |lab| {
        let mut serving = lab.pod("shop/far")?.serves("[::]:8080", &[])?;
        let n_usual = workers(lab, "a")?;
        let spec = json!({
            "nodeSelector": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["b"]}]},
            "proxy": {"workers": n_usual + 2, "cpus": "0", "congestionControl": "cubic", "http2": {"streamWindowBytes": 2_097_152}},
            "pods": {"congestionControl": "reno"},
            "maps": {"DESTS": 200_000},
            "workloadLimits": {"maxConnections": 777, "shareWeight": 300},
        });
        lab.apply(&profile(&spec))?;
        comes(lab, ("a", "spec.proxy.workers"), &(n_usual + 2).to_string())?;
        clock::until(IN_FORCE, "the workers are there", || {
            let found = workers(lab, "a")?;
            ensure!(found == n_usual + 2, "{found}");
            Ok(())
        })?;
        comes(lab, ("a", "spec.proxy.cpus"), "0")?;
        comes(lab, ("a", "spec.proxy.http2.connectionWindowBytes"), "134217728")?;
        comes(lab, ("a", "spec.proxy.congestionControl"), "cubic")?;
        comes(lab, ("a", "spec.pods.congestionControl"), "reno")?;
        comes(lab, ("a", "spec.workloadLimits.maxConnections"), "777")?;
        comes(lab, ("a", "spec.workloadLimits.shareWeight"), "300")?;
        let [wanted, in_force, note] = setting(lab, "a", "spec.maps.DESTS")?;
        ensure!(
            (wanted.as_str(), in_force.as_str()) == ("200000", "131072") && note.contains("restart of the agent"),
            "{note}"
        );
        ensure!(workers(lab, "b")? == n_usual, "b is tuned by another's profile");
        ensure!(setting(lab, "b", "spec.proxy.congestionControl")?[0].is_empty(), "b is tuned by another's profile");

        // A connection made now: the tunnel by the proxy's, the caller's own end by the pods'.
        let target = lab.pod("shop/far")?.at(8080).to_string();
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let until = lab.directory().join("never").display().to_string();
        let _steady = lab.pod("shop/client")?.start("steady", &[&program, "steady", &target, "--until", &until])?;
        serving.says("\"command\":\"bye\"", CALL)?;
        ensure!(algorithms(lab, "shop/client", 15008)?.iter().all(|name| name == "cubic"), "the tunnel is not tuned");
        ensure!(!algorithms(lab, "shop/client", 15008)?.is_empty(), "no tunnel is seen");
        let own = algorithms(lab, "shop/client", 15801)?;
        ensure!(own.iter().any(|name| name == "reno"), "the pod's connection is not tuned: {own:?}");

        // A profile that can't be read changes nothing; one that asks for what the kernel lacks is told.
        let name = "nodeprofile-edge.yaml";
        lab.manifests().write(name, "apiVersion: millrace.dev/v1alpha1\nkind: NodeProfile\nmetadata: {name: edge}\nspec: {proxy: {workers: 0}}\n")?;
        clock::until(CALL, "the mistake is told", || {
            let status = lab.admin(Part::Control).json("/status")?.to_string();
            ensure!(status.contains("NodeProfile edge") && status.contains("spec.proxy.workers"), "{status}");
            Ok(())
        })?;
        comes(lab, ("a", "spec.proxy.workers"), &(n_usual + 2).to_string())?;
        lab.apply(&profile(&json!({"proxy": {"congestionControl": "no-such"}})))?;
        clock::until(CALL, "what the kernel lacks is told", || {
            let status = lab.admin(Part::Control).json("/status")?.to_string();
            ensure!(status.contains("no congestion control \\\"no-such\\\"") || status.contains("no-such"), "{status}");
            Ok(())
        })?;

        // Gone: everything is as it was, and what is too many ends once nothing rests on it.
        lab.remove(&profile(&Value::Null))?;
        comes(lab, ("a", "spec.proxy.workers"), &n_usual.to_string())?;
        comes(lab, ("a", "spec.proxy.congestionControl"), "by the kernel")?;
        comes(lab, ("a", "spec.workloadLimits.shareWeight"), "100")?;
        clock::until(CALL, "the workers that are too many have ended", || {
            let found = workers(lab, "a")?;
            // The one that carries the steady connection may be among them: it ends with it.
            ensure!(found <= n_usual + 1, "{found}");
            Ok(())
        })?;
        Ok(())
    });
}

/// Room that a profile asks is there after the agent's next start, and no connection notices.
#[test]
fn maps_get_their_room_at_the_agents_next_start_under_traffic() {
    scene::mesh(&scene::two_nodes("room"), |lab| {
        let _serving =
            [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        lab.apply(&profile(&json!({"maps": {"DESTS": 200_000, "SERVICES": 1_000}})))?;
        clock::until(CALL, "the profile is there", || {
            ensure!(setting(lab, "a", "spec.maps.DESTS")?[0] == "200000", "not yet");
            Ok(())
        })?;
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let until = lab.directory().join("done").display().to_string();
        let near = lab.pod("shop/near")?.at(8080).to_string();
        let arguments = [&program, "steady", "web:80", &near, "--until", &until];
        let mut steady = lab.pod("shop/client")?.start("steady", &arguments)?;
        lab.take(Part::Agent("a"))?.stop()?;
        lab.start(Part::Agent("a"))?;
        lab.wait_ready(Part::Agent("a"))?;
        clock::until(CALL, "the room is in force", || {
            let [_, in_force, note] = setting(lab, "a", "spec.maps.DESTS")?;
            ensure!((in_force.as_str(), note.as_str()) == ("200000", ""), "{in_force}: {note}");
            let failures = lab.admin(Part::Agent("a")).json("/status")?["failures"].to_string();
            ensure!(!failures.contains("kernel programs of pins"), "{failures}");
            Ok(())
        })?;
        std::fs::write(&until, "")?;
        steady.wait(CALL)?;
        let found: Steady = serde_json::from_str(&steady.output())?;
        ensure!(found.n_failed == 0 && found.echoes > 0, "a connection failed meanwhile: {found:?}");
        Ok(())
    });
}

/// As `millrace check` says of socket destroy: what runs within the node when policy turns lives until it ends by itself.
#[test]
fn without_socket_destroy_a_denied_connection_within_the_node_lives_on_and_a_new_one_is_refused() {
    use millrace_lab::manifests::{Rule, access_policy};

    let plan = scene::two_nodes("destroyless");
    scene::plain(&plan, |lab| {
        lab.agent_flags(&["--force-missing", "socket destroy"]);
        lab.start_mesh()?;
        let mut serving = lab.pod("shop/near")?.serves("[::]:8080", &[])?;
        let target = lab.pod("shop/near")?.at(8080).to_string();
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let until = lab.directory().join("done").display().to_string();
        let mut steady = lab.pod("shop/client")?.start("steady", &[&program, "steady", &target, "--until", &until])?;
        serving.says("\"command\":\"bye\"", CALL)?;
        lab.apply(&access_policy("shop/guard", "Allow", "web", &[Rule::identity("shop/caller")])?)?;
        clock::until(CALL, "a new connection is refused", || lab.pod("shop/client")?.is_refused(&*target))?;
        let closed = lab.admin(Part::Agent("a")).metrics()?.sum("millrace_agent_revoked_total", &[]);
        ensure!(closed == 0.0, "{closed} connections were closed by a kernel that can't");
        std::fs::write(&until, "")?;
        steady.wait(CALL)?;
        Ok(())
    });
}
