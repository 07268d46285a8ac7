//! The labs that several tests use, and what runs a test in one.

use anyhow::Result;
pub(crate) use millrace_lab::pod::CALL;
use millrace_lab::{Lab, Plan, Pod};

/// Two nodes; on each a client, and servers of one service on both.
pub(crate) fn two_nodes(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("web"), Pod::new("other/stranger")])
        .node("b", [Pod::new("shop/far").app("web"), Pod::new("shop/caller"), Pod::new("other/guest")])
        .service("shop/web", &[(80, 8080)])
}

/// Runs a test in a lab without the mesh; its logs are shown if it fails.
#[track_caller]
pub(crate) fn plain(plan: &Plan, test: impl FnOnce(&mut Lab) -> Result<()>) {
    let mut lab = Lab::up(plan).unwrap_or_else(|error| panic!("the lab comes up: {error:#}"));
    if let Err(error) = test(&mut lab) {
        panic!("{error:#}");
    }
}

/// Runs a test in a lab with the mesh ready; all logs are shown if it fails.
#[track_caller]
pub(crate) fn mesh(plan: &Plan, test: impl FnOnce(&mut Lab) -> Result<()>) {
    plain(plan, |lab| {
        lab.start_mesh()?;
        test(lab)
    });
}
