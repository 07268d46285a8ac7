//! Starts one program, says when it is up, starts it again when it ends, and ends it when asked, by its process id.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::{Place, Stop, Urgency, backoff::Backoff, say};
use crate::{Failure, clock, config::Process};

/// How often to look whether a process is ready. Only its admin socket tells, and it tells only who asks.
const LOOK: Duration = Duration::from_millis(100);

/// How long a program that is not ready is given before its reasons are told.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a program may take to end before it is killed: longer than the proxy's own drain of 30 s.
const GRACE: Duration = Duration::from_secs(40);

/// The same once it was asked a second time.
const GRACE_AT_ONCE: Duration = Duration::from_secs(5);

/// The exit code of a program that can't work by its settings, or not on this kernel: it would say the same the next time.
const UNUSABLE: i32 = 2;

/// How a program's life ended.
enum End {
    Asked,
    ByItself(ExitStatus),
}

/// Whether a program was ready once: then its settings are sound, whatever it ends of.
type Proven = AtomicBool;

/// Keeps one process running until `stop`. Why it can't be, where its program says that no further try would help.
pub(super) async fn keep(process: Process, path: PathBuf, place: Arc<Place>, mut stop: Stop) -> Option<String> {
    let mut backoff = Backoff::default();
    let proven = Proven::new(false);
    loop {
        let began = clock::now();
        let why = match live(process, (&path, &proven), &place, stop.clone()).await {
            Ok(End::Asked) => return None,
            Ok(End::ByItself(status)) if status.code() == Some(UNUSABLE) && !proven.load(Ordering::Relaxed) => {
                return Some(format!("{} can't run with these settings here: its reasons stand above", process.name()));
            }
            Ok(End::ByItself(status)) => status.to_string(),
            Err(failure) => failure.to_string(),
        };
        let pause = backoff.pause(began.elapsed());
        say(&format!("{:8} down: {why}; starting again in {:.1} s", process.name(), pause.as_secs_f64()));
        tokio::select! {
            () = sleep(pause) => {}
            () = asked(&mut stop, Urgency::Drain) => return None,
        }
    }
}

/// One life of a process: what it needs first, then the process, until it or the mesh ends.
async fn live(
    process: Process,
    (path, proven): (&Path, &Proven),
    place: &Place,
    mut stop: Stop,
) -> Result<End, Failure> {
    tokio::select! {
        ready = prepare(process, place) => ready?,
        () = asked(&mut stop, Urgency::Drain) => return Ok(End::Asked),
    }
    let mut child = start(path, place.arguments(process))?;
    let pid = child.id();
    let announce = async {
        announce(process, pid, place).await;
        proven.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = child.wait() => status.map(End::ByItself).map_err(|why| Failure::Failed(why.to_string())),
        () = asked(&mut stop, Urgency::Drain) => {
            end(process, &mut child, &mut stop).await;
            Ok(End::Asked)
        }
        () = announce => Ok(End::Asked),
    }
}

/// Keeps the holder running until `stop`: with it, agent and proxy killed together refuse nobody. It has no admin socket
/// and nothing to drain, so it is started at once, looks for the agent by itself, and ends when asked.
pub(super) async fn keep_holder(path: PathBuf, place: Arc<Place>, mut stop: Stop) -> Option<String> {
    let mut backoff = Backoff::default();
    loop {
        let began = clock::now();
        let why = match start(&path, place.holder_arguments()) {
            Err(failure) => failure.to_string(),
            Ok(mut child) => tokio::select! {
                status = child.wait() => status.map_or_else(|why| why.to_string(), |status| status.to_string()),
                () = asked(&mut stop, Urgency::Drain) => {
                    terminate(&child);
                    if timeout(GRACE_AT_ONCE, child.wait()).await.is_err() {
                        drop(child.kill().await);
                    }
                    return None;
                }
            },
        };
        let pause = backoff.pause(began.elapsed());
        say(&format!("holder   down: {why}; starting again in {:.1} s", pause.as_secs_f64()));
        tokio::select! {
            () = sleep(pause) => {}
            () = asked(&mut stop, Urgency::Drain) => return None,
        }
    }
}

fn start(path: &Path, arguments: Vec<OsString>) -> Result<Child, Failure> {
    Command::new(path)
        .args(arguments)
        .stdin(Stdio::null())
        // Standard output is ours, for one line per event; what the process logs goes to standard error.
        .stdout(Stdio::null())
        // Out of the terminal's process group: Ctrl-C is for us, and we end it in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|why| Failure::Failed(format!("{}: {why}", path.display())))
}

/// Waits until the mesh is to end this urgently; also where nobody is left to say so.
async fn asked(stop: &mut Stop, urgency: Urgency) {
    drop(stop.wait_for(|asked| *asked >= urgency).await);
}

/// Waits for what a process can't start without: the agent for its token, the proxy for the agent's socket.
async fn prepare(process: Process, place: &Place) -> Result<(), Failure> {
    match process {
        Process::Control => Ok(()),
        Process::Agent => {
            answers(Process::Control, place).await;
            place.make_token().await
        }
        Process::Proxy => {
            answers(Process::Agent, place).await;
            Ok(())
        }
    }
}

async fn answers(process: Process, place: &Place) {
    while place.client(process).ask(Method::GET, "/healthz", Bytes::new()).await.is_err() {
        sleep(LOOK).await;
    }
}

/// Says when the process is ready, and before, if that takes long, what it waits for.
async fn announce(process: Process, pid: Option<u32>, place: &Place) {
    let name = process.name();
    let began = clock::now();
    let mut told = String::new();
    loop {
        let reasons = match place.client(process).answer(Method::GET, "/readyz", Bytes::new()).await {
            Ok(answer) if answer.status == StatusCode::OK => break,
            Ok(answer) => String::from_utf8_lossy(&answer.body).trim().replace('\n', "; "),
            Err(failure) => failure.to_string(),
        };
        if began.elapsed() >= PATIENCE && reasons != told {
            say(&format!("{name:8} not ready: {reasons}"));
            told = reasons;
        }
        sleep(LOOK).await;
    }
    let what = match process {
        Process::Control => format!("{} at {}", place.directory.display(), place.listen),
        Process::Agent => format!("node {}", place.node),
        Process::Proxy => format!("as user {}", place.settings.proxy_user),
    };
    if process == Process::Agent {
        place.forget_token();
    }
    say(&format!("{name:8} up: {what} (pid {})", pid.unwrap_or_default()));
}

/// Ends a child: it is asked, asked again if that is urgent, and killed if it does not hear.
async fn end(process: Process, child: &mut Child, stop: &mut Stop) {
    terminate(child);
    let drained = tokio::select! {
        ended = timeout(GRACE, child.wait()) => ended.is_ok(),
        () = asked(stop, Urgency::AtOnce) => {
            terminate(child);
            timeout(GRACE_AT_ONCE, child.wait()).await.is_ok()
        }
    };
    if !drained {
        say(&format!("{:8} does not end: killed", process.name()));
        drop(child.kill().await);
    }
}

fn terminate(child: &Child) {
    // Not reaped yet, so the id is still the child's; one without an id has ended and needs no signal.
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(Err(why)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
        say(&format!("a child can't be asked to end: {why}"));
    }
}
