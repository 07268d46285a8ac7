//! `millrace run DIR`: control plane, agent and proxy on one host from one directory; and `millrace leave`, which takes all of it out.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use millrace_lab::{
    Lab, Plan, Pod,
    admin::Admin,
    clock,
    manifests::{Rule, access_policy},
    process::{Process, run},
};
use rustix::process::Signal;

use crate::scene::{self, CALL};

/// A whole mesh starts on one host within this time.
const START: Duration = Duration::from_secs(30);

fn millrace(lab: &Lab, directory: &Path, arguments: &[&str]) -> Result<Command> {
    let place = lab.place("a")?;
    let mut command = place.command(lab.binaries().path("millrace")?)?;
    command.args(arguments).args(["--node", "a", "--run-dir"]).arg(directory.join("run"));
    command.arg("--state-dir").arg(directory.join("state")).arg("--bpffs").arg(directory.join("bpf"));
    command.arg("--cgroup").arg(place.cgroup);
    Ok(command)
}

#[test]
fn millrace_run_is_a_whole_mesh_and_leave_takes_it_out() {
    let plan = Plan::new("standalone")
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("web"), Pod::new("other/stranger")])
        .service("shop/web", &[(80, 8080)]);
    scene::plain(&plan, |lab| {
        let directory = lab.directory().join("standalone");
        std::fs::create_dir_all(&directory)?;
        let manifests = lab.manifests().directory.display().to_string();
        let mut whole = Process::start(millrace(lab, &directory, &["run", &manifests])?, "millrace-run", &lab.logs())?;
        let _serving = lab.pod("shop/near")?.serves("[::]:8080", &[])?;
        let (client, stranger) = (lab.pod("shop/client")?, lab.pod("other/stranger")?);
        for process in ["control", "agent", "proxy"] {
            let admin = Admin { socket: directory.join(format!("run/{process}-admin.sock")) };
            clock::until(START, &format!("{process} is ready"), || {
                whole.still_runs()?;
                admin.ready()
            })?;
        }
        clock::until(CALL, "the service answers", || client.connects("web:80"))?;
        stranger.connects("web.shop:80")?;
        lab.apply(&access_policy("shop/guard", "Allow", "web", &[Rule::identity("shop/client")])?)?;
        let (_, took) = clock::until(CALL, "a stranger is refused", || stranger.is_refused("web.shop:80"))?;
        ensure!(took < Duration::from_secs(1), "in force within a second, not {took:?}");
        client.connects("web:80")?;
        whole.signal(Signal::TERM)?;
        let ended = whole.wait(CALL)?;
        ensure!(ended.success(), "SIGTERM ends it in order: {ended}");
        stranger.is_refused("web.shop:80")?; // The kernel's programs stay: what was refused is refused still.
        client.connects("web:80")?;
        run(millrace(lab, &directory, &["leave"])?, CALL)?.ok()?;
        stranger.connects(lab.pod("shop/near")?.at(8080))?; // Without the mesh nobody refuses, and nobody balances.
        rustix::mount::unmount(directory.join("bpf"), rustix::mount::UnmountFlags::DETACH).ok(); // Mounted by `run`, if at all.
        Ok(())
    });
}
