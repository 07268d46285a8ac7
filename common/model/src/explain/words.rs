//! Puts an explanation into sentences, in the order in which things happen.

use super::{Absence, Answer, Explanation, Outcome, Party, Route, Step, Way};
use crate::{
    Ground, Membership, ObjectName, Protocol,
    network::{PREFIX, written},
};

pub(super) fn steps(explanation: &Explanation) -> Vec<Step> {
    let mut steps = vec![step("caller", caller(&explanation.caller)), step("address", address(explanation))];
    let several = explanation.service.is_some();
    for route in &explanation.routes {
        if several {
            steps.push(step("backend", backend(route)));
        }
        steps.push(step("way", way(route)));
        if let Some(text) = encryption(route) {
            steps.push(step("encryption", text));
        }
        steps.push(step("policy", policy(explanation, route)));
    }
    for left_out in &explanation.left_out {
        let who = match &left_out.workload {
            Some(name) => format!("{name} at {}", left_out.address),
            None => left_out.address.to_string(),
        };
        steps.push(step("backend", format!("{who} takes none: {}.", absence(left_out.why))));
    }
    steps.push(step("outcome", outcome(explanation)));
    steps
}

fn step(topic: &str, text: String) -> Step {
    Step { topic: topic.to_owned(), text }
}

fn caller(Party { name, identity, node, membership }: &Party) -> String {
    match membership {
        Membership::Outside => format!("{name} on node {node}, outside the mesh: it has no identity there."),
        Membership::Pending => format!("{name} on node {node}, as {identity}; its listeners are not open yet."),
        Membership::Enrolled => format!("{name} on node {node}, as {identity}."),
        Membership::Host => {
            format!("{name} in the network of node {node}: on that node as {identity}, elsewhere as nobody.")
        }
    }
}

fn address(explanation: &Explanation) -> String {
    let Explanation { asked, service, routes, .. } = explanation;
    match (service, routes.first().and_then(|r| r.workload.as_ref())) {
        (Some(service), _) => format!("{asked} is service {service}."),
        (None, Some(Party { name, node, membership: Membership::Outside, .. })) => {
            let at = if node.is_empty() { "outside Kubernetes".to_owned() } else { format!("on node {node}") };
            format!("{asked} is {name} {at}, outside the mesh.")
        }
        (None, Some(Party { name, identity, node, .. })) => format!("{asked} is {name} on node {node}, {identity}."),
        (None, None) => format!("{asked} is no address of the mesh."),
    }
}

fn backend(Route { address, share, workload, .. }: &Route) -> String {
    let percent = share * 100.0;
    match workload {
        Some(Party { name, node, .. }) => format!("{percent:.1} % to {name} at {address}, on node {node}."),
        None => format!("{percent:.1} % to {address}, which is no workload of the mesh."),
    }
}

fn way(Route { way, workload, .. }: &Route) -> String {
    match (way, workload) {
        (Way::Own, _) => "To itself: nothing is captured.".to_owned(),
        (Way::Direct, _) => "On the same node: straight from socket to socket, through no proxy.".to_owned(),
        (Way::Tunnel(to), Some(Party { identity, node, .. })) => {
            format!("Through the proxy and a tunnel to {to} on node {node}, whose certificate must name {identity}.")
        }
        (Way::Tunnel(to), None) => format!("Through the proxy and a tunnel to {to}."),
        (Way::Plain, _) => "Plainly, as without a mesh.".to_owned(),
        (Way::Clear, Some(Party { node, .. })) => format!("In the clear to node {node}: no tunnel carries datagrams."),
        (Way::Clear, None) => "In the clear: no tunnel carries datagrams.".to_owned(),
    }
}

fn encryption(Route { way, answer, .. }: &Route) -> Option<String> {
    if !answer.lets_through() {
        return None;
    }
    Some(match way {
        Way::Own | Way::Direct => "None: no byte leaves this node's kernel, which vouches for the caller.".to_owned(),
        Way::Tunnel(_) => {
            "Mutual TLS 1.3, with the hybrid X25519MLKEM768 key exchange between Millrace nodes.".to_owned()
        }
        Way::Plain | Way::Clear => "None.".to_owned(),
    })
}

/// By a network policy.
fn held_back(policy: &ObjectName) -> String {
    format!("{} binds this call, and neither it nor another lets it through.", written(policy))
}

