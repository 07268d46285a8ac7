//! Writes a body as its head has announced it, and never more or less than that.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::TRAILER};
use http_body::Frame;

use super::{super::heads::is_no_trailer, Framing, Outbox, fields};

/// Writes one body.
#[derive(Debug)]
pub(crate) struct Encoder {
    at: At,
    /// What the head says of trailers.
    announced: Vec<HeaderValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// So much is left.
    Length(u64),
    Chunked,
    UntilClose,
    Over,
}

/// A body is not what its head has announced: the connection can't go on behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    /// There is more of it.
    #[error("a body is longer than its head says")]
    Longer,
    /// There is less of it.
    #[error("a body is shorter than its head says")]
    Shorter,
}

impl Encoder {
    /// At the beginning of a body that is framed so. Without trailers: see [`Self::announcing`].
    pub(crate) fn new(framing: Framing) -> Self {
        let at = match framing {
            Framing::None => At::Over,
            Framing::Length(length) => At::Length(length),
            Framing::Chunked => At::Chunked,
            Framing::UntilClose => At::UntilClose,
        };
        Self { at, announced: Vec::new() }
    }

    /// With the trailers that this head's `Trailer` names, where the body is in chunks. All others are dropped, as any hop may (RFC 9110,
    /// 6.5.1): nobody was told to look for them.
    pub(crate) fn announcing(mut self, head: &HeaderMap) -> Self {
        if self.at == At::Chunked {
            self.announced.extend(head.get_all(TRAILER).iter().cloned());
        }
        self
    }

    /// Writes a piece of it. What does not fit is not written.
    pub(crate) fn piece(&mut self, frame: Frame<Bytes>, out: &mut Outbox) -> Result<(), Misfit> {
        let bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(frame) => {
                if let (At::Chunked, Ok(trailers)) = (self.at, frame.into_trailers()) {
                    self.trailers(&trailers, out);
                }
                return Ok(());
            }
        };
        // A chunk of nothing would be the last.
        if bytes.is_empty() {
            return Ok(());
        }
        match self.at {
            At::Over => return Err(Misfit::Longer),
            At::Length(left) => {
                self.at = At::Length(left.checked_sub(bytes.len() as u64).ok_or(Misfit::Longer)?);
                out.push(bytes);
            }
            At::Chunked => {
                fields::write_size(bytes.len(), out.small());
                out.push(bytes);
                out.small().extend_from_slice(b"\r\n");
            }
            At::UntilClose => out.push(bytes),
        }
        Ok(())
    }

    /// The last chunk, and those behind it.
    fn trailers(&mut self, trailers: &HeaderMap, out: &mut Outbox) {
        let to = out.small();
        to.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.iter().filter(|(name, _)| self.may_follow(name)) {
            fields::write_field(name, value, to);
        }
        to.extend_from_slice(b"\r\n");
        self.at = At::Over;
    }

    /// Whether this name was announced, and may be.
    fn may_follow(&self, name: &HeaderName) -> bool {
        let mut names = self.announced.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        !is_no_trailer(name.as_str().as_bytes())
            && names.any(|one| one.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    }

    /// Writes what says that it is over.
    pub(crate) fn end(&mut self, out: &mut Outbox) -> Result<(), Misfit> {
        match std::mem::replace(&mut self.at, At::Over) {
            At::Length(1..) => Err(Misfit::Shorter),
            At::Chunked => {
                out.small().extend_from_slice(b"0\r\n\r\n");
                Ok(())
            }
            At::Length(0) | At::UntilClose | At::Over => Ok(()),
        }
    }
}
