//! Reads XBackendTrafficPolicies. The types are the `gateway-api` crate's, of the experimental channel; a directory has nobody who fills in its
//! definition's defaults or checks its rules, so both are done here too.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gateway_api::experimental::xbackendtrafficpolicies::{
    XBackendTrafficPolicy, XBackendTrafficPolicyRetryConstraint, XBackendTrafficPolicyRetryConstraintBudget,
    XBackendTrafficPolicyRetryConstraintMinRetryRate, XBackendTrafficPolicyTargetRefs,
};
use millrace_model::{ObjectName, RetryBudget, retry::Origin, session::CookiePath};
use serde::Deserialize as _;
use serde_json::Value;

use super::{duration::duration, meta, named, route, session};
use crate::{
    diagnostic::Problems,
    source::kubernetes::Asked,
    world::{
        BackendPolicy,
        route::{Parent, Written},
    },
};

/// Gateway API's own bounds.
const MAX_TARGETS: usize = 16;
const MAX_PERCENT: i64 = 100;
const MAX_COUNT: i64 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn policy(name: &ObjectName, policy: &XBackendTrafficPolicy, problems: &mut Problems) -> BackendPolicy {
    meta::check(&policy.metadata, problems);
    let spec = &policy.spec;
    let session = spec.session_persistence.as_ref().and_then(route::same);
    BackendPolicy {
        name: name.clone(),
        made: meta::made(&policy.metadata),
        services: targets(&spec.target_refs, problems),
        retries: spec.retry_constraint.as_ref().map(|constraint| budget(constraint, problems)),
        session: session
            .map(|session| session::session(&session, CookiePath::Unsaid, "spec.sessionPersistence", problems)),
    }
}

/// The Services that the policy in `value` names, as far as that can be read. Any other kind is somebody else's.
pub(super) fn asked(name: &ObjectName, value: &Value) -> Asked {
    let list = value.pointer("/spec/targetRefs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let refs: Vec<XBackendTrafficPolicyTargetRefs> =
        list.iter().filter_map(|one| XBackendTrafficPolicyTargetRefs::deserialize(one).ok()).collect();
    // What is wrong with them is told by whoever reads the policy.
    let services = targets(&refs, &mut Problems::default());
    let parent = |service: &Arc<str>| Parent {
        group: "".into(),
        kind: "Service".into(),
        name: named(&name.namespace, service),
        namespace: Written::There,
        section: None,
        port: None,
    };
    Asked { parents: services.iter().map(parent).collect(), n_rules: 0, in_force: None }
}

fn targets(refs: &[XBackendTrafficPolicyTargetRefs], problems: &mut Problems) -> BTreeSet<Arc<str>> {
    let field = "spec.targetRefs";
    if refs.is_empty() {
        problems.fatal(field, "it names nobody", "name at least one: {group: \"\", kind: Service, name: ...}");
    }
    if refs.len() > MAX_TARGETS {
        let problem = format!("there are {}", refs.len());
        problems.fatal(field, problem, format!("write at most {MAX_TARGETS}, and the rest in another policy"));
    }
    let mut services = BTreeSet::new();
    for (index, XBackendTrafficPolicyTargetRefs { group, kind, name }) in refs.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if (group.as_str(), kind.as_str()) != ("", "Service") {
            let problem = format!("the mesh sends no requests to a {kind:?} of group {group:?}");
            problems.slight(format!("{field}.kind"), problem, "write kind Service and group \"\", if one is meant");
        } else if !meta::is_dns_label(name) {
            let problem = format!("{name:?} is no Service's name");
            problems.fatal(
                format!("{field}.name"),
                problem,
                "write the name alone, of a Service in the policy's namespace",
            );
        } else if !services.insert(Arc::from(name.as_str())) {
            problems.fatal(field, format!("Service {name:?} stands twice"), "write each target once");
        }
    }
    services
}

fn budget(constraint: &XBackendTrafficPolicyRetryConstraint, problems: &mut Problems) -> RetryBudget {
    let XBackendTrafficPolicyRetryConstraint { budget, min_retry_rate } = constraint;
    let ours = RetryBudget { origin: Origin::Policy, ..RetryBudget::default() };
    let mut number = |given: Option<i64>, field: &str, bounds: (i64, i64), ours: u32| {
        let Some(given) = given else { return ours };
        if !(bounds.0..=bounds.1).contains(&given) {
            let mend = format!("write a whole number from {} to {}", bounds.0, bounds.1);
            problems.fatal(format!("spec.retryConstraint.{field}"), format!("{given} is out of bounds"), mend);
        }
        u32::try_from(given).unwrap_or(ours)
    };
    let (percent, budget_time) = match budget {
        None => (None, None),
        Some(XBackendTrafficPolicyRetryConstraintBudget { interval, percent }) => (*percent, interval.as_deref()),
    };
    let (count, rate_time) = match min_retry_rate {
        None => (None, None),
        Some(XBackendTrafficPolicyRetryConstraintMinRetryRate { count, interval }) => (*count, interval.as_deref()),
    };
    let percent = number(percent, "budget.percent", (0, MAX_PERCENT), ours.percent);
    let min_count = number(count, "minRetryRate.count", (1, MAX_COUNT), ours.min_count);
    let mut time = |text: Option<&str>, field: &str, least: Duration, ours: Duration| {
        let field = format!("spec.retryConstraint.{field}");
        text.and_then(|text| duration(text, &field, (least, HOUR), problems)).unwrap_or(ours)
    };
    RetryBudget {
        percent,
        interval: time(budget_time, "budget.interval", SECOND, ours.interval),
        min_count,
        min_interval: time(rate_time, "minRetryRate.interval", MILLISECOND, ours.min_interval),
        origin: Origin::Policy,
    }
}
