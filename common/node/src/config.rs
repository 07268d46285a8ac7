//! Reads the environment: one variable, and nothing else of this crate does.

/// The environment variable that sets the log filter at start.
const FILTER: &str = "RUST_LOG";

/// The log filter that the environment asks for.
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub(crate) fn log_filter() -> Option<String> {
    std::env::var(FILTER).ok().filter(|filter| !filter.is_empty())
}
