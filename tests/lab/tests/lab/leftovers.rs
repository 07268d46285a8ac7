//! What remains of a lab: nothing, however it ended.

use std::{fs, panic, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, binaries::Binaries, cgroup, clock, process::Process, slot};

use crate::scene::{self, CALL};

#[test]
fn a_test_that_panics_leaves_nothing() {
    let lab = Lab::up(&scene::two_nodes("panic")).unwrap();
    let number = lab.number();
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(move || {
        let _serving = lab.pod("shop/far").and_then(|pod| pod.serves("0.0.0.0:8080", &[])).unwrap();
        panic!("as a failing test does");
    }));
    assert!(outcome.is_err());
    // Its number may be another test's by now: then the name in its directory is that one's.
    let name = fs::read_to_string(slot::directory(number).join("name"));
    assert!(name.is_err() || name.is_ok_and(|name| name != "panic"), "lab {number} is gone");
}

/// A whole mesh whose owner was killed: its processes, namespaces and mounts go when the next lab starts.
#[test]
fn the_next_lab_sweeps_what_a_killed_one_left() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let demo = Binaries::find()?.path("millrace-demo")?;
    let mut demo = Process::start(std::process::Command::new(demo), "demo", directory.path())?;
    let line = demo.says("in network namespaces mr", CALL)?;
    let number: u32 = line
        .split("namespaces mr")
        .nth(1)
        .and_then(|rest| rest.split('-').next()?.parse().ok())
        .context(line.clone())?;
    demo.says("A request, hop by hop", Duration::from_secs(60))?;
    let pids = pids_below(&cgroup::of_lab(number)?)?;
    ensure!(pids.len() > 10, "a shop and a mesh run in it: {pids:?}");
    demo.kill()?;
    ensure!(pids.iter().any(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(false)), "they outlive their owner");
    clock::until(CALL, "they are gone when another lab has started", || {
        // More than once: a child of the killed one that has not yet loaded its program holds its lock a moment longer.
        drop(slot::Slot::take()?);
        // A number may be used again: what counts is that nobody is in a cgroup of that lab who was there before.
        let left: Vec<&String> = pids.iter().filter(|pid| is_in(pid, number)).collect();
        ensure!(left.is_empty(), "{left:?} still run");
        Ok(())
    })?;
    Ok(())
}

fn is_in(pid: &str, number: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|text| text.contains(&format!("/millrace-lab-{number}/")))
}

fn pids_below(cgroup: &std::path::Path) -> Result<Vec<String>> {
    let mut found: Vec<String> = fs::read_to_string(cgroup.join("cgroup.procs"))?.lines().map(str::to_owned).collect();
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(pids_below(&entry.path())?);
        }
    }
    Ok(found)
}
