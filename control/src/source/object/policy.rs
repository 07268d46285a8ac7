//! Reads Millrace's own policies. What can be read two ways is refused: a policy must not fail silently.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use millrace_crd as crd;
use millrace_model::{Action, Encryption, EncryptionMode, Identity, ObjectName, Rule, Source, UdpMode};

use super::{application_port, meta};
use crate::{
    diagnostic::Problems,
    world::{AccessPolicy, EncryptionPolicy, Settings, Target},
};

/// More rules than this in one policy is a generated list that belongs into several: each is asked for each connection.
const MAX_RULES: usize = 1_000;

/// Callers that one policy may name, over all its rules: each may be compared for each connection, on every node.
const MAX_SOURCES: usize = 1_000;

/// Ports that one policy may name. Each is an entry in the kernel for every caller on a node, and of every node's tables
/// each policy takes its part.
const MAX_PORTS: usize = 100;

pub(super) fn access(
    name: &ObjectName,
    policy: &crd::AccessPolicy,
    settings: &Settings,
    problems: &mut Problems,
) -> AccessPolicy {
    let crd::AccessPolicySpec { selector, target_refs, action, rules } = &policy.spec;
    let target = target(&policy.metadata, selector.as_ref(), target_refs, problems);
    let action = match action {
        crd::AccessAction::Allow => Action::Allow,
        crd::AccessAction::Deny => Action::Deny,
    };
    if rules.len() > MAX_RULES {
        problems.fatal(
            "spec.rules",
            format!("there are {} rules", rules.len()),
            format!("write at most {MAX_RULES}, and the rest in another policy"),
        );
    }
    if action == Action::Deny && rules.is_empty() {
        problems.fatal(
            "spec.rules",
            "a Deny without rules denies nothing",
            "add the rule {} to deny every call, or say which",
        );
    }
    let rules: Vec<Rule> =
        rules.iter().enumerate().map(|(i, r)| rule(r, &format!("spec.rules[{i}]"), settings, problems)).collect();
    let sources: usize = rules.iter().map(|rule| rule.from.len()).sum();
    if sources > MAX_SOURCES {
        problems.fatal(
            "spec.rules",
            format!("they name {sources} callers"),
            format!(
                "name at most {MAX_SOURCES}, by namespace or block where they share one, or the rest in another policy"
            ),
        );
    }
    let ports: BTreeSet<u16> = rules.iter().flat_map(|rule| rule.ports.iter().copied()).collect();
    few_ports(ports.len(), "spec.rules", problems);
    AccessPolicy { name: name.clone(), target, action, rules }
}

fn rule(rule: &crd::AccessRule, field: &str, settings: &Settings, problems: &mut Problems) -> Rule {
    let crd::AccessRule { from, to } = rule;
    if from.as_ref().is_some_and(Vec::is_empty) {
        problems.fatal(
            format!("{field}.from"),
            "the list is empty",
            "leave the field out to mean every caller, or say which callers",
        );
    }
    if to.as_ref().is_some_and(Vec::is_empty) {
        problems.fatal(
            format!("{field}.to"),
            "the list is empty",
            "leave the field out to mean every port, or say which",
        );
    }
    let mut sources = Vec::new();
    for (index, one) in from.iter().flatten().enumerate() {
        source(one, &format!("{field}.from[{index}]"), settings, problems, &mut sources);
    }
    let mut ports = BTreeSet::new();
    for (index, crd::AccessTarget { ports: given }) in to.iter().flatten().enumerate() {
        let field = format!("{field}.to[{index}]");
        if given.as_ref().is_none_or(Vec::is_empty) {
            problems.fatal(
                format!("{field}.ports"),
                "it names no port",
                "name one, or leave `to` out to mean every port",
            );
        }
        for (index, port) in given.iter().flatten().enumerate() {
            ports.extend(application_port(i32::from(*port), &format!("{field}.ports[{index}]"), problems));
        }
    }
    Rule { from: sources, ports, protocol: None }
}

