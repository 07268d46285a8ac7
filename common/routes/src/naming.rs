//! Calls a rule by name, for people: which object, which rule of it.

use millrace_model::{RouteName, route::RouteRule};

/// `HTTPRoute shop/reviews rule 2 "canary"`: counted from 0, as in `spec.rules[2]`.
pub fn rule(route: &RouteName, index: usize, rule: &RouteRule) -> String {
    match &rule.name {
        Some(name) => format!("{route} rule {index} {name:?}"),
        None => format!("{route} rule {index}"),
    }
}
