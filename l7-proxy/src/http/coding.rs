//! Frames the messages of HTTP/1 (RFC 9112, 6 and 7), for both ends of the proxy: reads bodies out of a connection's buffer, and writes
//! heads and bodies into what is to be sent. Pure, but for [`Outbox::poll_write`]; which framing a message has is its reader's to say.

mod decoder;
mod encoder;
mod fields;
mod outbox;

use bytes::{Bytes, BytesMut};
use http_body::SizeHint;

pub(crate) use decoder::{Decoder, Step};
pub(crate) use encoder::{Encoder, Misfit};
pub(crate) use fields::{Places, write_fields};
pub(crate) use outbox::Outbox;

/// How a message's body is framed (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// It has none, and says no length.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, and perhaps trailers.
    Chunked,
    /// All that comes until the connection ends.
    UntilClose,
}

impl Framing {
    /// Writes the field that says so. The one place where a length is written, so that no message has two.
    pub(crate) fn write(self, head: &mut BytesMut) {
        match self {
            Self::None | Self::UntilClose => {}
            Self::Length(length) => {
                head.extend_from_slice(b"content-length: ");
                fields::write_number(length, head);
                head.extend_from_slice(b"\r\n");
            }
            Self::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
    }
}

/// What an answer says of its status where that is not the usual phrase: in the head's extensions. No byte of it ends a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) Bytes);

/// A hint that says exactly so much.
fn exactly(length: u64) -> SizeHint {
    SizeHint::with_exact(length)
}

#[cfg(test)]
mod tests;
