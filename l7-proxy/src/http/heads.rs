//! Reads an HTTP/1.1 client's messages out of its bytes: every head, and by [`coding`](super::coding) every body. Pure.
//!
//! A parser that forgives is how requests are smuggled: where two readers disagree on where a message ends, the rest of one is
//! taken for the next. So nothing is forgiven here (RFC 9112 throughout), and what was checked is what is kept: nobody parses it again.

mod fields;
pub(crate) mod two;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Request, Uri};

use super::coding::{Decoder, Framing, Step};
use fields::Fields;

pub(crate) use fields::{field, is_no_trailer, length, line};

/// The longest head: a kilobyte of path, and headers with some cookies and tokens, leave half of it free.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// Fields of one head.
pub(crate) const MAX_FIELDS: usize = 100;

/// Fields that there is room for at first: most heads have fewer, with those that the mesh adds.
const FIELDS: usize = 12;

/// The longest line that says a chunk's size: 16 digits, and extensions that nobody reads.
pub(crate) const MAX_CHUNK_LINE: usize = 256;

/// The longest trailer section.
pub(crate) const MAX_TRAILERS: usize = 16 * 1024;

/// What HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why bytes are refused. Each has one name in logs and in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// A line ends in LF alone, or holds CR.
    BareLineEnd,
    /// A line begins with white space (obs-fold).
    Folded,
    /// The request line is not method, target and version, with one space between.
    RequestLine,
    /// The method is no token.
    Method,
    /// CONNECT, which is for proxies that were asked to be one.
    Connect,
    /// The target is none of RFC 9112's forms, or holds a byte that none has.
    Target,
    /// The version is neither 1.0 nor 1.1.
    Version,
    /// The request line ends in no version of anything.
    NotHttp,
    /// A field's name is no token, or space stands before its colon.
    FieldName,
    /// A field's value holds a control byte.
    FieldValue,
    /// No Host, several, or one that is no host.
    Host,
    /// The target's authority is not the Host's.
    OtherHost,
    /// Several Content-Lengths, or one that is no number.
    ContentLength,
    /// A Transfer-Encoding that is not `chunked` alone, or of HTTP/1.0.
    TransferEncoding,
    /// Content-Length beside Transfer-Encoding.
    BothLengths,
    /// A chunk's size is no number, or its line too long.
    ChunkSize,
    /// A chunk is longer or shorter than it said.
    ChunkEnd,
    /// A trailer that only a head may have.
    Trailer,
    /// More than there may be of fields, or of all.
    TooLarge,
}

impl Bad {
    /// Its one name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BareLineEnd => "bare_line_end",
            Self::Folded => "folded_field",
            Self::RequestLine => "bad_request_line",
            Self::Method => "bad_method",
            Self::Connect => "connect",
            Self::Target => "bad_target",
            Self::Version => "bad_version",
            Self::NotHttp => "not_http",
            Self::FieldName => "bad_field_name",
            Self::FieldValue => "bad_field_value",
            Self::Host => "bad_host",
            Self::OtherHost => "other_host",
            Self::ContentLength => "bad_content_length",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::BothLengths => "both_lengths",
            Self::ChunkSize => "bad_chunk_size",
            Self::ChunkEnd => "bad_chunk_end",
            Self::Trailer => "bad_trailer",
            Self::TooLarge => "head_too_large",
        }
    }

    /// The status of the answer.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::TooLarge => 431,
            Self::Version => 505,
            Self::BareLineEnd
            | Self::Folded
            | Self::RequestLine
            | Self::Method
            | Self::Connect
            | Self::Target
            | Self::FieldName
            | Self::FieldValue
            | Self::Host
            | Self::OtherHost
            | Self::ContentLength
            | Self::TransferEncoding
            | Self::BothLengths
            | Self::ChunkSize
            | Self::ChunkEnd
            | Self::NotHttp
            | Self::Trailer => 400,
        }
    }
}

/// Where in the stream of messages the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing was read yet: it may be HTTP/2.
    Start,
    /// Between two messages, or within one.
    Messages,
    /// HTTP/2: another reader's to check.
    Other,
}

/// Takes one connection's messages out of its bytes, in order.
#[derive(Debug)]
pub(crate) struct Heads {
    at: At,
    /// How much of a head that is not whole was looked at already.
    seen: usize,
    /// The body of the message that was begun last.
    body: Decoder,
}

/// Which version the client began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.
    One,
    /// HTTP/2, by prior knowledge.
    Two,
}

/// A request's head, and how what comes behind it is framed.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) head: Request<()>,
    pub(crate) framing: Framing,
}

impl Default for Heads {
    fn default() -> Self {
        Self { at: At::Start, seen: 0, body: Decoder::new(Framing::None) }
    }
}

impl Heads {
    /// What the connection speaks, by its first bytes; None where it may be either.
    pub(crate) fn version(&mut self, first: &[u8]) -> Option<Version> {
        if self.at == At::Start && !first.is_empty() {
            let n = first.len().min(PREFACE.len());
            self.at = match first.get(..n) == PREFACE.get(..n) {
                true if n == PREFACE.len() => At::Other,
                true => At::Start,
                false => At::Messages,
            };
        }
        match self.at {
            At::Start => None,
            At::Messages => Some(Version::One),
            At::Other => Some(Version::Two),
        }
    }

