//! The lab's own server and client as a program: `probe-peer serve 0.0.0.0:8080`, `probe-peer call web:80`. Results are JSON.
#![expect(clippy::print_stdout, reason = "a program whose output is its result")]

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use millrace_lab::peer::{app, busy, client, crowd, datagram, latency, load, server};
use socket2::Protocol;

#[derive(Parser)]
#[command(about = "The lab's own server and client: says what accept(), getpeername() and getsockname() gave")]
struct Args {
    #[command(subcommand)]
    action: Action,
    /// Use MPTCP sockets.
    #[arg(long, global = true)]
    mptcp: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Serve until killed; a line of JSON per connection.
    Serve {
        /// Address and port; [::] takes IPv4 too.
        listen: SocketAddr,
        /// The name to greet with.
        #[arg(long)]
        name: String,
        /// The file at whose appearance the listener is closed.
        #[arg(long)]
        deaf_when: Option<PathBuf>,
    },
    /// Serve as an application does, until SIGTERM; what it did is told at its end.
    App {
        /// Address and port; [::] takes IPv4 too.
        listen: SocketAddr,
        /// How long an answer takes, in milliseconds.
        #[arg(long, default_value_t = 0)]
        takes_ms: u64,
    },
    /// Short calls at a rate beside long connections, until a file appears.
    Load {
        /// host:port, each.
        targets: Vec<String>,
        /// Short calls a second.
        #[arg(long)]
        rate: u32,
        /// Long connections.
        #[arg(long, default_value_t = 0)]
        long: usize,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
    /// Many long connections, watched for their end until a file appears.
    Crowd {
        /// host:port.
        target: String,
        /// How many.
        #[arg(long)]
        count: usize,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
    /// Connections that are kept busy with small messages, until a file appears; the server is `app`.
    Busy {
        /// host:port.
        target: String,
        /// How many connections.
        #[arg(long)]
        count: usize,
        /// A message on each of them each so many microseconds, and not one after the other.
        #[arg(long)]
        each_us: Option<u64>,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
    /// One connection that sends without end, until a file appears; the server is `app`.
    Flow {
        /// host:port.
        target: String,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
    /// One connection.
    Call {
        /// host:port.
        target: String,
    },
    /// Bytes both ways at once, digests compared.
    Exchange {
        /// host:port.
        target: String,
        /// Bytes to send.
        #[arg(long)]
        up: u64,
        /// Bytes to receive.
        #[arg(long)]
        down: u64,
        /// Bytes per write and read.
        #[arg(long, default_value_t = 65_536)]
        chunk: usize,
    },
    /// Have the server reset the connection; prints how that reads.
    Reset {
        /// host:port.
        target: String,
        /// After this many bytes.
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
    /// Reset the connection from this end; prints this end's address.
    Abort {
        /// host:port.
        target: String,
    },
    /// Many short connections; prints who answered.
    Connects {
        /// host:port.
        target: String,
        /// How many.
        #[arg(long)]
        count: u32,
        /// On how many threads.
        #[arg(long, default_value_t = 4)]
        threads: u32,
    },
    /// Round trips on one connection.
    Pings {
        /// host:port.
        target: String,
        /// How many.
        #[arg(long)]
        count: u32,
    },
    /// Calls at a fixed rate; prints how long they took.
    Latency {
        /// host:port.
        target: String,
        /// How many.
        #[arg(long)]
        count: u32,
        /// One each so many microseconds.
        #[arg(long)]
        pace_us: u64,
    },
    /// Answer by UDP until killed.
    Answer {
        /// Address and port; [::] takes IPv4 too.
        listen: SocketAddr,
        /// The name to answer with.
        #[arg(long)]
        name: String,
    },
    /// Ask by UDP, each target in turn.
    Ask {
        /// Addresses and ports.
        targets: Vec<SocketAddr>,
        /// How many sockets, one after the other.
        #[arg(long, default_value_t = 1)]
        sockets: u32,
        /// How many questions each.
        #[arg(long)]
        count: u32,
        /// Speak IPv4 by an IPv6 socket.
        #[arg(long)]
        mapped: bool,
    },
    /// Many connected UDP sockets, watched for their end until a file appears.
    Hold {
        /// Address and port.
        target: SocketAddr,
        /// How many.
        #[arg(long)]
        count: usize,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
    /// Old connections and new ones, until a file appears.
    Steady {
        /// host:port, each.
        targets: Vec<String>,
        /// The file.
        #[arg(long)]
        until: PathBuf,
    },
}

fn main() -> Result<()> {
    let Args { action, mptcp } = Args::parse();
    let protocol = if mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let to = |address: String| client::Target { address, protocol };
    let result = match action {
        Action::Serve { listen, name, deaf_when } => {
            return server::serve(&server::Options { listen, name, protocol, deaf_when });
        }
        Action::App { listen, takes_ms } => {
            return app::serve(&app::Options { listen, takes: Duration::from_millis(takes_ms) });
        }
        Action::Load { targets, rate, long, until } => {
            let told = || println!("{}", serde_json::json!({"open": long}));
            serde_json::to_string(&load::load(&load::Options { targets, rate, long, until }, told)?)?
        }
        Action::Crowd { target, count, until } => {
            let told = || println!("{}", serde_json::json!({"open": count}));
            serde_json::to_string(&crowd::crowd(&to(target), count, &until, told)?)?
        }
        Action::Answer { listen, name } => {
            return datagram::serve(listen, &name, || println!("{}", serde_json::json!({"answers": listen})));
        }
        Action::Ask { targets, sockets, count, mapped } => {
            serde_json::to_string(&datagram::ask(&targets, datagram::Ways { sockets, count, is_mapped: mapped })?)?
        }
        Action::Hold { target, count, until } => {
            let told = || println!("{}", serde_json::json!({"open": count}));
            serde_json::to_string(&datagram::hold(target, count, &until, told)?)?
        }
        Action::Busy { target, count, each_us, until } => {
            let told = || println!("{}", serde_json::json!({"open": count}));
            let each = each_us.map(Duration::from_micros);
            serde_json::to_string(&busy::busy(&busy::Options { target, count, each, until }, told)?)?
        }
        Action::Flow { target, until } => {
            serde_json::to_string(&busy::flow(&target, &until, || println!("{}", serde_json::json!({"open": 1})))?)?
        }
        Action::Call { target } => serde_json::to_string(&client::call(&to(target)))?,
        Action::Exchange { target, up, down, chunk } => {
            serde_json::to_string(&client::exchange(&to(target), up, down, chunk)?)?
        }
        Action::Reset { target, after } => serde_json::to_string(&client::reset(&to(target), after)?)?,
        Action::Abort { target } => serde_json::to_string(&client::abort(&to(target))?)?,
        Action::Connects { target, count, threads } => {
            serde_json::to_string(&client::connects(&to(target), count, threads)?)?
        }
        Action::Pings { target, count } => serde_json::to_string(&client::pings(&to(target), count)?)?,
        Action::Latency { target, count, pace_us } => {
            serde_json::to_string(&latency::latency(&to(target), count, Duration::from_micros(pace_us))?)?
        }
        Action::Steady { targets, until } => {
            let targets: Vec<_> = targets.into_iter().map(to).collect();
            serde_json::to_string(&client::steady(&targets, &until)?)?
        }
    };
    println!("{result}");
    Ok(())
}
