//! Says what an admin request and response are, and makes the usual responses.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;

/// A request whose body was read whole. Its extensions hold the asking [`crate::handover::Peer`].
pub type Request = http::Request<Bytes>;

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What is answered.
pub type Response = http::Response<Body>;

/// Plain text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    response(status, "text/plain; charset=utf-8", Full::new(text.into()).boxed_unsync())
}

/// A JSON value.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    response(status, "application/json", Full::new(format!("{value:#}\n").into()).boxed_unsync())
}

/// A stream of pieces, which ends when `pieces` does or the asker goes away. A line of NDJSON is one piece.
pub fn stream(content_type: &'static str, pieces: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece))));
    response(StatusCode::OK, content_type, body.boxed_unsync())
}

pub(super) fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn whole(text: String) -> Body {
    Full::new(text.into()).boxed_unsync()
}
