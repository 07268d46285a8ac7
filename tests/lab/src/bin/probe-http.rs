//! The lab's HTTP server and client as a program: `probe-http serve [::]:8080 --name web`, `probe-http load web:80 --count 1000`.
#![expect(clippy::print_stdout, reason = "a program whose output is its result")]

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};
use millrace_lab::web::{load, serve};

#[derive(Parser)]
#[command(about = "The lab's HTTP server and client: says who answered and what was sent")]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Serve until killed.
    Serve {
        /// Address and port; [::] takes IPv4 too.
        listen: SocketAddr,
        /// The name to answer with.
        #[arg(long)]
        name: String,
    },
    /// Ask over and over; prints who answered.
    Load {
        /// host:port.
        target: String,
        /// Path and query.
        #[arg(long, default_value = "/")]
        path: String,
        /// Connections at once.
        #[arg(long, default_value_t = 8)]
        connections: usize,
        /// How many requests.
        #[arg(long, default_value_t = u32::MAX)]
        count: u32,
        /// The file at whose appearance it ends.
        #[arg(long)]
        until: Option<PathBuf>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Args::parse().action {
        Action::Serve { listen, name } => {
            let told = || println!("{}", serde_json::json!({"listening": listen.to_string()}));
            serve::serve(listen, name, told).await
        }
        Action::Load { target, path, connections, count, until } => {
            let counted = load::load(&load::Options { target, path, connections, count, until }).await?;
            println!("{}", serde_json::to_string(&counted)?);
            Ok(())
        }
    }
}
