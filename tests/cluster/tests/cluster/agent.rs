//! The part of a real agent that joins, follows a control plane and keeps its pods' certificates. Without a kernel and without pods.

use std::{path::PathBuf, sync::Arc};

use millrace_agent::{
    certificates::{self, Certificates, Keeper},
    config::ControlAddress,
    control::{self, Link, Report},
    join::{self, Files},
    state_dir::StateDir,
};
use millrace_control::clock;
use millrace_model::{Identity, Mesh as Followed, Snapshot};
use millrace_node::{
    credentials::{Expect, KeyMaterial, client_config, server_config},
    handover::unseal,
    wire::node,
};
use prost::Message as _;
use rustls_pki_types::ServerName;
use tokio::{sync::watch, task::JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::mesh::{Mesh, PATIENCE};

/// Key material is small.
const MAX_MATERIAL: usize = 256 * 1024;

/// One agent, until it is dropped.
pub(crate) struct Agent {
    keys: watch::Receiver<Arc<Certificates>>,
    _folder: tempfile::TempDir,
    _parts: JoinSet<()>,
}

impl Agent {
    /// Joins this replica by a token of its own, and follows it.
    pub(crate) fn start(mesh: &Mesh, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (token, state): (PathBuf, PathBuf) = (folder.path().join("token"), folder.path().join("state"));
        let issuer = &mesh.control.issuer;
        let (lifetime, now) = (millrace_control::issue::token::MAX_LIFETIME, clock::unix_time());
        let text = issuer.tokens.make(name, issuer.roots.authority().root_sha256(), lifetime, now).unwrap();
        std::fs::write(&token, text).unwrap();
        let dir = StateDir::open(&state).unwrap();
        let address = mesh.control.address;
        let address = ControlAddress { host: address.ip().to_string().into(), port: address.port() };
        let (held, held_seen) = watch::channel(None);
        let (followed, followed_seen) = watch::channel(Arc::new(Followed::new(Arc::new(Snapshot::default()))));
        let (trust, trust_seen) = watch::channel(None);
        let (trusting, trusting_seen) = watch::channel(None);
        let (report, report_seen) = watch::channel(Report::default());
        let (channel, channel_seen) = watch::channel(None);
        let (revoked, revoked_seen) = watch::channel(None);
        let (connected, _) = watch::channel(control::Connected::default());
        let (keys, keys_seen) = watch::channel(Arc::default());
        let mut parts = JoinSet::new();
        let (name, own, to): (Arc<str>, _, _) = (name.into(), held.clone(), address.clone());
        let (node, kept_in) = (name.clone(), dir.clone());
        parts.spawn(async move {
            let files = Files { token: Some(&token), roots: None };
            match join::keep(&node, &to, files, &kept_in, (own, revoked_seen)).await {}
        });
        let link = Link {
            address,
            credentials: held_seen,
            mesh: followed,
            trust,
            trusting: trusting_seen,
            report: report_seen,
            channel,
            revoked,
            connected,
        };
        parts.spawn(async move {
            control::follow(link).await;
            drop(report);
        });
        let keeper = Keeper {
            node: name,
            mesh: followed_seen,
            channel: channel_seen,
            credentials: held,
            trust: trust_seen,
            trusting,
            dir,
            held: keys,
        };
        parts.spawn(certificates::keep(keeper));
        Self { keys: keys_seen, _folder: folder, _parts: parts }
    }

    /// What a proxy there would hold of this identity, now; waits for the first.
    pub(crate) async fn material(&self, identity: &Identity) -> KeyMaterial {
        let mut keys = self.keys.clone();
        let held = tokio::time::timeout(PATIENCE, keys.wait_for(|keys| keys.contains_key(identity)));
        let sealed = held.await.expect("it is issued in time").unwrap()[identity].sealed.clone();
        let bytes = unseal(std::os::fd::AsFd::as_fd(&*sealed), MAX_MATERIAL).unwrap();
        node::KeyMaterial::decode(&*bytes).unwrap().try_into().unwrap()
    }
}

/// A handshake of one agent's workload with another's, each with what it holds at this moment; or why it failed.
pub(crate) async fn shake_hands(client: (&Agent, &Identity), server: (&Agent, &Identity)) -> std::io::Result<()> {
    let (from, to) = (client.0.material(client.1).await, server.0.material(server.1).await);
    let expect = Expect::Identity(server.1.clone());
    let connector = TlsConnector::from(Arc::new(client_config(Some(&from), &from.bundle, expect, &[b"h2"]).unwrap()));
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&to, "cluster.local", &[b"h2"]).unwrap()));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("peer.invalid").unwrap();
    tokio::try_join!(connector.connect(name, near), acceptor.accept(far)).map(drop)
}
