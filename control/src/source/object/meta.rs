//! Checks what every object has: name, namespace, labels, annotations, and Millrace's own label among them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    diagnostic::Problems,
    world::{Made, Wish},
};

/// On a namespace or a pod: `enabled` or `disabled`. The pod's word counts before its namespace's.
pub const MESH_LABEL: &str = "millrace.dev/mesh";

/// Checks the labels; the name was checked before the object was read.
pub(super) fn check(meta: &ObjectMeta, problems: &mut Problems) {
    labels(meta.labels.as_ref(), "metadata.labels", problems);
}

/// Labels that are labels.
pub(super) fn labels(
    labels: Option<&BTreeMap<String, String>>,
    field: &str,
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    for (key, value) in labels.into_iter().flatten() {
        let path = format!("{field}.{key}");
        if !is_label_key(key) {
            problems.fatal(
                path,
                format!("{key:?} is no label name"),
                "write at most 63 letters, digits, '-', '_' and '.', after an optional domain and '/'",
            );
        } else if !is_label_value(value) {
            problems.fatal(
                path,
                format!("{value:?} is no label value"),
                "write at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
            );
        }
    }
    labels.cloned().unwrap_or_default()
}

/// What the object's mesh label asks.
pub(super) fn wish(meta: &ObjectMeta, problems: &mut Problems) -> Option<Wish> {
    match meta.labels.as_ref()?.get(MESH_LABEL)?.as_str() {
        "enabled" => Some(Wish::Enabled),
        "disabled" => Some(Wish::Disabled),
        other => {
            problems.fatal(
                format!("metadata.labels.{MESH_LABEL}"),
                format!("{other:?} is not one of its values"),
                "write enabled or disabled",
            );
            None
        }
    }
}

/// When it was made.
pub(super) fn made(meta: &ObjectMeta) -> Made {
    meta.creation_timestamp.as_ref().map_or(Made::Unknown, |time| Made::At(time.0.as_second()))
}

/// A DNS label (RFC 1123): what namespaces and most names are.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && begins_and_ends_well(text)
}

/// A DNS subdomain (RFC 1123): labels with dots between.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|label| is_dns_label(label) || (label.len() > 63 && is_long_label(label)))
}

/// Kubernetes bounds a subdomain whole, not its labels.
fn is_long_label(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') && begins_and_ends_well(text)
}

fn begins_and_ends_well(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_dns_subdomain(domain) && !name.is_empty() && is_label_value(name),
        None => !text.is_empty() && is_label_value(text),
    }
}

fn is_label_value(text: &str) -> bool {
    text.is_empty()
        || text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && begins_and_ends_well(text)
}

/// A service port's or container port's name (RFC 6335).
pub(super) fn is_port_name(text: &str) -> bool {
    is_dns_label(text) && text.len() <= 63
}
