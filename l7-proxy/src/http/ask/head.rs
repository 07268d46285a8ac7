//! Writes the heads of requests, and reads those of answers (RFC 9112, 2 to 6). Pure.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::Body;

use super::super::{
    coding::{Framing, Places, Reason, write_fields},
    heads::{Bad, MAX_FIELDS, MAX_HEAD, length},
};

/// How the body of a request is framed: by its length, where that is known, or else by what its client has announced.
pub(super) fn framing(head: &Parts, body: &impl Body) -> Framing {
    let announced = one_length(&head.headers).ok().flatten();
    let length = if body.is_end_stream() { announced } else { body.size_hint().exact().or(announced) };
    match length {
        Some(length) => Framing::Length(length),
        None if body.is_end_stream() => Framing::None,
        None => Framing::Chunked,
    }
}

/// Writes the head of a request whose body is framed so.
pub(super) fn write(head: &Parts, framing: Framing, to: &mut BytesMut) {
    to.extend_from_slice(head.method.as_str().as_bytes());
    to.extend_from_slice(b" ");
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    to.extend_from_slice(target.as_bytes());
    to.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(&head.headers, to);
    framing.write(to);
    to.extend_from_slice(b"\r\n");
}

/// A head that an endpoint sent.
#[derive(Debug)]
pub(in crate::http) enum Head {
    /// It says something before its answer (RFC 9110, 15.2).
    Informational(StatusCode),
    /// It answers.
    Answer {
        head: Response<()>,
        framing: Framing,
        /// Whether there may be another request behind the body.
        is_kept: bool,
    },
}

/// Takes a head out of `from`; None where it is not whole. So much of that was `seen`, and held no end.
pub(in crate::http) fn read(from: &mut BytesMut, seen: &mut usize, is_to_head: bool) -> Result<Option<Head>, Bad> {
    if *seen > 0 && !may_end(from.get(seen.saturating_sub(3)..).unwrap_or_default()) {
        return more(from, seen);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let n = match parser.parse_response_with_uninit_headers(&mut parsed, from, &mut fields) {
        Ok(httparse::Status::Complete(n)) if n <= MAX_HEAD => n,
        Ok(httparse::Status::Complete(_)) => return Err(Bad::TooLarge),
        Ok(httparse::Status::Partial) => return more(from, seen),
        Err(error) => return Err(named(error)),
    };
    *seen = 0;
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Bad::NotHttp)?;
    let is_old = parsed.version == Some(0);
    let reason = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.map(|reason| Reason(Bytes::copy_from_slice(reason.as_bytes())));
    let places = Places::of(from, parsed.headers)?;
    let bytes = from.split_to(n).freeze();
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Some(Head::Informational(status)));
    }
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.version_mut() = if is_old { Version::HTTP_10 } else { Version::HTTP_11 };
    *head.headers_mut() = places.headers(&bytes)?;
    if let Some(reason) = reason {
        head.extensions_mut().insert(reason);
    }
    let framing = answered(&mut head, is_old, is_to_head)?;
    let is_kept = !is_old
        && framing != Framing::UntilClose
        && status != StatusCode::SWITCHING_PROTOCOLS
        && !is_last(head.headers());
    Ok(Some(Head::Answer { head, framing, is_kept }))
}

/// Whether a head may end here: at an empty line, whoever ends lines by LF alone included.
fn may_end(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        rest = rest.get(at + 1..).unwrap_or_default();
        if matches!(rest, [b'\n', ..] | [b'\r', b'\n', ..]) {
            return true;
        }
    }
    false
}

fn more(from: &BytesMut, seen: &mut usize) -> Result<Option<Head>, Bad> {
    *seen = from.len();
    if from.len() > MAX_HEAD { Err(Bad::TooLarge) } else { Ok(None) }
}

fn named(error: httparse::Error) -> Bad {
    match error {
        httparse::Error::HeaderName => Bad::FieldName,
        httparse::Error::HeaderValue => Bad::FieldValue,
        httparse::Error::NewLine => Bad::BareLineEnd,
        httparse::Error::Version => Bad::Version,
        httparse::Error::TooManyHeaders => Bad::TooLarge,
        httparse::Error::Status | httparse::Error::Token => Bad::NotHttp,
    }
}

/// How the body of an answer is framed (RFC 9112, 6.3). An answer that says so in two ways is none, whatever its body.
fn answered(head: &mut Response<()>, is_old: bool, is_to_head: bool) -> Result<Framing, Bad> {
    let is_chunked = is_chunked(head.headers())?;
    let length = one_length(head.headers())?;
    if is_chunked && length.is_some() {
        return Err(Bad::BothLengths);
    }
    // HTTP/1.0 knows no chunks: who says so has not understood what it passes on.
    if is_chunked && is_old {
        return Err(Bad::TransferEncoding);
    }
    if let Some(length) = length
        && !is_said_once(head.headers())
    {
        // One field from here on, however often it was said.
        head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let has_none =
        matches!(head.status(), StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(match length {
        _ if is_to_head || has_none => Framing::None,
        Some(length) => Framing::Length(length),
        None if is_chunked => Framing::Chunked,
        None => Framing::UntilClose,
    })
}

/// Whether a body is in chunks. No other coding is asked for, and none could be passed on (RFC 9112, 6.1).
fn is_chunked(headers: &HeaderMap) -> Result<bool, Bad> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        (Some(_), _) => Err(Bad::TransferEncoding),
    }
}

/// The length that a head says; the same several times is forgiven (RFC 9110, 8.6).
fn one_length(headers: &HeaderMap) -> Result<Option<u64>, Bad> {
    let mut found = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for one in value.as_bytes().split(|byte| *byte == b',') {
            let length = length(one.trim_ascii())?;
            if *found.get_or_insert(length) != length {
                return Err(Bad::ContentLength);
            }
        }
    }
    Ok(found)
}

/// Whether a head that says a length says it in one field, and once there.
fn is_said_once(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    matches!((values.next(), values.next()), (Some(value), None) if !value.as_bytes().contains(&b','))
}

/// Whether the endpoint closes behind this answer.
fn is_last(headers: &HeaderMap) -> bool {
    let options = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(b"close"))
}
