//! The lab's HTTP server and client as a program: `probe-http serve [::]:8080 --name web`, `probe-http load web:80 --count 1000`.
#![expect(clippy::print_stdout, reason = "a program whose output is its result")]

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use millrace_lab::web::{corpus, crowd, expect, load, raw, serve, socket};

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
    /// Send bytes as they are written, with escapes; prints what comes back, until it closes or is silent.
    Raw {
        /// host:port.
        target: String,
        /// What to send.
        send: String,
        /// How long silence may be.
        #[arg(long, default_value_t = 700)]
        silence_ms: u64,
    },
    /// Send each case of a corpus; prints those that came to another end than they must.
    Corpus {
        /// host:port.
        target: String,
        /// The corpus.
        file: PathBuf,
    },
    /// Many slow connections, until a file is there.
    Crowd {
        /// host:port.
        target: String,
        /// What is slow.
        #[arg(value_enum)]
        slow: crowd::Slow,
        /// How many.
        #[arg(long)]
        count: usize,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
    /// One body there and one back; prints how much came back.
    Transfer {
        /// host:port.
        target: String,
        /// Bytes there.
        #[arg(long)]
        up: u64,
        /// Bytes back.
        #[arg(long)]
        down: u64,
    },
    /// Serve HTTP/2 that asks for bodies before they are sent, until killed.
    Asking {
        /// Address and port.
        listen: SocketAddr,
    },
    /// One request of HTTP/2 that waits to be asked for its body; prints what it came to.
    Expect {
        /// host:port.
        target: String,
        /// The path.
        path: String,
    },
    /// Send back what comes by WebSocket, until killed.
    Sockets {
        /// Address and port.
        listen: SocketAddr,
    },
    /// Keep a WebSocket open.
    Socket {
        /// host:port.
        target: String,
        /// Messages.
        #[arg(long, default_value_t = u32::MAX)]
        rounds: u32,
        /// Bytes of one.
        #[arg(long, default_value_t = 100)]
        size: usize,
        /// The file at whose appearance it ends.
        #[arg(long)]
        until: Option<PathBuf>,
        /// Between two.
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let tell = |what: &str| println!("{}", serde_json::json!({ "event": what }));
    let said = match Args::parse().action {
        Action::Serve { listen, name } => return serve::serve(listen, name, tell).await,
        Action::Asking { listen } => return expect::serve(listen, tell).await,
        Action::Expect { target, path } => serde_json::to_string(&expect::ask(&target, &path).await?)?,
        Action::Sockets { listen } => return socket::serve(listen, tell).await,
        Action::Load { target, path, connections, count, until } => {
            serde_json::to_string(&load::load(&load::Options { target, path, connections, count, until }).await?)?
        }
        Action::Raw { target, send, silence_ms } => {
            let silence = Duration::from_millis(silence_ms);
            let (came, _) = raw::exchange(&target, &raw::unescaped(&send), silence).await?;
            String::from_utf8_lossy(&came).into_owned()
        }
        Action::Corpus { target, file } => {
            serde_json::to_string(&corpus::run(&std::fs::read_to_string(file)?, &target).await?)?
        }
        Action::Crowd { target, slow, count, until } => {
            serde_json::to_string(&crowd::crowd(&target, slow, count, until, tell).await?)?
        }
        Action::Transfer { target, up, down } => serde_json::to_string(&crowd::transfer(&target, up, down).await?)?,
        Action::Socket { target, rounds, size, until, pause_ms } => {
            let pause = Duration::from_millis(pause_ms);
            serde_json::to_string(&socket::ask(&target, (rounds, size), until, pause).await?)?
        }
    };
    println!("{said}");
    Ok(())
}
