//! Finds the rule that a request goes by: an index over what is bound to a service, whose cost does not grow with its hosts.
//!
//! [`Table`] is the index, [`pattern`] what an expression may be, [`naming`] how a rule is called in words. Pure: who may bind
//! what was decided before, and what becomes of the request is decided after. A crate of its own, so that what runs expressions
//! over strangers' bytes stays out of the agent.

mod group;
pub mod naming;
pub mod pattern;
mod query;
mod request;
mod table;

pub use pattern::Pattern;
pub use request::Request;
pub use table::{At, Found, Table, View};

#[cfg(test)]
mod tests;
