//! What comes back after it was away, or comes anew under its old name: namespaces, agents, names that lead nowhere.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use millrace_lab::{
    Lab, Part, Plan, Pod, clock,
    manifests::{self, Rule, access_policy, encryption_policy},
    network, plan,
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    mount::{UnmountFlags, unmount},
    process::{Pid, Resource, Rlimit, getrlimit, prlimit},
};

use crate::scene::{self, CALL};

/// Two ticks of the agent and more: what it does of itself, it has done by then.
const A_WHILE: Duration = Duration::from_secs(2);

fn plan() -> Plan {
    Plan::new("returns")
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("web"), Pod::new("shop/loner").outside()])
        .node("b", [Pod::new("shop/far").app("web"), Pod::new("shop/hermit").outside()])
}

fn restart(lab: &mut Lab, node: &str) -> Result<()> {
    lab.take(Part::Agent(node))?.stop()?;
    lab.start(Part::Agent(node))?;
    lab.wait_ready(Part::Agent(node))
}

/// Checks that `what` holds for a while, and not only at first.
fn stays<T>(what: impl Fn() -> Result<T>) -> Result<()> {
    let until = clock::now() + A_WHILE;
    while clock::now() < until {
        what()?;
    }
    Ok(())
}

/// The name is gone, the pod is not: as after `ip netns del` while its processes live.
#[test]
fn a_strict_pod_whose_namespace_lost_its_name_stays_strict_through_an_agents_restart() {
    scene::mesh(&plan(), |lab| {
        let _serving = lab.pod("shop/far")?.serves("[::]:8080", &[])?;
        let far = lab.pod("shop/far")?.at(8080);
        lab.apply(&encryption_policy("shop/strict", "Strict", "web")?)?;
        let outsiders = ["shop/loner", "shop/hermit"];
        for outsider in outsiders {
            clock::until(CALL, "plain text is refused", || lab.pod(outsider)?.is_refused(far))?;
        }
        unmount(network::netns(lab.number(), "shop/far"), UnmountFlags::DETACH)?;
        restart(lab, "b")?;
        stays(|| outsiders.iter().try_for_each(|outsider| lab.pod(outsider)?.is_refused(far).map(drop)))?;
        // And it is a pod of the mesh still: its listeners lead to its namespace where no path does.
        clock::until(CALL, "the mesh reaches it", || lab.pod("shop/client")?.connects(far))?;
        Ok(())
    });
}

/// With the same path, address and uid, as in a directory of manifests.
#[test]
fn a_namespace_made_anew_under_its_old_name_is_served_again() {
    scene::mesh(&plan(), |lab| {
        let (client, far) = (lab.pod("shop/client")?, lab.pod("shop/far")?);
        let serving = far.serves("[::]:8080", &[])?;
        client.connects(far.at(8080))?;
        drop(serving);
        make_anew(lab, "shop/far", "b")?;
        let _serving = far.serves("[::]:8080", &[])?;
        clock::until(CALL, "it is reached", || client.connects(far.at(8080)))?;
        let _back = client.serves("[::]:8080", &[])?;
        clock::until(CALL, "it reaches others", || far.connects(client.at(8080)))?;
        Ok(())
    });
}

