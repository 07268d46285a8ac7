//! Reads the command line, and says what it means.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Parser;

use crate::{
    privilege::User,
    tuning::{MAX_WORKERS, cores},
};

/// The shared proxy of a node's mesh: tunnels between nodes, with no privilege of its own.
#[derive(Clone, Debug, Parser)]
#[command(name = "millrace-proxy", version)]
pub struct Args {
    /// Directory of the node's sockets: the agent's is DIR/proxy.sock, this process's own DIR/proxy-admin.sock.
    #[arg(long, value_name = "DIR", default_value = "/run/millrace")]
    run_dir: PathBuf,
    /// Name to register under; a newer proxy of the same name takes over from the one before.
    #[arg(long, default_value = "default")]
    name: String,
    /// Worker threads; as many as there are cores where it is not given. A NodeProfile that says a number comes before it.
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// User and group, as numbers, that the process becomes where it is started as root.
    #[arg(long, value_name = "UID:GID", default_value = "15008:15008")]
    user: User,
    /// Time for open connections to end after SIGTERM or SIGINT, in seconds; a second signal ends them at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain: u64,
    /// File that access logs are appended to, opened before privileges go; standard output where it is not given.
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Stay the user that started it, and keep whatever capabilities it has. For debugging only.
    #[arg(long)]
    allow_privileged: bool,
}

/// What the proxy works by.
#[derive(Clone, Debug)]
pub struct Config {
    /// The agent's socket.
    pub agent: PathBuf,
    /// The admin endpoint's socket.
    pub admin: PathBuf,
    /// The name registered under.
    pub name: String,
    /// How many workers.
    pub n_workers: usize,
    /// Whom to become.
    pub user: User,
    /// How long open connections may take to end.
    pub drain: Duration,
    /// Where access logs go; standard output where None.
    pub access_log: Option<PathBuf>,
    /// Whether it may run with privileges.
    pub privileges: Privileges,
}

/// Whether the process may keep privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// All are dropped, or it does not run.
    Dropped,
    /// It runs with what it has.
    Kept,
}

impl Config {
    /// What the arguments say.
    pub fn from_args(args: Args) -> Self {
        let Args { run_dir, name, workers, user, drain, access_log, allow_privileged } = args;
        Self {
            agent: run_dir.join("proxy.sock"),
            admin: run_dir.join("proxy-admin.sock"),
            name,
            n_workers: workers.map_or_else(cores, NonZeroUsize::get).min(MAX_WORKERS),
            user,
            drain: Duration::from_secs(drain),
            access_log,
            privileges: if allow_privileged { Privileges::Kept } else { Privileges::Dropped },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Args, Config, Privileges};

    #[test]
    fn the_arguments_are_well_formed_and_safe_by_default() {
        Args::command().debug_assert();
        let config = Config::from_args(Args::parse_from(["millrace-proxy", "--run-dir", "/x", "--workers", "3"]));
        assert_eq!(config.agent.to_str(), Some("/x/proxy.sock"));
        assert_eq!(config.n_workers, 3);
        assert_eq!(config.privileges, Privileges::Dropped);
        assert!(Args::try_parse_from(["millrace-proxy", "--user", "0:0"]).is_err(), "root is nobody to become");
    }
}
