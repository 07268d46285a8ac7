//! Binds XBackendTrafficPolicies to services. Of two for one service the older decides, then the first by namespace and name; the other does
//! nothing there, and is told so.

use std::collections::BTreeMap;

use millrace_model::{ObjectName, RetryBudget, Session};

use super::Notes;
use crate::{
    diagnostic::Kind,
    status::condition::{Holds, Wanted},
    world::{BackendPolicy, World},
};

/// By policy, what became of each service that it names: `Accepted`.
pub type Standings = BTreeMap<ObjectName, BTreeMap<ObjectName, Wanted>>;

/// What is said of each service that some policy names.
pub(super) fn bound<'w>(world: &'w World, notes: &mut Notes) -> BTreeMap<ObjectName, &'w BackendPolicy> {
    let mut bound = BTreeMap::new();
    for (policy, service, standing) in look(world) {
        match standing {
            Standing::Holds => drop(bound.insert(service, policy)),
            Standing::Missing | Standing::Beside(_) => {
                let (problem, mend) = standing.words(&service);
                notes.add(Kind::BackendPolicy, &policy.name, ("spec.targetRefs", problem, mend));
            }
        }
    }
    bound
}

/// How many requests may be sent again, by service.
pub(super) fn budgets(bound: &BTreeMap<ObjectName, &BackendPolicy>) -> BTreeMap<ObjectName, RetryBudget> {
    bound.iter().filter_map(|(service, policy)| Some((service.clone(), policy.retries?))).collect()
}

/// How a client's requests are kept with one endpoint, by service.
pub(super) fn sessions(world: &World) -> BTreeMap<ObjectName, &Session> {
    let held = look(world).into_iter().filter(|(_, _, standing)| matches!(standing, Standing::Holds));
    held.filter_map(|(policy, service, _)| Some((service, policy.session.as_ref()?))).collect()
}

/// What should stand on the policies' statuses.
pub fn standings(world: &World) -> Standings {
    let mut standings = Standings::new();
    for (policy, service, standing) in look(world) {
        let (holds, reason) = match standing {
            Standing::Holds => (Holds::True, "Accepted"),
            Standing::Missing => (Holds::False, "TargetNotFound"),
            Standing::Beside(_) => (Holds::False, "Conflicted"),
        };
        let message = match standing {
            Standing::Holds => "it is in force for requests to this Service by routes".to_owned(),
            Standing::Missing | Standing::Beside(_) => {
                let (problem, mend) = standing.words(&service);
                format!("{problem}; {mend}")
            }
        };
        let accepted = Wanted { name: "Accepted", holds, reason, message };
        standings.entry(policy.name.clone()).or_default().insert(service, accepted);
    }
    standings
}

/// What became of a service that a policy names.
enum Standing<'w> {
    /// It is bound by it.
    Holds,
    /// There is none.
    Missing,
    /// It is bound by this one.
    Beside(&'w ObjectName),
}

impl Standing<'_> {
    fn words(&self, service: &ObjectName) -> (String, &'static str) {
        match self {
            Self::Holds => (String::new(), ""),
            Self::Missing => (format!("there is no Service {service}"), "add the Service, or correct the name"),
            Self::Beside(first) => (
                format!("{first} names Service {service} too, and decides for it"),
                "remove one of the two, or its target",
            ),
        }
    }
}

fn look(world: &World) -> Vec<(&BackendPolicy, ObjectName, Standing<'_>)> {
    let mut policies: Vec<&BackendPolicy> = world.objects.backends.values().map(|policy| &**policy).collect();
    policies.sort_by_key(|policy| (policy.made, &policy.name));
    let mut first: BTreeMap<ObjectName, &ObjectName> = BTreeMap::new();
    let mut found = Vec::new();
    for policy in policies {
        for service in &policy.services {
            let service = ObjectName { namespace: policy.name.namespace.clone(), name: service.clone() };
            let standing = if !world.objects.services.contains_key(&service) {
                Standing::Missing
            } else if let Some(other) = first.get(&service) {
                Standing::Beside(other)
            } else {
                first.insert(service.clone(), &policy.name);
                Standing::Holds
            };
            found.push((policy, service, standing));
        }
    }
    found
}
