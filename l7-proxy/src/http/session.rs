//! Keeps a client's requests with one endpoint (GEP-1619): by a token that it is given with an answer, and gives back with its requests.
//!
//! A token names an endpoint by a hash of what the mesh calls it, and the rule that it was given by. It is compared with the endpoints that
//! the rule's backends have, and with nothing else: so no token leads elsewhere, whoever wrote it, and every node's proxy understands those
//! of all others. It is no secret and proves nothing. Nothing of this is on the way of a request whose rule has no session.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};
use millrace_model::{
    Mesh, ObjectName, Session, Workload,
    resolve::{Backend, Hop},
    route::{PathMatch, RouteBackend, RouteRule, Target},
    session::{Carrier, CookiePath, Lifetime},
};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use sha2::{Digest as _, Sha256};

use super::{counts::ByOutcome, endpoint::Endpoints, request::Callers};
use crate::metrics::Word;

/// Bytes of a hash: so many that no two endpoints of a service have one.
const ID: usize = 12;

/// What an endpoint is called in tokens.
pub(crate) type Id = [u8; ID];

/// How far another node's clock may be ahead.
const SKEW: u64 = 60;

/// A token is given anew when so many parts of the time that it may lie idle are over.
const PARTS: u64 = 8;

/// Tokens of one name that are looked at: a client may have several, of other rules.
const MAX_TOKENS: usize = 8;

/// What a client was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    tag: u32,
    id: Id,
    times: Option<Times>,
}

/// In seconds since 1970, as far as a session has an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    /// When the session began.
    began: u32,
    /// When the token was given.
    given: u32,
}

/// Where a request of a session goes.
pub(crate) struct Kept<'c> {
    /// Which of the rule's backends has its endpoint.
    pub(crate) index: usize,
    pub(crate) endpoints: Endpoints<'c>,
    pub(crate) token: Token,
}

/// What became of a request's session, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It had none.
    Begun,
    /// It goes on.
    Kept,
    /// Its endpoint is gone, or did not take it: it is another's now.
    Moved,
}

impl Token {
    /// The token in a text, if it is one of this rule's, and not too old.
    fn read(text: &[u8], session: &Session, now: u64) -> Option<Self> {
        let (head, times) = (text.get(..2 * (4 + ID))?, text.get(2 * (4 + ID)..)?);
        let tag = u32::from_be_bytes(hex(head.get(..8)?)?);
        let token = Self { tag, id: hex(head.get(8..)?)?, times: Times::read(times)? };
        let has_end = session.absolute.is_some() || session.idle.is_some();
        let lasts = token.times.is_none_or(|times| times.lasts(session, now));
        (tag == session.tag && token.times.is_some() == has_end && lasts).then_some(token)
    }

    /// As clients have it.
    fn written(&self) -> String {
        let mut text = String::with_capacity(2 * (4 + ID + 8));
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                text.extend([byte >> 4, byte & 15].map(|half| char::from_digit(half.into(), 16).unwrap_or('0')));
            }
        };
        add(&self.tag.to_be_bytes());
        add(&self.id);
        if let Some(Times { began, given }) = self.times {
            add(&began.to_be_bytes());
            add(&given.to_be_bytes());
        }
        text
    }

    /// The one to be given after an answer of this endpoint; None where the client has it already.
    fn next(before: Option<&Self>, session: &Session, id: Id, now: u64) -> Option<Self> {
        let has_end = session.absolute.is_some() || session.idle.is_some();
        let now = u32::try_from(now).unwrap_or(u32::MAX);
        let before = before.filter(|before| before.id == id);
        let Some(before) = before else {
            let times = has_end.then_some(Times { began: now, given: now });
            return Some(Self { tag: session.tag, id, times });
        };
        let times = before.times?;
        let part = session.idle?.as_secs() / PARTS;
        let is_due = u64::from(now.saturating_sub(times.given)) >= part.max(1);
        is_due.then_some(Self { times: Some(Times { given: now, ..times }), ..*before })
    }
}

impl Times {
    /// None where it is neither nothing nor two times.
    fn read(text: &[u8]) -> Option<Option<Self>> {
        if text.is_empty() {
            return Some(None);
        }
        let [began, given] = [text.get(..8)?, text.get(8..)?].map(hex);
        Some(Some(Self { began: u32::from_be_bytes(began?), given: u32::from_be_bytes(given?) }))
    }

    fn lasts(self, session: &Session, now: u64) -> bool {
        let since = |time: u32, most: Option<Duration>| {
            let time = u64::from(time);
            time <= now + SKEW && most.is_none_or(|most| now.saturating_sub(time) < most.as_secs())
        };
        since(self.began, session.absolute) && since(self.given, session.idle) && self.began <= self.given
    }
}

/// Bytes of hexadecimal digits in lower case; None where it is not exactly so many.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// What an endpoint of a service's port is called. A pod made again under its name is another one; what is no pod is its address.
pub(crate) fn id(mesh: &Mesh, (service, port): (&ObjectName, u16), backend: &Backend) -> Id {
    let workload = match &backend.hop {
        Hop::Local(workload) | Hop::Pending(workload) => Some(workload),
        Hop::Tunnel(peer) => Some(&peer.workload),
        Hop::Plain => mesh.workload_at(backend.address.ip()),
    };
    let who = match workload {
        Some(workload) => format!("{} {} {}", workload.name, workload.instance, backend.address.port()),
        None => backend.address.to_string(),
    };
    let digest = Sha256::digest(format!("{service} {port} {who}"));
    let mut id = Id::default();
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    id
}

