//! Reads what requests a rule is for.

use std::{collections::BTreeSet, sync::Arc};

use gateway_api::experimental::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType,
    HttpRouteRulesMatchesQueryParamsType,
};
use http::HeaderName;
use millrace_model::route::{PathMatch, RequestMatch, Text, ValueMatch};

use crate::diagnostic::Problems;

/// Gateway API's own bounds.
const MAX_PATH: usize = 1_024;
const MAX_VALUE: usize = 4_096;
const MAX_VALUES: usize = 16;

pub(super) fn http(matches: &[HttpRouteRulesMatches], field: &str, problems: &mut Problems) -> Vec<RequestMatch> {
    if matches.is_empty() {
        return vec![RequestMatch::default()];
    }
    let read = |(index, one): (usize, &HttpRouteRulesMatches)| {
        let field = format!("{field}.matches[{index}]");
        let HttpRouteRulesMatches { headers, method, path, query_params } = one;
        let headers = headers.iter().flatten().map(|one| {
            let is_regex = one.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression);
            (one.name.as_str(), one.value.as_str(), is_regex)
        });
        let query = query_params.iter().flatten().map(|one| {
            let is_regex = one.r#type == Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression);
            (one.name.as_str(), one.value.as_str(), is_regex)
        });
        RequestMatch {
            path: path
                .as_ref()
                .map_or_else(PathMatch::default, |path| self::path(path, &format!("{field}.path"), problems)),
            method: method.as_ref().and_then(spelled),
            headers: self::headers(headers, &format!("{field}.headers"), problems),
            query: values(query, &format!("{field}.queryParams"), problems),
        }
    };
    matches.iter().enumerate().map(read).collect()
}

/// As a manifest writes it.
fn spelled(method: &impl serde::Serialize) -> Option<Arc<str>> {
    serde_json::to_value(method).ok()?.as_str().map(Arc::from)
}

fn path(path: &HttpRouteRulesMatchesPath, field: &str, problems: &mut Problems) -> PathMatch {
    let value = path.value.as_deref().unwrap_or("/");
    let field = format!("{field}.value");
    if value.len() > MAX_PATH {
        problems.fatal(&*field, "it is too long", format!("write at most {MAX_PATH} letters"));
    }
    match path.r#type.as_ref().unwrap_or(&HttpRouteRulesMatchesPathType::PathPrefix) {
        HttpRouteRulesMatchesPathType::Exact => {
            check_path(value, &field, problems);
            PathMatch::Exact(value.into())
        }
        HttpRouteRulesMatchesPathType::PathPrefix => {
            check_path(value, &field, problems);
            PathMatch::Prefix(value.trim_end_matches('/').into())
        }
        HttpRouteRulesMatchesPathType::RegularExpression => {
            expression(value, &field, problems);
            PathMatch::Regex(value.into())
        }
    }
}

/// A path that a request can have: one that none has would be a rule that never holds.
pub(super) fn check_path(value: &str, field: &str, problems: &mut Problems) {
    let lower = value.to_ascii_lowercase();
    let bad = ["//", "/./", "/../", "%2f", "#", "?"].into_iter().find(|part| lower.contains(part));
    let bad = bad.or_else(|| ["/..", "/."].into_iter().find(|end| value.ends_with(end)));
    if !value.starts_with('/') {
        problems.fatal(field, format!("{value:?} does not begin with a slash"), "write the whole path, such as /shop");
    } else if let Some(bad) = bad {
        problems.fatal(field, format!("{value:?} holds {bad:?}"), "write the path as it is once that is resolved");
    } else if let Some(odd) = value.chars().find(|c| !c.is_ascii_graphic()) {
        problems.fatal(field, format!("{value:?} holds {odd:?}, which no path has"), "write it as %-escapes");
    }
}

/// An expression that can be run, or a problem.
pub(super) fn expression(text: &str, field: &str, problems: &mut Problems) {
    if let Err(why) = millrace_routes::pattern::compile(text) {
        problems.fatal(field, format!("{text:?}: {why}"), "write a shorter or plainer one (RE2's syntax)");
    }
}

/// What headers must be, each name once.
pub(super) fn headers<'v>(
    list: impl Iterator<Item = (&'v str, &'v str, bool)>,
    field: &str,
    problems: &mut Problems,
) -> Vec<ValueMatch> {
    let list: Vec<(String, &str, bool)> =
        list.map(|(name, value, is)| (name.to_ascii_lowercase(), value, is)).collect();
    for (index, (name, _, _)) in list.iter().enumerate() {
        header_name(name, &format!("{field}[{index}].name"), problems);
    }
    values(list.iter().map(|(name, value, is)| (name.as_str(), *value, *is)), field, problems)
}

/// A header that can be named, or a problem.
pub(super) fn header_name(name: &str, field: &str, problems: &mut Problems) {
    if name.starts_with(':') {
        problems.fatal(field, format!("{name:?} is no header"), "ask for the method, path or host by their own fields");
    } else if HeaderName::from_bytes(name.as_bytes()).is_err() {
        problems.fatal(field, format!("{name:?} is no header's name"), "write letters, digits and '-'");
    }
}

fn values<'v>(
    list: impl Iterator<Item = (&'v str, &'v str, bool)>,
    field: &str,
    problems: &mut Problems,
) -> Vec<ValueMatch> {
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for (index, (name, value, is_regex)) in list.enumerate() {
        let place = format!("{field}[{index}]");
        if value.is_empty() || value.len() > MAX_VALUE {
            let mend = format!("write from 1 to {MAX_VALUE} letters");
            problems.fatal(format!("{place}.value"), "it is empty, or too long", mend);
        }
        if name.is_empty() {
            problems.fatal(format!("{place}.name"), "it is empty", "write the name");
        }
        if !names.insert(name) {
            // By the specification the first counts and the others do not.
            problems.slight(place, format!("{name:?} stands twice; the first counts"), "remove the other");
            continue;
        }
        if is_regex {
            expression(value, &format!("{place}.value"), problems);
        }
        let value = if is_regex { Text::Regex(value.into()) } else { Text::Exact(value.into()) };
        found.push(ValueMatch { name: name.into(), value });
    }
    if found.len() > MAX_VALUES {
        problems.fatal(field, format!("there are {}", found.len()), format!("write at most {MAX_VALUES}"));
    }
    found
}
