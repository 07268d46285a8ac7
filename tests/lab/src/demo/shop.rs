//! The demo's lab: which pod is where, and how the shop is started in them.

use anyhow::Result;

use crate::{
    lab::Lab,
    plan::{Plan, Pod},
    shop::{PORT, Role},
};

/// Who stands outside the counter: it calls, and serves nothing.
pub const VISITOR: &str = "shop/visitor";

/// The pods that serve: name, role, version.
pub const SERVERS: [(&str, Role, &str); 6] = [
    ("shop/web", Role::Web, "v1"),
    ("shop/catalogue-v1", Role::Catalogue, "v1"),
    ("shop/cart", Role::Cart, "v1"),
    ("shop/catalogue-v2", Role::Catalogue, "v2"),
    ("shop/orders", Role::Orders, "v1"),
    ("shop/database", Role::Database, "v1"),
];

/// The weights of the two catalogues at the start.
pub const CANARY: (u32, u32) = (95, 5);

/// Two nodes: what the customer sees on one, what remembers on the other.
pub fn plan() -> Plan {
    let catalogue = |version: &str, weight| {
        Pod::new(&format!("shop/catalogue-{version}")).app("catalogue").label("version", version).weight(weight)
    };
    let (v1, v2) = (catalogue("v1", CANARY.0), catalogue("v2", CANARY.1));
    let mut plan = Plan::new("demo")
        .node("a", [Pod::new(VISITOR), Pod::new("shop/web"), v1, Pod::new("shop/cart")])
        .node("b", [v2, Pod::new("shop/orders"), Pod::new("shop/database")]);
    for role in [Role::Web, Role::Catalogue, Role::Cart, Role::Orders, Role::Database] {
        plan = plan.service(&format!("shop/{role}"), &[(PORT, PORT)]);
    }
    // Nobody but the last scene has something to tell the visitor: spans.
    plan.service(VISITOR, &[(9411, 9411)])
}

/// Starts the shop and waits until all of it listens.
pub fn open(lab: &mut Lab) -> Result<()> {
    let program = lab.binaries().path("shop")?.display().to_string();
    for (name, role, version) in SERVERS {
        let (role, node) = (role.to_string(), lab.pod(name)?.node().to_owned());
        let arguments = [&program, &role, "--version", version, "--pod", name, "--node", &node];
        let process = lab.pod(name)?.start("shop", &arguments)?;
        lab.adopt(process);
    }
    SERVERS.iter().try_for_each(|(name, ..)| lab.pod(name)?.listens(PORT))
}
