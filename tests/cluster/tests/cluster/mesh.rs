//! A control plane in this process that watches the API server.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millrace_control::{
    config::{Config, Source},
    publish::History,
    run::Control,
    world::Settings,
};
use millrace_model::Snapshot;
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};

/// Long enough for a busy machine, short enough to see a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for a change that must not come to have come: the longest wait of a watch between two tries is 10 s.
pub(crate) const QUIET: Duration = Duration::from_millis(1500);

/// A control plane.
pub(crate) struct Mesh {
    pub(crate) control: Control,
    pub(crate) history: watch::Receiver<Arc<History>>,
    pub(crate) state: TempDir,
    stop: tokio::sync::oneshot::Sender<()>,
}

/// Settings of a control plane whose leases and secrets are in the namespace `root`.
pub(crate) fn config(source: Source, state: &Path, root: &str) -> Config {
    Config {
        source,
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: state.join("admin.sock"),
        state_dir: state.to_owned(),
        mesh: Settings { trust_domain: "cluster.local".into(), root_namespace: root.into() },
        leaf_lifetime: Duration::from_secs(24 * 60 * 60),
        node_lifetime: Duration::from_secs(24 * 60 * 60),
        log: "off".to_owned(),
    }
}

/// The API server as a source.
pub(crate) fn kubernetes(kubeconfig: PathBuf, namespaces: &[&str]) -> Source {
    let namespaces: BTreeSet<String> = namespaces.iter().map(|&name| name.to_owned()).collect();
    Source::Kubernetes { kubeconfig: Some(kubeconfig), namespaces, webhook: None }
}

impl Mesh {
    /// Starts, and does not wait for anything to be published.
    pub(crate) async fn over(source: Source) -> Self {
        Self::rooted(source, "millrace-system").await
    }

    /// One with another root namespace, so that it leads whatever another test left behind.
    pub(crate) async fn rooted(source: Source, root: &str) -> Self {
        let state = tempfile::tempdir().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) };
        let control = Box::pin(Control::start(config(source, state.path(), root), None, stopped)).await.unwrap();
        let history = control.history.clone();
        Self { control, history, state, stop }
    }

    /// Ends as a rolling update ends it.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.control.ended().await.unwrap();
    }

    /// Ends as a machine's fault does: nothing is given back.
    pub(crate) async fn kill(self) {
        self.control.stop().await;
    }

    /// The first published Snapshot that this holds of.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let found = timeout(PATIENCE, async {
            loop {
                let now = self.history.borrow_and_update().now().map(|edition| edition.snapshot.clone());
                if let Some(snapshot) = now.filter(|snapshot| holds(snapshot)) {
                    return (*snapshot).clone();
                }
                self.history.changed().await.unwrap();
            }
        });
        match found.await {
            Ok(snapshot) => snapshot,
            Err(_) => {
                let now = self.history.borrow().now().map(|edition| edition.snapshot.clone());
                panic!("{what}: not within {PATIENCE:?}; now {now:#?}; {:?}", self.control.diagnostics.borrow())
            }
        }
    }

    /// The generation published last.
    pub(crate) fn generation(&self) -> u64 {
        self.history.borrow().now().map_or(0, |edition| edition.generation())
    }

    /// One of its counters.
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        let text = self.ask("/metrics").await;
        let sum = text.lines().filter(|line| line.starts_with(name));
        sum.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// What its admin socket answers.
    pub(crate) async fn ask(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = tokio::net::UnixStream::connect(self.state.path().join("admin.sock")).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }
}
