//! What fuzzing feeds foreign bytes to: the check of heads, and a path on its way to an endpoint.

use bytes::BytesMut;
use http::Uri;
use millrace_model::route::{PathEdit, PathMatch, Rewrite};

use super::{
    coding::Step,
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

/// The path that an endpoint is asked for where a rule puts `new` in the place of `prefix`; None where the target is none.
pub fn with_prefix(target: &str, prefix: &str, new: &str) -> Option<String> {
    let uri: Uri = target.parse().ok()?;
    let rewrite = Rewrite { host: None, path: Some(PathEdit::Prefix(new.into())) };
    rewritten(&rewrite, &PathMatch::Prefix(prefix.into()), &uri).map(|path| path.to_string())
}
