//! The `millrace` command: runs a mesh on one host, and asks a node what it does and why.
//!
//! Decides nothing about a connection: it asks the running processes, and `millrace_model` for `explain`. Speaks to
//! them over their admin sockets only; opens no port, reads no kernel map. Of a cluster it asks the API server alone.
//!
//! Exit codes: 0 it is done, or the answer is yes; 1 the answer is no, or a check failed; 2 the command line is
//! wrong, or the user may not; 3 the process asked can't be reached. `--help` says the same.

mod asked;
mod check;
mod client;
mod clock;
mod cluster;
pub mod config;
mod crds;
mod explain;
mod failure;
mod flows;
mod leave;
mod names;
mod out;
mod program;
mod raw;
mod routes;
mod run;
mod status;
mod table;
mod tap;
mod trust;

pub use failure::{Ending, Failure};

use config::{Args, Command};

/// Does what the command line asks.
pub async fn execute(args: Args) -> Result<Ending, Failure> {
    let Args { run_dir, command } = args;
    match command {
        Command::Run(settings) => run::run(&run_dir, settings).await,
        Command::Leave(settings) => leave::leave(&run_dir, &settings).await,
        Command::Status(ask) if ask.cluster.kubeconfig.is_some() => cluster::status(&ask.cluster, ask.output).await,
        Command::Status(ask) => status::status(&run_dir, ask.output).await,
        Command::Check(ask) if ask.cluster.kubeconfig.is_some() => cluster::check(&ask.cluster, ask.output).await,
        Command::Check(ask) => check::check(ask.output).await,
        Command::Ready { process } => raw::ready(&run_dir, process).await,
        Command::Explain(question) => explain::explain(&run_dir, &question).await,
        Command::Routes(question) => routes::routes(&run_dir, &question).await,
        Command::Flows(filter) => flows::flows(&run_dir, &filter).await,
        Command::Tap(asked) => tap::tap(&run_dir, &asked).await,
        Command::Metrics { process } => raw::metrics(&run_dir, process).await,
        Command::LogLevel { process, filter } => raw::log_level(&run_dir, process, filter).await,
        Command::Root(asked) => trust::root(&run_dir, &asked).await,
        Command::Nodes(asked) => trust::nodes(&run_dir, &asked).await,
        Command::Completions { shell } => crds::completions(shell),
        Command::Crds(ask) => crds::crds(ask.output),
    }
}
