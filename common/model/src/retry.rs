//! Says when a request is sent again, and how many may be: what a rule asks for, and what a service bears.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

/// When a request of a rule is sent again. One that nobody answered always is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The statuses of answers that count as none.
    pub codes: BTreeSet<u16>,
    /// How often, at most, beside the first time.
    pub attempts: u32,
    /// How long is waited before the first of them, at least.
    pub backoff: Duration,
}

/// How many requests to a service may be sent again by one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget {
    /// So many of a hundred requests.
    pub percent: u32,
    /// Of those within this time.
    pub interval: Duration,
    /// So many in any case.
    pub min_count: u32,
    /// Within this time.
    pub min_interval: Duration,
    /// Who set it.
    pub origin: Origin,
}

/// Whether somebody chose a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Nobody did.
    #[default]
    Default,
    /// A policy says so.
    Policy,
}

impl Default for RetryBudget {
    /// Gateway API's own defaults: a service that fails gets a fifth more than it is asked, not a multiple of it.
    fn default() -> Self {
        Self {
            percent: 20,
            interval: Duration::from_secs(10),
            min_count: 10,
            min_interval: Duration::from_secs(1),
            origin: Origin::Default,
        }
    }
}
