//! Draws the path of a request, and reads out of it who saw whom.

use std::net::IpAddr;

use crate::shop::{Call, Hop};

/// One call of a path: who called whom, and whom the callee saw.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The caller's pod; None: the visitor.
    pub from: Option<String>,
    /// The callee's pod.
    pub to: String,
    /// The callee's node.
    pub node: String,
    /// The caller's address as the callee saw it.
    pub saw: IpAddr,
}

/// Every call of a path, in order.
pub fn edges(root: &Hop) -> Vec<Edge> {
    let mut found = Vec::new();
    walk(None, root, &mut found);
    found
}

fn walk(from: Option<&Hop>, hop: &Hop, found: &mut Vec<Edge>) {
    found.push(Edge {
        from: from.map(|from| from.pod.clone()),
        to: hop.pod.clone(),
        node: hop.node.clone(),
        saw: hop.saw.ip(),
    });
    for called in hop.calls.iter().filter_map(|call| call.result.as_ref().ok()) {
        walk(Some(hop), called, found);
    }
}

/// What the tree says beside what the hops say themselves.
pub struct Legend<'a> {
    /// The pod that has an address.
    pub pod: &'a dyn Fn(IpAddr) -> String,
    /// What a call within a node passed.
    pub same_node: String,
    /// What a call between nodes passed.
    pub between: String,
}

/// The path as a tree, a line per hop.
pub fn draw(root: &Hop, caller_node: &str, legend: &Legend<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    line(root, caller_node, ("", ""), legend, &mut lines);
    lines
}

fn line(hop: &Hop, from: &str, prefix: (&str, &str), legend: &Legend<'_>, lines: &mut Vec<String>) {
    let (here, below) = prefix;
    let name = format!("{here}{} {}", hop.service, hop.version);
    let took = format!("{:.1} ms", f64::from(u32::try_from(hop.took_us).unwrap_or(u32::MAX)) / 1e3);
    let saw = format!("{} {}", (legend.pod)(hop.saw.ip()), hop.saw.ip());
    lines.push(format!(
        "{name:<22} {:<5} {took:>8}  {saw:<24} {}",
        hop.node,
        if from == hop.node { &legend.same_node } else { &legend.between }
    ));
    let n = hop.calls.len();
    for (i, Call { to, result }) in hop.calls.iter().enumerate() {
        let (branch, rest) = if i + 1 == n { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        match result {
            Ok(called) => {
                line(called, &hop.node, (&format!("{below}{branch}"), &format!("{below}{rest}")), legend, lines);
            }
            Err(error) => lines.push(format!("{below}{branch}{to}: {error}")),
        }
    }
}
