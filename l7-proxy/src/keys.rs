//! Holds the keys of this node's identities, as the agent gives them.

use std::{collections::HashMap, sync::Arc};

use millrace_model::Identity;
use millrace_node::credentials::{self, Expect, KeyMaterial, Unusable};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

/// The one application protocol of a tunnel.
pub(crate) const ALPN: &[&[u8]] = &[b"h2"];

/// One identity's key, certificate and roots, ready for use.
#[derive(Debug)]
pub(crate) struct Key {
    /// Whose it is.
    pub(crate) identity: Identity,
    /// Grows with every key given: a tunnel opened with an earlier one takes no new streams.
    pub(crate) serial: u64,
    /// For tunnels that arrive.
    pub(crate) server: Arc<ServerConfig>,
    material: KeyMaterial,
}

impl Key {
    /// Whether a peer's certificate, believed once, still is: its node may have been taken out since. Not whether it has run out.
    pub(crate) fn believes(&self, leaf: &CertificateDer<'_>) -> bool {
        credentials::is_not_revoked(leaf, &self.material.revoked).is_ok()
    }

    /// For a tunnel to a peer that must be `peer`.
    pub(crate) fn client(&self, peer: &Identity) -> Result<ClientConfig, Unusable> {
        let expect = Expect::Identity(peer.clone());
        credentials::client_config(Some(&self.material), &self.material.bundle, expect, ALPN)
    }
}

/// Every key that this process holds.
#[derive(Debug, Default)]
pub(crate) struct Keys(watch::Sender<Held>);

/// Keys by identity, and how many were given in all.
#[derive(Debug, Default)]
pub(crate) struct Held {
    given: u64,
    keys: HashMap<Identity, Arc<Key>>,
}

impl Keys {
    /// Takes a key in place of the one held for `identity`. An unusable one changes nothing.
    pub(crate) fn put(&self, identity: Identity, material: KeyMaterial) -> Result<(), Unusable> {
        let server = Arc::new(credentials::server_config(&material, &identity.trust_domain, ALPN)?);
        self.0.send_modify(|held| {
            held.given += 1;
            let key = Key { identity: identity.clone(), serial: held.given, server, material };
            held.keys.insert(identity, Arc::new(key));
        });
        Ok(())
    }

    /// Forgets the key of `identity`.
    pub(crate) fn retire(&self, identity: &Identity) {
        self.0.send_if_modified(|held| held.keys.remove(identity).is_some());
    }

    /// The key of `identity`; None where the agent has not given it.
    pub(crate) fn get(&self, identity: &Identity) -> Option<Arc<Key>> {
        self.0.borrow().keys.get(identity).cloned()
    }

    /// Waits until the certificate of a peer of `identity` is no longer believed.
    pub(crate) async fn revoked(&self, identity: &Identity, leaf: &CertificateDer<'_>) {
        let mut held = self.0.subscribe();
        let is_refused = |held: &Held| held.keys.get(identity).is_some_and(|key| !key.believes(leaf));
        if held.wait_for(is_refused).await.is_err() {
            // The keys are gone: so is the process, soon.
            std::future::pending::<()>().await;
        }
    }

    /// Tells of every key that comes or goes.
    pub(crate) fn watch(&self) -> watch::Receiver<Held> {
        self.0.subscribe()
    }

    /// Who can be proven here.
    pub(crate) fn identities(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.borrow().keys.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }
}
