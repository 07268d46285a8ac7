//! The lab's gRPC server and client as a program: `probe-grpc serve 0.0.0.0:9090 --name web`, `probe-grpc say web:90 --count 1000`.
#![expect(clippy::print_stdout, reason = "a program whose output is its result")]

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use millrace_lab::grpc::{ask, serve};

#[derive(Parser)]
#[command(about = "The lab's gRPC server and client: every kind of call")]
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
    /// Unary calls, in one connection.
    Say {
        /// host:port.
        target: String,
        /// How many.
        #[arg(long, default_value_t = u32::MAX)]
        count: u32,
        /// At once.
        #[arg(long, default_value_t = 8)]
        at_once: usize,
        /// The file at whose appearance it ends.
        #[arg(long)]
        until: Option<PathBuf>,
        /// The method.
        #[arg(long, default_value = "Say")]
        method: String,
        /// The status to ask for.
        #[arg(long, default_value_t = 0)]
        code: i32,
    },
    /// One call of each kind.
    Kinds {
        /// host:port.
        target: String,
        /// Messages of a stream.
        #[arg(long, default_value_t = 100)]
        number: u32,
        /// Bytes of a message.
        #[arg(long, default_value_t = 10_000)]
        size: usize,
    },
    /// A stream both ways, kept open.
    Chat {
        /// host:port.
        target: String,
        /// Rounds.
        #[arg(long, default_value_t = u32::MAX)]
        rounds: u32,
        /// The file at whose appearance it ends.
        #[arg(long)]
        until: Option<PathBuf>,
        /// Between two rounds.
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
    },
    /// Begin a stream and go away.
    Leave {
        /// host:port.
        target: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let said = match Args::parse().action {
        Action::Serve { listen, name } => {
            return serve::serve(listen, name, Arc::new(|what| println!("{what}"))).await;
        }
        Action::Say { target, count, at_once, until, method, code } => {
            serde_json::to_string(&ask::say(&ask::Options { target, count, at_once, until, method, code }).await?)?
        }
        Action::Kinds { target, number, size } => serde_json::to_string(&ask::kinds(&target, number, size).await?)?,
        Action::Chat { target, rounds, until, pause_ms } => {
            serde_json::to_string(&ask::chat(&target, rounds, until, Duration::from_millis(pause_ms)).await?)?
        }
        Action::Leave { target } => serde_json::to_string(&ask::leave(&target).await?)?,
    };
    println!("{said}");
    Ok(())
}