    /// True within a message's body: who takes that message sees that it breaks off.
    pub(crate) fn is_in_body(&self) -> bool {
        !self.body.is_end()
    }

    /// Takes the next head out of `from`; None where it is not whole, or what is left of a body comes first.
    pub(crate) fn head(&mut self, from: &mut BytesMut) -> Result<Option<Asked>, Bad> {
        if self.version(from) != Some(Version::One) || self.is_in_body() {
            return Ok(None);
        }
        // One empty line before a request is forgiven, as the specification asks (2.2): it can't be part of anything.
        let skip = match &**from {
            [b'\r', b'\n', ..] => 2,
            [b'\r'] => return Ok(None),
            _ => 0,
        };
        let rest = from.get(skip..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let Some(end) = section(rest, &mut self.seen, MAX_HEAD)? else { return Ok(None) };
        from.advance(skip);
        self.seen = 0;
        let asked = asked(&from.split_to(end).freeze())?;
        self.body = Decoder::new(asked.framing);
        Ok(Some(asked))
    }

    /// How much of the message's body is still to come, where that was said.
    pub(crate) fn left(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// Takes the next of the message's body out of `from`.
    pub(crate) fn body(&mut self, from: &mut BytesMut) -> Result<Step, Bad> {
        self.body.decode(from)
    }
}

/// The end of a head or trailer section, looked for from where it was not found before: so much of it was `seen`.
pub(crate) fn section(rest: &[u8], seen: &mut usize, most: usize) -> Result<Option<usize>, Bad> {
    let from = seen.saturating_sub(3);
    let found = rest.get(from..).unwrap_or_default().windows(4).position(|four| four == b"\r\n\r\n");
    match found {
        Some(at) if from + at + 4 <= most => Ok(Some(from + at + 4)),
        Some(_) => Err(Bad::TooLarge),
        None if rest.len() > most => Err(Bad::TooLarge),
        None => {
            // Said at once: a reader that takes LF for a line's end would see a whole head here.
            let fresh = rest.get(from..).unwrap_or_default();
            let is_bare = |pair: &[u8]| matches!(pair, [before, b'\n'] if *before != b'\r');
            if fresh.windows(2).any(is_bare) {
                return Err(Bad::BareLineEnd);
            }
            *seen = rest.len();
            Ok(None)
        }
    }
}

/// Reads a head, blank line and all. Its values are parts of it.
fn asked(head: &Bytes) -> Result<Asked, Bad> {
    let request = line(head, MAX_HEAD, Bad::TooLarge)?.ok_or(Bad::RequestLine)?;
    let fields::Line { method, target, authority, is_old } = fields::request_line(request)?;
    let mut asked = Request::new(());
    let rest = head.get(request.len() + 2..).unwrap_or_default();
    let headers = asked.headers_mut();
    headers.reserve(FIELDS);
    let Fields { host, content_length, is_chunked } = Fields::read(rest, MAX_FIELDS, |name, value| {
        let name = HeaderName::from_bytes(name).map_err(|_no_token| Bad::FieldName)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_control| Bad::FieldValue)?;
        headers.try_append(name, value).map_err(|_too_many| Bad::TooLarge)?;
        Ok(())
    })?;
    match (&host, authority) {
        (Some(host), Some(authority)) if !authority.eq_ignore_ascii_case(host) => return Err(Bad::OtherHost),
        (None, _) if !is_old => return Err(Bad::Host),
        _ => {}
    }
    let framing = match (content_length, is_chunked) {
        (Some(_), true) => return Err(Bad::BothLengths),
        (None, true) if is_old => return Err(Bad::TransferEncoding),
        (None, true) => Framing::Chunked,
        (Some(0) | None, false) => Framing::None,
        (Some(length), false) => Framing::Length(length),
    };
    *asked.method_mut() = Method::from_bytes(method).map_err(|_no_token| Bad::Method)?;
    *asked.uri_mut() = Uri::from_maybe_shared(head.slice_ref(target)).map_err(|_no_target| Bad::Target)?;
    *asked.version_mut() = if is_old { http::Version::HTTP_10 } else { http::Version::HTTP_11 };
    Ok(Asked { head: asked, framing })
}

/// A chunk's size: hexadecimal digits, then extensions, which are checked and mean nothing (7.1.1).
pub(crate) fn chunk_size(line: &[u8]) -> Result<u64, Bad> {
    let (digits, extension) = match line.iter().position(|byte| *byte == b';') {
        Some(at) => line.split_at_checked(at).ok_or(Bad::ChunkSize)?,
        None => (line, &[][..]),
    };
    if digits.is_empty() || digits.len() > 16 || !extension.iter().all(|b| matches!(b, b'\t' | b' '..=b'~')) {
        return Err(Bad::ChunkSize);
    }
    let mut size: u64 = 0;
    for byte in digits {
        let digit = char::from(*byte).to_digit(16).ok_or(Bad::ChunkSize)?;
        size = size << 4 | u64::from(digit);
    }
    Ok(size)
}

#[cfg(test)]
mod tests;
