//! What goes on when parts of the mesh do not.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_lab::{Lab, Part, clock, peer::Steady, process::Process};
use rustix::process::Signal;

use crate::scene;

const PATIENCE: Duration = Duration::from_secs(20);

/// Rounds of traffic that must pass in a state of things before it counts as seen.
const ROUNDS: usize = 200;

struct Traffic {
    process: Process,
    until: std::path::PathBuf,
    serving: Vec<Process>,
}

impl Traffic {
    /// Old connections and new ones, to the same node and to the other, by pod address and by service.
    fn start(lab: &Lab) -> Result<Self> {
        let mut serving = vec![lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let until = lab.directory().join("stop");
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let (near, far) = (lab.pod("shop/near")?.at(8080).to_string(), lab.pod("shop/far")?.at(8080).to_string());
        let path = until.display().to_string();
        let arguments = [&program, "steady", &near, &far, "web:80", "--until", &path];
        let process = lab.pod("shop/client")?.start("steady", &arguments)?;
        for server in &mut serving {
            server.says("\"command\":\"bye\"", PATIENCE)?;
        }
        Ok(Self { process, until, serving })
    }

    /// Waits until much more of it has passed.
    fn goes_on(&self) -> Result<()> {
        let count = || self.serving.iter().map(|server| server.output().lines().count()).sum::<usize>();
        let enough = count() + ROUNDS;
        clock::until(PATIENCE, "traffic goes on", || {
            ensure!(count() >= enough, "{} of {enough}", count());
            Ok(())
        })?;
        Ok(())
    }

    /// Ends it; nothing may have failed.
    fn end(mut self, meanwhile: &str) -> Result<()> {
        std::fs::write(&self.until, "")?;
        self.process.wait(PATIENCE)?;
        let found: Steady = serde_json::from_str(&self.process.output())?;
        println!("{meanwhile}: {} echoes on old connections, {} new ones, {} failed", found.echoes, found.connects, found.n_failed);
        ensure!(found.n_failed == 0, "{meanwhile}: nothing fails, but: {found:?}");
        Ok(())
    }
}

#[test]
fn traffic_goes_on_while_control_is_away_and_agents_are_restarted() {
    scene::mesh(&scene::two_nodes("away"), |lab| {
        let traffic = Traffic::start(lab)?;
        lab.take(Part::Control)?.kill()?;
        traffic.goes_on()?;
        for node in ["a", "b"] {
            lab.take(Part::Agent(node))?.stop()?;
            traffic.goes_on()?;
            lab.start(Part::Agent(node))?;
            traffic.goes_on()?;
        }
        lab.start(Part::Control)?;
        lab.wait_ready(Part::Control)?;
        traffic.goes_on()?;
        lab.settle()?;
        traffic.end("control away, each agent restarted without it")
    });
}

#[test]
fn a_killed_agent_comes_back_to_the_same_mesh() {
    scene::mesh(&scene::two_nodes("killed"), |lab| {
        let traffic = Traffic::start(lab)?;
        for node in ["a", "b"] {
            lab.take(Part::Agent(node))?.kill()?;
            traffic.goes_on()?;
            lab.start(Part::Agent(node))?;
            lab.wait_ready(Part::Agent(node))?;
            traffic.goes_on()?;
        }
        lab.settle()?;
        traffic.end("each agent killed and started again")
    });
}

/// New connections wait in the listeners' backlog; only the killed proxy's own connections are cut.
#[test]
fn after_a_killed_proxy_new_connections_succeed() {
    scene::mesh(&scene::two_nodes("proxy"), |lab| {
        let far = lab.pod("shop/far")?;
        let _serving = far.serves("[::]:8080", &[])?;
        lab.pod("shop/client")?.connects(far.at(8080))?;
        let proxy = lab.take(Part::Proxy("a"))?;
        proxy.signal(Signal::KILL)?;
        proxy.kill()?;
        lab.start(Part::Proxy("a"))?;
        let far = lab.pod("shop/far")?;
        lab.pod("shop/client")?.connects(far.at(8080))?; // At once: it waits for the new proxy, and is not refused.
        Ok(())
    });
}
