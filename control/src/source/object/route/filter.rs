//! Reads what is done to requests and responses.

use std::{collections::BTreeSet, sync::Arc};

use gateway_api::experimental::httproutes::{
    HttpRouteRulesFilters, HttpRouteRulesFiltersExtensionRef, HttpRouteRulesFiltersRequestHeaderModifier,
    HttpRouteRulesFiltersRequestMirror, HttpRouteRulesFiltersRequestRedirect, HttpRouteRulesFiltersRequestRedirectPath,
    HttpRouteRulesFiltersRequestRedirectScheme, HttpRouteRulesFiltersType,
};
use http::HeaderValue;
use millrace_model::{
    ObjectName,
    route::{Filter, Header, HeaderEdit, PathEdit, Redirect, RequestMatch, Rewrite, Scheme, Share},
};

use super::{
    are_prefixes, cors,
    matches::{check_path, header_name},
    refs::{Named, reference},
    same,
};
use crate::{
    diagnostic::{Kind, Problems},
    source::object::{meta, named, port},
    world::route::RouteFilter,
};

/// Gateway API's own bound.
const MAX_HEADERS: usize = 16;

/// Headers that say how a message is framed, or for whom: no filter may have a hand in them.
const OURS: &[&str] =
    &["connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// The filters in `list`, of a rule with these matches.
pub(super) fn filters(
    route: &ObjectName,
    list: &[HttpRouteRulesFilters],
    (field, matches): (&str, &[RequestMatch]),
    problems: &mut Problems,
) -> Vec<RouteFilter> {
    let mut found = Vec::new();
    for (index, one) in list.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let Some(filter) = filter(route, one, &field, problems) else { continue };
        let edit = match &filter {
            RouteFilter::Whole(Filter::Redirect(redirect)) => redirect.path.as_ref(),
            RouteFilter::Whole(Filter::Rewrite(rewrite)) => rewrite.path.as_ref(),
            RouteFilter::Whole(_) | RouteFilter::Mirror(..) | RouteFilter::Fault(_) => None,
        };
        if matches!(edit, Some(PathEdit::Prefix(_))) && !are_prefixes(matches) {
            let mend = "match by PathPrefix, or write replaceFullPath";
            problems.fatal(field.clone(), "replacePrefixMatch needs a prefix that was matched", mend);
        }
        found.push((filter, field));
    }
    quarrels(&found, problems);
    found.into_iter().map(|(filter, _)| filter).collect()
}

/// What may stand once only, and what not beside another.
fn quarrels(found: &[(RouteFilter, String)], problems: &mut Problems) {
    let number = |filter: &RouteFilter| match filter {
        RouteFilter::Whole(Filter::RequestHeaders(_)) => Some(0),
        RouteFilter::Whole(Filter::ResponseHeaders(_)) => Some(1),
        RouteFilter::Whole(Filter::Redirect(_)) => Some(2),
        RouteFilter::Whole(Filter::Rewrite(_)) => Some(3),
        RouteFilter::Whole(Filter::Cors(_)) => Some(4),
        RouteFilter::Whole(Filter::Fault(_) | Filter::Refuse(_) | Filter::Mirror(_))
        | RouteFilter::Mirror(..)
        | RouteFilter::Fault(_) => None,
    };
    let mut seen = BTreeSet::new();
    for (filter, field) in found {
        let Some(number) = number(filter) else { continue };
        if !seen.insert(number) {
            problems.fatal(field, "a filter of this type stands twice", "write one that does both");
        }
        if (number == 2 && seen.contains(&3)) || (number == 3 && seen.contains(&2)) {
            problems.fatal(field, "RequestRedirect and URLRewrite can't stand together", "keep one of the two");
        }
    }
}

