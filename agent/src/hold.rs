//! Holds duplicates of all listeners and does nothing else, so that they outlive agent and proxy killed together.
//!
//! It comes to the agent's socket as a proxy would, under a name of its own; it reads no snapshot and has no key. It is a program
//! of its own, since one that has only this in it has a quarter of the agent's memory.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use millrace_node::{
    drain::Drain,
    handover::{Connection, Fault, Malformed, Packet, check_from_agent},
    memory, telemetry,
    wire::{
        mesh::ObjectName,
        node::{Applied, Close, FromAgent, FromProxy, Hello, Listeners, Returned, from_agent, from_proxy::Kind},
    },
};

use crate::{limits, proxy::HOLDER};

/// How often an agent is looked for: the socket's file appears without the kernel telling.
const AGAIN: Duration = Duration::from_millis(200);

/// Holds duplicates of a node's listeners and does nothing else, so that they outlive agent and proxy killed together.
#[derive(Clone, Debug, Parser)]
#[command(name = "millrace-holder", version, about)]
pub struct Args {
    /// Where the agent's proxy.sock is.
    #[arg(long, value_name = "DIR", default_value = "/run/millrace")]
    pub run_dir: PathBuf,
}

/// A workload's listeners by kind, in the order in which they came.
type Held = BTreeMap<(String, String, String), Vec<(i32, OwnedFd)>>;

#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the connection to the agent failed")]
    Fault(#[from] Fault),
    #[error("the agent sent what it must not")]
    Malformed(#[from] Malformed),
    #[error("no agent is there")]
    Absent(#[from] std::io::Error),
    #[error("the agent has ended")]
    Ended,
}

/// Holds until SIGTERM.
pub async fn hold(run_dir: &Path) -> anyhow::Result<()> {
    telemetry::init("millrace-hold");
    limits::raise_descriptors();
    let mut drain = Drain::on_signal(Duration::ZERO).context("signals can't be caught")?;
    let socket = run_dir.join("proxy.sock");
    let mut held = Held::new();
    tokio::select! {
        _ = drain.begun() => Ok(()),
        never = follow(&socket, &mut held) => match never {},
    }
}

#[expect(clippy::infinite_loop, reason = "it holds for as long as the process lives")]
async fn follow(socket: &Path, held: &mut Held) -> Infallible {
    loop {
        match follow_one(socket, held).await {
            Ok(never) => match never {},
            Err(why) => tracing::debug!(error = &why as &dyn std::error::Error, "holding on without an agent"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// One agent, from its welcome to its end.
async fn follow_one(socket: &Path, held: &mut Held) -> Result<Infallible, Lost> {
    let agent = Connection::connect(socket).await?;
    let (name, version) = (HOLDER.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    say(&agent, Kind::Hello(Hello { name, version, draining: false, takes_differences: false }), &[]).await?;
    next(&agent).await?; // Welcome; what comes with it is for proxies, and closed.
    for ((namespace, name, uid), sockets) in &*held {
        let workload = Some(ObjectName { namespace: namespace.clone(), name: name.clone() });
        let kinds = sockets.iter().map(|(kind, _)| *kind).collect();
        let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        say(&agent, Kind::Returned(Returned { workload, uid: uid.clone(), kinds }), &descriptors).await?;
    }
    say(&agent, Kind::Applied(Applied { generation: 0, in_force: Vec::new() }), &[]).await?;
    tracing::info!(n_workloads = held.len(), "an agent is there");
    memory::give_back_all();
    loop {
        let Packet { message, descriptors } = next(&agent).await?;
        match message.kind {
            Some(from_agent::Kind::Listeners(Listeners { workload: Some(workload), uid, kinds })) => {
                held.insert((workload.namespace, workload.name, uid), kinds.into_iter().zip(descriptors).collect());
            }
            Some(from_agent::Kind::Close(Close { workload: Some(workload), uid })) => {
                held.remove(&(workload.namespace, workload.name, uid));
            }
            Some(_) | None => {}
        }
    }
}

async fn next(agent: &Connection) -> Result<Packet<FromAgent>, Lost> {
    let packet = agent.receive::<FromAgent>().await?.ok_or(Lost::Ended)?;
    check_from_agent(&packet.message, packet.descriptors.len())?;
    Ok(packet)
}

async fn say(agent: &Connection, kind: Kind, descriptors: &[BorrowedFd<'_>]) -> Result<(), Lost> {
    Ok(agent.send(&FromProxy { kind: Some(kind) }, descriptors).await?)
}
