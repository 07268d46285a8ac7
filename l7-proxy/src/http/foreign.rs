//! What fuzzing feeds foreign bytes to: the check of heads, and a path on its way to an endpoint.

use http::Uri;
use millrace_model::route::{PathEdit, PathMatch, Rewrite};

use super::{filter::rewritten, heads::Heads};

/// How many of these bytes of a client's HTTP/1 may be passed on when they come `piece` at a time, and by what name the rest is refused.
pub fn checked(bytes: &[u8], piece: usize) -> (usize, Option<&'static str>) {
    let (mut heads, mut passed) = (Heads::default(), 0);
    let mut ends: Vec<usize> = (0..bytes.len()).step_by(piece.max(1)).skip(1).collect();
    ends.push(bytes.len());
    for end in ends {
        loop {
            match heads.check(bytes.get(passed..end).unwrap_or_default()) {
                Ok(0) => break,
                Ok(n) => passed += n,
                Err(bad) => return (passed, Some(bad.name())),
            }
        }
    }
    (passed, None)
}

/// The path that an endpoint is asked for where a rule puts `new` in the place of `prefix`; None where the target is none.
pub fn with_prefix(target: &str, prefix: &str, new: &str) -> Option<String> {
    let uri: Uri = target.parse().ok()?;
    let rewrite = Rewrite { host: None, path: Some(PathEdit::Prefix(new.into())) };
    rewritten(&rewrite, &PathMatch::Prefix(prefix.into()), &uri).map(|path| path.to_string())
}
