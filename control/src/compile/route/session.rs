//! Says which session the requests of a rule's backend are of: the rule's own, else that of the policy of the service that takes them.

use std::collections::BTreeMap;

use millrace_model::{ObjectName, RouteName, Session, route::Target};
use sha2::{Digest as _, Sha256};

use crate::world::route::Rule;

/// The sessions of policies, by service.
pub(super) type Sessions<'w> = BTreeMap<ObjectName, &'w Session>;

/// The session of one backend.
pub(super) fn of(
    sessions: &Sessions<'_>,
    (route, index, rule): (&RouteName, usize, &Rule),
    target: &Target,
) -> Option<Session> {
    let Target::Service { name, .. } = target else { return None };
    let session = rule.session.as_ref().or_else(|| sessions.get(name).copied())?;
    let tag = tag(route, index, rule);
    let name = if session.name.is_empty() { format!("millrace-{tag:08x}").into() } else { session.name.clone() };
    Some(Session { name, tag, ..session.clone() })
}

/// What tells one rule's sessions from another's. A named rule keeps its own wherever it stands.
fn tag(route: &RouteName, index: usize, rule: &Rule) -> u32 {
    let which = rule.name.as_ref().map_or_else(|| index.to_string(), |name| format!("{name:?}"));
    let digest = Sha256::digest(format!("{route} {which}"));
    digest.iter().take(4).fold(0, |tag, byte| tag << 8 | u32::from(*byte))
}
