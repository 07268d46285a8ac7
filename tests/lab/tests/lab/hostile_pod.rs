//! A pod that means harm, root in its namespace with NET_RAW and NET_ADMIN: what it tries, what stops it, and what its neighbours
//! feel of it. The table that this prints is docs/HOSTILE.md's.

mod attacks;
mod beside;
mod forgery;

use anyhow::{Context as _, Result, bail, ensure};
use beside::{Neighbours, Row};
use millrace_lab::{
    Lab, Part, Plan, Pod, clock,
    frames::{Mac, Wire},
    intruder::Tried,
    manifests::{Rule, access_policy},
};

use crate::scene::{self, CALL};

/// The hostile pod.
const MALLORY: &str = "other/mallory";
/// The application that it may not call; its neighbours may.
const BOB: &str = "shop/bob";
/// One that everybody may call.
const CAROL: &str = "shop/carol";
/// Whose name is taken: may call bob.
const DAVE: &str = "shop/dave";
/// Neighbours that call bob all the while: on this node, and from another.
const ALICE: &str = "shop/alice";
const FAR: &str = "shop/far";

fn plan(name: &str) -> Plan {
    let pods = [MALLORY, BOB, CAROL, DAVE, ALICE].map(Pod::new);
    Plan::new(name).node("a", pods).node("b", [Pod::new(FAR)])
}

/// Runs a test where bob serves, and lets everybody call him but mallory.
#[track_caller]
fn town(name: &str, test: impl FnOnce(&mut Lab) -> Result<()>) {
    scene::mesh(&plan(name), |lab| {
        let allowed = Rule::identities(&[ALICE, DAVE, FAR]);
        lab.apply(&access_policy("shop/guard", "Allow", "bob", &[allowed])?)?;
        let _serving = [lab.pod(BOB)?.serves("[::]:8080", &[])?, lab.pod(CAROL)?.serves("[::]:8080", &[])?];
        let bob = lab.pod(BOB)?.at(8080);
        clock::until(CALL, "mallory may not call bob", || lab.pod(MALLORY)?.is_refused(bob))?;
        lab.pod(FAR)?.connects(bob)?;
        test(lab)
    });
}

/// How often node a decided so.
fn decided(lab: &Lab, reason: &str) -> Result<f64> {
    Ok(lab.admin(Part::Agent("a")).metrics()?.sum("millrace_kernel_decisions_total", &[("reason", reason)]))
}

/// One connect of the hostile pod's.
fn tries(lab: &Lab, arguments: &[&str]) -> Result<Tried> {
    let program = lab.binaries().path("intruder")?.display().to_string();
    let mut all = vec![program.as_str(), "connect"];
    all.extend(arguments);
    let said = lab.pod(MALLORY)?.run(&all)?.ok()?;
    serde_json::from_str(&said).with_context(|| format!("intruder {}: {said:?}", arguments.join(" ")))
}

/// A connect that must fail with this errno, and without a word of the application's.
fn fails(lab: &Lab, errno: i32, arguments: &[&str]) -> Result<()> {
    let tried = tries(lab, arguments)?;
    let expected = Tried { error: Some(format!("errno {errno}")), greeting: None };
    ensure!(tried == expected, "connect {}: {tried:?}, not {expected:?}", arguments.join(" "));
    Ok(())
}

/// The interface of a pod, as one who is root there has it.
fn wire(lab: &Lab, pod: &str) -> Result<Wire> {
    Ok(lab.pod(pod)?.place()?.inside(|| Wire::on("eth0"))??)
}

fn mac(lab: &Lab, pod: &str) -> Result<Mac> {
    Ok(wire(lab, pod)?.mac)
}

/// Runs `ip` in a pod, as its root can.
fn ip(lab: &Lab, pod: &str, words: &str) -> Result<()> {
    let all: Vec<&str> = std::iter::once("ip").chain(words.split(' ')).collect();
    lab.pod(pod)?.run(&all)?.ok().map(drop)
}

#[test]
fn every_attack_is_refused_or_without_effect_on_others() {
    town("hostile-pod", |lab| {
        let mut table = Vec::new();
        for attack in attacks::ALL.iter().chain(&forgery::ALL) {
            table.push(endured(lab, attack).with_context(|| format!("it {}", attack.what))?);
        }
        println!("{}", beside::table(&table));
        Ok(())
    });
}

