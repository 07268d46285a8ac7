//! Writes the head of an answer to a client of HTTP/1, and says how its body is framed. Pure, but for the time of day.

use std::{cell::RefCell, time::SystemTime};

use bytes::BytesMut;
use http::{
    HeaderMap, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, DATE, TE},
    request, response,
};
use http_body::SizeHint;
use millrace_node::clock;

use crate::http::{
    coding::{Framing, Reason, write_fields},
    expect,
};

/// What an answer must know of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Whether it was asked in HTTP/1.0: no chunks then, and a connection is kept only where that was asked for.
    pub(super) is_old: bool,
    /// Whether the head alone was asked for.
    pub(super) is_head_only: bool,
    /// Whether the client would have its connection kept.
    pub(super) is_kept: bool,
    /// Whether it takes trailers.
    pub(super) takes_trailers: bool,
    /// Whether it waits until it is asked for the body.
    pub(super) waits: bool,
}

impl Wishes {
    /// As a head says.
    pub(super) fn of(head: &request::Parts) -> Self {
        let request::Parts { method, version, headers, .. } = head;
        let is_old = *version == Version::HTTP_10;
        // Close wins, whatever else is said (RFC 9112, 9.3).
        let is_kept = !has(headers, &CONNECTION, "close") && (!is_old || has(headers, &CONNECTION, "keep-alive"));
        let takes_trailers = !is_old && has(headers, &TE, "trailers");
        Self {
            is_old,
            is_head_only: *method == Method::HEAD,
            is_kept,
            takes_trailers,
            waits: expect::is_expected(*version, headers),
        }
    }
}

/// Whether a list names `option`.
fn has(headers: &HeaderMap, name: &http::HeaderName, option: &str) -> bool {
    let mut options = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|one| one.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

/// How the body of an answer is framed (RFC 9112, 6.3): by what is known of it, and not by what its head says.
pub(super) fn framing(wishes: &Wishes, head: &response::Parts, body: &SizeHint) -> Framing {
    if is_bodiless(head.status) || wishes.is_head_only {
        return Framing::None;
    }
    match body.exact().or_else(|| said(&head.headers)) {
        Some(length) => Framing::Length(length),
        None if wishes.is_old => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

/// Whether an answer of this status never has a body.
fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// The length that a head says, where it says one.
fn said(headers: &HeaderMap) -> Option<u64> {
    let mut all = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(one), None) = (all.next(), all.next()) else { return None };
    let text = one.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// Writes a head, with a body that is framed so; `is_kept` says whether another answer may follow it.
pub(super) fn write(wishes: &Wishes, head: response::Parts, (framing, is_kept): (Framing, bool), to: &mut BytesMut) {
    let response::Parts { status, mut headers, extensions, .. } = head;
    // Whoever knows of one version only is not to be puzzled by another.
    to.extend_from_slice(if wishes.is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    to.extend_from_slice(status.as_str().as_bytes());
    to.extend_from_slice(b" ");
    let usual = status.canonical_reason().unwrap_or_default().as_bytes();
    to.extend_from_slice(extensions.get().map_or(usual, |Reason(reason)| reason));
    to.extend_from_slice(b"\r\n");
    if status != StatusCode::SWITCHING_PROTOCOLS {
        headers.remove(CONNECTION);
    }
    write_fields(&headers, to);
    // What is said of a body that does not come is what a GET would get (RFC 9110, 8.6).
    let is_told = framing == Framing::None && (wishes.is_head_only || status == StatusCode::NOT_MODIFIED);
    match said(&headers).filter(|_| is_told && !status.is_informational() && status != StatusCode::NO_CONTENT) {
        Some(length) => Framing::Length(length).write(to),
        None => framing.write(to),
    }
    if status != StatusCode::SWITCHING_PROTOCOLS {
        match (is_kept, wishes.is_old) {
            (true, true) => to.extend_from_slice(b"connection: keep-alive\r\n"),
            (false, false) => to.extend_from_slice(b"connection: close\r\n"),
            (true, false) | (false, true) => {}
        }
    }
    // Who passes on an answer without a date adds when it came (RFC 9110, 6.6.1).
    if !headers.contains_key(DATE) {
        write_date(to);
    }
    to.extend_from_slice(b"\r\n");
}

/// The field of this second.
#[derive(Default)]
struct Second {
    at: u64,
    line: String,
}

thread_local! {
    /// Said by a worker in every answer, and another one once in a second.
    static NOW: RefCell<Second> = RefCell::default();
}

fn write_date(to: &mut BytesMut) {
    let time = clock::unix_time();
    let write = |now: &RefCell<Second>| {
        let mut now = now.borrow_mut();
        if now.at != time.as_secs() || now.line.is_empty() {
            let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + time);
            *now = Second { at: time.as_secs(), line: format!("date: {date}\r\n") };
        }
        to.extend_from_slice(now.line.as_bytes());
    };
    // A thread that is ending serves nobody.
    NOW.try_with(write).unwrap_or_default();
}

#[cfg(test)]
mod tests;
