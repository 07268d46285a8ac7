//! Says in a few words what a match, a backend and a filter are.

use millrace_model::route::{
    Filter, Host, PathMatch, RequestMatch, RouteBackend, RouteRule, Target, Text, Timeouts, Unresolved, ValueMatch,
};
use millrace_model::{Retry, Session, session::Carrier};

pub(super) fn hosts(hosts: &[Host]) -> String {
    let all: Vec<String> = hosts
        .iter()
        .map(|host| match host {
            Host::Exact(name) => name.to_string(),
            Host::Below(name) => format!("*.{name}"),
        })
        .collect();
    if all.is_empty() { "*".to_owned() } else { all.join(",") }
}

pub(crate) fn matched(one: &RequestMatch) -> String {
    let RequestMatch { path, method, headers, query } = one;
    let text = |text: &Option<Text>| match text {
        None => "*".to_owned(),
        Some(Text::Exact(text)) => text.to_string(),
        Some(Text::Regex(text)) => format!("~{text}"),
    };
    let mut parts: Vec<String> = method.iter().map(ToString::to_string).collect();
    parts.push(match path {
        PathMatch::Exact(path) => format!("={path}"),
        PathMatch::Prefix(path) => format!("{path}/*"),
        PathMatch::Regex(path) => format!("~{path}"),
        PathMatch::Grpc { service, method } => format!("grpc {}/{}", text(service), text(method)),
    });
    let value = |mark: &str, ValueMatch { name, value }: &ValueMatch| match value {
        Text::Exact(value) => format!("{mark}{name}={value}"),
        Text::Regex(value) => format!("{mark}{name}~{value}"),
    };
    parts.extend(headers.iter().map(|one| value("", one)));
    parts.extend(query.iter().map(|one| value("?", one)));
    parts.join(" ")
}

pub(super) fn backends(backends: &[RouteBackend]) -> String {
    let all: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let one = |RouteBackend { weight, to, filters: _, session: _ }: &RouteBackend| {
        let share = 100.0 * f64::from(*weight) / if all == 0 { 1.0 } else { all as f64 };
        format!("{share:.4}% {}", target(to)).replace(".0000%", "%")
    };
    backends.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(crate) fn target(to: &Target) -> String {
    match to {
        Target::Service { name, port, speaks: _ } => format!("{name}:{port}"),
        Target::Invalid(why) => match why {
            Unresolved::Kind => "500 (no such kind)",
            Unresolved::Missing => "500 (not there)",
            Unresolved::Ungranted => "500 (not granted)",
            Unresolved::Protocol => "500 (not HTTP)",
        }
        .to_owned(),
    }
}

/// By what its token is carried.
fn session(Session { name, carrier, .. }: &Session) -> String {
    match carrier {
        Carrier::Header => format!("sessions by header {name}"),
        Carrier::Cookie { .. } => format!("sessions by cookie {name}"),
    }
}

/// How often, and on which statuses.
fn retry(Retry { codes, attempts, backoff: _ }: &Retry) -> String {
    let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
    let on = if codes.is_empty() { String::new() } else { format!(" on {}", codes.join(" ")) };
    format!("{attempts} retries{on}")
}

pub(super) fn filters(rule: &RouteRule) -> String {
    let mut all: Vec<String> = rule
        .filters
        .iter()
        .map(|filter| {
            match filter {
                Filter::RequestHeaders(_) => "request headers",
                Filter::ResponseHeaders(_) => "response headers",
                Filter::Redirect(redirect) => return format!("redirect {}", redirect.status),
                Filter::Rewrite(_) => "rewrite",
                Filter::Mirror(_) => "mirror",
                Filter::Cors(_) => "CORS",
                Filter::Fault(_) => "fault",
                Filter::Refuse(_) => "500",
            }
            .to_owned()
        })
        .collect();
    let Timeouts { request, backend_request } = rule.timeouts;
    all.extend(request.map(|time| format!("within {time:?}")));
    all.extend(backend_request.map(|time| format!("each try {time:?}")));
    all.extend(rule.retry.as_ref().map(retry));
    let mut sessions: Vec<String> =
        rule.backends.iter().filter_map(|backend| backend.session.as_ref()).map(session).collect();
    sessions.dedup();
    all.extend(sessions);
    all.join(", ")
}
