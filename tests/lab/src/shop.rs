//! The demo application: a shop of five small HTTP services. Each answer says who gave it, whom it saw, and what it called.
//!
//! ```text
//! web ──> catalogue            (v1 and v2)
//!     ──> cart ──> database
//!     ──> orders ──> database  (/order only)
//! ```

pub mod call;
pub mod serve;

use std::{fmt, net::SocketAddr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The port that every service of the shop listens on, and that their Services have: names work without the mesh too.
pub const PORT: u16 = 80;

/// What a process of the shop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The page: calls all others.
    Web,
    /// What there is to buy.
    Catalogue,
    /// What is about to be bought.
    Cart,
    /// What was bought.
    Orders,
    /// What the others remember.
    Database,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Web => "web",
            Self::Catalogue => "catalogue",
            Self::Cart => "cart",
            Self::Orders => "orders",
            Self::Database => "database",
        })
    }
}

/// Which process of the shop this is.
#[derive(Clone, Debug)]
pub struct Shop {
    /// What it does.
    pub role: Role,
    /// `v1` or `v2`: v2 of the catalogue recommends.
    pub version: String,
    /// Its pod, `namespace/name`.
    pub pod: String,
    /// Its node.
    pub node: String,
}

/// One service's answer, with those it called inside: the path of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hop {
    /// The service that answers.
    pub service: Role,
    /// Its version.
    pub version: String,
    /// Its pod.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Who called it, as its accept() said.
    pub saw: SocketAddr,
    /// The trace that it was told of, where it was told of one: `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// From the request's arrival to this answer, in microseconds.
    pub took_us: u64,
    /// What was asked for.
    pub content: Value,
    /// The services it called, in order.
    pub calls: Vec<Call>,
}

/// A call to another service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// The URL's host and path.
    pub to: String,
    /// The answer, or what failed.
    pub result: Result<Hop, String>,
}

impl Shop {
    /// Whom a request for `path` makes this service call.
    fn calls(&self, path: &str) -> &'static [&'static str] {
        match (self.role, path) {
            (Role::Web, "/order") => &["catalogue/items", "cart/lines", "orders/place"],
            (Role::Web, "/health") => &[],
            (Role::Web, _) => &["catalogue/items", "cart/lines"],
            (Role::Cart, _) => &["database/cart"],
            (Role::Orders, _) => &["database/orders"],
            (Role::Catalogue | Role::Database, _) => &[],
        }
    }

    /// What this service itself has to say.
    fn content(&self, path: &str) -> Value {
        match self.role {
            Role::Web => json!({"page": path}),
            Role::Catalogue if self.version == "v1" => json!({"items": ["flour", "oats", "rye"]}),
            Role::Catalogue => json!({"items": ["flour", "oats", "rye"], "recommended": "spelt"}),
            Role::Cart => json!({"lines": [{"item": "oats", "count": 2}]}),
            Role::Orders => json!({"order": "placed"}),
            Role::Database => json!({"rows": path}),
        }
    }
}