/// The attacks that are about numbers, with the numbers of the issue.
#[test]
#[ignore = "long: 100,000 half-open connections and 20,000 connects to black holes"]
fn attacks_by_numbers_in_full() {
    town("hostile-many", |lab| {
        let mut table = Vec::new();
        for attack in &attacks::LONG {
            table.push(endured(lab, attack).with_context(|| format!("it {}", attack.what))?);
        }
        println!("{}", beside::table(&table));
        Ok(())
    });
}

/// What the table's connects come to where no policy forbids them: so it is not the tool that fails.
#[test]
fn the_same_connects_succeed_where_policy_allows_them() {
    town("hostile-free", |lab| {
        lab.remove(&access_policy("shop/guard", "Allow", "bob", &[])?)?;
        let bob = lab.pod(BOB)?.at(8080);
        clock::until(CALL, "mallory may call bob", || lab.pod(MALLORY)?.connects(bob))?;
        let (bob, below) = (bob.to_string(), lab.pod(MALLORY)?.place()?.cgroup.join("deeper").display().to_string());
        let ways: [&[&str]; 6] =
            [&[], &["--mark", "15008"], &["--cgroup", &below], &["--mptcp"], &["--fast-open"], &["--user"]];
        for way in ways {
            let tried = tries(lab, &[&[bob.as_str()], way].concat())?;
            ensure!(tried.greeting.is_some(), "connect {way:?}: {tried:?}");
        }
        Ok(())
    });
}

/// Another CNI's pod, say: it works, and status says what it lacks.
#[test]
fn a_pod_whose_interface_is_no_veth_is_named_on_status() {
    scene::plain(&plan("unguarded"), |lab| {
        let v4 = lab.pod(DAVE)?.addresses().v4;
        for words in
            ["link del eth0", "link add eth0 type bridge", "link set eth0 up", &format!("addr add {v4}/24 dev eth0")]
        {
            ip(lab, DAVE, words)?;
        }
        lab.start_mesh()?;
        let status = lab.admin(Part::Agent("a")).json("/status")?;
        let workloads = status.pointer("/workloads").and_then(serde_json::Value::as_array).context("workloads")?;
        let unguarded: Vec<&str> = workloads
            .iter()
            .filter(|workload| workload.get("unguarded").is_some_and(serde_json::Value::is_string))
            .filter_map(|workload| workload.get("name")?.as_str())
            .collect();
        ensure!(unguarded == [DAVE], "dave alone is named: {status}");
        Ok(())
    });
}

/// Something a hostile pod does, and what stops it.
struct Attack {
    what: &'static str,
    stopped_by: &'static str,
    /// Why the kernel says that it stopped it; none: it has no say.
    reasons: &'static [&'static str],
    /// Tries; what became of it, in a few words. An error is an attack that succeeded, or could not be tried.
    run: fn(&Lab) -> Result<String>,
}

/// Runs an attack while neighbours call, and checks that they felt nothing, and that what stopped it has counted.
fn endured(lab: &Lab, attack: &Attack) -> Result<Row> {
    let before: Vec<f64> = attack.reasons.iter().map(|reason| decided(lab, reason)).collect::<Result<_>>()?;
    let neighbours = Neighbours::begin(lab)?;
    let outcome = (attack.run)(lab);
    let calls = neighbours.end()?;
    let outcome = outcome?;
    for (reason, before) in attack.reasons.iter().zip(before) {
        clock::until(CALL, &format!("{reason} is counted"), || {
            let now = decided(lab, reason)?;
            if now > before { Ok(()) } else { bail!("it stands at {now}") }
        })?;
    }
    ensure!(calls.n_failed == 0, "neighbours felt it: {} of their calls failed: {:?}", calls.n_failed, calls.failures);
    ensure!(calls.connects > 0 && calls.echoes > 0, "neighbours called all the while");
    Ok(Row { what: attack.what, outcome, stopped_by: attack.stopped_by, reasons: attack.reasons, calls })
}
