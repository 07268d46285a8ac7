//! What goes on when parts of the mesh do not.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
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
        let mut serving =
            vec![lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
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

    /// Ends it.
    fn end(mut self) -> Result<Steady> {
        std::fs::write(&self.until, "")?;
        self.process.wait(PATIENCE)?;
        std::fs::remove_file(&self.until)?;
        Ok(serde_json::from_str(self.process.output().lines().last().unwrap_or_default())?)
    }
}

/// Traffic before, during and after `act`: nothing of it may fail.
pub(crate) fn meanwhile(lab: &mut Lab, what: &str, act: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let traffic = Traffic::start(lab)?;
    act(lab)?;
    traffic.goes_on()?;
    let found = traffic.end()?;
    println!(
        "{what}: {} echoes on old connections, {} new ones, {} failed",
        found.echoes, found.connects, found.n_failed
    );
    if found.n_failed > 0 {
        let decisions = |node| -> Result<Vec<String>> {
            let metrics = lab.admin(Part::Agent(node)).metrics()?;
            let series = metrics.select("millrace_kernel_decisions_total", &[]).filter(|series| series.value > 0.0);
            Ok(series.map(|series| format!("{:?} {}", series.labels, series.value)).collect())
        };
        let (a, b) = (decisions("a"), decisions("b"));
        bail!("{what}: nothing fails, but: {found:?}\nnode a decided {a:?}\nnode b decided {b:?}");
    }
    Ok(())
}

#[test]
fn traffic_goes_on_while_control_is_away_and_agents_are_restarted() {
    scene::mesh(&scene::two_nodes("away"), |lab| {
        meanwhile(lab, "control killed", |lab| lab.take(Part::Control)?.kill())?;
        for node in ["a", "b"] {
            meanwhile(lab, &format!("agent {node} stopped"), |lab| lab.take(Part::Agent(node))?.stop().map(drop))?;
            meanwhile(lab, &format!("agent {node} started without control"), |lab| {
                lab.start(Part::Agent(node))?;
                lab.wait_ready(Part::Agent(node))
            })?;
        }
        meanwhile(lab, "control back", |lab| {
            lab.start(Part::Control)?;
            lab.wait_ready(Part::Control)?;
            lab.settle().map(drop)
        })
    });
}

/// Killed before it could save what it last got, it must not go back to what it knew before: the kernel's tables are newer.
#[test]
fn an_agent_killed_at_once_does_not_go_back_in_time() {
    scene::mesh(&scene::two_nodes("back"), |lab| {
        for node in ["a", "b"] {
            meanwhile(lab, &format!("agent {node} killed right after a change"), |lab| {
                lab.take(Part::Agent(node))?.kill()?;
                lab.start(Part::Agent(node))?;
                lab.wait_ready(Part::Agent(node))
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_killed_agent_comes_back_to_the_same_mesh() {
    scene::mesh(&scene::two_nodes("killed"), |lab| {
        for node in ["a", "b"] {
            meanwhile(lab, &format!("agent {node} killed and started"), |lab| {
                lab.take(Part::Agent(node))?.kill()?;
                lab.start(Part::Agent(node))?;
                lab.wait_ready(Part::Agent(node))?;
                lab.settle().map(drop)
            })?;
        }
        Ok(())
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

/// The newer proxy of a name gets the listeners; the older one serves what it has to its end.
#[test]
fn a_newer_proxy_takes_over_without_a_failed_connection() {
    scene::mesh(&scene::two_nodes("takeover"), |lab| {
        for node in ["a", "b"] {
            let what = format!("proxy of node {node} replaced");
            meanwhile(lab, &what, |lab| {
                let older = lab.take(Part::Proxy(node))?;
                lab.start(Part::Proxy(node))?;
                let agent = lab.admin(Part::Agent(node));
                clock::until(PATIENCE, "the newer proxy serves", || {
                    let said = std::fs::read_to_string(lab.logs().join(format!("{node}-agent.err")))?;
                    ensure!(said.matches("a proxy has registered").count() >= 2, "one has registered");
                    agent.ready()
                })?;
                lab.adopt(older); // It drains: its own connections live on in it.
                Ok(())
            })?;
        }
        Ok(())
    });
}
