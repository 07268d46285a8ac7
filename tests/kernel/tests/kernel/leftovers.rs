//! What remains of a run of these tests that was killed: nothing, once the next one has begun.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use millrace_lab::network;

use crate::node::{Node, cgroup2, sweep};

/// Longer than the other test takes to end it; not for ever, for whoever runs it by hand.
const WAIT: Duration = Duration::from_secs(30);

const READY: &str = "a node is there";

#[test]
#[ignore = "the other test runs it in a process of its own, and kills that"]
fn a_run_that_is_killed() {
    let node = Node::new();
    let _pod = node.pod();
    println!("{READY}");
    std::thread::sleep(WAIT);
}

/// Everything whose name begins so.
fn left(prefix: &str) -> Vec<String> {
    let below = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.path().to_str().map(str::to_owned)).collect()
    };
    let all = [below(&cgroup2()), below(Path::new("/sys/fs/bpf/millrace")), network::names()].concat();
    all.into_iter().filter(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with(prefix))).collect()
}

#[test]
fn the_next_run_sweeps_what_a_killed_one_left() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "leftovers::a_run_that_is_killed", "--ignored", "--nocapture"]).stdout(Stdio::piped());
    let mut killed = command.spawn().unwrap();
    let said = BufReader::new(killed.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.into_iter().any(|line| line.contains(READY)), "it made a node");
    let prefix = format!("mrk-{}", killed.id());
    sweep(&cgroup2());
    assert_eq!(left(&prefix).len(), 4, "what is somebody's stays: a cgroup, pins, a bridge, a pod");
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(left(&prefix).len(), 4, "nothing removes them by itself");
    sweep(&cgroup2());
    assert_eq!(left(&prefix), [""; 0]);
}

/// The last node that leaves takes the directory of all nodes with it.
#[test]
fn a_node_that_leaves_leaves_no_empty_directory() {
    let bpffs = std::env::temp_dir().join(format!("mrk-{}-bpf", std::process::id()));
    let mesh = bpffs.join("millrace");
    let (one, other) = (mesh.join("one/v4"), mesh.join("other/v4"));
    fs::create_dir_all(&one).unwrap();
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    millrace_agent::kernel::leave(&one).unwrap();
    assert!(!one.parent().unwrap().exists() && other.parent().unwrap().exists(), "another node's stays");
    millrace_agent::kernel::leave(&other).unwrap();
    assert!(!mesh.exists() && bpffs.exists(), "and with the last of them theirs goes, and no other");
    fs::remove_dir(&bpffs).unwrap();
}