fn source(
    source: &crd::AccessSource,
    field: &str,
    settings: &Settings,
    problems: &mut Problems,
    sources: &mut Vec<Source>,
) {
    let crd::AccessSource { identities, namespaces, ip_blocks } = source;
    let lists = [("identities", identities), ("namespaces", namespaces), ("ipBlocks", ip_blocks)];
    match lists.iter().filter(|(_, list)| list.is_some()).count() {
        1 => {}
        0 => problems.fatal(field, "it says nothing of the caller", "set one of identities, namespaces and ipBlocks"),
        _ => problems.fatal(
            field,
            "it sets more than one of identities, namespaces and ipBlocks",
            "write one item of `from` for each: a caller that any of them matches is meant",
        ),
    }
    for (name, list) in lists {
        if list.as_ref().is_some_and(Vec::is_empty) {
            problems.fatal(format!("{field}.{name}"), "the list is empty", "name at least one, or leave the item out");
        }
    }
    for (index, text) in identities.iter().flatten().enumerate() {
        sources
            .extend(identity(text, &format!("{field}.identities[{index}]"), settings, problems).map(Source::Identity));
    }
    for (index, text) in namespaces.iter().flatten().enumerate() {
        sources.extend(namespace(text, &format!("{field}.namespaces[{index}]"), problems).map(Source::Namespace));
    }
    for (index, text) in ip_blocks.iter().flatten().enumerate() {
        sources.extend(block(text, &format!("{field}.ipBlocks[{index}]"), problems).map(Source::Block));
    }
}

fn identity(text: &str, field: &str, settings: &Settings, problems: &mut Problems) -> Option<Identity> {
    let mend = "write namespace/service-account, or spiffe://<trust domain>/ns/<namespace>/sa/<service account>";
    let full = match text.split_once('/') {
        Some((namespace, account)) if meta::is_dns_label(namespace) && meta::is_dns_subdomain(account) => {
            return Some(Identity::new(&settings.trust_domain, namespace, account));
        }
        _ if text.is_empty() => {
            problems.fatal(field, "the identity is empty", mend);
            return None;
        }
        _ if text.contains('*') => {
            problems.fatal(
                field,
                format!("{text:?} has a wildcard, and an identity is matched whole"),
                "name each identity, or use namespaces",
            );
            return None;
        }
        _ => text.parse::<Identity>(),
    };
    match full {
        Ok(identity) if identity.trust_domain == settings.trust_domain => Some(identity),
        Ok(identity) => {
            problems.fatal(
                field,
                format!(
                    "no caller can have it: its trust domain is {}, the mesh's is {}",
                    identity.trust_domain, settings.trust_domain
                ),
                "write an identity of the mesh's trust domain",
            );
            None
        }
        Err(why) => {
            problems.fatal(field, format!("{text:?} is no identity: {why}"), mend);
            None
        }
    }
}

fn namespace(text: &str, field: &str, problems: &mut Problems) -> Option<Arc<str>> {
    if meta::is_dns_label(text) {
        return Some(text.into());
    }
    problems.fatal(
        field,
        format!("{text:?} is no namespace's name"),
        "write it whole: at most 63 lower-case letters, digits and '-'",
    );
    None
}

fn block(text: &str, field: &str, problems: &mut Problems) -> Option<IpNet> {
    let Ok(block) = text.parse::<IpNet>() else {
        let mend = match text.parse::<std::net::IpAddr>() {
            Ok(address) => format!("write {}", IpNet::from(address)),
            Err(_) => "write an address and a prefix length, such as 10.0.0.0/8 or fd00::/8".to_owned(),
        };
        problems.fatal(field, format!("{text:?} is no block of addresses"), mend);
        return None;
    };
    if block != block.trunc() {
        problems.fatal(field, format!("{text} has bits set behind its prefix"), format!("write {}", block.trunc()));
        return None;
    }
    if let IpNet::V6(v6) = block
        && v6.addr().to_ipv4_mapped().is_some()
    {
        problems.fatal(field, format!("{text} is IPv4-mapped"), "write the block in IPv4 form");
        return None;
    }
    Some(block)
}

