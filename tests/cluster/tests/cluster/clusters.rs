//! Two clusters side by side: each serves its own objects, and each ends whole, by `down` or with whoever it was for.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use millrace_control::clock;

use crate::server::{Server, program, target};

/// A cluster's end takes its programs' own: none is left after this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends the cluster if a test did not come to it.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        drop(Command::new(program("xtask")).args(["cluster", "down", "--name", &self.0]).output());
    }
}

fn up(name: &str, owner: u32) -> Child {
    let mut command = Command::new(program("xtask"));
    command.args(["cluster", "up", "--api-only", "--name", name, "--owner", &owner.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap()
}

fn xtask(args: &[&str]) -> (bool, String) {
    let said = Command::new(program("xtask")).args(["cluster"]).args(args).output().unwrap();
    (said.status.success(), String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The numbers of all that a cluster started.
fn processes(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder.join("processes")).unwrap();
    let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    texts.map(|text| Path::new("/proc").join(text.split(' ').next().unwrap())).collect()
}

/// What is left of a cluster: its folder, its processes, who listens on its ports.
fn left(folder: &Path, processes: &[PathBuf], ports: &[u16]) -> Vec<String> {
    // One that ended and that nobody waited for yet has no files open, and no memory.
    let lives = |process: &&PathBuf| fs::read_link(process.join("exe")).is_ok();
    let mut left: Vec<String> = processes.iter().filter(lives).map(|one| one.display().to_string()).collect();
    left.extend(folder.exists().then(|| folder.display().to_string()));
    let taken = |port: &&u16| TcpStream::connect(("127.0.0.1", **port)).is_ok();
    left.extend(ports.iter().filter(taken).map(|port| format!("port {port}")));
    left
}

fn until_nothing_is_left(folder: &Path, processes: &[PathBuf], ports: &[u16]) {
    let began: Instant = clock::now();
    loop {
        let left = left(folder, processes, ports);
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "still there: {left:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn ports(folder: &Path) -> Vec<u16> {
    serde_json::from_str(&fs::read_to_string(folder.join("ports.json")).unwrap()).unwrap()
}

#[test]
fn two_clusters_run_side_by_side_and_leave_nothing() {
    let own = std::process::id();
    let names = ["one", "two"].map(|which| format!("test-{own}-{which}"));
    let _ended = names.clone().map(Named);
    // Whoever the second is for; nobody says `down` of that one.
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    let starting = [up(&names[0], own), up(&names[1], owner.id())];
    for mut one in starting {
        assert!(one.wait().unwrap().success());
    }
    let folders = names.clone().map(|name| target().join("cluster/run").join(name));
    let [one, two] = names.clone().map(|name| Server::at(&name));
    let makes = |server: &Server, name: &str| {
        let said = server.kubectl(&["create", "namespace", name], "");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    };
    let has = |server: &Server, name: &str| {
        let said = server.kubectl(&["get", "namespace", name, "--ignore-not-found", "-o", "name"], "");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        !said.stdout.is_empty()
    };
    makes(&one, "first");
    makes(&two, "second");
    assert!(has(&one, "first") && !has(&one, "second") && has(&two, "second") && !has(&two, "first"));
    let running = folders.clone().map(|folder| processes(&folder));
    let listening = folders.clone().map(|folder| ports(&folder));
    assert!(listening[0].iter().all(|port| !listening[1].contains(port)), "{listening:?}");
    for (name, running) in names.iter().zip(&running) {
        let (is_up, said) = xtask(&["status", "--name", name]);
        assert!(is_up && ["etcd", "kube-apiserver", "guard"].iter().all(|part| said.contains(part)), "{said}");
        assert_eq!(running.len(), 3, "{said}");
    }

    let (is_down, said) = xtask(&["down", "--name", &names[0]]);
    assert!(is_down, "{said}");
    assert_eq!(left(&folders[0], &running[0], &listening[0]), [""; 0]);
    assert!(!xtask(&["status", "--name", &names[0]]).0, "nothing runs of it");
    makes(&two, "third");

    owner.kill().unwrap();
    owner.wait().unwrap();
    until_nothing_is_left(&folders[1], &running[1], &listening[1]);
}
