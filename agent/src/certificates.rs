//! Keeps one certificate for each identity that runs on this node, and the node's own. Private keys live in memory alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, SystemTime},
};

use millrace_model::{Identity, Mesh};
use millrace_node::{
    credentials::{KeyMaterial, Trust, csr, is_not_revoked, issuer_sha256, new_key, peer_identity, renew_at, validity},
    handover::{seal, unseal},
    wire::{
        control::{Certificate, IssueRequest, Trusting, control_client::ControlClient},
        mesh, node,
    },
};
use prost::Message as _;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::{clock, control::backoff, join::Credentials, join::parts, state_dir::StateDir, trust};

/// What the proxies' key material is called where open files are listed.
const SEALED: &str = "millrace-keys";

/// Longest wait between two tries to have what is missing issued.
const MAX_WAIT: Duration = Duration::from_secs(15);

/// Once another root signs, certificates are renewed over this long: thousands of nodes shall not ask in one second.
const SPREAD: Duration = Duration::from_secs(10);

/// The largest key material that is sealed: a chain, a key, sixteen roots, and a thousand revoked nodes.
const MAX_MATERIAL: usize = 256 * 1024;

/// Longest sleep towards a renewal: the wall clock may be set meanwhile.
const MAX_SLEEP: Duration = Duration::from_secs(600);

/// Shortest sleep: certificates that are due as soon as they are issued shall not keep an issuer busy.
const MIN_SLEEP: Duration = Duration::from_secs(1);

/// How long one request may take.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);

/// The certificates of a node's identities.
pub type Certificates = BTreeMap<Identity, Arc<Issued>>;

/// One identity's certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Its key material, encoded and sealed: what a proxy gets.
    pub sealed: Arc<OwnedFd>,
    /// When it expires.
    pub not_after: SystemTime,
    /// When to have it renewed.
    pub renew: SystemTime,
    /// When it was issued, by this node's clock. Where that is in the future the clock was set back, and the certificate may
    /// not be valid yet.
    pub issued: SystemTime,
    /// The root that signed it; None where it is none of the bundle's.
    pub issuer_sha256: Option<[u8; 32]>,
}

impl Issued {
    fn is_due(&self, now: SystemTime) -> bool {
        self.renew <= now || now < self.issued
    }
}

