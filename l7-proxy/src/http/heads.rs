//! Checks an HTTP/1.1 client's bytes before anybody parses them: every head, and the framing of every body. Pure.
//!
//! A parser that forgives is how requests are smuggled: where two readers disagree on where a message ends, the rest of one is
//! taken for the next. So nothing is forgiven here (RFC 9112 throughout), and hyper, which reads next, gets whole heads alone.

mod fields;
pub(crate) mod two;

use fields::Fields;

pub(crate) use fields::{field, is_no_trailer, length, line};

/// The longest head: a kilobyte of path, and headers with some cookies and tokens, leave half of it free.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// Fields of one head.
pub(crate) const MAX_FIELDS: usize = 100;

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
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// HTTP/2: another reader's to check.
    Other,
}

/// Checks one connection's bytes, in order.
#[derive(Debug)]
pub(crate) struct Heads {
    at: At,
    /// How much of an item that is not whole was looked at already.
    seen: usize,
    n_heads: u64,
}

/// Which version the client began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.
    One,
    /// HTTP/2, by prior knowledge.
    Two,
}

impl Default for Heads {
    fn default() -> Self {
        Self { at: At::Start, seen: 0, n_heads: 0 }
    }
}

/// How a message's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

impl Heads {
    /// What the connection speaks, once that is known.
    pub(crate) fn version(&self) -> Option<Version> {
        match self.at {
            At::Start => None,
            At::Other => Some(Version::Two),
            At::Head | At::Body(_) | At::ChunkSize | At::Chunk(_) | At::ChunkEnd | At::Trailers => Some(Version::One),
        }
    }

    /// How many heads were good.
    pub(crate) fn n_heads(&self) -> u64 {
        self.n_heads
    }

    /// True within a message's body: who takes that message sees that it breaks off.
    pub(crate) fn is_in_body(&self) -> bool {
        match self.at {
            At::Start | At::Head | At::Other => false,
            At::Body(_) | At::ChunkSize | At::Chunk(_) | At::ChunkEnd | At::Trailers => true,
        }
    }

    /// How many of these bytes, which follow those taken before, may be passed on. What is left is to be shown again, with
    /// more behind it.
    pub(crate) fn check(&mut self, bytes: &[u8]) -> Result<usize, Bad> {
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or_default();
            if rest.is_empty() && self.at != At::Body(0) {
                return Ok(taken);
            }
            match self.step(rest) {
                Ok(Some(n)) => {
                    taken += n;
                    self.seen = 0;
                }
                Ok(None) => return Ok(taken),
                // What came before is good: the fault is found again when it is shown alone.
                Err(_) if taken > 0 => return Ok(taken),
                Err(bad) => return Err(bad),
            }
        }
    }

    /// One item: how long it is; None where it is not whole.
    fn step(&mut self, rest: &[u8]) -> Result<Option<usize>, Bad> {
        let length = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        match self.at {
            At::Start => {
                let n = rest.len().min(PREFACE.len());
                self.at = match rest.get(..n) == PREFACE.get(..n) {
                    true if n == PREFACE.len() => At::Other,
                    true => return Ok(None),
                    false => At::Head,
                };
                Ok(Some(0))
            }
            At::Other => Ok(Some(rest.len())),
            At::Head => self.head(rest),
            At::Body(left) => {
                let n = length(left);
                let left = left - n as u64;
                self.at = if left == 0 { At::Head } else { At::Body(left) };
                Ok(Some(n))
            }
            At::Chunk(left) => {
                let n = length(left);
                let left = left - n as u64;
                self.at = if left == 0 { At::ChunkEnd } else { At::Chunk(left) };
                Ok(Some(n))
            }
            At::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.at = At::ChunkSize;
                    Ok(Some(2))
                }
                [b'\r'] => Ok(None),
                _ => Err(Bad::ChunkEnd),
            },
            At::ChunkSize => {
                let Some(line) = line(rest, MAX_CHUNK_LINE, Bad::ChunkSize)? else { return Ok(None) };
                let size = chunk_size(line)?;
                self.at = if size == 0 { At::Trailers } else { At::Chunk(size) };
                Ok(Some(line.len() + 2))
            }
            At::Trailers => self.trailers(rest),
        }
    }

    fn head(&mut self, rest: &[u8]) -> Result<Option<usize>, Bad> {
        // One empty line before a request is forgiven, as the specification asks (2.2): it can't be part of anything.
        let skip = match rest {
            [b'\r', b'\n', ..] => 2,
            [b'\r'] => return Ok(None),
            _ => 0,
        };
        let rest = rest.get(skip..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let Some(end) = section(rest, &mut self.seen, MAX_HEAD)? else { return Ok(None) };
        let head = rest.get(..end).unwrap_or_default();
        self.at = match framing(head)? {
            Framing::Length(length) => At::Body(length),
            Framing::Chunked => At::ChunkSize,
        };
        self.n_heads += 1;
        Ok(Some(skip + end))
    }

    fn trailers(&mut self, rest: &[u8]) -> Result<Option<usize>, Bad> {
        match rest {
            [b'\r', b'\n', ..] => {
                self.at = At::Head;
                return Ok(Some(2));
            }
            [b'\r'] => return Ok(None),
            _ => {}
        }
        let Some(end) = section(rest, &mut self.seen, MAX_TRAILERS)? else { return Ok(None) };
        fields::trailers(rest.get(..end).unwrap_or_default())?;
        self.at = At::Head;
        Ok(Some(end))
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

/// What a head, blank line and all, says of its body.
fn framing(head: &[u8]) -> Result<Framing, Bad> {
    let request = line(head, MAX_HEAD, Bad::TooLarge)?.ok_or(Bad::RequestLine)?;
    let (authority, is_old) = fields::request_line(request)?;
    let rest = head.get(request.len() + 2..).unwrap_or_default();
    let Fields { host, content_length, is_chunked } = Fields::read(rest, MAX_FIELDS)?;
    match (&host, authority) {
        (Some(host), Some(authority)) if !authority.eq_ignore_ascii_case(host) => return Err(Bad::OtherHost),
        (None, _) if !is_old => return Err(Bad::Host),
        _ => {}
    }
    match (content_length, is_chunked) {
        (Some(_), true) => Err(Bad::BothLengths),
        (None, true) if is_old => Err(Bad::TransferEncoding),
        (None, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
    }
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
