//! Reaches the API server: by a kubeconfig, or as the pod that this process runs in.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// An API server that does not take a connection within this time is away.
const CONNECT: Duration = Duration::from_secs(5);

/// A client; nothing is asked yet.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("--kubeconfig {}", path.display()))?
        }
        None => Config::incluster()
            .context("this is no pod with a service account: run it in a cluster, or give --kubeconfig")?,
    };
    config.connect_timeout = Some(CONNECT);
    // The watches try again by themselves, and say so; a retry beneath them would hide an API server that is away.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
