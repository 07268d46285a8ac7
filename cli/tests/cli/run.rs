//! Runs `millrace run` over stand-ins for the three programs: all are started, kept alive, and ended. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test's helpers may fail the test, or say why not"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};

use crate::answers::answer;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

struct Running {
    dir: tempfile::TempDir,
    millrace: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What the programs say as they start, once they are ready for signals.
    starts: Lines<BufReader<ChildStderr>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where a test failed half-way; elsewhere it has ended.
        if self.millrace.try_wait().is_ok_and(|ended| ended.is_none()) {
            kill_process(Pid::from_child(&self.millrace), Signal::TERM).unwrap_or_default();
            drop(self.millrace.wait());
        }
    }
}

/// Where programs can be linked to. Linked, not written: what one test has open for writing while another forks can't be
/// executed until that other has become its program.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn stand_in(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/programs").join(name)
}

/// `millrace run` with programs beside it that note their arguments and wait.
fn running() -> Running {
    running_with("stand-in.sh")
}

/// The same, with this as the agent.
fn running_with(agent: &str) -> Running {
    let dir = directory();
    let (bin, run_dir, manifests) = (dir.path().join("bin"), dir.path().join("run"), dir.path().join("manifests"));
    for made in [&bin, &run_dir, &manifests] {
        fs::create_dir(made).unwrap();
    }
    fs::hard_link(env!("CARGO_BIN_EXE_millrace"), bin.join("millrace")).unwrap();
    symlink(stand_in("stand-in.sh"), bin.join("millrace-holder")).unwrap();
    for program in ["control", "agent", "proxy"] {
        let script = if program == "agent" { agent } else { "stand-in.sh" };
        symlink(stand_in(script), bin.join(format!("millrace-{program}"))).unwrap();
        let ok = |path| (path, String::from("ok"));
        let token = ("POST /tokens {\"node\":\"a\"}", String::from("{\"token\":\"v1.a.secret\"}"));
        // One that ends at once answers nothing.
        if script != "unusable.sh" {
            answer(&run_dir, program, &[ok("GET /healthz"), ok("GET /readyz"), token]);
        }
    }
    let mut millrace = Command::new(bin.join("millrace"))
        .args(["run", "--node", "a"])
        .arg(&manifests)
        .arg("--run-dir")
        .arg(&run_dir)
        .arg("--state-dir")
        .arg(dir.path().join("state"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(millrace.stdout.take().unwrap()).lines();
    let starts = BufReader::new(millrace.stderr.take().unwrap()).lines();
    Running { dir, millrace, lines, starts }
}

impl Running {
    /// The process id in the next line that says this program is up.
    fn up(&mut self, program: &str) -> Pid {
        assert_eq!(self.starts.next().unwrap().unwrap(), format!("{program} starts"));
        pid(&self.line(|line| line.starts_with(program) && line.contains(" up: ")))
    }

    fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        for line in &mut self.lines {
            let line = line.unwrap();
            if wanted(&line) {
                return line;
            }
        }
        panic!("millrace run ended before it said so")
    }

    /// The process ids of agent, control plane and proxy, once all have started.
    fn all_up(&mut self) -> [Pid; 3] {
        let mut started: Vec<String> = (&mut self.starts).take(3).map(Result::unwrap).collect();
        started.sort();
        assert_eq!(started, ["agent starts", "control starts", "proxy starts"]);
        let mut up: Vec<String> = (0..3).map(|_| self.line(|line| line.contains(" up: "))).collect();
        up.sort();
        let [agent, control, proxy] = up.as_slice() else { panic!("three are up: {up:?}") };
        [agent, control, proxy].map(|line| pid(line))
    }

    /// The process id of the holder, once it has said it.
    fn holder(&self) -> Pid {
        let path = self.dir.path().join("bin/millrace-holder.pid");
        for _ in 0..500 {
            if let Ok(text) = fs::read_to_string(&path) {
                return Pid::from_raw(text.trim().parse().unwrap()).unwrap();
            }
            // No event tells: it is nobody's child here, and writes to a file.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("no holder was started")
    }

    fn end(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.millrace), Signal::TERM).unwrap();
        self.millrace.wait().unwrap().code()
    }
}

