//! Checks the head of an HTTP/2 request for what h2 lets through, and HTTP/1 behind it must not see (RFC 9113, 8.2, 8.3, 10.3). Pure.
//!
//! h2 has refused already, by a reset: names that are not in lower case or no tokens, control bytes in values, pseudo-headers that are
//! unknown, repeated, missing or late, fields of a connection (8.2.2), a body that is not as long as it said.

use http::{
    HeaderValue, Method,
    header::{CONTENT_LENGTH, HOST},
    request::Parts,
    uri::Scheme,
};

use super::{
    Bad, MAX_FIELDS,
    fields::{is_host, is_token, length},
};

/// Whether a head may go on.
pub(crate) fn check(head: &Parts) -> Result<(), Bad> {
    if head.method == Method::CONNECT {
        return Err(Bad::Connect);
    }
    if head.headers.len() > MAX_FIELDS {
        return Err(Bad::TooLarge);
    }
    let authority = head.uri.authority().map(|authority| authority.as_str());
    let scheme = head.uri.scheme();
    // Without an authority h2 does not say the scheme; it has seen one.
    if authority.is_some() && scheme != Some(&Scheme::HTTP) && scheme != Some(&Scheme::HTTPS) {
        return Err(Bad::Target);
    }
    let path = head.uri.path_and_query().map(|path| path.as_str()).unwrap_or_default();
    let is_path = path.starts_with('/') || (path == "*" && head.method == Method::OPTIONS);
    if !is_path || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Bad::Target);
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, none) = (hosts.next(), hosts.next());
    let is_none = authority.is_none() && host.is_none();
    let is_bad =
        !authority.is_none_or(|host| is_host(host.as_bytes())) || !host.is_none_or(|host| is_host(host.as_bytes()));
    if none.is_some() || is_none || is_bad {
        return Err(Bad::Host);
    }
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(one) = lengths.next() {
        length(one.as_bytes())?;
    }
    if lengths.next().is_some() {
        return Err(Bad::ContentLength);
    }
    // Its type of names takes a quote for part of one.
    if !head.headers.keys().all(|name| name.as_str().bytes().all(is_token)) {
        return Err(Bad::FieldName);
    }
    if head.headers.values().any(is_padded) {
        return Err(Bad::FieldValue);
    }
    Ok(())
}

/// White space at an end (8.2.1).
fn is_padded(value: &HeaderValue) -> bool {
    matches!(value.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}
