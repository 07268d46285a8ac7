//! The demo: `millrace-demo --once`; and the door to its pods: `millrace-demo exec shop/visitor -- curl http://web/order`.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use millrace_lab::{
    Lab,
    demo::{Demo, shop},
    lab::find_place,
    slot,
};
use tokio::signal::unix::{SignalKind, signal};

/// Two nodes and a shop in network namespaces, a real mesh over them; needs root.
#[derive(Parser)]
#[command(name = "millrace-demo")]
struct Args {
    /// End after the last scene, with exit code 0 if every check held.
    #[arg(long)]
    once: bool,
    /// Leave the lab running when the demo ends; `millrace-demo down` removes it.
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Runs a command in a pod (namespace/name), a node (a, b) or on the `wire` of a lab that runs.
    Exec {
        /// Where.
        place: String,
        /// The command.
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Removes labs that were kept.
    Down,
}

fn main() -> Result<ExitCode> {
    match Args::parse() {
        Args { action: Some(Action::Exec { place, command }), .. } => exec(&place, &command),
        Args { action: Some(Action::Down), .. } => {
            let removed = slot::remove_kept()?;
            millrace_lab::demo::stage::print(&format!("removed labs: {removed:?}"));
            Ok(ExitCode::SUCCESS)
        }
        Args { once, keep, action: None } => play(once, keep),
    }
}

fn exec(place: &str, command: &[String]) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("a command has a program")?;
    let mut command = find_place(place)?.command(program)?;
    command.process_group(rustix::process::getpgrp().as_raw_nonzero().get()); // Ctrl-C is for it.
    Err(command.args(arguments).exec().into())
}

fn play(once: bool, keep: bool) -> Result<ExitCode> {
    let (stopped, end) = watch_signals()?;
    let mut lab = Lab::up(&shop::plan())?;
    shop::open(&mut lab)?;
    let mut demo = Demo::new(lab);
    demo.play(&|| stopped.load(Ordering::Relaxed));
    let well = demo.end();
    if !once && !stopped.load(Ordering::Relaxed) {
        demo.invite();
        end.recv()?;
    }
    if keep {
        demo.keep()?;
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The end as it is asked for: a flag, and what receives when it is set.
type End = (Arc<AtomicBool>, Receiver<()>);

/// Sets the flag at the first Ctrl-C or SIGTERM: the lab is taken down in order.
fn watch_signals() -> Result<End> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = runtime
        .block_on(async { Ok::<_, io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)) })?;
    let (flag, (tell, end)) = (Arc::new(AtomicBool::new(false)), sync_channel(1));
    let stopped = Arc::clone(&flag);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        stopped.store(true, Ordering::Relaxed);
        tell.send(()).ok();
    });
    Ok((flag, end))
}
