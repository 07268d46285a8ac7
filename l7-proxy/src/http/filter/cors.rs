//! Answers and marks requests of other origins, as Gateway API's CORS filter says and browsers ask (the Fetch standard). Pure.
//!
//! What stands on an answer is the route's to say alone: what an application says of other origins itself is taken away, so that
//! it can't open what the route keeps shut.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use millrace_model::route::{Cors, Credentials};

/// What is said of other origins on an answer.
const OURS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// What becomes of a request under this filter.
#[derive(Debug)]
pub(crate) enum Judged {
    /// It goes on, and its answer is marked so.
    Goes(Marks),
    /// It asked whether another may be sent, and these headers are the answer.
    Preflight(HeaderMap),
    /// It asked so, and its origin is not welcome.
    Unwelcome,
}

/// How the answer to a request is marked.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    cors: Cors,
    /// The request's origin, where it has one that is welcome.
    origin: Option<HeaderValue>,
}

/// Judges a request by its head.
pub(crate) fn judge(cors: &Cors, method: &Method, headers: &HeaderMap) -> Judged {
    let origin = headers.get(ORIGIN);
    let welcome = origin.filter(|origin| is_welcome(cors, origin)).cloned();
    let wanted = headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    let (true, Some(_), Some(wanted)) = (*method == Method::OPTIONS, origin, wanted) else {
        return Judged::Goes(Marks { cors: cors.clone(), origin: welcome });
    };
    let Some(origin) = welcome else { return Judged::Unwelcome };
    let mut answer = HeaderMap::new();
    mark_origin(cors, origin, &mut answer);
    let echoed = |list: &[std::sync::Arc<str>], asked: Option<&HeaderValue>| match list {
        [] => None,
        // The asked one itself: a star would not stand for `Authorization`, nor for anything where credentials are sent.
        [star] if **star == *"*" => asked.cloned(),
        list => joined(list.iter().map(|one| &**one)),
    };
    let methods = echoed(&cors.methods, Some(wanted));
    let names = echoed(&cors.headers, headers.get(ACCESS_CONTROL_REQUEST_HEADERS));
    answer.extend(methods.map(|value| (ACCESS_CONTROL_ALLOW_METHODS, value)));
    answer.extend(names.map(|value| (ACCESS_CONTROL_ALLOW_HEADERS, value)));
    answer.extend(exposed(cors, &HeaderMap::new()).map(|value| (ACCESS_CONTROL_EXPOSE_HEADERS, value)));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age_s));
    Judged::Preflight(answer)
}

impl Marks {
    /// Marks an answer: an application's, or one of the mesh itself, whose failures a page may read too.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        let Self { cors, origin } = self;
        for name in OURS {
            headers.remove(name);
        }
        if says_more_than_star(cors) {
            headers.append(VARY, HeaderValue::from_name(ORIGIN));
        }
        let Some(origin) = origin else { return };
        let exposed = exposed(cors, headers);
        mark_origin(cors, origin.clone(), headers);
        if let Some(exposed) = exposed {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

fn mark_origin(cors: &Cors, origin: HeaderValue, headers: &mut HeaderMap) {
    let origin = if says_more_than_star(cors) { origin } else { HeaderValue::from_static("*") };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.credentials == Credentials::Allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// Whether answers differ by the origin that asks: then caches must know.
fn says_more_than_star(cors: &Cors) -> bool {
    cors.credentials == Credentials::Allowed || !cors.origins.iter().any(|one| **one == *"*")
}

/// The headers of an answer that a page may read. Where credentials are sent a star stands for nothing: then it is those that
/// are there.
fn exposed(cors: &Cors, answer: &HeaderMap) -> Option<HeaderValue> {
    let is_all = cors.expose.iter().any(|one| **one == *"*");
    match (is_all, cors.credentials) {
        (true, Credentials::Omitted) => Some(HeaderValue::from_static("*")),
        (true, Credentials::Allowed) => joined(answer.keys().map(HeaderName::as_str)),
        (false, _) => joined(cors.expose.iter().map(|one| &**one)),
    }
}

fn joined<'t>(texts: impl Iterator<Item = &'t str>) -> Option<HeaderValue> {
    let all = texts.collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&all).ok().filter(|_| !all.is_empty())
}

fn is_welcome(cors: &Cors, origin: &HeaderValue) -> bool {
    let asked = origin.to_str().ok();
    let parsed = asked.and_then(Origin::parse);
    cors.origins.iter().any(|one| **one == *"*" || Some(&**one) == asked || fits(one, parsed.as_ref()))
}

/// Whether an origin is one that a route writes so, perhaps with a star for the labels on its host's left.
fn fits(written: &str, asked: Option<&Origin<'_>>) -> bool {
    let (Some(written), Some(asked)) = (Origin::parse(written), asked) else { return false };
    if !written.scheme.eq_ignore_ascii_case(asked.scheme) || written.port != asked.port {
        return false;
    }
    match written.host.strip_prefix('*') {
        None => written.host.eq_ignore_ascii_case(asked.host),
        Some(end) => {
            let (host, end) = (asked.host.to_ascii_lowercase(), end.to_ascii_lowercase());
            host.len() > end.len() && host.ends_with(&end)
        }
    }
}

/// The parts of an origin. One without a port has its scheme's.
struct Origin<'t> {
    scheme: &'t str,
    host: &'t str,
    port: u16,
}

impl<'t> Origin<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let well_known = match scheme.to_ascii_lowercase().as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let (host, port) = match rest.rsplit_once(':') {
            // The last colon of an IPv6 address is no port's.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            Some(_) | None => (rest, well_known),
        };
        (!host.is_empty() && !host.contains('/')).then_some(Self { scheme, host, port })
    }
}

#[cfg(test)]
mod tests;