fn filter(
    route: &ObjectName,
    one: &HttpRouteRulesFilters,
    field: &str,
    problems: &mut Problems,
) -> Option<RouteFilter> {
    let HttpRouteRulesFilters {
        cors: cors_filter,
        extension_ref,
        external_auth: _,
        request_header_modifier,
        request_mirror,
        request_redirect,
        response_header_modifier,
        r#type,
        url_rewrite,
    } = one;
    let found = match r#type {
        HttpRouteRulesFiltersType::RequestHeaderModifier => request_header_modifier
            .as_ref()
            .map(|edit| Filter::RequestHeaders(header_edit(edit, &format!("{field}.requestHeaderModifier"), problems))),
        HttpRouteRulesFiltersType::ResponseHeaderModifier => {
            response_header_modifier.as_ref().and_then(same).map(|edit| {
                Filter::ResponseHeaders(header_edit(&edit, &format!("{field}.responseHeaderModifier"), problems))
            })
        }
        HttpRouteRulesFiltersType::RequestRedirect => request_redirect
            .as_ref()
            .map(|to| Filter::Redirect(redirect(to, &format!("{field}.requestRedirect"), problems))),
        HttpRouteRulesFiltersType::UrlRewrite => url_rewrite.as_ref().map(|rewrite| {
            let field = format!("{field}.urlRewrite");
            let path: Option<HttpRouteRulesFiltersRequestRedirectPath> = rewrite.path.as_ref().and_then(same);
            Filter::Rewrite(Rewrite {
                host: hostname(rewrite.hostname.as_deref(), &field, problems),
                path: path.and_then(|path| path_edit(&path, &field, problems)),
            })
        }),
        HttpRouteRulesFiltersType::RequestMirror => {
            let field = format!("{field}.requestMirror");
            return match request_mirror {
                Some(to) => mirror(route, to, &field, problems),
                None => absent(&field, problems),
            };
        }
        HttpRouteRulesFiltersType::Cors => {
            cors_filter.as_ref().map(|one| Filter::Cors(cors::cors(one, &format!("{field}.cors"), problems)))
        }
        HttpRouteRulesFiltersType::ExtensionRef => {
            return match extension_ref {
                Some(to) => Some(extension(route, to, field, problems)),
                None => absent(field, problems),
            };
        }
        HttpRouteRulesFiltersType::ExternalAuth => {
            let problem = "Millrace does not ask others whether a request may pass: requests that reach this get a 500";
            problems.slight(format!("{field}.externalAuth"), problem, "leave the filter out");
            Some(Filter::Refuse("external authorization is not done".into()))
        }
    };
    found.map(RouteFilter::Whole).or_else(|| absent(field, problems))
}

/// A filter of another kind of object: ours, or one that nobody here can carry out.
fn extension(
    route: &ObjectName,
    to: &HttpRouteRulesFiltersExtensionRef,
    field: &str,
    problems: &mut Problems,
) -> RouteFilter {
    let HttpRouteRulesFiltersExtensionRef { group, kind, name } = to;
    if (&**group, &**kind) == (millrace_crd::GROUP, Kind::HttpFault.name()) {
        if !meta::is_dns_subdomain(name) {
            let problem = format!("{name:?} is no object's name");
            problems.fatal(format!("{field}.extensionRef.name"), problem, "write the name alone");
        }
        return RouteFilter::Fault(named(&route.namespace, name));
    }
    let what = format!("a {kind:?} of group {group:?}");
    problems.slight(
        format!("{field}.extensionRef"),
        format!("{what} is no filter that Millrace knows: requests that reach it get a 500"),
        format!("leave the filter out, or name a {} of group {}", Kind::HttpFault.name(), millrace_crd::GROUP),
    );
    RouteFilter::Whole(Filter::Refuse(format!("{what} is no known filter").into()))
}

fn absent<T>(field: &str, problems: &mut Problems) -> Option<T> {
    problems.fatal(field, "what its type names is missing", "write the filter's own field beside its type");
    None
}

fn header_edit(edit: &HttpRouteRulesFiltersRequestHeaderModifier, field: &str, problems: &mut Problems) -> HeaderEdit {
    let mut headers = |list: Vec<(&String, &String)>, name: &str| -> Vec<Header> {
        let field = format!("{field}.{name}");
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for (index, (name, value)) in list.into_iter().enumerate() {
            let lower = own_name(name, &format!("{field}[{index}].name"), problems);
            if HeaderValue::from_str(value).is_err() {
                let mend = "write letters without line breaks";
                problems.fatal(format!("{field}[{index}].value"), format!("{value:?} is no header's value"), mend);
            }
            if seen.insert(lower.clone()) {
                found.push((lower, value.as_str().into()));
            } else {
                let problem = format!("{name:?} stands twice; the first counts");
                problems.slight(format!("{field}[{index}]"), problem, "remove the other");
            }
        }
        if found.len() > MAX_HEADERS {
            problems.fatal(field, format!("there are {}", found.len()), format!("write at most {MAX_HEADERS}"));
        }
        found
    };
    let set = headers(edit.set.iter().flatten().map(|one| (&one.name, &one.value)).collect(), "set");
    let add = headers(edit.add.iter().flatten().map(|one| (&one.name, &one.value)).collect(), "add");
    let remove = edit.remove.iter().flatten().enumerate();
    let remove = remove.map(|(index, name)| own_name(name, &format!("{field}.remove[{index}]"), problems)).collect();
    HeaderEdit { set, add, remove }
}

