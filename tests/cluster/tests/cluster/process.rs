//! A control plane in a process of its own, to be measured, stopped and killed.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::{mesh::PATIENCE, server::program};

/// A process's end and readiness have no event that is seen from here.
const LOOK: Duration = Duration::from_millis(20);

/// A control plane in a process of its own.
pub(crate) struct Process {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Process {
    pub(crate) fn start(kubeconfig: &Path, namespaces: &[&str]) -> Self {
        Self::of(&program("millrace-control"), kubeconfig, namespaces)
    }

    /// Starts this build of it.
    pub(crate) fn of(program: &Path, kubeconfig: &Path, namespaces: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(["--kubernetes", "--listen", "127.0.0.1:0", "--log", "info"]);
        command.args(namespaces.iter().flat_map(|namespace| ["--namespace", namespace]));
        command.arg("--kubeconfig").arg(kubeconfig);
        command.arg("--state-dir").arg(folder.path()).arg("--admin").arg(folder.path().join("admin.sock"));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, folder }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("\"serving\""))?;
        serde_json::from_str::<Value>(line).ok()?["address"].as_str()?.parse().ok()
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let said = Command::new("curl")
            .args(["-s", "-X", method, "-d", body, "--unix-socket"])
            .arg(self.folder.path().join("admin.sock"))
            .arg(format!("http://x{path}"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    /// Resident memory in MiB: now, and the most there was.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mib = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
        };
        (mib("VmRSS:"), mib("VmHWM:"))
    }

    /// Processor time spent so far.
    pub(crate) fn processor(&self) -> Duration {
        let stat = fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// A token for the node of this name to join with, which this process alone takes.
    pub(crate) fn token(&self, node: &str) -> String {
        let said = self.ask("POST", "/tokens", &json!({ "node": node }).to_string());
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        said["token"].as_str().unwrap().to_owned()
    }

    /// Waits until it is ready: where nodes connect.
    pub(crate) async fn ready(&self) -> SocketAddr {
        let began = millrace_control::clock::now();
        while self.ask("GET", "/readyz", "") != "ready\n" {
            assert!(began.elapsed() < PATIENCE, "{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
        self.address().unwrap()
    }

    /// Ends it as a rolling update does, and waits for that.
    pub(crate) async fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        let began = millrace_control::clock::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "it does not end: {}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }
}
