//! Lets a client of HTTP/1.1 change to another protocol with its endpoint (RFC 9110, 7.8): WebSocket (RFC 6455) and its like.
//!
//! Both must agree before a byte passes unread: the client asks, the endpoint answers 101 with the same protocol. From then on
//! bytes are carried both ways; until then all of it is HTTP, and checked.

use std::{pin::Pin, sync::Mutex, sync::PoisonError};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, split},
    net::TcpStream,
    try_join,
};

use super::{orderly, upstream::Lease};
use crate::fault::Why;

/// What a connection is charged for while it is carried: a buffer each way.
pub(crate) const HELD: usize = 2 * 8 * 1024;

/// Bytes under way, either way.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// An endpoint's connection that speaks HTTP no more.
pub(crate) struct Switched {
    pub(crate) io: Box<dyn Io>,
    /// What came behind the answer's head.
    pub(crate) read: Bytes,
    /// What must be polled beside it, and ends it.
    pub(crate) beside: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl std::fmt::Debug for Switched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switched").field("read", &self.read.len()).finish_non_exhaustive()
    }
}

/// The connection that a client's request has changed, until its HTTP has ended.
#[derive(Debug, Default)]
pub(crate) struct Switch(Mutex<Option<Lease>>);

impl Switch {
    /// The endpoint has agreed.
    pub(crate) fn agreed(&self, lease: Lease) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    /// Who agreed, where somebody did.
    pub(crate) fn take(&self) -> Option<Lease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The protocol that a request asks for, where it may: one, of HTTP/1.1, with nothing behind the head. HTTP itself and TLS are none: a
/// client that got such a thing would speak past what was checked.
pub(crate) fn asked(head: &Parts, has_body: bool) -> Option<HeaderValue> {
    let mut protocols = head.headers.get_all(UPGRADE).iter();
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return None };
    let text = protocol.to_str().ok()?;
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
    let name = text.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let may = text.bytes().all(is_token) && !matches!(&*name, "" | "h2c" | "h2" | "http" | "tls");
    (may && head.version == Version::HTTP_11 && !has_body && is_named(&head.headers)).then(|| protocol.clone())
}

/// Whether `Connection` names `Upgrade` (RFC 9110, 7.6.1).
fn is_named(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
}

/// Whether an answer agrees to what was asked for.
pub(crate) fn is_agreed(status: StatusCode, headers: &HeaderMap, asked: &HeaderValue) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let same = matches!((protocols.next(), protocols.next()), (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(asked.as_bytes()));
    status == StatusCode::SWITCHING_PROTOCOLS && same && is_named(headers)
}

/// Asks or answers so on the next connection.
pub(crate) fn set(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(UPGRADE, protocol);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// Carries bytes both ways until both ends have finished, or one breaks.
pub(crate) async fn carry((client, early): (TcpStream, Bytes), lease: &mut Lease) -> Result<(), Why> {
    let Some(Switched { io, read, beside }) = lease.switched().await else { return Err(Why::UpstreamReset) };
    let mut client = client;
    let (from_client, to_client) = client.split();
    let (from_endpoint, to_endpoint) = split(io);
    let there = passed(early, from_client, to_endpoint);
    let back = passed(read, from_endpoint, to_client);
    let both = async { try_join!(there, back) };
    let ended = tokio::select! {
        // It brings what the endpoint has sent to where it is read.
        biased;
        () = beside => Err(Why::Gone),
        ended = both => ended.map(drop).map_err(|_broken| Why::UpstreamReset),
    };
    if ended.is_ok() {
        orderly(&client);
    }
    ended
}

/// What came early, then all that comes.
async fn passed(early: Bytes, from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    copy(&mut (&*early).chain(from), &mut to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests;
