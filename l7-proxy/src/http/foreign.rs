//! What fuzzing feeds foreign bytes to: the check of heads, the reader of answers, and a path on its way to an endpoint.

use bytes::BytesMut;
use http::{
    Uri,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use millrace_model::route::{PathEdit, PathMatch, Rewrite};

use super::{
    ask::{Head, read},
    coding::{Decoder, Step},
    filter::rewritten,
    heads::{Bad, Heads, Version},
};

/// How many of these bytes of a client's HTTP/1 are heads and bodies when they come `piece` at a time, and by what name the rest is refused.
pub fn checked(bytes: &[u8], piece: usize) -> (usize, Option<&'static str>) {
    let (mut heads, mut buffer, mut taken) = (Heads::default(), BytesMut::new(), 0);
    for some in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(some);
        match take(&mut heads, &mut buffer) {
            (n, None) => taken += n,
            (n, Some(bad)) => return (taken + n, Some(bad.name())),
        }
    }
    (taken, None)
}

/// Takes all heads and bodies out of a buffer: how long they are together, and why the rest is neither.
pub(super) fn take(heads: &mut Heads, buffer: &mut BytesMut) -> (usize, Option<Bad>) {
    let mut taken = 0;
    loop {
        if heads.version(buffer) == Some(Version::Two) {
            return (taken + buffer.split().len(), None);
        }
        let before = buffer.len();
        let step = if heads.is_in_body() { heads.body(buffer).map(Some) } else { heads.head(buffer).map(|_head| None) };
        match step {
            Err(bad) => return (taken, Some(bad)),
            Ok(None | Some(Step::More)) if buffer.len() == before => return (taken, None),
            Ok(None) => taken += before - buffer.len(),
            Ok(Some(Step::Data(bytes))) => taken += bytes.len(),
            Ok(Some(Step::Trailers(_) | Step::End | Step::More)) => {}
        }
    }
}

/// What an endpoint's bytes are as answers, one behind the other, when they come `piece` at a time; and by what name the rest is none. Nothing more
/// is read behind an answer whose connection carries no other.
pub fn answered(bytes: &[u8], piece: usize, is_to_head: bool) -> (Vec<Answer>, Option<&'static str>) {
    let (mut answers, mut buffer) = (Vec::new(), BytesMut::new());
    let mut reader = Reader { seen: 0, body: None, is_to_head };
    for some in bytes.chunks(piece.max(1)) {
        buffer.extend_from_slice(some);
        match reader.take(&mut buffer, &mut answers) {
            Ok(true) => {}
            Ok(false) => return (answers, None),
            Err(bad) => return (answers, Some(bad.name())),
        }
    }
    (answers, None)
}

/// An answer, as far as it has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// How many lengths its head says.
    pub n_lengths: usize,
    /// Its fields.
    pub n_fields: usize,
    /// Its body.
    pub body: Vec<u8>,
    /// The trailers behind that.
    pub n_trailers: usize,
    /// Whether it has come to its end.
    pub is_whole: bool,
}

/// Reads answers as a connection to an endpoint does.
struct Reader {
    seen: usize,
    /// The body that is being read, and whether another answer may follow it.
    body: Option<(Decoder, bool)>,
    is_to_head: bool,
}

impl Reader {
    /// Takes what is there; whether more may come.
    fn take(&mut self, from: &mut BytesMut, answers: &mut Vec<Answer>) -> Result<bool, Bad> {
        loop {
            if let (Some((decoder, is_kept)), Some(answer)) = (&mut self.body, answers.last_mut()) {
                match decoder.decode(from)? {
                    Step::Data(bytes) => answer.body.extend_from_slice(&bytes),
                    Step::Trailers(trailers) => answer.n_trailers = trailers.len(),
                    Step::More => return Ok(true),
                    Step::End => {
                        answer.is_whole = true;
                        if !*is_kept {
                            return Ok(false);
                        }
                        self.body = None;
                    }
                }
                continue;
            }
            match read(from, &mut self.seen, self.is_to_head)? {
                None => return Ok(true),
                Some(Head::Informational(_)) => {}
                Some(Head::Answer { head, framing, is_kept }) => {
                    let lengths = head.headers().get_all(CONTENT_LENGTH).iter().count();
                    let codings = head.headers().get_all(TRANSFER_ENCODING).iter().count();
                    let (status, n_lengths) = (head.status().as_u16(), lengths + codings);
                    answers.push(Answer { status, n_lengths, n_fields: head.headers().len(), ..Answer::default() });
                    self.body = Some((Decoder::new(framing), is_kept));
                }
            }
        }
    }
}

/// The path that an endpoint is asked for where a rule puts `new` in the place of `prefix`; None where the target is none.
pub fn with_prefix(target: &str, prefix: &str, new: &str) -> Option<String> {
    let uri: Uri = target.parse().ok()?;
    let rewrite = Rewrite { host: None, path: Some(PathEdit::Prefix(new.into())) };
    rewritten(&rewrite, &PathMatch::Prefix(prefix.into()), &uri).map(|path| path.to_string())
}
