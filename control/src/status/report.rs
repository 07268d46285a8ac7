//! Says what a replica's nodes have applied, in a form that other replicas understand: by version of a policy, as each replica counts
//! generations by itself. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::decide::Since;
use crate::{diagnostic::Key, nodes::Node, source::kubernetes::Revision};

/// Failures that are told of a node; it shows the rest itself.
const MAX_FAILURES: usize = 2;

/// What one replica's nodes have applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The versions of policies that the replica has published: uid and generation.
    pub versions: BTreeMap<String, (Arc<str>, i64)>,
    /// The nodes that have a stream to it.
    pub nodes: BTreeMap<Arc<str>, Progress>,
}

/// How far one node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The policies, of those that were published, that it has not applied yet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub late: BTreeSet<String>,
    /// What it could not enforce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
}

/// What one node has made of one version of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement<'a> {
    /// It enforces it.
    Done,
    /// It will.
    Late,
    /// It has no stream to any replica: what it has applied is not known.
    Away,
    /// It can't.
    Failed(&'a str),
}

impl Report {
    /// What these nodes have applied of what was published since.
    pub fn of(since: &Since, nodes: &BTreeMap<Arc<str>, Node>) -> Self {
        let versions = since.all().map(|(key, (revision, _))| {
            let Revision { uid, generation } = revision;
            (key.to_string(), (uid.clone(), *generation))
        });
        let progress = nodes.iter().filter(|(_, node)| node.streams > 0).map(|(name, node)| {
            let late = since.all().filter(|(_, (_, at))| node.applied < *at).map(|(key, _)| key.to_string()).collect();
            (name.clone(), Progress { late, failures: node.failures.iter().take(MAX_FAILURES).cloned().collect() })
        });
        Self { versions: versions.collect(), nodes: progress.collect() }
    }
}

/// What a node has made of a version of a policy, by all replicas' reports. A node that changes its replica is in two for a moment: one
/// that says it is done is right.
pub fn enforcement<'a>(
    reports: impl Iterator<Item = &'a Report>,
    node: &str,
    key: &Key,
    revision: &Revision,
) -> Enforcement<'a> {
    let name = key.to_string();
    let mut best = Enforcement::Away;
    for report in reports {
        let Some(progress) = report.nodes.get(node) else { continue };
        let is_published =
            report.versions.get(&name).is_some_and(|(uid, at)| *uid == revision.uid && *at == revision.generation);
        let one = if !is_published || progress.late.contains(&name) {
            Enforcement::Late
        } else if let Some(failure) = progress.failures.first() {
            Enforcement::Failed(failure)
        } else {
            return Enforcement::Done;
        };
        if best == Enforcement::Away || one == Enforcement::Late {
            best = one;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use millrace_model::ObjectName;

    use super::{Enforcement, Report, enforcement};
    use crate::{
        diagnostic::{Key, Kind},
        nodes::Node,
        source::kubernetes::Revision,
        status::decide::Since,
    };

    fn key() -> Key {
        Key { kind: Kind::AccessPolicy, name: ObjectName::new("shop", "guard") }
    }

    fn revision(generation: i64) -> Revision {
        Revision { uid: "1".into(), generation }
    }

    fn report(generation: i64, published_at: u64, node: &Node) -> Report {
        let since = Since::of(key(), revision(generation), published_at);
        Report::of(&since, &BTreeMap::from([(Arc::from("a"), node.clone())]))
    }

    fn connected(applied: u64) -> Node {
        Node { streams: 1, applied, ..Node::default() }
    }

    fn of(reports: &[Report], generation: i64) -> Enforcement<'_> {
        enforcement(reports.iter(), "a", &key(), &revision(generation))
    }

    #[test]
    fn a_node_enforces_a_version_once_it_applied_the_generation_that_brought_it() {
        assert_eq!(of(&[report(2, 100, &connected(99))], 2), Enforcement::Late);
        assert_eq!(of(&[report(2, 100, &connected(100))], 2), Enforcement::Done);
        assert_eq!(of(&[report(2, 100, &connected(100))], 3), Enforcement::Late, "another version is asked for");
        assert_eq!(of(&[report(2, 100, &Node { streams: 0, ..connected(100) })], 2), Enforcement::Away);
    }

    #[test]
    fn each_replica_counts_generations_by_itself_and_a_node_is_its_replicas() {
        let (behind, ahead) = (report(2, 900, &connected(100)), report(2, 50, &connected(60)));
        assert_eq!(of(&[behind.clone(), ahead.clone()], 2), Enforcement::Done);
        assert_eq!(of(&[ahead, behind], 2), Enforcement::Done);
    }

    #[test]
    fn a_node_that_fails_is_named_by_its_failure() {
        let failing = Node { failures: vec!["VERDICTS is full".to_owned()], ..connected(100) };
        assert_eq!(of(&[report(2, 100, &failing)], 2), Enforcement::Failed("VERDICTS is full"));
    }

    #[test]
    fn a_report_survives_its_annotation() {
        let report = report(2, 100, &connected(99));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
