//! Reads TrafficPolicies.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use millrace_crd as crd;
use millrace_model::{ObjectName, Outliers, outlier::Bounds};

use super::{duration::duration, meta};
use crate::{diagnostic::Problems, world::TrafficPolicy};

/// More targets than this is a generated list that belongs into several policies.
const MAX_TARGETS: usize = 100;
/// Past a thousand failures in a row nobody would call it a watch.
const MAX_FAILURES: u32 = 1_000;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn traffic(name: &ObjectName, policy: &crd::TrafficPolicy, problems: &mut Problems) -> TrafficPolicy {
    let crd::TrafficPolicySpec { target_refs, outlier_ejection } = &policy.spec;
    meta::check(&policy.metadata, problems);
    TrafficPolicy {
        name: name.clone(),
        made: meta::made(&policy.metadata),
        services: targets(target_refs, problems),
        outliers: outliers(outlier_ejection, problems),
    }
}

fn targets(refs: &[crd::TargetRef], problems: &mut Problems) -> BTreeSet<Arc<str>> {
    let field = "spec.targetRefs";
    if refs.is_empty() {
        problems.fatal(field, "it names no Service", "name at least one: {kind: Service, name: ...}");
    }
    if refs.len() > MAX_TARGETS {
        let problem = format!("there are {} targets", refs.len());
        problems.fatal(field, problem, format!("write at most {MAX_TARGETS}, and the rest in another policy"));
    }
    let mut services = BTreeSet::new();
    for (index, crd::TargetRef { group, kind, name }) in refs.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match (group.as_str(), kind.as_str()) {
            ("", "Service") if meta::is_dns_label(name) => drop(services.insert(Arc::from(name.as_str()))),
            ("", "Service") => problems.fatal(
                format!("{field}.name"),
                format!("{name:?} is no Service's name"),
                "write the name alone, of a Service in the policy's namespace",
            ),
            (_, other) => problems.fatal(
                format!("{field}.kind"),
                format!("a TrafficPolicy can't be attached to a {other:?} of group {group:?}"),
                "write kind Service with no group",
            ),
        }
    }
    services
}

fn outliers(ejection: &crd::OutlierEjection, problems: &mut Problems) -> Outliers {
    let crd::OutlierEjection {
        mode,
        consecutive_failures,
        interval,
        base_ejection_time,
        max_ejection_time,
        max_ejected_percent,
    } = ejection;
    let ours = Bounds::default();
    let mut time = |text: &Option<String>, field: &str, most: Duration| {
        let text = text.as_deref()?;
        duration(text, &format!("spec.outlierEjection.{field}"), (SECOND, most), problems)
    };
    let interval = time(interval, "interval", HOUR).unwrap_or(ours.interval);
    let base = time(base_ejection_time, "baseEjectionTime", DAY).unwrap_or(ours.base);
    // A longer first one is not cut short by a bound that nobody wrote.
    let longest = time(max_ejection_time, "maxEjectionTime", DAY).unwrap_or(ours.longest.max(base));
    let failures = consecutive_failures.unwrap_or(ours.failures);
    let percent = max_ejected_percent.unwrap_or(ours.percent);
    if longest < base {
        problems.fatal(
            "spec.outlierEjection.maxEjectionTime",
            "it is shorter than baseEjectionTime",
            "write a time that is at least as long",
        );
    }
    if !(1..=MAX_FAILURES).contains(&failures) {
        problems.fatal(
            "spec.outlierEjection.consecutiveFailures",
            format!("{failures} is out of bounds"),
            format!("write a whole number from 1 to {MAX_FAILURES}, or mode: Disabled"),
        );
    }
    if percent > 100 {
        problems.fatal(
            "spec.outlierEjection.maxEjectedPercent",
            format!("{percent} is out of bounds"),
            "write a whole number from 0 to 100",
        );
    }
    match mode {
        crd::EjectionMode::Enabled => Outliers::Ejected(Bounds { failures, interval, base, longest, percent }),
        crd::EjectionMode::Disabled => Outliers::Kept,
    }
}