fn pid(line: &str) -> Pid {
    Pid::from_raw(line.rsplit_once("(pid ").unwrap().1.trim_end_matches(')').parse().unwrap()).unwrap()
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: it needs root");
    }
    is_root
}

fn is_alive(pid: Pid) -> bool {
    // A zombie counts as alive: millrace is to reap what it ends.
    test_kill_process(pid).is_ok()
}

#[test]
fn all_three_are_started_kept_alive_and_ended() {
    if !is_root() {
        return;
    }
    let mut running = running();
    let [agent, control, proxy] = running.all_up();
    // The stand-ins are ready at once: the token that the agent was started with is gone again.
    assert_eq!(fs::read_dir(running.dir.path().join("state")).unwrap().count(), 2);

    kill_process(agent, Signal::KILL).unwrap();
    assert!(running.line(|line| line.contains("down")).contains("signal: 9"));
    let second = running.up("agent");
    assert_ne!(second, agent);
    let holder = running.holder();
    assert!(is_alive(control) && is_alive(proxy) && is_alive(second) && is_alive(holder));

    assert_eq!(running.end(), Some(0));
    for pid in [control, proxy, second, holder] {
        assert!(!is_alive(pid), "{pid:?} outlives millrace run");
    }
}

#[test]
fn a_child_that_does_not_hear_is_ended_all_the_same_when_asked_twice() {
    if !is_root() {
        return;
    }
    let mut running = running();
    let deaf = running.dir.path().join("bin/millrace-proxy");
    let [_, _, proxy] = running.all_up();
    fs::remove_file(&deaf).unwrap();
    symlink(stand_in("deaf.sh"), &deaf).unwrap();
    kill_process(proxy, Signal::TERM).unwrap();
    let proxy = running.up("proxy");
    kill_process(Pid::from_child(&running.millrace), Signal::TERM).unwrap();
    running.line(|line| line.contains("once more"));
    kill_process(Pid::from_child(&running.millrace), Signal::TERM).unwrap();
    assert!(running.line(|line| line.contains("killed")).contains("proxy"));
    assert_eq!(running.millrace.wait().unwrap().code(), Some(0));
    assert!(!is_alive(proxy));
}

/// To try again what can't succeed would hide its reason under a hundred others.
#[test]
fn a_program_whose_settings_can_not_be_used_ends_the_run_with_its_reason() {
    if !is_root() {
        return;
    }
    let mut running = running_with("unusable.sh");
    assert!(running.line(|line| line.starts_with("ending")).contains("can't run"));
    assert_eq!(running.millrace.wait().unwrap().code(), Some(1));
    let said: Vec<String> = (&mut running.starts).map(Result::unwrap).collect();
    let times = said.iter().filter(|line| line.contains("--proxy-user: no user is called")).count();
    assert_eq!(times, 1, "{said:?}");
    assert!(said.iter().any(|line| line.contains("agent can't run with these settings here")), "{said:?}");
}

/// One that ran is sound: what it ends of later may pass.
#[test]
fn a_program_that_was_up_is_started_again_whatever_its_exit_code() {
    if !is_root() {
        return;
    }
    let mut running = running();
    let [agent, _, _] = running.all_up();
    let path = running.dir.path().join("bin/millrace-agent");
    fs::remove_file(&path).unwrap();
    symlink(stand_in("unusable.sh"), &path).unwrap();
    kill_process(agent, Signal::KILL).unwrap();
    for _ in 0..2 {
        running.line(|line| line.contains("agent") && line.contains("exit status: 2; starting again"));
    }
    assert_eq!(running.end(), Some(0));
}

/// With no programs beside it there is nothing to run.
#[test]
fn a_missing_program_is_named() {
    if !is_root() {
        return;
    }
    let dir = directory();
    fs::hard_link(env!("CARGO_BIN_EXE_millrace"), dir.path().join("millrace")).unwrap();
    let output = Command::new(dir.path().join("millrace"))
        .args(["run", "--node", "a"])
        .arg(dir.path())
        .arg("--run-dir")
        .arg(dir.path().join("run"))
        .arg("--state-dir")
        .arg(dir.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("millrace-control is not there"));
}
