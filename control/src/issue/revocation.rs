//! Knows which nodes were taken out of the mesh, and how their certificates are told from others: by their serial numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::authority::SKEW;
use crate::store;

/// As many bytes of a serial number say to which node a certificate was issued.
pub const MARK: usize = 8;

/// The most that are kept: each is compared with every certificate that a peer shows, on every node.
pub const MAX_REVOKED: usize = 1024;

/// What a node's mark is a hash of, before its name: no other hash in the mesh begins so.
const LABEL: &[u8] = b"millrace node mark\0";

/// How the serial number of every certificate begins that is issued to this node, for itself or for a workload on it. Positive,
/// and of full length in DER: so that what is compared is what is on the wire.
pub fn mark(node: &str) -> [u8; MARK] {
    let hash = Sha256::new().chain_update(LABEL).chain_update(node).finalize();
    let mut mark = [0; MARK];
    for (to, from) in mark.iter_mut().zip(hash) {
        *to = from;
    }
    if let Some(first) = mark.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    mark
}

/// One node that was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Certificates that hold from before this moment are not believed, in seconds since 1970.
    pub before_unix: u64,
    /// When the last of them has run out, and nothing is left to tell of.
    pub until_unix: u64,
    /// False once the node has joined anew, or was readmitted: it may ask again, with a younger certificate.
    pub is_out: bool,
}

/// All of them, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revocations(BTreeMap<Arc<str>, Revoked>);

impl Revocations {
    /// Those kept in this file.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(store::read(path)?.unwrap_or_default())
    }

    /// Keeps them in this file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        store::write_json(path, self)
    }

    /// These and `node`, whose certificates live for `lifetime` at most; None where there are as many as there may be.
    pub fn with(&self, node: &str, lifetime: Duration, now: Duration) -> Option<Self> {
        let mut next = self.at(now);
        // A leaf holds from a minute before it is made: one made in this very second is not believed either,
        // nor one that was made for the node after it was taken out before.
        let before_unix = (now.saturating_sub(SKEW).as_secs() + 1).max(self.before_unix(node) + 1);
        let until_unix = (now + lifetime).as_secs() + 1;
        next.0.insert(node.into(), Revoked { before_unix, until_unix, is_out: true });
        (next.0.len() <= MAX_REVOKED).then_some(next)
    }

    /// These, with `node` let in again: its certificates from before stay refused. None where it is not out.
    pub fn readmitting(&self, node: &str) -> Option<Self> {
        let mut next = self.clone();
        let revoked = next.0.get_mut(node).filter(|revoked| revoked.is_out)?;
        revoked.is_out = false;
        Some(next)
    }

    /// Those that still say something at this moment. A node that is out stays out, however long.
    pub fn at(&self, now: Duration) -> Self {
        let says = |revoked: &Revoked| revoked.is_out || revoked.until_unix > now.as_secs();
        Self(
            self.0
                .iter()
                .filter(|(_, revoked)| says(revoked))
                .map(|(node, revoked)| (node.clone(), *revoked))
                .collect(),
        )
    }

    /// The nodes that are out now.
    pub fn out(&self) -> BTreeSet<Arc<str>> {
        self.0.iter().filter(|(_, revoked)| revoked.is_out).map(|(node, _)| node.clone()).collect()
    }

    /// True where this node is out now.
    pub fn is_out(&self, node: &str) -> bool {
        self.0.get(node).is_some_and(|revoked| revoked.is_out)
    }

    /// From when a certificate of this node must hold to be believed, in seconds since 1970; 0 where nothing is said of it.
    pub fn before_unix(&self, node: &str) -> u64 {
        self.0.get(node).map_or(0, |revoked| revoked.before_unix)
    }

    /// True where a certificate of this node that holds from `not_before_unix` is not believed, or the node is out altogether.
    pub fn refuse(&self, node: &str, not_before_unix: u64) -> bool {
        self.0.get(node).is_some_and(|revoked| revoked.is_out || not_before_unix < revoked.before_unix)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Revoked)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MAX_REVOKED, Revocations, mark};

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn marks_differ_by_node_and_are_positive_numbers_of_full_length() {
        assert_ne!(mark("a"), mark("b"));
        for node in ["a", "b", "node-1.example", ""] {
            assert_eq!(mark(node)[0] & 0xc0, 0x40, "{node}");
        }
    }

    #[test]
    fn a_revoked_node_is_refused_whatever_it_shows_and_a_readmitted_one_with_its_old_certificates() {
        let held_from = |issued: Duration| issued.as_secs() - 60;
        let revoked = Revocations::default().with("a", DAY, NOW).unwrap();
        assert!(revoked.refuse("a", held_from(NOW)));
        assert!(revoked.refuse("a", held_from(NOW + DAY)));
        assert!(!revoked.refuse("b", 0));
        assert!(revoked.out().contains("a"));

        let again = revoked.readmitting("a").unwrap();
        assert!(again.refuse("a", held_from(NOW)), "issued in the second of the revocation");
        assert!(!again.refuse("a", held_from(NOW + Duration::from_secs(1))));
        assert!(again.out().is_empty());
        assert_eq!(again.readmitting("a"), None);
    }

    #[test]
    fn a_revocation_is_forgotten_once_no_certificate_is_left_of_it_unless_the_node_is_out_still() {
        let out = Revocations::default().with("a", DAY, NOW).unwrap();
        let readmitted = out.readmitting("a").unwrap();
        let later = NOW + DAY + Duration::from_secs(2);
        assert_eq!(out.at(later), out);
        assert_eq!(readmitted.at(NOW + DAY), readmitted);
        assert_eq!(readmitted.at(later), Revocations::default());
    }

    #[test]
    fn there_is_a_bound() {
        let mut revoked = Revocations::default();
        for node in 0..MAX_REVOKED {
            revoked = revoked.with(&format!("n{node}"), DAY, NOW).unwrap();
        }
        assert_eq!(revoked.with("one-more", DAY, NOW), None);
        assert!(revoked.with("n0", DAY, NOW).is_some(), "one of them again");
    }
}
