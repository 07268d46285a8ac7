//! What binds whom, which of two holds, and what is told of the rest.

use millrace_model::EncryptionMode;

use super::{BASE, BTreeSet, ObjectName, name, notes, pod, snapshot};

fn access(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: millrace.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )
}

fn encryption(namespace: &str, name: &str, spec: &str) -> String {
    access(namespace, name, spec).replace("AccessPolicy", "EncryptionPolicy")
}

fn bound(policies: &str) -> Vec<String> {
    let text = format!("{BASE}{}{policies}", pod("web", "10.0.0.1", ", serviceAccountName: front"));
    let policies: &BTreeSet<ObjectName> = &snapshot(&text).workloads[&name("web")].policies;
    policies.iter().map(ToString::to_string).collect()
}

#[test]
fn a_policy_binds_its_own_namespace_and_the_roots_binds_all() {
    let all = ["shop", "other", "root"].map(|ns| access(ns, "p", "rules: [{}]")).concat();
    assert_eq!(bound(&all), ["root/p", "shop/p"]);
}

#[test]
fn a_selector_binds_pods_with_all_its_labels_and_an_empty_one_all_pods() {
    let policies = [
        access("shop", "both", "selector: {matchLabels: {app: web, tier: all}}"),
        access("shop", "half", "selector: {matchLabels: {app: web, tier: other}}"),
        access("shop", "empty", "selector: {matchLabels: {}}"),
        access("shop", "bare", "selector: {}"),
        access("shop", "front", "targetRefs: [{kind: ServiceAccount, name: front}]"),
        access("shop", "back", "targetRefs: [{kind: ServiceAccount, name: back}]"),
        access("root", "chosen", "selector: {matchLabels: {app: web}}"),
    ];
    assert_eq!(bound(&policies.concat()), ["root/chosen", "shop/bare", "shop/both", "shop/empty", "shop/front"]);
}

#[test]
fn rules_say_what_they_said_with_names_in_the_meshs_trust_domain() {
    let text = access(
        "shop",
        "p",
        "action: Deny, rules: [{from: [{identities: [shop/web, spiffe://td/ns/x/sa/y]}, {namespaces: [shop]}, {ipBlocks: [10.0.0.0/8]}], to: [{ports: [80]}, {ports: [443, 80]}]}, {}]",
    );
    let policy = snapshot(&text).policies[&name("p")].clone();
    let shown = format!("{:?} {:?}", policy.action, policy.rules);
    for part in ["Deny", "\"web\"", "\"td\"", "\"y\"", "Namespace(\"shop\")", "10.0.0.0/8", "ports: {80, 443}"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert_eq!(policy.rules.len(), 2);
    assert!(policy.rules[1].from.is_empty() && policy.rules[1].ports.is_empty(), "an empty rule means every call");
}

fn mode(policies: &str, port: u16) -> EncryptionMode {
    let text = format!("{BASE}{}{policies}", pod("web", "10.0.0.1", ""));
    snapshot(&text).workloads[&name("web")].encryption.mode(port)
}

#[test]
fn without_a_policy_plain_text_is_taken() {
    assert_eq!(mode("", 80), EncryptionMode::Permissive);
}

/// Each beats all above it.
#[test]
fn the_nearest_encryption_policy_decides_whole() {
    let web = "selector: {matchLabels: {app: web}}, ";
    let levels = [
        encryption("root", "all", "mode: Strict"),
        encryption("root", "chosen", &format!("{web}mode: Permissive")),
        encryption("shop", "all", "mode: Strict"),
        encryption("shop", "chosen", &format!("{web}mode: Permissive, ports: [{{port: 443, mode: Strict}}]")),
    ];
    for n in 1..=levels.len() {
        let wanted = if n % 2 == 1 { EncryptionMode::Strict } else { EncryptionMode::Permissive };
        assert_eq!(mode(&levels[..n].concat(), 80), wanted, "{n} levels");
    }
    assert_eq!(mode(&levels.concat(), 443), EncryptionMode::Strict, "its own ports");
    let foreign = encryption("other", "all", "mode: Strict");
    assert_eq!(mode(&foreign, 80), EncryptionMode::Permissive, "another namespace's");
}

#[test]
fn of_two_equally_near_the_older_decides_then_the_first_and_the_other_is_told() {
    let (a, b) = (encryption("shop", "a", "mode: Strict"), encryption("shop", "b", "mode: Permissive"));
    let dated = |policy: &str, when: &str| {
        policy.replace("metadata: {", &format!("metadata: {{creationTimestamp: \"{when}\", "))
    };
    assert_eq!(mode(&[a.clone(), b.clone()].concat(), 80), EncryptionMode::Strict, "the first by name");
    let older = dated(&b, "2025-01-01T00:00:00Z");
    assert_eq!(mode(&[dated(&a, "2026-01-01T00:00:00Z"), older.clone()].concat(), 80), EncryptionMode::Permissive);
    assert_eq!(
        mode(&[a.clone(), older].concat(), 80),
        EncryptionMode::Permissive,
        "one with a date is older than one without"
    );
    let text = format!("{BASE}{}{}", pod("web", "10.0.0.1", ""), [a.clone(), b].concat());
    let told = notes(&text);
    assert_eq!(told.len(), 1);
    assert!(
        told[0].contains("EncryptionPolicy shop/b: spec.selector: shop/a selects the same pods, such as shop/web"),
        "{told:?}"
    );
    let same = format!("{BASE}{}{}{}", pod("web", "10.0.0.1", ""), a, a.replace("name: a", "name: c"));
    assert_eq!(notes(&same), [] as [String; 0], "two that say the same do not quarrel");
}

#[test]
fn policies_that_do_not_do_what_they_seem_to_are_told() {
    let outside = pod("db", "10.0.0.2", "").replace("tier: all", "tier: all, millrace.dev/mesh: disabled");
    for (policy, wanted) in [
        (
            access("shop", "p", "selector: {matchLabels: {app: wbe}}"),
            "spec.selector.matchLabels: it selects no pod there is",
        ),
        (
            access("shop", "p", "targetRefs: [{kind: ServiceAccount, name: x}]"),
            "spec.targetRefs: it selects no pod there is",
        ),
        (encryption("shop", "p", "selector: {matchLabels: {app: wbe}}, mode: Strict"), "it selects no pod there is"),
        (access("shop", "p", "selector: {matchLabels: {app: db}}"), "it selects pod shop/db, which is not in the mesh"),
        (
            access("shop", "p", "rules: [{}, {from: [{identities: [shop/nobody]}]}]"),
            "spec.rules[1].from: there is no ServiceAccount shop/nobody",
        ),
        (
            access("shop", "p", "rules: [{from: [{namespaces: [shpo]}]}]"),
            "spec.rules[0].from: there is no Namespace shpo",
        ),
    ] {
        let text = format!("{BASE}{}{outside}{policy}", pod("web", "10.0.0.1", ""));
        let told = notes(&text);
        assert!(told.len() == 1 && told[0].contains(wanted), "{wanted} should be all of {told:?}");
    }
    let fine = access(
        "shop",
        "p",
        "rules: [{from: [{identities: [shop/default]}, {namespaces: [shop]}, {ipBlocks: [192.0.2.0/24]}]}]",
    );
    assert_eq!(notes(&format!("{BASE}{}{fine}", pod("web", "10.0.0.1", ""))), [] as [String; 0]);
}