pub(in crate::source::object) fn own_name(name: &str, field: &str, problems: &mut Problems) -> Arc<str> {
    let lower = name.to_ascii_lowercase();
    header_name(&lower, field, problems);
    if OURS.contains(&lower.as_str()) {
        let mend = if lower == "host" { "rewrite the host by a URLRewrite filter" } else { "leave it out" };
        problems.fatal(field, format!("{lower:?} belongs to the connection, not to the request"), mend);
    }
    lower.into()
}

fn redirect(redirect: &HttpRouteRulesFiltersRequestRedirect, field: &str, problems: &mut Problems) -> Redirect {
    let HttpRouteRulesFiltersRequestRedirect { hostname: host, path, port: number, scheme, status_code } = redirect;
    let status = status_code.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        let mend = "write 301, 302, 303, 307 or 308";
        problems.fatal(format!("{field}.statusCode"), format!("{status} is not one of its values"), mend);
    }
    Redirect {
        scheme: scheme.as_ref().map(|scheme| match scheme {
            HttpRouteRulesFiltersRequestRedirectScheme::Http => Scheme::Http,
            HttpRouteRulesFiltersRequestRedirectScheme::Https => Scheme::Https,
        }),
        host: hostname(host.as_deref(), field, problems),
        path: path.as_ref().and_then(|path| path_edit(path, field, problems)),
        port: number.and_then(|number| port(number, &format!("{field}.port"), problems)),
        status: u16::try_from(status).unwrap_or(302),
    }
}

fn hostname(host: Option<&str>, field: &str, problems: &mut Problems) -> Option<Arc<str>> {
    let host = host?;
    if !meta::is_dns_subdomain(host) {
        let problem = format!("{host:?} is no host's name");
        problems.fatal(format!("{field}.hostname"), problem, "write a name such as web.example.com, without port");
    }
    Some(host.into())
}

fn path_edit(
    path: &HttpRouteRulesFiltersRequestRedirectPath,
    field: &str,
    problems: &mut Problems,
) -> Option<PathEdit> {
    let HttpRouteRulesFiltersRequestRedirectPath { replace_full_path, replace_prefix_match, r#type: _ } = path;
    let field = format!("{field}.path");
    match (replace_full_path, replace_prefix_match) {
        (Some(full), None) => {
            check_path(full, &format!("{field}.replaceFullPath"), problems);
            Some(PathEdit::Full(full.as_str().into()))
        }
        (None, Some(prefix)) => {
            if !prefix.is_empty() {
                check_path(prefix, &format!("{field}.replacePrefixMatch"), problems);
            }
            Some(PathEdit::Prefix(prefix.as_str().into()))
        }
        (Some(_), Some(_)) | (None, None) => {
            let mend = "write replaceFullPath or replacePrefixMatch, as its type says";
            problems.fatal(field, "it does not say one thing", mend);
            None
        }
    }
}

fn mirror(
    route: &ObjectName,
    mirror: &HttpRouteRulesFiltersRequestMirror,
    field: &str,
    problems: &mut Problems,
) -> Option<RouteFilter> {
    let HttpRouteRulesFiltersRequestMirror { backend_ref, fraction, percent } = mirror;
    let named = Named {
        group: backend_ref.group.as_deref(),
        kind: backend_ref.kind.as_deref(),
        name: &backend_ref.name,
        namespace: backend_ref.namespace.as_deref(),
        port: backend_ref.port,
    };
    let to = reference(route, &named, &format!("{field}.backendRef"), problems)?;
    let (numerator, denominator) = match (fraction, percent) {
        (None, None) => (100, 100),
        (None, Some(percent)) => (*percent, 100),
        (Some(fraction), None) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (Some(_), Some(_)) => {
            problems.fatal(field, "there are percent and fraction", "keep one of the two");
            return None;
        }
    };
    match (u32::try_from(numerator), u32::try_from(denominator)) {
        (Ok(numerator), Ok(denominator)) if denominator > 0 && numerator <= denominator => {
            Some(RouteFilter::Mirror(to, Share { numerator, denominator }))
        }
        _ => {
            let problem = format!("{numerator} of {denominator} is no share");
            problems.fatal(field, problem, "write a percent from 0 to 100, or a fraction of at most 1");
            None
        }
    }
}
