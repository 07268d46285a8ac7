//! Says what a regular expression of a route may be: linear in time by its engine, bounded in memory here.

use millrace_model::route::Text;
use regex::bytes::{Regex, RegexBuilder};

/// What one compiled expression may take. A list of a hundred words takes 40 KiB.
const SIZE: usize = 256 * 1024;

/// What its lazy automaton may take while it runs: past it the engine starts over, and stays linear.
const CACHE: usize = 256 * 1024;

/// How deep its groups may be nested: nobody reads more.
const NESTING: u32 = 32;

/// An expression that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is none, or uses what the engine does not have, such as back-references and look-around.
    #[error("it is no regular expression that can be run in linear time")]
    Syntax,
    /// It would take too much memory.
    #[error("it takes more than {} KiB", SIZE / 1024)]
    Size,
}

/// What a value is compared with.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// It is this, byte by byte.
    Exact(Box<[u8]>),
    /// It is, as a whole, what this says.
    Regex(Box<Regex>),
}

/// The expression, to be matched against a whole value.
pub fn compile(expression: &str) -> Result<Regex, Unusable> {
    // Alone first: an unbalanced parenthesis must not close the group that is put around it.
    build(expression)?;
    build(&format!("^(?:{expression})$"))
}

fn build(expression: &str) -> Result<Regex, Unusable> {
    RegexBuilder::new(expression).size_limit(SIZE).dfa_size_limit(CACHE).nest_limit(NESTING).build().map_err(|error| {
        if matches!(error, regex::Error::CompiledTooBig(_)) { Unusable::Size } else { Unusable::Syntax }
    })
}

impl Pattern {
    /// What `text` says.
    pub fn new(text: &Text) -> Result<Self, Unusable> {
        match text {
            Text::Exact(text) => Ok(Self::Exact(text.as_bytes().into())),
            Text::Regex(text) => compile(text).map(|regex| Self::Regex(Box::new(regex))),
        }
    }

    /// Whether a value is what this says.
    pub fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}
