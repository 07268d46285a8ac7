//! Holds what certificates are signed and judged by now, and changes it: a root after another, a node taken out.
//!
//! Every change is one rename of a file: whatever moment a crash chooses, the next start finds an authority that works. In a cluster
//! roots are given and revocations are all replicas': who agrees with the others is asked, and puts in force what they hold.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millrace_wire::mesh;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    authority::{self, Authority, Lifetimes},
    revocation::{Revocations, mark},
    secret::Pair,
};
use crate::world::Settings;

/// The nodes that were taken out.
const REVOKED: &str = "revoked.json";

/// What holds now.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// Who signs.
    pub authority: Arc<Authority>,
    /// Who was taken out.
    pub revoked: Arc<Revocations>,
}

impl Trusted {
    /// It, as nodes are told.
    pub fn trust(&self) -> mesh::Trust {
        let revoked = self
            .revoked
            .iter()
            .map(|(node, revoked)| mesh::Revoked { mark: mark(node).to_vec(), before_unix: revoked.before_unix });
        mesh::Trust {
            bundle_der: self.authority.bundle().iter().map(|der| der.to_vec()).collect(),
            issuer_sha256: self.authority.root_sha256().to_vec(),
            revoked: revoked.collect(),
        }
    }
}

/// What a node said of what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusting {
    /// Over the roots that it believes.
    pub bundle_sha256: Vec<u8>,
    /// The roots that its certificates are under.
    pub issuers_sha256: Vec<Vec<u8>>,
}

