//! Says which features the node does without: those its kernel lacks, and, for tests, those it is told to lack.

use std::collections::BTreeSet;

use super::features::{Feature, Presence};

/// Without it another program on the same hook may run first.
pub const ORDER: &str = "program order";
/// Without it live connections are not closed when policy turns.
pub const DESTROY: &str = "socket destroy";
/// Without it connected UDP sockets are not closed when policy turns.
pub const DESTROY_UDP: &str = "socket destroy, UDP";
/// Without it a connected UDP socket stays with an endpoint that left its service.
pub const BY_SERVICE: &str = "iterator of UDP sockets";
/// Without it nobody judges what pods send at the host's ends of their interfaces.
pub const TCX: &str = "tcx";
/// Without it a connection is not compared with the one that was attested.
pub const SEQUENCE: &str = "sequence number of a SYN";
/// The host's own setting: nothing of ours asks for it.
pub const REVERSE_PATH: &str = "strict reverse path filter";
/// Without it a service's old table is swept without waiting.
pub const GRACE: &str = "grace period";
/// Without it MPTCP applications see the addresses that connections really run between.
pub const MPTCP: &str = "MPTCP";

/// What the node does without, by the features' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing(BTreeSet<String>);

impl Missing {
    /// Those that are not there. One that could not be asked for is tried: a guard must not be left out for a failed question.
    /// MPTCP alone must be known, as the object is loaded whole or not at all.
    pub fn of(features: &[Feature]) -> Self {
        let is_lacking = |feature: &&Feature| match feature.presence {
            Presence::Present => false,
            Presence::Missing => true,
            Presence::Unknown(_) => feature.name == MPTCP,
        };
        Self(features.iter().filter(is_lacking).map(|feature| feature.name.to_owned()).collect())
    }

    /// These and one more.
    #[must_use]
    pub fn and(mut self, feature: &str) -> Self {
        self.0.insert(feature.to_owned());
        self
    }

    /// True where this one is not there.
    pub fn lacks(&self, feature: &str) -> bool {
        self.0.contains(feature)
    }
}

impl<const N: usize> From<[&str; N]> for Missing {
    fn from(features: [&str; N]) -> Self {
        Self(features.map(str::to_owned).into())
    }
}

#[cfg(test)]
mod tests {
    use super::{Feature, MPTCP, Missing, Presence, TCX};
    use crate::kernel::features::Need;

    #[test]
    fn what_could_not_be_asked_for_is_tried_save_what_the_load_rests_on() {
        let unknown = |name| Feature {
            name,
            presence: Presence::Unknown("no privilege".to_owned()),
            need: Need::Optional,
            without: "",
        };
        let missing = Missing::of(&[unknown(TCX), unknown(MPTCP)]);
        assert!(!missing.lacks(TCX) && missing.lacks(MPTCP));
    }
}
