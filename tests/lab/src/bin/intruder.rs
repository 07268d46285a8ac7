//! One who means harm, in a pod: `intruder connect 10.10.1.12:8080 --mark 15008`. Results are JSON.
#![expect(clippy::print_stdout, reason = "a program whose output is its result")]

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};
use millrace_lab::intruder::{self, Ways};

#[derive(Parser)]
#[command(about = "One who means harm, in a pod: tries to reach what it may not, or to be in others' way")]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// One connect, in some way or another.
    Connect {
        /// Address and port.
        target: SocketAddr,
        #[command(flatten)]
        ways: Ways,
    },
    /// Many connects that are never answered, held until a file appears.
    Flood {
        /// Address and port.
        target: SocketAddr,
        /// How many.
        #[arg(long)]
        count: usize,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
    /// Listens where the mesh listens.
    Bind {
        /// Addresses and ports.
        addresses: Vec<SocketAddr>,
    },
}

fn main() -> Result<()> {
    match Args::parse().action {
        Action::Connect { target, ways } => println!("{}", serde_json::to_string(&intruder::connect(target, &ways))?),
        Action::Bind { addresses } => println!("{}", serde_json::to_string(&intruder::bind(&addresses))?),
        Action::Flood { target, count, until } => {
            intruder::flood(target, count, &until, |flooded| {
                println!("{}", serde_json::to_string(flooded).unwrap_or_default());
            })?;
        }
    }
    Ok(())
}
