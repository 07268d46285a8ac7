//! Shows a cluster as its API server holds it: what the replicas report, what stands on policies, and whether what Millrace needs is
//! there. Reads objects and nothing else: no port is opened and no process is asked, so that it answers while those are away too.

mod check;
mod look;
mod text;
mod view;

use std::time::Duration;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    Ending, Failure,
    config::{Cluster, Format},
    out,
};

/// An API server that does not take a connection within this time is away.
const CONNECT: Duration = Duration::from_secs(5);
/// Nor is one there whose answer takes longer.
const ANSWER: Duration = Duration::from_secs(15);
/// The mesh's own namespace.
const ROOT: &str = "millrace-system";

/// Shows replicas, nodes and policies. Something amiss is an answer: it is shown, and the exit code is 0.
pub(crate) async fn status(cluster: &Cluster, format: Format) -> Result<Ending, Failure> {
    let client = connect(cluster).await?;
    let view = view::view(&look::look(&client).await?);
    match format {
        Format::Json => out::print_json(&view)?,
        Format::Table => out::print(&text::text(&view))?,
    };
    Ok(Ending::Yes)
}

/// Checks whether the cluster has what Millrace needs. No, where something needed is missing.
pub(crate) async fn check(cluster: &Cluster, format: Format) -> Result<Ending, Failure> {
    let client = connect(cluster).await?;
    let findings = check::check(&client).await?;
    match format {
        Format::Json => out::print_json(&findings)?,
        Format::Table => out::print(&check::text(&findings))?,
    };
    Ok(if check::is_enough(&findings) { Ending::Yes } else { Ending::No })
}

async fn connect(Cluster { kubeconfig, context }: &Cluster) -> Result<Client, Failure> {
    let path = kubeconfig.clone().unwrap_or_default();
    let bad = |why: String| Failure::Usage(format!("--kubeconfig {}: {why}", path.display()));
    let file = Kubeconfig::read_from(&path).map_err(|why| bad(chain(&why)))?;
    let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
    let mut config = Config::from_custom_kubeconfig(file, &options).await.map_err(|why| bad(chain(&why)))?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(ANSWER);
    Client::try_from(config).map_err(|why| bad(chain(&why)))
}

/// The API server can't be asked this.
fn unasked(what: &str, why: &kube::Error) -> Failure {
    let kube::Error::Api(status) = why else { return Failure::Away { what: what.to_owned(), why: chain(why) } };
    if status.code == 401 || status.code == 403 {
        return Failure::Usage(format!("you may not read {what}: {}", status.message));
    }
    Failure::Failed(format!("the API server does not tell of {what}: {}", status.message))
}

/// The error and what lies under it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let below = std::iter::successors(error.source(), |error| error.source());
    below.fold(error.to_string(), |text, error| {
        let next = error.to_string();
        if text.contains(&next) { text } else { format!("{text}: {next}") }
    })
}
