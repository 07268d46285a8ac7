//! Says which words of nodes are older than what they speak of: a pod that was gone since, and may be back under the same name and
//! instance, is listened for when its node has heard that it was gone and says so still.
//!
//! Otherwise its callers would be sent there while its node opens its listeners anew: the calls fail, and their nodes leave it out for
//! half a minute. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_model::Workload;

use crate::world::{Listener, Listening};

/// How long a word waits to be confirmed at most. A node that has a stream here says what it applied within some hundred
/// milliseconds; one whose stream is to another replica confirms by a new word alone, and says nothing where it never saw the pod go.
const PATIENCE: Duration = Duration::from_secs(2);

/// Words that don't count for now.
#[derive(Debug, Default)]
pub(super) struct Struck(BTreeMap<(Arc<str>, Listener), Strike>);

#[derive(Clone, Copy, Debug)]
struct Strike {
    /// The first generation without the pod: who has applied it, and listens for it still, never let go of it.
    generation: u64,
    until: Instant,
}

impl Struck {
    /// This generation has these pods no more.
    pub(super) fn strike<'w>(&mut self, gone: impl Iterator<Item = &'w Workload>, generation: u64, now: Instant) {
        for workload in gone {
            let listener = Listener { name: workload.name.clone(), instance: workload.instance.clone() };
            self.0.insert((workload.node.clone(), listener), Strike { generation, until: now + PATIENCE });
        }
    }

    /// A node's newest word: what it says no more needs no striking, and what it says of it later is of later.
    pub(super) fn heard(&mut self, node: &Arc<str>, listening: &BTreeSet<Listener>) {
        self.0.retain(|(of, listener), _| of != node || listening.contains(listener));
    }

    /// Lets words count again that their nodes have confirmed by what they applied, or that waited long enough. True where there are any.
    pub(super) fn lift(&mut self, applied: impl Fn(&str) -> u64, now: Instant) -> bool {
        let n_before = self.0.len();
        self.0.retain(|(node, _), strike| now < strike.until && applied(node) < strike.generation);
        self.0.len() != n_before
    }

    /// When the first of them counts again at the latest; None where all count.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.values().map(|strike| strike.until).min()
    }

    /// What nodes listen on, less what is struck.
    pub(super) fn without(&self, listening: &Listening) -> Listening {
        // By node: only the words of those that have a strike are copied.
        let mut listening = listening.clone();
        for (node, listener) in self.0.keys() {
            if let Some(of_node) = listening.get_mut(node) {
                Arc::make_mut(of_node).remove(listener);
            }
        }
        listening
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc, time::Instant};

    use millrace_model::{Encryption, Identity, Membership, ObjectName, Workload};

    use super::{Listener, Listening, PATIENCE, Struck};

    fn web() -> Workload {
        Workload {
            name: ObjectName::new("shop", "web"),
            instance: "1".into(),
            identity: Identity::new("td", "shop", "web"),
            addresses: vec![[10, 0, 0, 1].into()],
            node: "b".into(),
            zone: None,
            netns: None,
            membership: Membership::Enrolled,
            encryption: Encryption::default(),
            policies: [].into(),
            probe_ports: [].into(),
            telemetry: None,
            network: None,
        }
    }

    /// Struck at generation 7; the word of its node, from before.
    fn struck() -> (Struck, Listening, Instant) {
        let (mut struck, now, web) = (Struck::default(), crate::clock::now(), web());
        struck.strike([&web].into_iter(), 7, now);
        let word = BTreeSet::from([Listener { name: web.name.clone(), instance: web.instance.clone() }]);
        (struck, Listening::from([(Arc::from("b"), Arc::new(word))]), now)
    }

    fn counts(struck: &Struck, listening: &Listening) -> bool {
        struck.without(listening).values().any(|word| !word.is_empty())
    }

    #[test]
    fn an_older_word_on_a_pod_that_was_gone_does_not_count_until_its_node_has_heard() {
        let (mut struck, listening, now) = struck();
        assert!(!struck.lift(|_| 6, now) && !counts(&struck, &listening));
        assert!(struck.lift(|_| 7, now) && counts(&struck, &listening), "its node listened all the while");
    }

    #[test]
    fn a_word_without_it_ends_the_strike_and_the_next_one_counts() {
        let (mut struck, listening, now) = struck();
        struck.heard(&"b".into(), &BTreeSet::new());
        assert_eq!(struck.until(), None);
        assert!(!struck.lift(|_| 7, now), "nothing is to be compiled again for it");
        assert!(counts(&struck, &listening), "it is open anew");
    }

    #[test]
    fn a_word_of_another_pod_or_node_ends_no_strike_and_time_does() {
        let (mut struck, listening, now) = struck();
        struck.heard(&"a".into(), &BTreeSet::new());
        for (node, word) in &listening {
            struck.heard(node, word);
        }
        assert!(!counts(&struck, &listening));
        assert_eq!(struck.until(), Some(now + PATIENCE));
        assert!(struck.lift(|_| 0, now + PATIENCE) && counts(&struck, &listening));
    }
}