/// The endpoint that a request's token names, of whichever of its rule's backends; whatever their shares. In a box: most requests have
/// none, and hold room for it.
pub(crate) fn kept<'c>(
    callers: &'c Callers,
    mesh: &Arc<Mesh>,
    (rule, headers): (&RouteRule, &HeaderMap),
    caller: &Arc<Workload>,
) -> Option<Box<Kept<'c>>> {
    if rule.backends.iter().all(|backend| backend.session.is_none()) {
        return None;
    }
    let now = millrace_node::clock::unix_time().as_secs();
    for (index, RouteBackend { to, session, .. }) in rule.backends.iter().enumerate() {
        let (Some(session), Target::Service { name, port, speaks }) = (session, to) else { continue };
        let mut endpoints = None;
        for token in tokens(session, headers).filter_map(|text| Token::read(text, session, now)) {
            // A backend without endpoints has none of anybody's.
            if endpoints.is_none() {
                endpoints = Endpoints::of(callers, mesh, (name, *port, *speaks), caller).ok();
            }
            let Some(mut found) = endpoints.take() else { break };
            if found.prefer(mesh, (name, *port), &token.id) {
                return Some(Box::new(Kept { index, endpoints: found, token }));
            }
            endpoints = Some(found);
        }
    }
    None
}

/// What stands where this session's token should.
fn tokens<'h>(session: &'h Session, headers: &'h HeaderMap) -> impl Iterator<Item = &'h [u8]> {
    let (own, cookies) = match session.carrier {
        Carrier::Header => (Some(headers.get_all(&*session.name)), None),
        Carrier::Cookie { .. } => (None, Some(headers.get_all(COOKIE))),
    };
    let own = own.into_iter().flatten().map(HeaderValue::as_bytes);
    let pairs = cookies.into_iter().flatten().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let ours = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        pair.strip_prefix(session.name.as_bytes())?.strip_prefix(b"=")
    });
    own.chain(ours).take(MAX_TOKENS)
}

/// Gives the client its token with an answer, where it has not this one yet.
pub(crate) fn give(
    callers: &Callers,
    (session, kept): (&Session, Option<&Token>),
    (headers, matched): (&mut HeaderMap, &PathMatch),
    id: Option<Id>,
) {
    let Some(id) = id else { return };
    let now = millrace_node::clock::unix_time().as_secs();
    let outcome = match kept {
        None => Outcome::Begun,
        Some(token) if token.id == id => Outcome::Kept,
        Some(_) => Outcome::Moved,
    };
    callers.worker.proxy.metrics.http.sessions.count(outcome);
    let Some(token) = Token::next(kept, session, id, now) else { return };
    let text = token.written();
    match session.carrier {
        Carrier::Header => {
            let name = HeaderName::from_bytes(session.name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&text)) {
                headers.insert(name, value);
            }
        }
        Carrier::Cookie { lifetime, path } => {
            let mut cookie = format!("{}={text}; HttpOnly; SameSite=Strict", session.name);
            if let (Lifetime::Permanent, Some(absolute)) = (lifetime, session.absolute) {
                let began = token.times.map_or(now, |times| times.began.into());
                let left = absolute.as_secs().saturating_sub(now.saturating_sub(began));
                cookie.push_str(&format!("; Max-Age={left}"));
            }
            if path == CookiePath::Matched {
                cookie.push_str(&format!("; Path={}", cookie_path(matched)));
            }
            if let Ok(value) = HeaderValue::from_str(&cookie) {
                headers.append(SET_COOKIE, value);
            }
        }
    }
}

/// For which paths a cookie is sent that a match gave: those that it is for. Of an expression, what stands before its first sign.
fn cookie_path(matched: &PathMatch) -> &str {
    let path = match matched {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
        PathMatch::Regex(expression) => before_signs(expression),
        PathMatch::Grpc { .. } => "",
    };
    let is_letter = |b: u8| b.is_ascii_graphic() && b != b';';
    if path.starts_with('/') && path.bytes().all(is_letter) { path } else { "/" }
}

/// The whole segments at the beginning of an expression that are of letters alone.
fn before_signs(expression: &str) -> &str {
    let text = expression.strip_prefix('^').unwrap_or(expression);
    if text.contains('|') {
        return "";
    }
    match text.find(['\\', '.', '+', '*', '?', '(', ')', '[', ']', '{', '}', '$']) {
        Some(at) => text.get(..at).and_then(|letters| letters.rsplit_once('/')).map_or("", |(before, _)| before),
        None => text,
    }
}

/// What is counted: `millrace_proxy_http_sessions_total{outcome}`.
#[derive(Debug, Default)]
pub(crate) struct Counts(Family<ByOutcome, Counter>);

impl Counts {
    fn count(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Begun => "begun",
            Outcome::Kept => "kept",
            Outcome::Moved => "moved",
        };
        self.0.get_or_create(&ByOutcome { outcome: Word(outcome) }).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("http_sessions", "Requests of rules with sessions, by what became of theirs", self.0.clone());
    }
}

#[cfg(test)]
mod tests;
