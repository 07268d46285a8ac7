//! Reads what a route names: its parents and its backends.

use std::sync::Arc;

use gateway_api::experimental::httproutes::{HttpRouteParentRefs, HttpRouteRulesBackendRefs, HttpRouteRulesFilters};
use millrace_model::{ObjectName, route::RequestMatch};

use super::{MAX_PARENTS, filter, same};
use crate::{
    diagnostic::Problems,
    source::object::{meta, named, port},
    world::route::{Backend, GATEWAY_GROUP, Parent, Reference, Written},
};

/// Kubernetes' own bound.
const MAX_WEIGHT: i32 = 1_000_000;

pub(super) fn parents(route: &ObjectName, refs: &[HttpRouteParentRefs], problems: &mut Problems) -> Vec<Parent> {
    if refs.len() > MAX_PARENTS {
        let problem = format!("there are {}", refs.len());
        problems.fatal(
            "spec.parentRefs",
            problem,
            format!("write at most {MAX_PARENTS}, and the rest in another route"),
        );
    }
    let mut parents: Vec<Parent> = Vec::new();
    for (index, one) in refs.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        let HttpRouteParentRefs { group, kind, name, namespace, port: number, section_name } = one;
        let Some(to) = name_of(route, name, namespace.as_deref(), &field, problems) else { continue };
        let parent = Parent {
            group: group.as_deref().unwrap_or(GATEWAY_GROUP).into(),
            kind: kind.as_deref().unwrap_or("Gateway").into(),
            name: to,
            namespace: if namespace.is_some() { Written::There } else { Written::Not },
            section: section_name.as_deref().map(Arc::from),
            port: number.and_then(|number| port(number, &format!("{field}.port"), problems)),
        };
        if parents.contains(&parent) {
            problems.fatal(
                field,
                "it stands twice",
                "write each parent once, or tell them apart by port or sectionName",
            );
        } else {
            parents.push(parent);
        }
    }
    parents
}

fn name_of(
    route: &ObjectName,
    name: &str,
    namespace: Option<&str>,
    field: &str,
    problems: &mut Problems,
) -> Option<ObjectName> {
    if !meta::is_dns_subdomain(name) {
        problems.fatal(format!("{field}.name"), format!("{name:?} is no object's name"), "write the name alone");
        return None;
    }
    if let Some(namespace) = namespace.filter(|namespace| !meta::is_dns_label(namespace)) {
        let problem = format!("{namespace:?} is no namespace's name");
        problems.fatal(format!("{field}.namespace"), problem, "write the namespace's name alone");
        return None;
    }
    Some(named(namespace.unwrap_or(&route.namespace), name))
}

/// What the types of references to backends have in common.
pub(super) struct Named<'r> {
    pub(super) group: Option<&'r str>,
    pub(super) kind: Option<&'r str>,
    pub(super) name: &'r str,
    pub(super) namespace: Option<&'r str>,
    pub(super) port: Option<i32>,
}

pub(super) fn reference(
    route: &ObjectName,
    named: &Named<'_>,
    field: &str,
    problems: &mut Problems,
) -> Option<Reference> {
    let Named { group, kind, name, namespace, port: number } = named;
    let name = name_of(route, name, *namespace, field, problems)?;
    let (group, kind) = (group.unwrap_or_default(), kind.unwrap_or("Service"));
    if number.is_none() && (group, kind) == ("", "Service") {
        problems.fatal(format!("{field}.port"), "it is missing", "write the Service's port");
        return None;
    }
    let port = number.and_then(|number| port(number, &format!("{field}.port"), problems));
    Some(Reference { group: group.into(), kind: kind.into(), name, port })
}

pub(super) fn backend(
    route: &ObjectName,
    backend: &HttpRouteRulesBackendRefs,
    (field, matches): (&str, &[RequestMatch]),
    problems: &mut Problems,
) -> Option<Backend> {
    let HttpRouteRulesBackendRefs { filters, group, kind, name, namespace, port, weight } = backend;
    let named =
        Named { group: group.as_deref(), kind: kind.as_deref(), name, namespace: namespace.as_deref(), port: *port };
    let to = reference(route, &named, field, problems)?;
    let weight = weight.unwrap_or(1);
    if !(0..=MAX_WEIGHT).contains(&weight) {
        let mend = format!("write a whole number from 0 to {MAX_WEIGHT}");
        problems.fatal(format!("{field}.weight"), format!("{weight} is out of bounds"), mend);
    }
    let filters: Vec<HttpRouteRulesFilters> = filters.iter().flatten().filter_map(same).collect();
    let filters = filter::filters(route, &filters, (&format!("{field}.filters"), matches), problems);
    Some(Backend { weight: weight.unsigned_abs(), to, filters })
}
