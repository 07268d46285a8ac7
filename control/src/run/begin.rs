//! Begins the source of objects, and what only a control plane in a cluster has: statuses, a webhook, roots to publish.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use kube::Client;
use rustls::crypto::aws_lc_rs;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    agreement::{self, Agreement, kept::Kept},
    clock,
    config::{Config, Source},
    issue::{authority::Authority, bundle, roots::Ask, secret},
    listening::{self, Sharing},
    metrics::Metrics,
    nodes::Nodes,
    source::{
        Sourced,
        directory::Directory,
        kubernetes::{self, Health, Kubernetes},
    },
    status::{self, Status},
    webhook::Webhook,
    world::Settings,
};

/// Copies of the files that were good throughout.
const COPIES: &str = "manifests";

/// The source of objects, before its task runs.
pub(super) struct Begun {
    pub(super) source_end: watch::Receiver<Arc<Sourced>>,
    /// What stands on the policies' status; never anything for a directory, which has none.
    pub(super) standing: watch::Receiver<Arc<kubernetes::Standing>>,
    pub(super) health: Arc<Health>,
    /// None for a directory.
    pub(super) cluster: Option<Cluster>,
    pub(super) task: BoxFuture<'static, anyhow::Result<()>>,
}

/// What a control plane in a cluster has beside the source.
pub(super) struct Cluster {
    pub(super) client: Client,
    /// What is in force, as all replicas agree.
    pub(super) kept: Kept,
    webhook: Option<SocketAddr>,
    replica: Arc<str>,
}

/// A directory has been read when this returns; an API server is asked from then on.
pub(super) async fn begin(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Begun> {
    let health = Arc::new(Health::default());
    let (standing_sender, standing) = watch::channel(Arc::default());
    match &config.source {
        Source::Directory(path) => {
            let (directory, sourced) = Directory::open(path, &config.state_dir.join(COPIES), config.mesh.clone())
                .context("the directory of manifests")?;
            let (source, source_end) = watch::channel(Arc::new(sourced));
            let task = Box::pin(async move { directory.follow(source).await.context("watching the directory") });
            Ok(Begun { source_end, standing, health, cluster: None, task })
        }
        Source::Kubernetes { kubeconfig, namespaces, webhook } => {
            let (sourced, source_end) = watch::channel(Arc::default());
            let client = kubernetes::client::connect(kubeconfig.as_deref()).await?;
            let made = Authority::new_root(&config.mesh, clock::unix_time())?;
            let namespace = &config.mesh.root_namespace;
            let root = secret::shared(&client, namespace, agreement::ROOT, &made).await.context("the root")?;
            let kept = agreement::kept::first(&client, namespace, &root, clock::unix_time()).await?;
            let watched = Kubernetes {
                client: client.clone(),
                settings: config.mesh.clone(),
                namespaces: namespaces.clone(),
                metrics: metrics.clone(),
                health: health.clone(),
            };
            let ends = kubernetes::Ends { sourced, standing: standing_sender };
            let task = Box::pin(async move { watched.follow(ends).await.context("watching the API server") });
            let cluster = Some(Cluster { client, kept, webhook: *webhook, replica: replica()? });
            Ok(Begun { source_end, standing, health, cluster, task })
        }
    }
}

impl Cluster {
    /// Starts to share what nodes listen on.
    pub(super) fn share(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        (settings, metrics): (&Settings, Arc<Metrics>),
        (nodes, health): (Arc<Nodes>, Arc<Health>),
        ends: listening::Ends,
    ) {
        let (client, replica) = (self.client.clone(), self.replica.clone());
        let sharing = Sharing { client, settings: settings.clone(), replica, nodes, health, metrics };
        tasks.spawn(async move {
            Box::pin(sharing.run(ends)).await;
            anyhow::bail!("what nodes listen on is shared no more")
        });
    }

    /// Starts to agree with other replicas on whom the mesh believes.
    pub(super) fn agree(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        agreement: Agreement,
        asks: mpsc::Receiver<Ask>,
    ) {
        let Agreement { client, settings, issuer, .. } = &agreement;
        tasks.spawn(bundle::publish(client.clone(), settings.clone(), issuer.roots.watch()));
        let kept = self.kept.clone();
        tasks.spawn(async move {
            Box::pin(agreement.run(kept, asks)).await;
            anyhow::bail!("whom the mesh believes is agreed on no more")
        });
    }

    /// Starts the parts, and says where the webhook listens, if it does.
    pub(super) async fn spawn(
        self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        (settings, metrics): (Settings, Arc<Metrics>),
        inputs: status::Inputs,
        done: oneshot::Sender<()>,
    ) -> anyhow::Result<Option<SocketAddr>> {
        let Self { client, kept: _, webhook, replica } = self;
        let mut listens = None;
        if let Some(address) = webhook {
            let webhook = Webhook::bind(address, client.clone(), &settings, metrics.clone()).await?;
            listens = Some(webhook.address);
            tasks.spawn(async move { webhook.serve().await.map(|never| match never {}).context("the webhook") });
        }
        let status = Status { client, settings, replica, metrics, leading: watch::Sender::default() };
        tasks.spawn(async move {
            Box::pin(status.run(inputs, done)).await;
            // The process stops, and other parts of it may have something left to do.
            std::future::pending().await
        });
        Ok(listens)
    }
}

/// Who this replica is: the host's name, which in Kubernetes is the pod's, and what no other process of that name has.
fn replica() -> anyhow::Result<Arc<str>> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fits = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    let host: String = host.trim().chars().filter(fits).collect();
    Ok(format!("{}-{:08x}", host.trim_matches('-'), random()? >> 32).into())
}

/// Random bits.
pub(super) fn random() -> anyhow::Result<u64> {
    let mut random = [0; 8];
    let filled = aws_lc_rs::default_provider().secure_random.fill(&mut random);
    filled.map_err(|_none| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(u64::from_be_bytes(random))
}
