//! Reads a body out of a connection's buffer, as strictly as [`heads`](super::super::heads) reads what frames it.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::SizeHint;

use super::{
    super::heads::{Bad, MAX_CHUNK_LINE, MAX_FIELDS, MAX_TRAILERS, chunk_size, field, is_no_trailer, line, section},
    Framing, exactly,
};

/// Reads one body. What it leaves in the buffer when it has said [`Step::End`] is not the body's.
#[derive(Debug)]
pub(crate) struct Decoder {
    at: At,
    /// How much of trailers that are not whole was looked at already.
    seen: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// So much is left; never nothing.
    Length(u64),
    ChunkSize,
    /// So much is left; never nothing.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Over,
}

/// What comes next of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Some of it: never nothing, and no copy.
    Data(Bytes),
    /// What came behind its last chunk. The end comes next.
    Trailers(HeaderMap),
    /// Its end, however often that is asked.
    End,
    /// Nothing, until there is more in the buffer.
    More,
}

impl Decoder {
    /// At the beginning of a body that is framed so.
    pub(crate) fn new(framing: Framing) -> Self {
        let at = match framing {
            Framing::None | Framing::Length(0) => At::Over,
            Framing::Length(length) => At::Length(length),
            Framing::Chunked => At::ChunkSize,
            Framing::UntilClose => At::UntilClose,
        };
        Self { at, seen: 0 }
    }

    /// Takes the next of it out of `from`. After an error nothing in the buffer can be believed.
    pub(crate) fn decode(&mut self, from: &mut BytesMut) -> Result<Step, Bad> {
        loop {
            match self.at {
                At::Over => return Ok(Step::End),
                At::Length(left) => {
                    let Some(bytes) = up_to(left, from) else { return Ok(Step::More) };
                    let left = left - bytes.len() as u64;
                    self.at = if left == 0 { At::Over } else { At::Length(left) };
                    return Ok(Step::Data(bytes));
                }
                At::Chunk(left) => {
                    let Some(bytes) = up_to(left, from) else { return Ok(Step::More) };
                    let left = left - bytes.len() as u64;
                    self.at = if left == 0 { At::ChunkEnd } else { At::Chunk(left) };
                    return Ok(Step::Data(bytes));
                }
                At::UntilClose => return Ok(up_to(u64::MAX, from).map_or(Step::More, Step::Data)),
                At::ChunkEnd => match &**from {
                    [b'\r', b'\n', ..] => {
                        from.advance(2);
                        self.at = At::ChunkSize;
                    }
                    [b'\r'] | [] => return Ok(Step::More),
                    _ => return Err(Bad::ChunkEnd),
                },
                At::ChunkSize => {
                    let Some(line) = line(from, MAX_CHUNK_LINE, Bad::ChunkSize)? else { return Ok(Step::More) };
                    let (size, n) = (chunk_size(line)?, line.len() + 2);
                    from.advance(n);
                    self.at = if size == 0 { At::Trailers } else { At::Chunk(size) };
                }
                At::Trailers => return self.trailers(from),
            }
        }
    }

    fn trailers(&mut self, from: &mut BytesMut) -> Result<Step, Bad> {
        match &**from {
            [b'\r', b'\n', ..] => {
                from.advance(2);
                self.at = At::Over;
                return Ok(Step::End);
            }
            [b'\r'] | [] => return Ok(Step::More),
            _ => {}
        }
        let Some(end) = section(from, &mut self.seen, MAX_TRAILERS)? else { return Ok(Step::More) };
        let trailers = trailers(&from.split_to(end))?;
        self.at = At::Over;
        Ok(Step::Trailers(trailers))
    }

    /// The stream has ended, and the buffer is empty: whether that is a good end of the body.
    pub(crate) fn eof(&mut self) -> bool {
        if self.at == At::UntilClose {
            self.at = At::Over;
        }
        self.at == At::Over
    }

    /// Whether nothing comes any more.
    pub(crate) fn is_end(&self) -> bool {
        self.at == At::Over
    }

    /// What is still to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.at {
            At::Over => exactly(0),
            At::Length(left) => exactly(left),
            At::ChunkSize | At::Chunk(_) | At::ChunkEnd | At::Trailers | At::UntilClose => SizeHint::default(),
        }
    }
}

/// As much as there is, up to `left`.
fn up_to(left: u64, from: &mut BytesMut) -> Option<Bytes> {
    let n = usize::try_from(left).unwrap_or(usize::MAX).min(from.len());
    (n > 0).then(|| from.split_to(n).freeze())
}

/// The fields of a whole section, up to its empty line. By copy: who keeps trailers must not keep the buffer they came in.
fn trailers(section: &[u8]) -> Result<HeaderMap, Bad> {
    let mut trailers = HeaderMap::new();
    let mut rest = section;
    for _ in 0..=MAX_FIELDS {
        let line = line(rest, usize::MAX, Bad::TooLarge)?.ok_or(Bad::BareLineEnd)?;
        if line.is_empty() {
            return Ok(trailers);
        }
        rest = rest.get(line.len() + 2..).unwrap_or_default();
        let (name, value) = field(line)?;
        if is_no_trailer(name) {
            return Err(Bad::Trailer);
        }
        let name = HeaderName::from_bytes(name).map_err(|_no_name| Bad::FieldName)?;
        let value = HeaderValue::from_bytes(value).map_err(|_no_value| Bad::FieldValue)?;
        trailers.try_append(name, value).map_err(|_too_many| Bad::TooLarge)?;
    }
    Err(Bad::TooLarge)
}
