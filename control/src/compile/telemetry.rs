//! Binds TelemetryPolicies to pods, and says which do not do what their author seems to think.

use std::collections::{BTreeMap, BTreeSet};

use millrace_model::{ObjectName, Protocol, Workload};

use super::{
    Notes,
    policy::{Bindings, field, selects},
};
use crate::{
    diagnostic::Kind,
    world::{Pod, Target, TelemetryPolicy, World},
};

/// A policy, how far from a pod's namespace it stands, and whether it is for all: the least decides.
type Ranked<'w> = ((usize, bool), &'w TelemetryPolicy);

/// TelemetryPolicies by the namespace they stand in.
pub(super) struct Recorded<'w>(BTreeMap<&'w str, Vec<&'w TelemetryPolicy>>);

impl<'w> Recorded<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        let mut by_namespace: BTreeMap<&str, Vec<&TelemetryPolicy>> = BTreeMap::new();
        for policy in world.objects.telemetry.values() {
            by_namespace.entry(&policy.says.name.namespace).or_default().push(policy);
        }
        Self(by_namespace)
    }

    /// The one that decides for this pod: its own namespace's before the root's, one that selects before one for all, then the
    /// older, then the first by name.
    pub(super) fn of(&self, pod: &Pod, bindings: &Bindings<'_>, notes: &mut Notes) -> Option<ObjectName> {
        let mut binding: Vec<Ranked<'_>> = bindings
            .namespaces(pod)
            .into_iter()
            .enumerate()
            .filter_map(|(reach, namespace)| Some((reach, self.0.get(namespace)?)))
            .flat_map(|(reach, policies)| policies.iter().map(move |policy| (reach, *policy)))
            .filter(|(_, policy)| selects(&policy.target, pod))
            .map(|(reach, policy)| ((reach, policy.target == Target::All), policy))
            .collect();
        binding.sort_by_key(|(rank, policy)| (*rank, policy.made, &policy.says.name));
        let (rank, first) = binding.first()?;
        for (_, other) in binding.iter().skip(1).filter(|(r, _)| r == rank) {
            let problem = format!("{} selects pods of its too, and decides for them", first.says.name);
            let mend = "remove one of the two, or let one select fewer pods: they are not merged";
            notes.add(Kind::TelemetryPolicy, &other.says.name, (field(&other.target), problem, mend));
        }
        Some(first.says.name.clone())
    }
}

/// Notes policies that select nobody, and collectors that are not there.
pub(super) fn check<'w>(
    world: &World,
    workloads: impl Iterator<Item = &'w std::sync::Arc<Workload>>,
    notes: &mut Notes,
) {
    if world.objects.telemetry.is_empty() {
        return;
    }
    let bound: BTreeSet<&ObjectName> = workloads.filter_map(|workload| workload.telemetry.as_ref()).collect();
    for TelemetryPolicy { made: _, target, says } in world.objects.telemetry.values().map(|policy| &**policy) {
        let chosen = *target != Target::All;
        let selects_any = || world.objects.pods.values().any(|pod| selects(target, pod));
        if chosen && !bound.contains(&says.name) && !selects_any() {
            let mend = "correct the labels, if pods were meant";
            notes.add(
                Kind::TelemetryPolicy,
                &says.name,
                (field(target), "it selects no pod there is".to_owned(), mend),
            );
        }
        let Some(collector) = says.tracing.as_ref().and_then(|tracing| tracing.collector.as_ref()) else { continue };
        let at = "spec.tracing.collector";
        match world.objects.services.get(&collector.service) {
            None => {
                let problem = format!("there is no Service {}", collector.service);
                notes.add(Kind::TelemetryPolicy, &says.name, (at, problem, "add the Service, or correct the name"));
            }
            Some(service) => {
                let has =
                    |port: u16, protocol| service.ports.iter().any(|one| one.port == port && one.protocol == protocol);
                if !has(collector.port, Protocol::Tcp) {
                    let problem = format!("Service {} has no TCP port {}", collector.service, collector.port);
                    let mend = "correct the port: it is the Service's, not the pods'";
                    notes.add(Kind::TelemetryPolicy, &says.name, (at, problem, mend));
                }
            }
        }
    }
}
