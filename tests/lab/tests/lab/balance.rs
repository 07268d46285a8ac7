//! Services balance by weight, and a table that changes under connects is never seen half.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_lab::{Lab, Plan, Pod, clock, manifests, peer::Steady, pod::BULK};

use crate::{held::Held, scene};

/// 4 standard deviations at 50/50 are 2 percentage points.
const CONNECTS: u32 = 10_000;

/// How often weights are flipped under connects in the lab. A thousand whole-table flips are made in tests/kernel, where no
/// control plane's window stands between them.
const FLIPS: u32 = 60;

fn plan(near: u32, far: u32) -> Plan {
    Plan::new("weights")
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("web").weight(near)])
        .node("b", [Pod::new("shop/far").app("web").weight(far)])
        .service("shop/web", &[(80, 8080)])
}

#[test]
fn ten_thousand_connects_follow_the_weights() {
    for (near, far) in [(50, 50), (90, 10)] {
        scene::mesh(&plan(near, far), |lab| {
            let _serving =
                [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
            let done = lab.pod("shop/client")?.connects_often("web:80", CONNECTS)?;
            ensure!(done.errors.is_empty(), "every connect succeeds: {done:?}");
            let share =
                100.0 * f64::from(done.by_name.get("shop/near").copied().unwrap_or_default()) / f64::from(CONNECTS);
            ensure!(
                (share - f64::from(near)).abs() < 2.0,
                "near gets {near} % within 2 points, not {share:.2} %: {done:?}"
            );
            println!("{near}/{far}: near got {share:.2} % of {CONNECTS} in {:.1} s", done.seconds);
            Ok(())
        });
    }
}

fn weigh(lab: &Lab, pod: &str, weight: u32) -> Result<()> {
    let mut pod = lab.topology().pod(pod)?.clone();
    pod.plan.weight = Some(weight);
    lab.apply(&manifests::pod(lab.number(), lab.topology(), &pod))?;
    Ok(())
}

#[test]
fn flips_under_connects_fail_none() {
    scene::mesh(&plan(1, 1), |lab| {
        let _serving =
            [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let until = lab.directory().join("stop");
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let path = until.display().to_string();
        let client = lab.pod("shop/client")?;
        let mut steady = client.start("steady", &[&program, "steady", "web:80", "--until", &path])?;
        for flip in 0..FLIPS {
            let (expected, other) = if flip % 2 == 0 { ("shop/far", "shop/near") } else { ("shop/near", "shop/far") };
            weigh(lab, expected, 1)?; // First, or there would be a moment without any backend.
            weigh(lab, other, 0)?;
            clock::until(Duration::from_secs(5), &format!("flip {flip} to {expected} is in force"), || {
                let called = client.connects("web:80")?;
                ensure!(called.greeting.is_some_and(|greeting| greeting.name == expected), "the other one answers");
                Ok(())
            })?;
        }
        std::fs::write(&until, "")?;
        steady.wait(BULK)?;
        let found: Steady = serde_json::from_str(&steady.output())?;
        ensure!(found.n_failed == 0, "no connect failed and no old connection broke: {found:?}");
        ensure!(found.connects > FLIPS * 4, "there were connects enough to see: {found:?}");
        println!("{FLIPS} flips under {} connects: none failed", found.connects);
        Ok(())
    });
}

/// On both sides of the balance: in the kernel's tables, and in the proxy's draw.
#[test]
fn an_endpoint_of_weight_zero_is_given_nothing_and_keeps_what_it_has() {
    scene::mesh(&plan(1, 1), |lab| {
        let _serving =
            [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let address = |name: &str| -> Result<_> { Ok(lab.pod(name)?.at(8080).to_string()) };
        for (zero, other) in [("shop/near", "shop/far"), ("shop/far", "shop/near")] {
            let open = Held::open(lab, ("shop/client", "crowd", &zero.replace('/', "-")), &address(zero)?, 5)?;
            weigh(lab, zero, 0)?;
            clock::until(scene::CALL, "the other alone is given connections", || {
                let done = lab.pod("shop/client")?.connects_often("web:80", 60)?;
                ensure!(done.errors.is_empty() && done.by_name.keys().eq([other]), "{done:?}");
                Ok(())
            })?;
            let open = open.look()?;
            ensure!((open.alive, open.closed) == (5, 0), "what it has goes on: {open:?}");
            weigh(lab, zero, 1)?;
            clock::until(scene::CALL, "it has its share again", || {
                let done = lab.pod("shop/client")?.connects_often("web:80", 60)?;
                ensure!(done.errors.is_empty() && done.by_name.len() == 2, "{done:?}");
                Ok(())
            })?;
        }
        Ok(())
    });
}
