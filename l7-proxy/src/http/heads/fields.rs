//! Reads the lines of a head: the request line and the fields, byte by byte as RFC 9112 and RFC 9110 have them.

use super::Bad;

/// What the fields of a head say of host and framing.
#[derive(Debug, Default)]
pub(super) struct Fields<'h> {
    pub(super) host: Option<&'h [u8]>,
    pub(super) content_length: Option<u64>,
    pub(super) is_chunked: bool,
}

/// Fields that frame a message, route it, or say what to do with it: none may come after its body (RFC 9110, 6.5.1).
const NOT_TRAILERS: &[&[u8]] = &[
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"expect",
    b"host",
    b"keep-alive",
    b"max-forwards",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

/// The first line of `bytes`, without its end; None where it is not whole. A longer one than `most` is `long`.
pub(crate) fn line(bytes: &[u8], most: usize, long: Bad) -> Result<Option<&[u8]>, Bad> {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) if at > most => Err(long),
        Some(at) => match bytes.get(..at).and_then(|line| line.strip_suffix(b"\r")) {
            Some(line) if !line.contains(&b'\r') => Ok(Some(line)),
            Some(_) | None => Err(Bad::BareLineEnd),
        },
        None if bytes.len() > most => Err(long),
        None => Ok(None),
    }
}

/// A request line.
pub(super) struct Line<'l> {
    pub(super) method: &'l [u8],
    pub(super) target: &'l [u8],
    /// Of an absolute target.
    pub(super) authority: Option<&'l [u8]>,
    /// Whether the version is 1.0.
    pub(super) is_old: bool,
}

/// A field's name and value.
pub(crate) type Field<'l> = (&'l [u8], &'l [u8]);

/// Reads a request line.
pub(super) fn request_line(line: &[u8]) -> Result<Line<'_>, Bad> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Bad::RequestLine);
    };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return Err(Bad::Method);
    }
    if method == b"CONNECT" {
        return Err(Bad::Connect);
    }
    let is_old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ if version.contains(&b'/') => return Err(Bad::Version),
        _ => return Err(Bad::NotHttp),
    };
    if target.is_empty() || !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Err(Bad::Target);
    }
    let authority = match target {
        [b'/', ..] => None,
        b"*" if method == b"OPTIONS" => None,
        _ => Some(authority(target).ok_or(Bad::Target)?),
    };
    Ok(Line { method, target, authority, is_old })
}

/// The authority of `http://authority[/path][?query]`.
fn authority(target: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = target.split_at_checked(b"http://".len())?;
    if !scheme.eq_ignore_ascii_case(b"http://") {
        return None;
    }
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    rest.get(..end).filter(|authority| is_host(authority))
}

impl<'h> Fields<'h> {
    /// Reads every line up to the empty one, and gives each to `keep`.
    pub(super) fn read(
        mut bytes: &'h [u8],
        most: usize,
        mut keep: impl FnMut(&'h [u8], &'h [u8]) -> Result<(), Bad>,
    ) -> Result<Self, Bad> {
        let mut found = Self::default();
        for _ in 0..=most {
            let line = line(bytes, usize::MAX, Bad::TooLarge)?.ok_or(Bad::BareLineEnd)?;
            if line.is_empty() {
                return Ok(found);
            }
            bytes = bytes.get(line.len() + 2..).unwrap_or_default();
            let (name, value) = field(line)?;
            keep(name, value)?;
            found.take(name, value)?;
        }
        Err(Bad::TooLarge)
    }

    fn take(&mut self, name: &[u8], value: &'h [u8]) -> Result<(), Bad> {
        if name.eq_ignore_ascii_case(b"host") {
            if self.host.is_some() || !is_host(value) {
                return Err(Bad::Host);
            }
            self.host = Some(value);
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.content_length.is_some() {
                return Err(Bad::ContentLength);
            }
            self.content_length = Some(length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Bad::TransferEncoding);
            }
            self.is_chunked = true;
        }
        Ok(())
    }
}

/// Whether a field of this name may stand in a head alone.
pub(crate) fn is_no_trailer(name: &[u8]) -> bool {
    NOT_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

/// Name and value of a line, without the white space around the value.
pub(crate) fn field(line: &[u8]) -> Result<Field<'_>, Bad> {
    if matches!(line, [b' ' | b'\t', ..]) {
        return Err(Bad::Folded);
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Bad::FieldName)?;
    let (name, value) = line.split_at_checked(colon).ok_or(Bad::FieldName)?;
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Bad::FieldName);
    }
    let value = value.get(1..).unwrap_or_default();
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Bad::FieldValue);
    }
    Ok((name, value.trim_ascii()))
}

/// Digits alone: no sign, no list, no number that overflows.
pub(crate) fn length(value: &[u8]) -> Result<u64, Bad> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Bad::ContentLength);
    }
    let text = std::str::from_utf8(value).map_err(|_not_text| Bad::ContentLength)?;
    text.parse().map_err(|_too_long| Bad::ContentLength)
}

/// A byte of RFC 9110's tokens (5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A host and perhaps a port (RFC 3986, 3.2.2), without user and password.
pub(super) fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(at) if !value.ends_with(b"]") => {
            (value.get(..at).unwrap_or_default(), value.get(at + 1..).unwrap_or_default())
        }
        Some(_) | None => (value, &b"0"[..]),
    };
    let is_named = |host: &[u8]| host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(b));
    let is_literal = |host: &[u8]| match host {
        [b'[', inner @ .., b']'] => {
            !inner.is_empty() && inner.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        }
        _ => false,
    };
    !host.is_empty() && (is_named(host) || is_literal(host)) && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}