/// Deletes a pod's namespace, and makes it as the lab did.
fn make_anew(lab: &Lab, name: &str, node: &str) -> Result<()> {
    let pod = lab.topology().pod(name)?;
    let namespace =
        |of: &str| network::netns(lab.number(), of).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (pods, nodes, port) = (namespace(name), namespace(node), format!("p{}", pod.number));
    let (gateway, own) = (plan::pod_addresses(pod.node, 0), pod.addresses);
    let commands = [
        // Its link goes with it, but only when the last process has ended: not to be waited for.
        format!("-n {nodes} link del {port}"),
        format!("netns del {pods}"),
        format!("netns add {pods}"),
        format!("-n {nodes} link add {port} type veth peer name eth0 netns {pods}"),
        format!("-n {nodes} link set {port} master pods0 up"),
        format!("-n {pods} link set lo up"),
        format!("-n {pods} link set eth0 up"),
        format!("-n {pods} addr add {}/24 dev eth0", own.v4),
        format!("-n {pods} addr add {}/64 dev eth0 nodad", own.v6),
        format!("-n {pods} route add default via {}", gateway.v4),
        format!("-n {pods} route add ::/0 via {}", gateway.v6),
        // What a CNI does by gratuitous ARP: the node must not go on sending to the link-layer address that is gone.
        format!("-n {nodes} neigh flush dev pods0"),
    ];
    for command in commands {
        let output = Command::new("ip").args(command.split(' ')).output()?;
        ensure!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Whoever may write a pod's manifest says what path is opened as root.
#[test]
fn a_namespace_that_is_none_hangs_nobody_else() {
    scene::mesh(&plan(), |lab| {
        let _serving = lab.pod("shop/far")?.serves("[::]:8080", &[])?;
        let far = lab.pod("shop/far")?.at(8080);
        let pipe = lab.directory().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let mut hostile = manifests::pod(lab.number(), lab.topology(), lab.topology().pod("shop/hermit")?);
        hostile["metadata"]["annotations"]["millrace.dev/netns"] = serde_json::json!(pipe);
        hostile["metadata"]["labels"] = serde_json::json!({});
        lab.apply(&hostile)?;
        clock::until(CALL, "it is pending, with a reason", || {
            let status = lab.admin(Part::Agent("b")).get("/status")?;
            ensure!(status.contains("it is no namespace"), "{status}");
            Ok(())
        })?;
        lab.apply(&access_policy("shop/nobody", "Deny", "web", &[Rule::namespace("shop")])?)?;
        let client = lab.pod("shop/client")?;
        clock::until(CALL, "a policy is applied all the same", || client.is_refused(far))?;
        Ok(())
    });
}

/// An agent that can't load its programs says so and ends; the one that runs never learns of it.
#[test]
fn an_agent_that_cannot_begin_takes_nothing_over() {
    scene::mesh(&plan(), |lab| {
        let _serving = lab.pod("shop/near")?.serves("[::]:8080", &[])?;
        let near = lab.pod("shop/near")?.at(8080);
        let place = lab.place("a")?;
        let mut broken = place.command(lab.binaries().path("millrace-agent")?)?;
        // Where its pins belong there is a file.
        let bpffs = lab.directory().join("no-bpffs");
        std::fs::write(&bpffs, "")?;
        broken.args(["--node", "a", "--control", "https://172.30.0.1:15443", "--bpffs"]).arg(bpffs);
        broken.arg("--run-dir").arg(lab.run_directory("a")).arg("--state-dir").arg(lab.state_directory("a"));
        broken.arg("--cgroup").arg(&place.cgroup);
        let output = millrace_lab::process::run(broken, Duration::from_secs(30))?;
        ensure!(!output.status.success() && output.stderr.contains("the kernel's half"), "it can't begin: {output:?}");
        lab.apply(&access_policy("shop/nobody", "Deny", "web", &[Rule::namespace("shop")])?)?;
        let client = lab.pod("shop/client")?;
        clock::until(CALL, "the older agent applies policy still", || client.is_refused(near))?;
        stays(|| lab.admin(Part::Agent("a")).ready())
    });
}

/// What could not be looked at when policy turned is looked at again.
#[test]
fn a_connection_between_pods_of_a_node_is_cut_though_the_agent_could_not_look_at_once() {
    scene::mesh(&plan(), |lab| {
        let mut serving = lab.pod("shop/near")?.serves("[::]:8080", &[])?;
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let target = lab.pod("shop/near")?.at(8080).to_string();
        let until = lab.directory().join("never").display().to_string();
        let _steady = lab.pod("shop/client")?.start("steady", &[&program, "steady", &target, "--until", &until])?;
        serving.says("\"command\":\"bye\"", CALL)?; // The long connection was opened before the first short one.
        let agent = Pid::from_raw(i32::try_from(lab.pid(Part::Agent("a"))?)?);
        let none = Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum };
        let before = prlimit(agent, Resource::Nofile, none)?;
        lab.apply(&access_policy("shop/nobody", "Deny", "web", &[Rule::namespace("shop")])?)?;
        clock::until(CALL, "the agent fails to look", || {
            let said = std::fs::read_to_string(lab.logs().join("a-agent.err"))?;
            ensure!(said.contains("a pod's namespace can't be read"));
            Ok(())
        })?;
        ensure!(!serving.output().contains("\"command\":\"echo\""), "the connection lives still");
        prlimit(agent, Resource::Nofile, before)?;
        serving.says("\"command\":\"echo\"", CALL)?;
        Ok(())
    });
}
