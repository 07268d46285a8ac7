//! Writes to standard output. A reader that goes away (`| head`) is no failure: it has what it wanted.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::Failure;

/// Whether anybody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Somebody may.
    There,
    /// Nobody does.
    Gone,
}

/// Writes `text` as it is, at once.
pub(crate) fn print(text: &str) -> Result<Reader, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(why) => Err(Failure::Output(why)),
    }
}

/// Writes a value as JSON that a person could read too.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<Reader, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|why| Failure::Output(why.into()))?;
    print(&(text + "\n"))
}
