//! The load tool as a program: `load-peer serve 0.0.0.0:8080`, `load-peer short 10.0.0.1:8080 --count 2000 --rate 1000`. Results are JSON.
#![expect(clippy::print_stdout, reason = "a program whose output is its result")]

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};
use millrace_lab::load::{
    client::{self, First, Pace},
    server,
};

#[derive(Parser)]
#[command(about = "Loads the mesh with connections, many at once or many a second")]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Answer until killed.
    Serve {
        /// Address and port; several processes may share one.
        listen: SocketAddr,
    },
    /// Connections that last for one question.
    Short {
        /// Address and port.
        target: SocketAddr,
        /// How many.
        #[arg(long)]
        count: u32,
        /// How many a second.
        #[arg(long)]
        rate: u32,
        /// Who closes first.
        #[arg(long, value_enum, default_value = "client")]
        first: First,
    },
    /// Connections that are held all at once.
    Hold {
        /// Address and port.
        target: SocketAddr,
        /// How many.
        #[arg(long)]
        count: u32,
        /// How many are opened a second.
        #[arg(long)]
        rate: u32,
        /// They go when this file is there.
        #[arg(long)]
        until: PathBuf,
        /// Who closes first.
        #[arg(long, value_enum, default_value = "client")]
        first: First,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let report = match Args::parse().action {
        Action::Serve { listen } => return server::serve(listen).await,
        Action::Short { target, count, rate, first } => client::short(target, Pace { count, rate }, first).await?,
        Action::Hold { target, count, rate, until, first } => {
            client::hold(target, Pace { count, rate }, &until, first).await?
        }
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
