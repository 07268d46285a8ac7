//! Says how the API server calls each kind, and how much of it is read.

use kube::core::{ApiResource, GroupVersionKind};

use crate::diagnostic::Kind;

/// How much of an object is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Names and labels say all that the mesh wants: a node's status is kilobytes that change each minute.
    Metadata,
    /// All of it.
    Whole,
}

/// How much of this kind is read.
pub(super) fn depth(kind: Kind) -> Depth {
    if matches!(kind, Kind::Namespace | Kind::Node | Kind::ServiceAccount) { Depth::Metadata } else { Depth::Whole }
}

/// The kind as the API server serves it.
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version) = kind.api_version().split_once('/').unwrap_or(("", kind.api_version()));
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.name()), &plural(kind))
}

/// The kind's name in paths: its plural, in lower case.
pub fn plural(kind: Kind) -> String {
    let name = kind.name().to_ascii_lowercase();
    match name.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'i', 'o', 'u'])) {
        Some(stem) => format!("{stem}ies"),
        None => format!("{name}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::{plural, resource};
    use crate::diagnostic::Kind;

    #[test]
    fn our_kinds_are_called_as_their_definitions_say() {
        let definitions = millrace_crd::crds();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_own()) {
            let named = |path: &str, wanted: &str| {
                definitions.iter().any(|(_, crd)| {
                    crd.pointer("/spec/names/kind").and_then(|v| v.as_str()) == Some(kind.name())
                        && crd.pointer(path).and_then(|v| v.as_str()) == Some(wanted)
                })
            };
            assert!(named("/spec/names/plural", &plural(kind)), "{kind:?}");
            assert!(named("/spec/group", &resource(kind).group), "{kind:?}");
        }
    }

    #[test]
    fn kubernetes_kinds_are_called_as_it_calls_them() {
        let called: Vec<String> = [Kind::Namespace, Kind::EndpointSlice, Kind::ServiceAccount].map(plural).to_vec();
        assert_eq!(called, ["namespaces", "endpointslices", "serviceaccounts"]);
        let slices = resource(Kind::EndpointSlice);
        assert_eq!((&*slices.group, &*slices.api_version), ("discovery.k8s.io", "discovery.k8s.io/v1"));
        assert_eq!((&*resource(Kind::Pod).group, &*resource(Kind::Pod).api_version), ("", "v1"));
    }
}
