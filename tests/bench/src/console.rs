//! Speaks to the person: figures on standard output, what goes on meanwhile on standard error.

use std::io::{IsTerminal as _, Write as _};

/// Says a line.
#[expect(clippy::print_stdout, reason = "this is the one place where the benchmark speaks")]
pub fn say(line: &str) {
    println!("{line}");
}

/// Says what goes on; on a terminal in one line that is written over.
pub fn progress(what: &str) {
    let mut error = std::io::stderr();
    let said = if error.is_terminal() { write!(error, "\r\x1b[K{what}") } else { writeln!(error, "{what}") };
    // A closed terminal is no reason to stop measuring.
    drop(said.and_then(|()| error.flush()));
}

/// Clears what [`progress`] said last.
pub fn clear() {
    if std::io::stderr().is_terminal() {
        progress("");
    }
}
