//! Makes a node known to the control plane: trades its join token for a certificate, and keeps that on disk.
//!
//! The key is made once and kept through renewals, so that no crash can leave a key and a certificate that do not belong together.

mod proof;
mod token;

use std::{
    convert::Infallible,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use millrace_model::Identity;
use millrace_node::{
    credentials::{
        KeyMaterial, Refusal, Trust, csr, issuer_sha256, new_key, peer_identity, refusal, renew_at, validity,
    },
    wire::control::{Certificate, JoinRequest, control_client::ControlClient},
};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use proof::Proof;

use crate::{
    clock,
    config::ControlAddress,
    control::{Dial, backoff, channel},
    state_dir::StateDir,
};

pub use proof::Files;
pub use token::{BadToken, Token};

const KEY: &str = "node.key";
const CHAIN: &str = "node.crt";
const BUNDLE: &str = "bundle.pem";
const CERTIFICATE_TAG: &str = "CERTIFICATE";

/// Longest wait between two tries to join: a person who puts a new token there shall not wait long.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// How often credentials that could not be saved are tried again: a person makes room.
const SAVE_AGAIN: Duration = Duration::from_secs(10);

/// More than key, chain and roots take: what a join needs of the disk.
const ROOM: usize = 64 * 1024;

/// Longest sleep towards the end of a certificate: the wall clock may be set meanwhile.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// The service account of the control plane, beside the nodes' own.
const CONTROL_ACCOUNT: &str = "millrace-control";

/// Where the node's credentials are held; None while there are none that hold.
pub type Held = watch::Sender<Option<Arc<Credentials>>>;

/// The credentials that the control plane refused last, as the node was taken out of the mesh.
pub type Revoked = watch::Receiver<Option<Arc<Credentials>>>;

/// What proves this node to the control plane.
#[derive(Debug)]
pub struct Credentials {
    /// Key, certificate and roots.
    pub material: KeyMaterial,
    /// Who the certificate says the node is.
    pub identity: Identity,
    /// When it expires.
    pub not_after: SystemTime,
    /// When to have it renewed.
    pub renew: SystemTime,
    /// The root that signed it; None where it is none of the bundle's.
    pub issuer_sha256: Option<[u8; 32]>,
    key: Arc<KeyPair>,
}

/// Why a node has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Unjoined {
    /// No token to join with.
    #[error("the node has no certificate, and no --join-token-file is given")]
    NoToken,
    /// The token can't be read.
    #[error("the join token in {0} can't be read")]
    TokenFile(PathBuf, #[source] io::Error),
    /// The token is none.
    #[error("the join token in {0} is not one")]
    BadToken(PathBuf, #[source] BadToken),
    /// A service account's token, and no roots.
    #[error(
        "the token is a service account's, which does not say by which root to know the control plane: give --roots-file"
    )]
    NoRoots,
    /// The roots can't be read.
    #[error("the mesh's roots in {0} can't be read")]
    RootsFile(PathBuf, #[source] io::Error),
    /// The token is another node's.
    #[error("the join token names node {named}, and this is {node}")]
    OtherNode {
        /// Who the token names.
        named: String,
        /// Who this is.
        node: String,
    },
    /// The control plane can't be reached, or is not the one that the token pins.
    #[error("the control plane can't be reached")]
    Unreachable(#[source] tonic::transport::Error),
    /// Who answers is not the control plane that the token is of.
    #[error("who answers is not the control plane that the token was made by ({name}): {0}", name = .0.name())]
    OtherControl(Refusal),
    /// The control plane refused.
    #[error("the control plane refused: {0}")]
    Refused(String),
    /// What came is no certificate for this node.
    #[error("what the control plane sent is not this node's certificate: {0}")]
    NotOurs(String),
    /// A key could not be made or read.
    #[error("the node's key can't be made or read")]
    Key(#[from] rcgen::Error),
    /// No TLS can be made of what there is.
    #[error("no TLS can be made of it")]
    Tls(#[from] millrace_node::credentials::Unusable),
    /// The state directory can't be read or written.
    #[error("the state directory can't be used")]
    State(#[from] io::Error),
}

impl Credentials {
    /// The credentials on disk; None where there are none that hold at `now`, so that the node must join.
    pub fn load(dir: &StateDir, node: &str, now: SystemTime) -> Result<Option<Self>, Unjoined> {
        let (Some(key), Some(chain), Some(bundle)) = (dir.read(KEY)?, dir.read(CHAIN)?, dir.read(BUNDLE)?) else {
            return Ok(None);
        };
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&key))?;
        let held = Self::from_parts(Arc::new(key), certificates(&chain), certificates(&bundle), node);
        match held {
            Ok(held) if now < held.not_after => Ok(Some(held)),
            Ok(_) => {
                tracing::warn!("the node's certificate has expired: it must join again");
                Ok(None)
            }
            Err(why) => {
                tracing::warn!(error = &why as &dyn std::error::Error, "the node's certificate on disk is not usable");
                Ok(None)
            }
        }
    }

    /// Writes them, the certificate last: without it the others mean nothing.
    pub fn save(&self, dir: &StateDir) -> io::Result<()> {
        let KeyMaterial { chain, key: _, bundle, revoked: _ } = &self.material;
        dir.write(KEY, self.key.serialize_pem().as_bytes())?;
        dir.write(BUNDLE, pem(bundle).as_bytes())?;
        dir.write(CHAIN, pem(chain).as_bytes())
    }

    /// These with another certificate for the same key.
    pub fn renewed(&self, certificate: Certificate, node: &str, now: SystemTime) -> Result<Self, Unjoined> {
        let (chain, bundle) = parts(certificate);
        let renewed = Self::from_parts(self.key.clone(), chain, bundle, node)?;
        // From now, not from the certificate's own beginning: that lies in the past, for clocks that are behind.
        Ok(Self { renew: renew_at(now, renewed.not_after, rand::random()), ..renewed })
    }

    /// These, with the control plane believed by other roots; to be renewed by `soon` where another root signs now.
    pub fn trusting(&self, trust: &Trust, soon: SystemTime) -> Self {
        let material = KeyMaterial { bundle: trust.bundle.clone(), ..self.material.clone() };
        let is_old = self.issuer_sha256 != Some(trust.issuer_sha256);
        Self {
            material,
            identity: self.identity.clone(),
            not_after: self.not_after,
            renew: if is_old { self.renew.min(soon) } else { self.renew },
            issuer_sha256: self.issuer_sha256,
            key: self.key.clone(),
        }
    }

    /// A request to renew them.
    pub fn csr(&self) -> Result<Vec<u8>, Unjoined> {
        Ok(csr(&self.key)?)
    }

    /// Who the control plane is: its account stands beside the nodes' own, in the mesh's root namespace.
    pub fn control(&self) -> Identity {
        Identity { service_account: CONTROL_ACCOUNT.into(), ..self.identity.clone() }
    }

    fn from_parts(
        key: Arc<KeyPair>,
        chain: Vec<CertificateDer<'static>>,
        bundle: Vec<CertificateDer<'static>>,
        node: &str,
    ) -> Result<Self, Unjoined> {
        let unfit = |why: Refusal| Unjoined::NotOurs(why.to_string());
        let identity = peer_identity(&chain).map_err(unfit)?;
        if identity.service_account.strip_prefix("node.") != Some(node) {
            return Err(Unjoined::NotOurs(format!("it names {identity}")));
        }
        let leaf = chain.first().ok_or_else(|| Unjoined::NotOurs("no certificate".to_owned()))?;
        let (not_before, not_after) = validity(leaf).map_err(unfit)?;
        let renew = renew_at(not_before, not_after, rand::random());
        let issuer_sha256 = issuer_sha256(&chain, &bundle);
        let pkcs8 = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        // The control plane's certificate is no node's: nothing that is revoked says anything of it.
        let material = KeyMaterial { chain, key: pkcs8, bundle, revoked: Vec::new() };
        Ok(Self { material, identity, not_after, renew, issuer_sha256, key })
    }
}

/// Keeps `held` the node's credentials: from disk, or by joining. Who renews them in time puts the newer ones there; once
/// they have expired, as no control plane was there for too long, the node joins again.
pub async fn keep(
    node: &str,
    control: &ControlAddress,
    files: Files<'_>,
    dir: &StateDir,
    (held, mut revoked): (Held, Revoked),
) -> Infallible {
    let mut seen = held.subscribe();
    let mut disk = Disk::Good;
    loop {
        let own = Arc::new(credentials(node, control, files, (dir, disk)).await);
        held.send_replace(Some(own.clone()));
        disk = tokio::select! {
            () = expiry(&mut seen) => Disk::Good,
            () = taken_out(&held, &mut revoked) => {
                tracing::error!(node, "the control plane has revoked this node: it joins again once it has a new token");
                Disk::Revoked
            }
            never = saved(&own, node, dir) => match never {},
        };
        held.send_replace(None);
    }
}

/// Sees to it that what was joined with is on disk: its token is spent. Whoever renews it saves the newer one.
async fn saved(own: &Credentials, node: &str, dir: &StateDir) -> Infallible {
    // What the control plane refused may lie there still.
    let is_there = |there: &Credentials| there.not_after >= own.not_after;
    while !matches!(Credentials::load(dir, node, clock::wall_time()), Ok(Some(there)) if is_there(&there)) {
        match own.save(dir) {
            Ok(()) => tracing::info!("the node's credentials are saved"),
            Err(why) => tracing::error!(
                error = &why as &dyn std::error::Error,
                "the node has joined, but can't save its credentials: make room, or its next start needs a new token"
            ),
        }
        tokio::time::sleep(SAVE_AGAIN).await;
    }
    std::future::pending().await
}

/// Whether what is on disk may be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Good,
    /// The control plane refused it.
    Revoked,
}

/// Returns once the control plane has refused what is held: for good, though it has not expired.
async fn taken_out(held: &Held, revoked: &mut Revoked) {
    let leaf = |own: &Option<Arc<Credentials>>| own.as_ref().and_then(|own| own.material.chain.first().cloned());
    let is_held = |refused: &Option<Arc<Credentials>>| refused.is_some() && leaf(refused) == leaf(&held.borrow());
    if revoked.wait_for(is_held).await.is_err() {
        // Nobody follows the control plane any more: the process is ending.
        std::future::pending::<()>().await;
    }
}

/// Returns once what is held has expired.
async fn expiry(held: &mut watch::Receiver<Option<Arc<Credentials>>>) {
    loop {
        let not_after = held.borrow_and_update().as_ref().map(|own| own.not_after);
        let left = not_after.and_then(|at| at.duration_since(clock::wall_time()).ok()).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(MAX_SLEEP)) => {}
            Ok(()) = held.changed() => {}
        }
    }
}

