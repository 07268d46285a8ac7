//! Starts the CNI plugin; or, with a command, puts it into a node's chain of plugins or takes it out.

use std::{collections::BTreeMap, io, path::PathBuf, process::ExitCode};

use clap::Parser;
use millrace_agent::cni::{Folders, call, install, remove};

/// Holds each new pod of its node back until Millrace's agent knows it. Without a command it answers a container runtime, as CNI says.
#[derive(Debug, Parser)]
#[command(name = "millrace-cni", version, about)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Copy this program to the node's plugins, and put it last into the first chain.
    Install {
        #[command(flatten)]
        folders: Folders,
        /// The agent's run directory, as the node has it.
        #[arg(long, value_name = "DIR", default_value = "/run/millrace")]
        run_dir: PathBuf,
        /// A namespace whose pods start without the agent; may be given more than once.
        #[arg(long, value_name = "NAME", default_values = ["kube-system", "millrace-system"])]
        exclude: Vec<String>,
    },
    /// Take the plugin out of all chains, and remove its program.
    Remove {
        #[command(flatten)]
        folders: Folders,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        None => {
            let environment: BTreeMap<String, String> = std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect();
            let went_well = call(&environment, io::stdin().lock(), io::stdout().lock())?;
            Ok(if went_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(Command::Install { folders, run_dir, exclude }) => {
            install(&folders, &std::env::current_exe()?, (&run_dir, &exclude))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Remove { folders }) => {
            remove(&folders)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
