//! Says to an endpoint who asks, in the headers that are customary for it: what a client says of itself is believed in none of them.
//!
//! docs/ROUTES.md has the table. Pure: a head in, a head out; the randomness of a new id is the caller's.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{Entry, FORWARDED},
};
use millrace_model::Identity;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id of a request that is kept: longer ones fill logs.
const MAX_ID: usize = 128;

/// The longest list of former hops that is passed on: a client that sends more says nothing of use.
const MAX_HOPS: usize = 4096;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// The pod's address.
    pub(crate) address: IpAddr,
    /// Who the mesh knows it to be.
    pub(crate) identity: &'a Identity,
}

/// What is said of it, of each of its requests alike.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    address: IpAddr,
    hop: HeaderValue,
    cert: Option<HeaderValue>,
}

impl Asker<'_> {
    /// What is said of this one.
    pub(crate) fn said(self) -> Said {
        let Self { address, identity } = self;
        let hop = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Said { address, hop, cert: HeaderValue::from_str(&format!("URI={identity}")).ok() }
    }
}

/// Sets the headers of a request of whom this is said; `fresh` is drawn where it brought no id that can be kept.
pub(crate) fn tell(headers: &mut HeaderMap, said: &Said, fresh: impl FnOnce() -> u128) {
    let Said { address, hop, cert } = said;
    if headers.contains_key(&FOR) {
        appended(headers, FOR, hop.as_bytes(), |hops| hops.iter().all(|b| matches!(b, b' '..=b'~')));
    } else {
        headers.insert(FOR, hop.clone());
    }
    // Only where somebody began the list: the same is said above, and shorter.
    if headers.contains_key(FORWARDED) {
        appended(headers, FORWARDED, element(*address).as_bytes(), is_forwarded);
    }
    let mut protos = headers.get_all(PROTO).iter();
    let is_kept = matches!((protos.next(), protos.next()), (Some(one), None) if one == "http" || one == "https");
    if !is_kept {
        headers.insert(PROTO, HeaderValue::from_static("http"));
    }
    let mut ids = headers.get_all(ID).iter();
    let is_kept = matches!((ids.next(), ids.next()), (Some(one), None) if is_id(one.as_bytes()));
    if !is_kept && let Ok(id) = HeaderValue::from_bytes(&uuid(fresh())) {
        headers.insert(ID, id);
    }
    match cert {
        Some(cert) => drop(headers.insert(CERT, cert.clone())),
        None => drop(headers.remove(CERT)),
    }
}

/// Puts `own` behind the list that came, or in its place where that is none. Several fields of the name become one.
fn appended(headers: &mut HeaderMap, name: HeaderName, own: &[u8], is_list: impl FnOnce(&[u8]) -> bool) {
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(value.as_bytes());
    }
    if list.is_empty() || list.len() > MAX_HOPS || !is_list(&list) {
        list.clear();
    } else {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(own);
    // Bytes of two values and text of ours: always a value.
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        match headers.entry(name) {
            Entry::Occupied(mut entry) => drop(entry.insert(value)),
            Entry::Vacant(entry) => drop(entry.insert(value)),
        }
    }
}

/// Our element of `Forwarded` (RFC 7239, 4): an IPv6 address stands in brackets and quotes (6).
fn element(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("for={v4};proto=http"),
        IpAddr::V6(v6) => format!("for=\"[{v6}]\";proto=http"),
    }
}

/// Whether these are elements of `Forwarded` (RFC 7239, 4). A quote that nobody closes would swallow ours.
fn is_forwarded(list: &[u8]) -> bool {
    let mut rest = list;
    loop {
        rest = rest.trim_ascii_start();
        let Some(at) = rest.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'-') else { return false };
        let (name, after) = rest.split_at(at);
        let Some(after) = after.strip_prefix(b"=").filter(|_| !name.is_empty()) else { return false };
        let Some(after) = value(after) else { return false };
        rest = after.trim_ascii_start();
        match rest {
            [] => return true,
            [b';' | b',', more @ ..] => rest = more,
            _ => return false,
        }
    }
}

/// What follows a token or a quoted string (RFC 9110, 5.6.4); None where there is neither.
fn value(bytes: &[u8]) -> Option<&[u8]> {
    let Some(quoted) = bytes.strip_prefix(b"\"") else {
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        let end = bytes.iter().position(|b| !is_token(b)).unwrap_or(bytes.len());
        return bytes.get(end..).filter(|_| end > 0);
    };
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return quoted.get(at + 1..),
            b'\\' => drop(bytes.next()?),
            _ => {}
        }
    }
    None
}

fn is_id(id: &[u8]) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:=+/@".contains(b))
}

/// A random UUID (RFC 9562, 5.4).
fn uuid(random: u128) -> [u8; 36] {
    let mut bits = random & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
    let mut text = [b'-'; 36];
    for (at, digit) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            bits = bits.rotate_left(4);
            let [low, ..] = bits.to_le_bytes();
            *digit = match low & 0xf {
                number @ 0..10 => b'0' + number,
                letter => b'a' - 10 + letter,
            };
        }
    }
    text
}

#[cfg(test)]
mod tests;