/// The hash by which a node names the bundle that it holds.
pub fn bundle_sha256(bundle: &[CertificateDer<'_>]) -> [u8; 32] {
    bundle.iter().fold(Sha256::new(), Sha256::chain_update).finalize().into()
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum Unchanged {
    /// The files can't be read, written, or used.
    #[error(transparent)]
    Fault(#[from] authority::Fault),
    /// What was revoked can't be kept.
    #[error("revoked.json can't be written")]
    Kept(#[source] std::io::Error),
    /// Nor can it be kept that tokens are forgotten.
    #[error("tokens.json can't be written")]
    Tokens(#[source] std::io::Error),
    /// There is a next root already.
    #[error("a next root is waiting already: activate it first")]
    NextWaits,
    /// There is none to activate.
    #[error("there is no next root: add one first")]
    NoNext,
    /// Only the root that signs is left.
    #[error("no former root is left in the bundle")]
    NothingToRetire,
    /// Nodes do not believe the next root yet.
    #[error("these nodes do not have the next root in their bundle yet: {}; wait for them, or force it and have their calls refused", .0.join(", "))]
    Behind(Vec<String>),
    /// Certificates may be in use that chain to the former root.
    #[error("these nodes may still show certificates of a former root: {}; wait for them, or force it and have their calls refused", .0.join(", "))]
    InUse(Vec<String>),
    /// Too many.
    #[error("as many nodes are revoked as can be")]
    TooMany,
    /// The root is not in the state directory.
    #[error(
        "the root is given in a Secret: change it there, the roots that are believed first (ca.crt), and then who signs (tls.crt and tls.key)"
    )]
    Given,
    /// It is not out.
    #[error("node {0} is not revoked")]
    NotRevoked(String),
    /// All replicas or none.
    #[error("nothing was changed, as the other replicas could not be told of it: {0}; try again")]
    NotTaken(String),
}

/// What becomes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is taken out.
    Revoke(Arc<str>),
    /// It is let in again.
    Readmit(Arc<str>),
}

/// One that all replicas are to make.
#[derive(Debug)]
pub struct Ask {
    /// What.
    pub change: Change,
    /// Who waits for it.
    pub told: oneshot::Sender<Result<(), Unchanged>>,
}

/// Whether a change waits for the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nodes<'n> {
    /// It does: what each said of what it holds. None for one that is known and said nothing, or is away.
    Known(&'n BTreeMap<Arc<str>, Option<Trusting>>),
    /// A person has decided.
    Forced,
}

/// Where the root is kept.
#[derive(Debug)]
enum Kept {
    /// In the state directory: it is changed here.
    Here(PathBuf),
    /// Somebody gives it, and changes it: see `replace`. Who was taken out is agreed on there too.
    Given(mpsc::Sender<Ask>),
}

/// What certificates are signed and judged by.
#[derive(Debug)]
pub struct Roots {
    kept: Kept,
    settings: Settings,
    lifetimes: Lifetimes,
    now: watch::Sender<Trusted>,
    /// Held while files change.
    changing: Mutex<()>,
}

impl Roots {
    /// Those of this state directory; a root is made where there is none.
    pub fn open(state: &Path, settings: &Settings, lifetimes: Lifetimes, now: Duration) -> Result<Self, Unchanged> {
        let authority = Authority::open(state, settings, lifetimes, now)?;
        let revoked = Revocations::read(&state.join(REVOKED)).map_err(Unchanged::Kept)?.at(now);
        Ok(Self::with(Kept::Here(state.to_owned()), authority, revoked, settings))
    }

    /// Those that are given; `asks` is where a change of who was taken out is asked for.
    pub fn given(
        (pair, revoked): (&Pair, Revocations),
        settings: &Settings,
        lifetimes: Lifetimes,
        asks: mpsc::Sender<Ask>,
    ) -> Result<Self, Unchanged> {
        Ok(Self::with(Kept::Given(asks), Authority::given(pair, lifetimes)?, revoked, settings))
    }

    fn with(kept: Kept, authority: Authority, revoked: Revocations, settings: &Settings) -> Self {
        let (lifetimes, authority, revoked) = (authority.lifetimes(), Arc::new(authority), Arc::new(revoked));
        let now = watch::Sender::new(Trusted { authority, revoked });
        Self { kept, settings: settings.clone(), lifetimes, now, changing: Mutex::new(()) }
    }

    /// Who signs now.
    pub fn authority(&self) -> Arc<Authority> {
        self.now.borrow().authority.clone()
    }

    /// Who is out now.
    pub fn revoked(&self) -> Arc<Revocations> {
        self.now.borrow().revoked.clone()
    }

    /// All that holds, and every change of it.
    pub fn watch(&self) -> watch::Receiver<Trusted> {
        self.now.subscribe()
    }

    /// Takes the files in as they are now, where they changed. Unusable ones change nothing.
    pub fn reload(&self) -> Result<bool, Unchanged> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.kept {
            Kept::Here(state) => self.load(state),
            Kept::Given(_) => Ok(false),
        }
    }

    /// Puts in force what all replicas hold.
    pub fn replace(&self, authority: Authority, revoked: Revocations) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.now.send_if_modified(|trusted| {
            let differs = !authority.is_same(&trusted.authority) || revoked != *trusted.revoked;
            if differs {
                *trusted = Trusted { authority: Arc::new(authority), revoked: Arc::new(revoked) };
            }
            differs
        });
    }

    /// Makes the next root, and has it believed beside the others. It signs nothing yet.
    pub fn add(&self, now: Duration) -> Result<(), Unchanged> {
        let state = self.state()?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.authority().next().is_some() {
            return Err(Unchanged::NextWaits);
        }
        authority::add_next(state, self.authority().bundle(), &self.settings, now)?;
        self.load(state).map(drop)
    }

    /// Has the next root sign, once every node believes it.
    pub fn activate(&self, nodes: &Nodes<'_>) -> Result<(), Unchanged> {
        let state = self.state()?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let authority = self.authority();
        if authority.next().is_none() {
            return Err(Unchanged::NoNext);
        }
        let bundle = bundle_sha256(authority.bundle());
        if let Nodes::Known(nodes) = nodes {
            let is_behind = |said: &Option<Trusting>| said.as_ref().is_some_and(|said| said.bundle_sha256 != bundle);
            let behind: Vec<String> = nodes.iter().filter(|(_, said)| is_behind(said)).map(named).collect();
            if !behind.is_empty() {
                return Err(Unchanged::Behind(behind));
            }
        }
        authority::activate_next(state)?;
        self.load(state).map(drop)
    }

    /// Has every root but the one that signs, and the next, believed no more, once no certificate is under one of them.
    pub fn retire(&self, nodes: &Nodes<'_>) -> Result<(), Unchanged> {
        let state = self.state()?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let authority = self.authority();
        let kept: Vec<CertificateDer<'static>> =
            std::iter::once(authority.root()).chain(authority.next()).cloned().collect();
        if authority.bundle().iter().all(|root| kept.contains(root)) {
            return Err(Unchanged::NothingToRetire);
        }
        let own = authority.root_sha256();
        if let Nodes::Known(nodes) = nodes {
            // A node that is away may come back with certificates that it holds in memory.
            let is_new = |said: &Trusting| said.issuers_sha256.iter().all(|issuer| *issuer == own);
            let in_use = nodes.iter().filter(|(_, said)| !said.as_ref().is_some_and(is_new)).map(named);
            let in_use: Vec<String> = in_use.collect();
            if !in_use.is_empty() {
                return Err(Unchanged::InUse(in_use));
            }
        }
        authority::keep_only(state, &kept)?;
        self.load(state).map(drop)
    }

    /// Takes a node out of the mesh. Not on a thread that serves: it waits for the disk, or for the API server.
    pub fn revoke(&self, node: &str, now: Duration) -> Result<(), Unchanged> {
        match &self.kept {
            Kept::Here(state) => {
                self.keep(state, |revoked| revoked.with(node, self.lifetimes.longest(), now).ok_or(Unchanged::TooMany))
            }
            Kept::Given(asks) => ask(asks, Change::Revoke(node.into())),
        }
    }

    /// Lets it in again: by a person's word, or because it joined with a new token. Not on a thread that serves.
    pub fn readmit(&self, node: &str) -> Result<(), Unchanged> {
        match &self.kept {
            Kept::Here(state) => self
                .keep(state, |revoked| revoked.readmitting(node).ok_or_else(|| Unchanged::NotRevoked(node.to_owned()))),
            Kept::Given(asks) => ask(asks, Change::Readmit(node.into())),
        }
    }

    fn state(&self) -> Result<&Path, Unchanged> {
        match &self.kept {
            Kept::Here(state) => Ok(state),
            Kept::Given(_) => Err(Unchanged::Given),
        }
    }

    fn keep(
        &self,
        state: &Path,
        change: impl FnOnce(&Revocations) -> Result<Revocations, Unchanged>,
    ) -> Result<(), Unchanged> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let revoked = change(&self.revoked())?;
        revoked.write(&state.join(REVOKED)).map_err(Unchanged::Kept)?;
        self.now.send_modify(|trusted| trusted.revoked = Arc::new(revoked));
        Ok(())
    }

    fn load(&self, state: &Path) -> Result<bool, Unchanged> {
        let next = Authority::load(state, self.lifetimes)?;
        Ok(self.take(next))
    }

    fn take(&self, next: Authority) -> bool {
        self.now.send_if_modified(|trusted| {
            let differs = !next.is_same(&trusted.authority);
            if differs {
                trusted.authority = Arc::new(next);
            }
            differs
        })
    }
}

fn ask(asks: &mpsc::Sender<Ask>, change: Change) -> Result<(), Unchanged> {
    let ending = || Unchanged::NotTaken("the control plane is ending".to_owned());
    let (told, answer) = oneshot::channel();
    asks.blocking_send(Ask { change, told }).map_err(|_ended| ending())?;
    answer.blocking_recv().map_err(|_ended| ending())?
}

fn named((node, _): (&Arc<str>, &Option<Trusting>)) -> String {
    node.to_string()
}

#[cfg(test)]
mod tests;
