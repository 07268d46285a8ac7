//! XBackendTrafficPolicies that are wrong in one way each.

use super::Case;

pub(crate) const POLICY: &str = r#"
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: patient, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  retryConstraint:
    budget: {percent: 30, interval: 20s}
    minRetryRate: {count: 5, interval: 2s}
"#;

#[rustfmt::skip]
pub(crate) const REFUSED: &[Case] = &[
    (POLICY, ("[{group: \"\", kind: Service, name: web}]", "[]"), ["spec.targetRefs", "it names nobody", "at least one"]),
    (POLICY, ("name: web}", "name: web/x}"), ["spec.targetRefs[0].name", "\"web/x\" is no Service's name", "alone"]),
    (POLICY, (", name: web}", "}"), ["spec.targetRefs[0].name", "it is missing", "add the field name"]),
    (POLICY, ("name: web}]", "name: web}, {group: \"\", kind: Service, name: web}]"), ["spec.targetRefs[1]", "Service \"web\" stands twice", "each target once"]),
    (POLICY, ("percent: 30", "percent: 101"), ["spec.retryConstraint.budget.percent", "101 is out of bounds", "from 0 to 100"]),
    (POLICY, ("percent: 30", "percent: -1"), ["spec.retryConstraint.budget.percent", "-1 is out of bounds", "from 0 to 100"]),
    (POLICY, ("percent: 30", "percent: some"), ["spec.retryConstraint.budget.percent", "\"some\" does not fit", "a whole number"]),
    (POLICY, ("interval: 20s", "interval: 500ms"), ["spec.retryConstraint.budget.interval", "500ms is out of bounds", "from 1s to 3600s"]),
    (POLICY, ("interval: 20s", "interval: 2h"), ["spec.retryConstraint.budget.interval", "2h is out of bounds", "to 3600s"]),
    (POLICY, ("count: 5", "count: 0"), ["spec.retryConstraint.minRetryRate.count", "0 is out of bounds", "from 1 to 1000000"]),
    (POLICY, ("interval: 2s", "interval: 0s"), ["spec.retryConstraint.minRetryRate.interval", "0s is out of bounds", "write a time from"]),
    (POLICY, ("interval: 2s", "interval: often"), ["spec.retryConstraint.minRetryRate.interval", "\"often\" is no span of time", "30s"]),
    (POLICY, ("  retryConstraint:", "  sessionPersistence: {sessionName: \"a;b\"}\n  retryConstraint:"), ["spec.sessionPersistence.sessionName", "is no cookie's name", "letters, digits"]),
    (POLICY, ("x-k8s.io/v1alpha1", "x-k8s.io/v1"), ["apiVersion", "reads no XBackendTrafficPolicy of", "write gateway.networking.x-k8s.io/v1alpha1"]),
];

#[rustfmt::skip]
pub(crate) const APPLIED: &[Case] = &[
    (POLICY, ("percent: 30", "percent: 30, colour: blue"), ["spec.retryConstraint.budget.colour", "there is no such field", "spelling"]),
    (POLICY, ("[{group: \"\", kind: Service, name: web}]", "[{group: \"\", kind: Service, name: web}, {group: multicluster.x-k8s.io, kind: ServiceImport, name: web}]"), ["spec.targetRefs[1].kind", "sends no requests to a \"ServiceImport\"", "kind Service"]),
];