fn policy(explanation: &Explanation, route: &Route) -> String {
    let Route { answer, workload, address, .. } = route;
    let callee = workload.as_ref().map_or_else(|| address.to_string(), |w| w.name.to_string());
    let as_whom = match explanation.caller.membership {
        Membership::Pending | Membership::Enrolled | Membership::Host if route.way == Way::Clear => {
            "a caller without identity".to_owned()
        }
        Membership::Outside => "a caller without identity".to_owned(),
        Membership::Pending | Membership::Enrolled | Membership::Host => explanation.caller.identity.to_string(),
    };
    match answer {
        Answer::Unasked => "None is asked.".to_owned(),
        Answer::Allowed(ground) => match ground {
            Ground::Policy(name) => format!("{} allows {as_whom} to call {callee}.", written(name)),
            Ground::Unselected => format!("No AccessPolicy selects {callee}: everybody may call it."),
            // authorize() never allows on these; said plainly all the same.
            Ground::NoneAllows(name) | Ground::Missing(name) => format!("Allowed by {name}."),
        },
        Answer::Denied(ground) => match ground {
            Ground::Policy(name) => format!("{} denies {as_whom}.", written(name)),
            Ground::NoneAllows(name) if name.name.starts_with(PREFIX) => held_back(name),
            Ground::NoneAllows(name) => {
                format!("AccessPolicy {name} selects {callee}, and neither it nor another allows {as_whom}.")
            }
            Ground::Missing(name) => format!("{} binds this call and can't be read: all is denied.", written(name)),
            Ground::Unselected => "Denied.".to_owned(),
        },
        Answer::NotEnrolled => format!("{callee} is not enrolled yet: its node has not opened its listeners."),
        Answer::MeshPort => format!("Port {} is the mesh's own: no application is called there.", address.port()),
        Answer::PlainTextRefused => {
            format!("Encryption is strict on port {} of {callee}: plain text is refused.", address.port())
        }
        Answer::NoDatagrams => {
            format!(
                "The EncryptionPolicy of {callee} takes no datagrams from other nodes or from outside: `udp` says so, or Strict."
            )
        }
        Answer::NoIdentity(ground) => match ground.policy() {
            Some(name) if name.name.starts_with(PREFIX) => held_back(name),
            Some(name) => {
                format!("Between nodes datagrams have no identity, and AccessPolicy {name} lets in nobody without.")
            }
            None => "Between nodes datagrams have no identity, and nobody without is let in.".to_owned(),
        },
    }
}

fn absence(why: Absence) -> &'static str {
    match why {
        Absence::OtherFamily => "it is of the other address family",
        Absence::NoSuchPort => "it does not serve this port",
        Absence::Unready => "it is not ready",
        Absence::NoWeight => "its weight is 0",
        Absence::NotEnrolled => "its node has not opened its listeners yet",
        Absence::Leaving => "it was told to go, and others are ready",
        Absence::OtherNode => "it runs on another node, and the service's internalTrafficPolicy is Local",
        Absence::Ejected => "connections to it fail, so the caller's node leaves it out for a while",
        Absence::Farther => "others are nearer to the caller",
    }
}

/// What meets a refusal first.
fn fails(explanation: &Explanation) -> &'static str {
    match explanation.protocol {
        Protocol::Tcp => "connect()",
        Protocol::Udp => "sendto() or connect()",
    }
}

fn outcome(explanation: &Explanation) -> String {
    let Explanation { caller, asked, service, routes, outcome, .. } = explanation;
    let from = &caller.name;
    let to = service.as_ref().map_or_else(|| asked.to_string(), |s| format!("{s} at {asked}"));
    match outcome {
        Outcome::Untouched => format!("{from} reaches {to} as it would without a mesh."),
        Outcome::Allowed => format!("{from} may call {to}."),
        Outcome::NoBackend => {
            format!(
                "{from} can't call {to}: the service has no ready backend, and {} fails at once.",
                fails(explanation)
            )
        }
        Outcome::Mixed => {
            let share: f64 = routes.iter().filter(|r| !r.answer.lets_through()).map(|r| r.share).sum();
            format!("{from} may call {to}, but {:.1} % of its connections are refused.", share * 100.0)
        }
        Outcome::Refused => {
            let through_source = caller.membership != Membership::Outside;
            let how = if through_source {
                format!("{} fails at once", fails(explanation))
            } else {
                "the callee's node resets it".to_owned()
            };
            format!("{from} may not call {to}: {how}.")
        }
    }
}