pub(super) fn encryption(
    name: &ObjectName,
    policy: &crd::EncryptionPolicy,
    problems: &mut Problems,
) -> EncryptionPolicy {
    let crd::EncryptionPolicySpec { selector, target_refs, mode, ports, udp } = &policy.spec;
    let target = target(&policy.metadata, selector.as_ref(), target_refs, problems);
    let mut modes = BTreeMap::new();
    for (index, crd::PortEncryption { port, mode }) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}].port");
        let Some(port) = application_port(i32::from(*port), &field, problems) else { continue };
        if modes.insert(port, encryption_mode(*mode)).is_some() {
            problems.fatal(field, format!("port {port} stands twice"), "write each port once");
        }
    }
    few_ports(modes.len(), "spec.ports", problems);
    EncryptionPolicy {
        name: name.clone(),
        made: meta::made(&policy.metadata),
        target,
        encryption: Encryption { default: encryption_mode(*mode), ports: modes, udp: udp_mode(*udp, *mode) },
    }
}

/// Left out, it is as strict as the mode for connections: nothing encrypts a datagram.
fn udp_mode(udp: Option<crd::UdpMode>, mode: crd::EncryptionMode) -> UdpMode {
    match (udp, mode) {
        (Some(crd::UdpMode::Allow), _) | (None, crd::EncryptionMode::Permissive) => UdpMode::Allow,
        (Some(crd::UdpMode::Deny), _) | (None, crd::EncryptionMode::Strict) => UdpMode::Deny,
    }
}

fn few_ports(given: usize, field: &str, problems: &mut Problems) {
    if given > MAX_PORTS {
        problems.fatal(
            field,
            format!("it names {given} ports"),
            format!("name at most {MAX_PORTS}, or leave ports out to mean every one"),
        );
    }
}

fn encryption_mode(mode: crd::EncryptionMode) -> EncryptionMode {
    match mode {
        crd::EncryptionMode::Strict => EncryptionMode::Strict,
        crd::EncryptionMode::Permissive => EncryptionMode::Permissive,
    }
}

pub(super) fn target(
    meta: &ObjectMeta,
    selector: Option<&crd::WorkloadSelector>,
    refs: &[crd::TargetRef],
    problems: &mut Problems,
) -> Target {
    meta::check(meta, problems);
    if selector.is_some() && !refs.is_empty() {
        problems.fatal("spec.targetRefs", "there is a selector too", "keep one of selector and targetRefs");
    }
    if let Some(crd::WorkloadSelector { match_labels }) = selector {
        let labels = meta::labels(Some(match_labels), "spec.selector.matchLabels", problems);
        return if labels.is_empty() { Target::All } else { Target::Labels(labels) };
    }
    let mut accounts = BTreeSet::new();
    for (index, crd::TargetRef { group, kind, name }) in refs.iter().enumerate() {
        let field = format!("spec.targetRefs[{index}]");
        match (group.as_str(), kind.as_str()) {
            ("", "ServiceAccount") if meta::is_dns_subdomain(name) => drop(accounts.insert(Arc::from(name.as_str()))),
            ("", "ServiceAccount") => {
                problems.fatal(
                    format!("{field}.name"),
                    format!("{name:?} is no object's name"),
                    "write the service account's name",
                );
            }
            ("", "Service") => problems.fatal(
                format!("{field}.kind"),
                "a policy can't be attached to a Service yet",
                "select the service's pods by their labels, and name its target ports in `to`",
            ),
            (_, other) => problems.fatal(
                format!("{field}.kind"),
                format!("a policy can't be attached to a {other:?} of group {group:?}"),
                "write kind ServiceAccount with no group, or use a selector",
            ),
        }
    }
    if refs.is_empty() { Target::All } else { Target::ServiceAccounts(accounts) }
}
