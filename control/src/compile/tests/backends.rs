//! How many requests may be sent again: by the policy of the service that takes them, and of two policies by the older.

use std::time::Duration;

use millrace_model::{RetryBudget, retry::Origin};

use super::{BASE, name, notes, snapshot, world};
use crate::{compile::backend::standings, status::condition::Holds};

fn service(name: &str, address: u8) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{clusterIPs: [10.96.0.{address}], ports: [{{port: 80}}]}}}}\n"
    )
}

fn policy(name: &str, more: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, \
         metadata: {{name: {name}, namespace: shop{more}}}, spec: {{{spec}}}}}\n"
    )
}

fn of(service: &str, constraint: &str) -> String {
    format!("targetRefs: [{{group: '', kind: Service, name: {service}}}]{constraint}")
}

fn budget(text: &str, service: &str) -> RetryBudget {
    snapshot(text).services[&name(service)].traffic.retries
}

#[test]
fn a_services_budget_is_its_policys_with_gateway_apis_own_defaults() {
    let base = format!("{BASE}{}{}", service("web", 1), service("db", 2));
    assert_eq!(budget(&base, "web"), RetryBudget::default());
    let defaults = RetryBudget { origin: Origin::Policy, ..RetryBudget::default() };
    assert_eq!(budget(&format!("{base}{}", policy("p", "", &of("web", ", retryConstraint: {}"))), "web"), defaults);
    let told = ", retryConstraint: {budget: {percent: 0, interval: 30s}, minRetryRate: {count: 3}}";
    let text = format!("{base}{}", policy("p", "", &of("web", told)));
    let wanted = RetryBudget { percent: 0, interval: Duration::from_secs(30), min_count: 3, ..defaults };
    assert_eq!(budget(&text, "web"), wanted);
    assert_eq!(budget(&text, "db"), RetryBudget::default(), "another service's is its own");
    let nothing = format!("{base}{}", policy("p", "", &of("web", "")));
    assert_eq!(budget(&nothing, "web"), RetryBudget::default(), "a policy that says nothing of it changes nothing");
}

#[test]
fn of_two_policies_for_a_service_the_older_holds_and_the_other_is_told_and_conflicted() {
    let made = |day: u8| format!(", creationTimestamp: \"2026-01-0{day}T00:00:00Z\"");
    let spec = |percent: u8| of("web", &format!(", retryConstraint: {{budget: {{percent: {percent}}}}}"));
    let base = format!("{BASE}{}", service("web", 1));
    let text = |a: u8, b: u8| format!("{base}{}{}", policy("a", &made(a), &spec(1)), policy("b", &made(b), &spec(2)));
    assert_eq!([text(1, 2), text(2, 1), text(1, 1)].map(|text| budget(&text, "web").percent), [1, 2, 1]);
    let told = notes(&text(1, 2));
    assert!(
        told.len() == 1 && told[0].contains("XBackendTrafficPolicy shop/b: spec.targetRefs: shop/a names Service"),
        "{told:?}"
    );
    let standings = standings(&world(&text(1, 2)));
    let of = |policy: &str| standings[&name(policy)][&name("web")].clone();
    assert_eq!((of("a").holds, of("a").reason), (Holds::True, "Accepted"));
    assert_eq!((of("b").holds, of("b").reason), (Holds::False, "Conflicted"));
}

#[test]
fn a_policy_for_nobody_is_told() {
    let text = format!("{BASE}{}", policy("p", "", &of("gone", "")));
    let told = notes(&text);
    assert!(told.len() == 1 && told[0].contains("there is no Service shop/gone"), "{told:?}");
    assert_eq!(standings(&world(&text))[&name("p")][&name("gone")].reason, "TargetNotFound");
}
