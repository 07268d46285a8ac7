//! Binds TrafficPolicies to services, and says which do not do what their author seems to think.

use std::collections::BTreeMap;

use millrace_model::{ObjectName, Outliers};

use super::Notes;
use crate::{
    diagnostic::Kind,
    world::{TrafficPolicy, World},
};

/// What is said of failing endpoints, by service. Of two policies the older decides, then the first by name.
pub(super) fn outliers(world: &World, notes: &mut Notes) -> BTreeMap<ObjectName, Outliers> {
    let mut policies: Vec<&TrafficPolicy> = world.objects.traffic.values().map(|policy| &**policy).collect();
    policies.sort_by_key(|policy| (policy.made, &policy.name));
    let mut bound: BTreeMap<ObjectName, &TrafficPolicy> = BTreeMap::new();
    for policy in policies {
        for service in &policy.services {
            let name = ObjectName { namespace: policy.name.namespace.clone(), name: service.clone() };
            if !world.objects.services.contains_key(&name) {
                let problem = format!("there is no Service {name}");
                let mend = "add the Service, or correct the name";
                notes.add(Kind::TrafficPolicy, &policy.name, ("spec.targetRefs", problem, mend));
            }
            match bound.get(&name) {
                None => drop(bound.insert(name, policy)),
                Some(first) if first.outliers == policy.outliers => {}
                Some(first) => {
                    let problem = format!("{} names Service {name} too, and decides for it", first.name);
                    let mend = "remove one of the two, or its target";
                    notes.add(Kind::TrafficPolicy, &policy.name, ("spec.targetRefs", problem, mend));
                }
            }
        }
    }
    bound.into_iter().map(|(name, policy)| (name, policy.outliers)).collect()
}