/// The node's credentials: from disk, or by joining, tried until it succeeds.
async fn credentials(
    node: &str,
    control: &ControlAddress,
    files: Files<'_>,
    (dir, disk): (&StateDir, Disk),
) -> Credentials {
    let mut failed = 0;
    loop {
        let held = match Credentials::load(dir, node, clock::wall_time()) {
            Ok(Some(held)) if disk == Disk::Good => Ok(held),
            Ok(Some(_) | None) => join(node, control, files, dir).await,
            Err(why) => Err(why),
        };
        match held {
            Ok(held) => return held,
            Err(why) => tracing::error!(error = &why as &dyn std::error::Error, node, "the node has not joined"),
        }
        tokio::time::sleep(backoff(failed, rand::random(), MAX_WAIT)).await;
        failed += 1;
    }
}

async fn join(node: &str, control: &ControlAddress, files: Files<'_>, dir: &StateDir) -> Result<Credentials, Unjoined> {
    let Proof { token, tls } = files.read(node)?;
    let dial = Dial::new(control.clone(), tls);
    let mut client = ControlClient::new(channel(dial).await.map_err(unreachable)?);
    // Before the token is spent: that there is room for what it buys.
    dir.try_out(ROOM)?;
    // One that is there stays: whatever fails, it belongs to the certificate beside it.
    let held = dir.read(KEY)?.and_then(|pem| KeyPair::from_pem(&String::from_utf8_lossy(&pem)).ok());
    let key = Arc::new(held.map_or_else(new_key, Ok)?);
    let request = JoinRequest { token, csr_der: csr(&key)? };
    let answer = client.join(request).await.map_err(|status| Unjoined::Refused(status.message().to_owned()))?;
    let (chain, bundle) = parts(answer.into_inner());
    let joined = Credentials::from_parts(key, chain, bundle, node)?;
    // The token is spent: whatever becomes of the disk, the node has joined. `keep` saves it again.
    if let Err(why) = joined.save(dir) {
        tracing::error!(error = &why as &dyn std::error::Error, "the node's credentials can't be saved");
    }
    tracing::info!(node, identity = %joined.identity, "joined the mesh");
    Ok(joined)
}

/// Nobody there, or somebody else.
fn unreachable(why: tonic::transport::Error) -> Unjoined {
    match refusal(&why) {
        Some(refusal) => Unjoined::OtherControl(refusal.clone()),
        None => Unjoined::Unreachable(why),
    }
}

/// What came as a certificate, as certificates.
pub(crate) fn parts(certificate: Certificate) -> (Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>) {
    let Certificate { chain_der, bundle_der } = certificate;
    let read = |der: Vec<Vec<u8>>| der.into_iter().map(CertificateDer::from).collect();
    (read(chain_der), read(bundle_der))
}

fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let blocks: Vec<pem::Pem> = certificates.iter().map(|c| pem::Pem::new(CERTIFICATE_TAG, c.to_vec())).collect();
    pem::encode_many(&blocks)
}

fn certificates(text: &[u8]) -> Vec<CertificateDer<'static>> {
    let blocks = pem::parse_many(text).unwrap_or_default();
    blocks.into_iter().filter(|b| b.tag() == CERTIFICATE_TAG).map(|b| b.into_contents().into()).collect()
}

#[cfg(test)]
mod tests;
