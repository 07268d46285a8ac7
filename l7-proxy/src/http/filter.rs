//! Carries out a rule's filters on heads. Pure: heads in, heads out.

pub(crate) mod cors;
pub(crate) mod inject;

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
    header::{CONNECTION, HOST, TE},
    uri::PathAndQuery,
};
use millrace_model::route::{HeaderEdit, PathEdit, PathMatch, Redirect, Rewrite, Scheme};

/// Headers of one connection alone (RFC 9110, 7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "http2-settings", "transfer-encoding", "upgrade"];

/// Takes away what was for this connection alone.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most heads have none, and each name that is looked for is hashed anew.
    let is_of_one_hop = |name: &HeaderName| name == TE || HOP_BY_HOP.contains(&name.as_str());
    if !headers.keys().any(is_of_one_hop) {
        return;
    }
    // The one thing that TE may say across hops is that trailers are welcome.
    let wants_trailers = headers.get_all(TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named.iter().map(HeaderName::as_str).chain(HOP_BY_HOP.iter().copied()) {
        headers.remove(name);
    }
    headers.remove(TE);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Sets, adds and removes, in this order. What control has let pass is a header.
pub(crate) fn edit(headers: &mut HeaderMap, edit: &HeaderEdit) {
    let HeaderEdit { set, add, remove } = edit;
    let header = |(name, value): &(std::sync::Arc<str>, std::sync::Arc<str>)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
    };
    for (name, value) in set.iter().filter_map(header) {
        headers.insert(name, value);
    }
    for (name, value) in add.iter().filter_map(header) {
        headers.append(name, value);
    }
    for name in remove {
        headers.remove(&**name);
    }
}

/// The path and query that a backend is asked for.
pub(crate) fn rewritten(rewrite: &Rewrite, matched: &PathMatch, uri: &Uri) -> Option<PathAndQuery> {
    let path = edited(rewrite.path.as_ref()?, matched, uri.path());
    with_query(path, uri).parse().ok()
}

fn with_query(path: String, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }
}

/// A path with an edit done. What comes after a prefix that was matched stays behind the new one, with one slash between.
fn edited(edit: &PathEdit, matched: &PathMatch, path: &str) -> String {
    match (edit, matched) {
        (PathEdit::Full(full), _) => full.to_string(),
        (PathEdit::Prefix(new), PathMatch::Prefix(prefix)) => {
            let rest = path.strip_prefix(&**prefix).unwrap_or_default().trim_start_matches('/');
            match (new.trim_end_matches('/'), rest) {
                ("", rest) => format!("/{rest}"),
                (new, "") if path.ends_with('/') && **prefix != *path && !prefix.is_empty() => format!("{new}/"),
                (new, "") => new.to_owned(),
                (new, rest) => format!("{new}/{rest}"),
            }
        }
        // Control lets no other match have such an edit.
        (PathEdit::Prefix(_), PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Grpc { .. }) => path.to_owned(),
    }
}

/// Status and `Location` of a redirect of a request for `authority` that came to `port`.
pub(crate) fn redirected(
    redirect: &Redirect,
    matched: &PathMatch,
    (uri, authority, port): (&Uri, &str, u16),
) -> Option<(StatusCode, HeaderValue)> {
    let Redirect { scheme, host, path, port: to_port, status } = redirect;
    let asked_host = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.ends_with(']') && digits.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    let host = host.as_deref().unwrap_or(asked_host);
    let (scheme_text, well_known) = match scheme {
        None | Some(Scheme::Http) => ("http", 80),
        Some(Scheme::Https) => ("https", 443),
    };
    // A scheme that is asked for brings its own port; without one it is the port that was asked.
    let port = to_port.unwrap_or(if scheme.is_some() { well_known } else { port });
    let port = if port == well_known { String::new() } else { format!(":{port}") };
    let path = path.as_ref().map_or_else(|| uri.path().to_owned(), |edit| edited(edit, matched, uri.path()));
    let location = format!("{scheme_text}://{host}{port}{}", with_query(path, uri));
    Some((StatusCode::from_u16(*status).ok()?, HeaderValue::from_str(&location).ok()?))
}

/// Sets the host that a backend is asked for.
pub(crate) fn set_host(headers: &mut HeaderMap, host: &str) {
    if let Ok(value) = HeaderValue::from_str(host) {
        headers.insert(HOST, value);
    }
}

#[cfg(test)]
mod tests;
