//! What operators fear: upgrades, crashes, roll-outs, under 500 short calls a second and 200 long connections.
//!
//! Each fact has a test of a round or two that always runs, and the same in twenty rounds, which end with a table.

mod churn;
mod faults;
mod handover;
mod http;
mod killed;
mod load;
mod rollout;

use millrace_lab::{Plan, Pod};

/// Rounds that always run.
const FEW: usize = 1;

/// Rounds of the long form.
const MANY: usize = 20;

/// Two nodes; on each a caller, and a server of one service.
fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("web")])
        .node("b", [Pod::new("shop/far").app("web"), Pod::new("shop/caller")])
        .service("shop/web", &[(80, 8080)])
}
