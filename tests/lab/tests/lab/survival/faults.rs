//! What goes wrong beneath the processes: the directory is another one, a disk is full, a clock jumps, pins lose their place.

use std::{fs, io::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use millrace_lab::{
    Lab, Part, clock,
    manifests::{self, Rule, access_policy},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::scene::{self, CALL};

/// An edit is in force within this time, also on a busy machine.
const IN_FORCE: Duration = Duration::from_secs(10);

fn guard(app: &str) -> Result<serde_json::Value> {
    access_policy("shop/nobody", "Deny", app, &[Rule::namespace("shop")])
}

/// Restored from a backup, or checked out anew: other files, another directory, under the same path.
#[test]
fn a_directory_that_was_replaced_while_control_was_down_is_what_counts() {
    scene::mesh(&scene::two_nodes("replaced"), |lab| {
        let _serving =
            [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let (near, far) = (lab.pod("shop/near")?.at(8080), lab.pod("shop/far")?.at(8080));
        let before = access_policy("shop/strangers", "Deny", "web", &[Rule::namespace("other")])?;
        lab.apply(&before)?;
        let refuses = |lab: &Lab, from: &str, to| lab.pod(from)?.is_refused(to).map(drop);
        clock::until(IN_FORCE, "strangers are refused", || refuses(lab, "other/stranger", near))?;
        lab.take(Part::Control)?.stop()?;
        let (here, aside) = (manifests::directory(&lab.directory()), lab.directory().join("manifests-before"));
        fs::rename(&here, &aside)?;
        fs::create_dir(&here)?;
        for entry in fs::read_dir(&aside)? {
            let entry = entry?;
            fs::copy(entry.path(), here.join(entry.file_name()))?;
        }
        lab.remove(&before)?;
        lab.apply(&guard("web")?)?;
        refuses(lab, "other/stranger", near)?; // Nothing is in force that control has not said.
        lab.pod("shop/client")?.connects(far)?;
        lab.start(Part::Control)?;
        lab.wait_ready(Part::Control)?;
        clock::until(IN_FORCE, "what the new directory forbids is refused", || refuses(lab, "shop/client", far))?;
        // What it does not forbid is not: a tightening is in force a moment before what it loosens.
        clock::until(CALL, "strangers are let in", || lab.pod("other/stranger")?.connects(near))?;
        // And it is this directory that is watched.
        lab.remove(&guard("web")?)?;
        clock::until(IN_FORCE, "an edit of the new directory is in force", || {
            lab.pod("shop/client")?.connects(far).map(drop)
        })?;
        Ok(())
    });
}

/// A state directory on a disk of its own.
fn small_disk(at: &Path) -> Result<()> {
    fs::create_dir_all(at)?;
    Ok(mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(c"size=512k,mode=700"))?)
}

/// Fills a disk to its last byte.
fn fill(disk: &Path) -> Result<()> {
    let mut file = fs::File::create(disk.join("filler"))?;
    for size in [4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    let left = rustix::fs::statvfs(disk)?.f_bavail;
    ensure!(left == 0, "{left} blocks are left");
    Ok(())
}

#[test]
fn with_their_disks_full_agents_and_control_serve_on_and_save_again_when_there_is_room() {
    scene::plain(&scene::two_nodes("full"), |lab| {
        let disks = [lab.state_directory("a"), lab.directory().join("wire/state")];
        for disk in &disks {
            small_disk(disk)?;
        }
        lab.start_mesh()?;
        let _serving =
            [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let (near, far) = (lab.pod("shop/near")?.at(8080), lab.pod("shop/far")?.at(8080));
        for disk in &disks {
            fill(disk)?;
        }
        lab.apply(&guard("web")?)?;
        for to in [near, far] {
            clock::until(IN_FORCE, "an edit is in force", || lab.pod("shop/client")?.is_refused(to))?;
        }
        let token = lab.admin(Part::Control).request("POST", "/tokens", "{\"node\":\"c\"}")?;
        ensure!(token.status >= 500, "no token is made that could not be kept: {} {}", token.status, token.body);
        // What it adds to its journal fits into a block that it has, until that is full too.
        let more = access_policy("shop/nobody-either", "Deny", "web", &[Rule::namespace("shop")])?;
        let mut is_there = false;
        clock::until(CALL, "the agent says that it can't save", || {
            if is_there {
                lab.remove(&more)?;
            } else {
                lab.apply(&more)?;
            }
            is_there = !is_there;
            let said = fs::read_to_string(lab.logs().join("a-agent.err"))?;
            let warned = said.lines().any(|line| line.contains("\"level\":\"warn\"") && line.contains("No space left"));
            ensure!(warned, "it says nothing of it");
            Ok(())
        })?;
        if is_there {
            lab.remove(&more)?;
        }
        // Both started again meanwhile: the agent from an older Snapshot, and it hears of the newer.
        lab.take(Part::Agent("a"))?.kill()?;
        lab.take(Part::Control)?.kill()?;
        lab.start(Part::Control)?;
        lab.wait_ready(Part::Control)?;
        lab.start(Part::Agent("a"))?;
        lab.wait_ready(Part::Agent("a"))?;
        for to in [near, far] {
            clock::until(IN_FORCE, "what was in force is so", || lab.pod("shop/client")?.is_refused(to))?;
        }
        for disk in &disks {
            fs::remove_file(disk.join("filler"))?;
        }
        lab.remove(&guard("web")?)?;
        for to in [near, far] {
            clock::until(IN_FORCE, "an edit is in force with room again", || lab.pod("shop/client")?.connects(to))?;
        }
        let saved = lab.state_directory("a").join("snapshot");
        ensure!(fs::metadata(&saved)?.len() > 0, "and is saved");
        let token = lab.admin(Part::Control).request("POST", "/tokens", "{\"node\":\"c\"}")?;
        ensure!(token.status == 200, "tokens are made again: {} {}", token.status, token.body);
        Ok(())
    });
}

/// The files are unmounted under an agent that runs: what they pin must not go with them, nor be missing to the next agent.
#[test]
fn pins_outlive_their_file_system() {
    scene::mesh(&scene::two_nodes("unmounted"), |lab| {
        let _serving =
            [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let (near, far) = (lab.pod("shop/near")?.at(8080), lab.pod("shop/far")?.at(8080));
        lab.apply(&access_policy("shop/strangers", "Deny", "web", &[Rule::namespace("other")])?)?;
        let stranger = |lab: &Lab| lab.pod("other/stranger")?.is_refused(near).map(drop);
        clock::until(IN_FORCE, "strangers are refused", || stranger(lab))?;
        let bpffs = lab.bpffs("a")?;
        let pins = |bpffs: &Path| -> Result<usize> {
            let mut n = 0;
            for set in fs::read_dir(bpffs.join("millrace/a"))? {
                n += fs::read_dir(set?.path())?.count();
            }
            Ok(n)
        };
        let before = pins(&bpffs)?;
        ensure!(unmount(&bpffs, UnmountFlags::empty()).is_err(), "it is busy: the agent holds it");
        unmount(&bpffs, UnmountFlags::DETACH)?;
        stranger(lab)?;
        lab.pod("shop/client")?.connects(far)?;
        clock::until(CALL, "it is mounted again, and everything is pinned anew", || {
            let now = pins(&bpffs)?;
            ensure!(now == before, "{now} of {before} pins");
            Ok(())
        })?;
        // The next agent finds them: at no time is anything let through that policy forbids.
        lab.take(Part::Agent("a"))?.kill()?;
        stranger(lab)?;
        lab.start(Part::Agent("a"))?;
        while lab.admin(Part::Agent("a")).ready().is_err() {
            stranger(lab)?;
        }
        stranger(lab)?;
        lab.pod("shop/client")?.connects(far)?;
        lab.pod("shop/client")?.connects(near)?;
        Ok(())
    });
}

const DAY: i64 = 86_400;

/// Node b's date is wrong by days, either way: what can't be proven is refused by name, what is open stays, and all heals.
#[test]
fn a_clock_that_jumps_refuses_new_tunnels_and_cuts_none() {
    scene::plain(&scene::two_nodes("clock"), |lab| {
        lab.shift_clock("b", 0)?;
        lab.start_mesh()?;
        let _serving = lab.pod("shop/far")?.serves("[::]:8080", &[])?;
        let far = lab.pod("shop/far")?.at(8080);
        let program = lab.binaries().path("probe-peer")?.display().to_string();
        let until = lab.directory().join("stop");
        let arguments = [
            &program,
            "load",
            &far.to_string(),
            "--rate",
            "1",
            "--long",
            "10",
            "--until",
            &until.display().to_string(),
        ];
        let mut app = lab.pod("shop/far")?.start("app", &[&program, "app", "[::]:8081"])?;
        app.says("listening", CALL)?;
        let target = lab.pod("shop/far")?.at(8081).to_string();
        let arguments = arguments.map(|word| if *word == far.to_string() { target.as_str() } else { word });
        let mut open = lab.pod("shop/client")?.start("load", &arguments)?;
        open.says("open", CALL)?;
        for (from, shift, reason) in [("shop/near", 2 * DAY, "expired"), ("other/stranger", -2 * DAY, "not_yet_valid")]
        {
            lab.shift_clock("b", shift)?;
            lab.pod(from)?.is_refused(far)?; // No tunnel leads from it yet.
            let failed = lab.admin(Part::Proxy("b")).metrics()?;
            let failed = failed.sum("millrace_proxy_handshakes_failed_total", &[("end", "server"), ("reason", reason)]);
            ensure!(failed > 0.0, "node b says {reason}");
            lab.shift_clock("b", 0)?;
            clock::until(CALL, "with the right date it is let in", || lab.pod(from)?.connects(far))?;
        }
        fs::write(&until, "")?;
        open.wait(CALL * 3)?;
        let said = open.output();
        let found: millrace_lab::peer::load::Load =
            serde_json::from_str(said.lines().last().context("it says what it saw")?)?;
        ensure!(found.n_cut == 0 && found.n_failed == 0, "what was open stays open: {found:?}");
        // Neither jump has led the agent to throw anything away.
        lab.take(Part::Agent("b"))?.stop()?;
        lab.start(Part::Agent("b"))?;
        lab.wait_ready(Part::Agent("b"))?;
        lab.settle()?;
        lab.pod("shop/caller")?.connects(lab.pod("shop/far")?.at(8080))?;
        let status = lab.admin(Part::Agent("b")).json("/status")?;
        if status["failures"].as_array().is_some_and(|failures| !failures.is_empty()) {
            bail!("node b is well again: {}", status["failures"]);
        }
        Ok(())
    });
}