/// Why no certificate was had.
#[derive(Debug, thiserror::Error)]
enum Unissued {
    #[error("there is no control plane")]
    NoControl,
    #[error("the control plane refused: {}", .0.message())]
    Refused(#[from] tonic::Status),
    #[error("no key can be made")]
    Key(#[from] rcgen::Error),
    #[error("what was issued is not for {0}: {1}")]
    NotFor(Identity, String),
    #[error("the key can't be sealed for the proxy")]
    Seal(#[from] std::io::Error),
    #[error("the node's own certificate can't be renewed")]
    Node(#[from] crate::join::Unjoined),
}

/// What keeps a node's certificates.
pub struct Keeper {
    /// The node's name.
    pub node: Arc<str>,
    /// Whose identities run here.
    pub mesh: watch::Receiver<Arc<Mesh>>,
    /// The way to the issuer.
    pub channel: watch::Receiver<Option<Channel>>,
    /// The node's own credentials.
    pub credentials: watch::Sender<Option<Arc<Credentials>>>,
    /// By what peers are believed; None before the control plane has ever said.
    pub trust: watch::Receiver<Option<Arc<Trust>>>,
    /// By what they are believed here, and under which roots the certificates held are: for the control plane.
    pub trusting: watch::Sender<Option<Trusting>>,
    /// Where the node's own are kept.
    pub dir: StateDir,
    /// The certificates held.
    pub held: watch::Sender<Arc<Certificates>>,
}

/// The identities that need a certificate on `node`.
pub fn identities(mesh: &Mesh, node: &str) -> BTreeSet<Identity> {
    let here = mesh.on(node).filter(|w| w.membership.is_captured());
    here.map(|workload| workload.identity.clone()).collect()
}

/// Keeps them until the process ends.
pub async fn keep(mut keeper: Keeper) {
    let mut failed = 0;
    loop {
        let wanted = identities(&keeper.mesh.borrow_and_update(), &keeper.node);
        keeper.retire(&wanted);
        if keeper.trust.has_changed().unwrap_or_default() {
            keeper.believe();
        }
        let now = clock::wall_time();
        // A channel that came while the last round failed is reason to try at once.
        keeper.channel.mark_unchanged();
        let mut complete = keeper.renew_node(now).await;
        for identity in wanted.iter().filter(|identity| keeper.is_due(identity, now)) {
            complete &= keeper.renew(identity).await;
        }
        keeper.tell();
        failed = if complete { 0 } else { failed + 1 };
        let wait =
            if complete { keeper.until_next(clock::wall_time()) } else { backoff(failed, rand::random(), MAX_WAIT) };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = keeper.channel.changed() => {}
            Ok(()) = wait_for_change(&mut keeper.trust) => {}
            changed = keeper.mesh.changed() => if changed.is_err() { return },
        }
    }
}

/// As `changed`, but leaves it to be seen.
async fn wait_for_change<T>(of: &mut watch::Receiver<T>) -> Result<(), watch::error::RecvError> {
    of.changed().await?;
    of.mark_changed();
    Ok(())
}

impl Keeper {
    /// Has the proxies, and the node itself, believe their peers as the control plane says now.
    fn believe(&mut self) {
        let Some(trust) = self.trust.borrow_and_update().clone() else { return };
        trust::save(&self.dir, &trust);
        let now = clock::wall_time();
        let soon = || now + SPREAD.mul_f64(rand::random());
        self.held.send_modify(|held| {
            for (identity, issued) in Arc::make_mut(held) {
                match resealed(issued, &trust) {
                    Ok((sealed, standing)) => {
                        let renew = match standing {
                            Standing::Good => issued.renew,
                            Standing::UnderAFormerRoot => issued.renew.min(soon()),
                            Standing::Revoked => now,
                        };
                        *issued = Arc::new(Issued {
                            sealed: Arc::new(sealed),
                            renew,
                            ..(**issued).clone()
                        });
                    }
                    Err(why) => {
                        tracing::error!(%identity, error = &why as &dyn std::error::Error, "a key can't be sealed anew");
                    }
                }
            }
        });
        self.credentials.send_if_modified(|own| {
            let next = own.as_ref().map(|own| Arc::new(own.trusting(&trust, soon())));
            if let Some(Err(why)) = next.as_ref().map(|next| next.save(&self.dir)) {
                tracing::warn!(error = &why as &dyn std::error::Error, "the node's roots could not be saved");
            }
            *own = next;
            // A session that goes on is as good as it was; the next one begins with these.
            own.is_some()
        });
    }

    /// Says by what peers are believed here now.
    fn tell(&self) {
        let Some(trust) = self.trust.borrow().clone() else { return };
        let held = self.held.borrow().clone();
        let own = self.credentials.borrow().as_ref().and_then(|own| own.issuer_sha256);
        let issuers: BTreeSet<[u8; 32]> = held.values().filter_map(|issued| issued.issuer_sha256).chain(own).collect();
        let now = Trusting {
            bundle_sha256: trust.bundle_sha256().to_vec(),
            issuers_sha256: issuers.into_iter().map(|issuer| issuer.to_vec()).collect(),
        };
        self.trusting.send_if_modified(|told| {
            let differs = told.as_ref() != Some(&now);
            *told = Some(now);
            differs
        });
    }

    fn retire(&self, wanted: &BTreeSet<Identity>) {
        self.held.send_if_modified(|held| {
            let keeps = held.keys().all(|identity| wanted.contains(identity));
            if !keeps {
                let kept = held.iter().filter(|(identity, _)| wanted.contains(*identity));
                *held = Arc::new(kept.map(|(identity, issued)| (identity.clone(), issued.clone())).collect());
            }
            !keeps
        });
    }

    fn is_due(&self, identity: &Identity, now: SystemTime) -> bool {
        self.held.borrow().get(identity).is_none_or(|issued| issued.is_due(now))
    }

    fn until_next(&self, now: SystemTime) -> Duration {
        let renewals = self.held.borrow().values().map(|issued| issued.renew).min();
        let own = self.credentials.borrow().as_ref().map(|own| own.renew);
        let next = renewals.into_iter().chain(own).min();
        next.map_or(MAX_SLEEP, |at| at.duration_since(now).unwrap_or_default()).clamp(MIN_SLEEP, MAX_SLEEP)
    }

    /// True where the identity has a certificate that holds now.
    async fn renew(&self, identity: &Identity) -> bool {
        match self.issued(identity).await {
            Ok(issued) => {
                self.held.send_modify(|held| {
                    Arc::make_mut(held).insert(identity.clone(), Arc::new(issued));
                });
                tracing::debug!(%identity, "a certificate was issued");
                true
            }
            // A control plane that is away is told of once, by who follows it.
            Err(Unissued::NoControl) => false,
            Err(why) => {
                tracing::warn!(%identity, error = &why as &dyn std::error::Error, "no certificate");
                false
            }
        }
    }

    async fn issued(&self, identity: &Identity) -> Result<Issued, Unissued> {
        let key = new_key()?;
        let answer = self.issue(IssueRequest { identity: identity.to_string(), csr_der: csr(&key)? }).await?;
        let (chain, bundle) = parts(answer);
        let unfit = |why: String| Unissued::NotFor(identity.clone(), why);
        let got = peer_identity(&chain).map_err(|why| unfit(why.to_string()))?;
        if got != *identity {
            return Err(unfit(format!("it names {got}")));
        }
        let leaf = chain.first().ok_or_else(|| unfit("no certificate".to_owned()))?;
        let (_, not_after) = validity(leaf).map_err(|why| unfit(why.to_string()))?;
        let trust = self.trust.borrow().clone();
        // What was said by itself is younger than what came with a certificate, or as old.
        let (bundle, revoked) = match trust.as_deref() {
            Some(Trust { bundle, revoked, .. }) => (bundle.clone(), revoked.clone()),
            None => (bundle, Vec::new()),
        };
        let issuer_sha256 = issuer_sha256(&chain, &bundle);
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let material = node::KeyMaterial::from(&KeyMaterial { chain, key, bundle, revoked });
        let sealed = seal(SEALED, &material.encode_to_vec())?;
        // From now, not from the certificate's own beginning: that lies in the past, for clocks that are behind.
        let issued = clock::wall_time();
        let renew = renew_at(issued, not_after, rand::random());
        Ok(Issued { sealed: Arc::new(sealed), not_after, renew, issued, issuer_sha256 })
    }

    /// True where the node's own certificate is not due.
    async fn renew_node(&self, now: SystemTime) -> bool {
        let Some(own) = self.credentials.borrow().clone() else { return true };
        if now < own.renew {
            return true;
        }
        match self.renewed_node(&own).await {
            Ok(renewed) => {
                tracing::info!(identity = %renewed.identity, "the node's certificate was renewed");
                self.credentials.send_replace(Some(Arc::new(renewed)));
                true
            }
            Err(Unissued::NoControl) => false,
            Err(why) => {
                tracing::warn!(error = &why as &dyn std::error::Error, "the node's certificate is not renewed");
                false
            }
        }
    }

    async fn renewed_node(&self, own: &Credentials) -> Result<Credentials, Unissued> {
        let answer = self.issue(IssueRequest { identity: String::new(), csr_der: own.csr()? }).await?;
        let renewed = own.renewed(answer, &self.node, clock::wall_time())?;
        renewed.save(&self.dir)?;
        Ok(renewed)
    }

    async fn issue(&self, request: IssueRequest) -> Result<Certificate, Unissued> {
        let channel = self.channel.borrow().clone().ok_or(Unissued::NoControl)?;
        let mut request = tonic::Request::new(request);
        request.set_timeout(ISSUE_TIMEOUT);
        Ok(ControlClient::new(channel).issue(request).await?.into_inner())
    }
}

/// The same key and certificate, with others believed beside them.
fn resealed(issued: &Issued, trust: &Trust) -> Result<(OwnedFd, Standing), Unissued> {
    let bytes = unseal(issued.sealed.as_fd(), MAX_MATERIAL)?;
    let mut material = node::KeyMaterial::decode(&*bytes).map_err(std::io::Error::other)?;
    material.bundle_der = trust.bundle.iter().map(|root| root.to_vec().into()).collect();
    material.revoked = trust.revoked.iter().map(mesh::Revoked::from).collect();
    let leaf = material.chain_der.first().map(|leaf| CertificateDer::from(leaf.as_ref()));
    let standing = if leaf.is_some_and(|leaf| is_not_revoked(&leaf, &trust.revoked).is_err()) {
        Standing::Revoked
    } else if issued.issuer_sha256 != Some(trust.issuer_sha256) {
        Standing::UnderAFormerRoot
    } else {
        Standing::Good
    };
    Ok((seal(SEALED, &material.encode_to_vec())?, standing))
}

/// How a certificate stands with what peers believe now.
enum Standing {
    Good,
    /// It is believed until that root is retired.
    UnderAFormerRoot,
    /// The node was taken out and joined again since: nobody believes it.
    Revoked,
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use super::Issued;

    #[test]
    fn a_certificate_is_due_late_in_its_life_or_after_the_clock_was_set_back() {
        let issued = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let hour = Duration::from_secs(3600);
        let sealed = Arc::new(File::open("/dev/null").unwrap().into());
        let certificate =
            Issued { sealed, not_after: issued + hour * 24, renew: issued + hour * 12, issued, issuer_sha256: None };
        assert!(!certificate.is_due(issued));
        assert!(!certificate.is_due(issued + hour));
        assert!(certificate.is_due(issued + hour * 12));
        assert!(certificate.is_due(issued - hour));
    }
}
