//! Runs a mesh on one host: control plane, agent and proxy as children, kept alive until asked to end.
//!
//! Reads top to bottom: `run` prepares the directories and starts one keeper for each program; `child` starts, watches
//! and ends one process; `backoff` says how long to wait before the next try. Parses nothing and touches no kernel.

mod backoff;
mod child;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http::Method;
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    Ending, Failure,
    client::Client,
    config::{self, Process},
    out, program,
};

/// Where everything is, once the flags have been read against this host.
#[derive(Debug)]
struct Place {
    node: String,
    directory: PathBuf,
    listen: SocketAddr,
    run_dir: PathBuf,
    control_dir: PathBuf,
    agent_dir: PathBuf,
    token_file: PathBuf,
    settings: config::Run,
}

/// How urgently the children are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// They are to run.
    None,
    /// They are to end what they have begun, and then themselves.
    Drain,
    /// They are to end at once.
    AtOnce,
}

type Stop = watch::Receiver<Urgency>;

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(run_dir: &Path, settings: config::Run) -> Result<Ending, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Usage("millrace run loads kernel programs: run it as root".to_owned()));
    }
    let place = Place::new(run_dir, settings)?;
    let _lock = place.lock()?;
    let paths = [Process::Control, Process::Agent, Process::Proxy].map(|process| (process, program::beside(process)));
    let (mut terminate, mut interrupt) = (ending(SignalKind::terminate())?, ending(SignalKind::interrupt())?);
    let (stop, stopped) = watch::channel(Urgency::None);
    let place = Arc::new(place);
    let mut keepers = JoinSet::new();
    for (process, path) in paths {
        keepers.spawn(child::keep(process, path?, place.clone(), stopped.clone()));
    }
    keepers.spawn(child::keep_holder(program::holder()?, place.clone(), stopped.clone()));
    drop(stopped);
    let mut given_up = None;
    for urgency in [Urgency::Drain, Urgency::AtOnce] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            why = one_gives_up(&mut keepers) => match why {
                Some(why) => given_up = Some(why),
                None => break,
            },
        }
        match urgency {
            Urgency::Drain if given_up.is_none() => say("ending; once more ends open connections at once"),
            Urgency::Drain => say("ending: one of the programs can't run"),
            Urgency::None | Urgency::AtOnce => {}
        }
        stop.send_replace(urgency);
    }
    while let Some(why) = one_gives_up(&mut keepers).await {
        given_up.get_or_insert(why);
    }
    if let Some(why) = given_up {
        return Err(Failure::Failed(why));
    }
    say("ended; kernel programs stay, so that nothing captured goes by in the clear: `millrace leave` takes them out");
    Ok(Ending::Yes)
}

/// Waits until a program can't be run, and says why; None once every keeper has ended.
async fn one_gives_up(keepers: &mut JoinSet<Option<String>>) -> Option<String> {
    while let Some(ended) = keepers.join_next().await {
        if let Ok(Some(why)) = ended {
            return Some(why);
        }
    }
    None
}

fn ending(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|why| Failure::Failed(format!("signals can't be waited for: {why}")))
}

/// One line on standard output. Where nobody reads it, the mesh runs on.
fn say(line: &str) {
    drop(out::print(&format!("{line}\n")));
}

impl Place {
    fn new(run_dir: &Path, settings: config::Run) -> Result<Self, Failure> {
        let directory = settings.directory.canonicalize();
        let directory = directory.ok().filter(|directory| directory.is_dir());
        let Some(directory) = directory else {
            return Err(Failure::Usage(format!("{} is not a directory", settings.directory.display())));
        };
        let made = |path: PathBuf, mode| {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&path)
                .and_then(|()| path.canonicalize())
                .map_err(|why| Failure::Failed(format!("{}: {why}", path.display())))
        };
        // The proxy, which is nobody, has to reach its socket in there; the sockets have permissions of their own.
        let run_dir = made(run_dir.to_owned(), 0o755)?;
        let state_dir = made(settings.state_dir.clone(), 0o700)?;
        Ok(Self {
            node: program::node_name(settings.node.as_deref())?,
            directory,
            listen: settings.listen,
            run_dir,
            control_dir: made(state_dir.join("control"), 0o700)?,
            agent_dir: made(state_dir.join("agent"), 0o700)?,
            token_file: state_dir.join("join-token"),
            settings,
        })
    }

    /// Keeps a second `run` out: two agents would take the node's kernel maps from each other.
    fn lock(&self) -> Result<File, Failure> {
        let path = self.run_dir.join("run.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|why| Failure::Failed(format!("{}: {why}", path.display())))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(_) => Err(Failure::Failed(format!("another millrace run uses {}", self.run_dir.display()))),
        }
    }

    /// The arguments of a process's program.
    fn arguments(&self, process: Process) -> Vec<std::ffi::OsString> {
        let Self { node, directory, listen, run_dir, control_dir, agent_dir, token_file, settings } = self;
        let mut arguments = Vec::new();
        let mut flag = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            arguments.extend([name.into(), value.as_ref().to_owned()]);
        };
        match process {
            Process::Control => {
                flag("--directory", directory);
                flag("--listen", &listen.to_string());
                flag("--admin", &run_dir.join("control-admin.sock"));
                flag("--state-dir", control_dir);
                flag("--trust-domain", &settings.trust_domain);
            }
            Process::Agent => {
                flag("--node", node);
                flag("--control", &format!("https://{listen}"));
                flag("--join-token-file", token_file);
                flag("--run-dir", run_dir);
                flag("--state-dir", agent_dir);
                flag("--bpffs", &settings.bpffs);
                flag("--proxy-user", &settings.proxy_user);
                if let Some(cgroup) = &settings.cgroup {
                    flag("--cgroup", cgroup);
                }
            }
            Process::Proxy => {
                flag("--run-dir", run_dir);
                flag("--user", &settings.proxy_user);
            }
        }
        arguments
    }

    /// The arguments of the holder of listeners.
    fn holder_arguments(&self) -> Vec<std::ffi::OsString> {
        vec!["--run-dir".into(), self.run_dir.clone().into()]
    }

    fn client(&self, process: Process) -> Client {
        Client::new(process, &self.run_dir)
    }

    /// Has the control plane make a token that this node joins with, for each start of the agent: an old one has
    /// expired, and one that is not needed expires unused.
    async fn make_token(&self) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Made {
            token: String,
        }
        let body = Bytes::from(serde_json::json!({"node": self.node}).to_string());
        let answer = self.client(Process::Control).ask(Method::POST, "/tokens", body).await?;
        let Made { token } = serde_json::from_slice(&answer).map_err(|source| Failure::Unreadable {
            process: Process::Control,
            path: "/tokens".to_owned(),
            source,
        })?;
        write_secret(&self.token_file, &token)
            .map_err(|why| Failure::Failed(format!("{}: {why}", self.token_file.display())))
    }

    /// Removes the token once the agent is ready: it has joined, or needed none.
    fn forget_token(&self) {
        if let Err(why) = fs::remove_file(&self.token_file) {
            say(&format!("the join token stays in {}: {why}", self.token_file.display()));
        }
    }
}

/// Writes a file that root alone may read, whole or not at all.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests;
