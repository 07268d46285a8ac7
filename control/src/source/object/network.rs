//! Reads NetworkPolicies. What can't be held to is left out of what is let through, never out of who is bound: the pods that such a
//! policy selects take less than it says, and it is told.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1 as networking,
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use millrace_crd as crd;
use millrace_model::{ObjectName, Protocol};

use super::{meta, typed};
use crate::{
    diagnostic::Problems,
    world::{
        LabelRule,
        network::{Gate, NetworkPolicy, Peer, Port, Which},
    },
};

mod closed;

pub(super) use closed::closed;

/// Ports that one policy may name, ranges counted whole: each is an entry in the kernel for every caller on a node. A range of all
/// ports is none.
const MAX_PORTS: usize = 1_000;

/// Blocks that one policy may come to, once what is excepted is cut out of them.
const MAX_BLOCKS: usize = 1_000;

pub(super) fn network(name: &ObjectName, policy: &networking::NetworkPolicy, problems: &mut Problems) -> NetworkPolicy {
    meta::check(&policy.metadata, problems);
    let mut made = NetworkPolicy { name: name.clone(), selector: Vec::new(), ingress: None, egress: None };
    let Some(spec) = &policy.spec else {
        problems.fatal("spec", "it is missing", "add a spec with a podSelector");
        return made;
    };
    let networking::NetworkPolicySpec { egress, ingress, pod_selector, policy_types } = spec;
    made.selector = pod_selector.as_ref().map_or_else(Vec::new, |one| selector(one, "spec.podSelector", problems));
    let has_egress = egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let types = types(policy_types.as_deref(), has_egress, problems);
    let mut room = Room { ports: MAX_PORTS, blocks: MAX_BLOCKS };
    made.ingress = types.ingress.then(|| {
        let gates = ingress.iter().flatten().enumerate().filter_map(|(at, rule)| {
            let (from, ports) = (rule.from.as_deref(), rule.ports.as_deref());
            room.gate((from, "from"), ports, &format!("spec.ingress[{at}]"), problems)
        });
        gates.collect()
    });
    made.egress = types.egress.then(|| {
        let gates = egress.iter().flatten().enumerate().filter_map(|(at, rule)| {
            let field = format!("spec.egress[{at}]");
            room.gate((rule.to.as_deref(), "to"), rule.ports.as_deref(), &field, problems)
        });
        gates.collect()
    });
    made
}

/// Which ways a policy binds.
struct Types {
    ingress: bool,
    egress: bool,
}

/// Left out: inward, and outward where it has rules for that; as an API server fills them in, so that a file without them means the same.
fn types(given: Option<&[String]>, has_egress: bool, problems: &mut Problems) -> Types {
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Types { ingress: true, egress: has_egress };
    };
    for (at, other) in given.iter().enumerate().filter(|(_, one)| !matches!(one.as_str(), "Ingress" | "Egress")) {
        problems.fatal(
            format!("spec.policyTypes[{at}]"),
            format!("{other:?} is not one of its values"),
            "write Ingress or Egress",
        );
    }
    let has = |wanted: &str| given.iter().any(|one| one == wanted);
    Types { ingress: has("Ingress"), egress: has("Egress") }
}

fn selector(selector: &LabelSelector, field: &str, problems: &mut Problems) -> Vec<LabelRule> {
    let LabelSelector { match_expressions, match_labels } = selector;
    let all = match_expressions.iter().flatten().enumerate();
    let expressions: Vec<_> = all
        .map(|(at, one)| {
            let operator = match one.operator.as_str() {
                "In" => crd::LabelOperator::In,
                "NotIn" => crd::LabelOperator::NotIn,
                "Exists" => crd::LabelOperator::Exists,
                "DoesNotExist" => crd::LabelOperator::DoesNotExist,
                other => {
                    let field = format!("{field}.matchExpressions[{at}].operator");
                    let problem = format!("{other:?} is not one of its values");
                    problems.fatal(field, problem, "write In, NotIn, Exists or DoesNotExist");
                    return None;
                }
            };
            let values = one.values.clone().unwrap_or_default();
            Some(crd::LabelExpression { key: one.key.clone(), operator, values })
        })
        .collect();
    super::selector::rules(match_labels.as_ref(), &expressions, field, problems)
}

/// What a policy may name still.
struct Room {
    ports: usize,
    blocks: usize,
}

impl Room {
    /// None where nothing of it can be let through.
    fn gate(
        &mut self,
        (peers, which): (Option<&[networking::NetworkPolicyPeer]>, &str),
        ports: Option<&[networking::NetworkPolicyPort]>,
        field: &str,
        problems: &mut Problems,
    ) -> Option<Gate> {
        // A field that this version does not know may narrow what stands beside it: what a person meant to let through is not known.
        if !is_known(field, problems) {
            return None;
        }
        let mut gate = Gate { peers: None, ports: None };
        if let Some(peers) = peers.filter(|peers| !peers.is_empty()) {
            let all = peers.iter().enumerate();
            let read = all.filter_map(|(at, peer)| self.peer(peer, &format!("{field}.{which}[{at}]"), problems));
            gate.peers = Some(read.collect::<Vec<_>>()).filter(|peers| !peers.is_empty());
            gate.peers.as_ref()?;
        }
        if let Some(ports) = ports.filter(|ports| !ports.is_empty()) {
            let all = ports.iter().enumerate();
            let read = all.filter_map(|(at, port)| {
                let field = format!("{field}.ports[{at}]");
                let port = self.port(port, &field, problems)?;
                if which == "to" && matches!(port.which, Which::Named(_)) {
                    let problem = "a name means another port of each pod that is called, which nobody knows where the call is made";
                    problems.slight(format!("{field}.port"), problem, "write the number");
                    return None;
                }
                Some(port)
            });
            gate.ports = Some(read.collect::<Vec<_>>()).filter(|ports| !ports.is_empty());
            gate.ports.as_ref()?;
        }
        Some(gate)
    }

    fn peer(&mut self, peer: &networking::NetworkPolicyPeer, field: &str, problems: &mut Problems) -> Option<Peer> {
        let networking::NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
        match (ip_block, namespace_selector, pod_selector) {
            (Some(block), None, None) => self.block(block, &format!("{field}.ipBlock"), problems),
            (None, None, None) => {
                problems.slight(
                    field,
                    "it says of nobody who it is",
                    "write podSelector, namespaceSelector or ipBlock",
                );
                None
            }
            (Some(_), _, _) => {
                let mend = "write the ipBlock as an item of its own";
                problems.slight(field, "an ipBlock stands beside no selector", mend);
                None
            }
            (None, namespaces, pods) => {
                let of = |one: &LabelSelector, name: &str, problems: &mut Problems| {
                    selector(one, &format!("{field}.{name}"), problems)
                };
                let namespaces = namespaces.as_ref().map(|one| of(one, "namespaceSelector", problems));
                let pods = pods.as_ref().map_or_else(Vec::new, |one| of(one, "podSelector", problems));
                Some(Peer::Pods { namespaces, pods })
            }
        }
    }

    fn block(&mut self, block: &networking::IPBlock, field: &str, problems: &mut Problems) -> Option<Peer> {
        let whole = cidr(&block.cidr, &format!("{field}.cidr"), problems)?;
        let mut blocks = vec![whole];
        for (at, text) in block.except.iter().flatten().enumerate() {
            // What should be kept out and can't be read keeps out all.
            let out = cidr(text, &format!("{field}.except[{at}]"), problems)?;
            blocks = blocks.into_iter().flat_map(|block| without(block, out)).collect();
            if blocks.len() > self.blocks {
                let problem = format!("with what is excepted, the policy comes to more than {MAX_BLOCKS} blocks");
                problems.slight(field, problem, "except less, or write the rest in another policy");
                return None;
            }
        }
        self.blocks -= blocks.len();
        (!blocks.is_empty()).then_some(Peer::Blocks(blocks))
    }

    fn port(&mut self, port: &networking::NetworkPolicyPort, field: &str, problems: &mut Problems) -> Option<Port> {
        let networking::NetworkPolicyPort { end_port, port, protocol } = port;
        let protocol = match protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(other) => {
                let problem = format!("the mesh carries no {other}, and lets none through where this policy binds");
                problems.slight(
                    format!("{field}.protocol"),
                    problem,
                    "use TCP or UDP, or expect it to be your CNI's alone",
                );
                return None;
            }
        };
        let which = match (port, end_port) {
            (None, None) => Which::All,
            (Some(IntOrString::String(name)), None) => Which::Named(Arc::from(name.as_str())),
            (Some(IntOrString::Int(first)), last) => {
                let last = last.unwrap_or(*first);
                let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(last)) else {
                    problems.slight(field, "it is no port number", "write whole numbers from 1 to 65535");
                    return None;
                };
                if first == 0 || last < first {
                    problems.slight(
                        field,
                        format!("{first} to {last} is no range of ports"),
                        "write the lower number first",
                    );
                    return None;
                }
                if (first, last) == (1, u16::MAX) { Which::All } else { self.numbers(first, last, field, problems)? }
            }
            (None | Some(IntOrString::String(_)), Some(_)) => {
                problems.slight(format!("{field}.endPort"), "a range begins with a number", "write port as a number");
                return None;
            }
        };
        Some(Port { protocol, which })
    }

    fn numbers(&mut self, first: u16, last: u16, field: &str, problems: &mut Problems) -> Option<Which> {
        let n_ports = usize::from(last - first) + 1;
        if n_ports > self.ports {
            let problem = format!("with these the policy names more than {MAX_PORTS} ports: they are not let through");
            problems.slight(field, problem, "name fewer, or all of them (1 to 65535)");
            return None;
        }
        self.ports -= n_ports;
        Some(Which::Numbers((first..=last).collect()))
    }
}

/// False where a field in this one is of a newer API, or misspelt.
fn is_known(field: &str, problems: &Problems) -> bool {
    let is_within = |one: &str| one.strip_prefix(field).is_some_and(|rest| rest.starts_with(['.', '[']));
    !problems.0.iter().any(|problem| typed::is_unknown_field(problem) && is_within(&problem.field))
}

fn cidr(text: &str, field: &str, problems: &mut Problems) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(block) => Some(block.trunc()),
        Err(_) => {
            let mend = "write a block of addresses such as 10.0.0.0/8 or fd00::/8";
            problems.slight(field, format!("{text:?} is no block of addresses"), mend);
            None
        }
    }
}

/// What is left of `block` without `out`: its halves, and theirs, down to `out`.
fn without(block: IpNet, out: IpNet) -> Vec<IpNet> {
    if out.contains(&block) {
        return Vec::new();
    }
    if !block.contains(&out) {
        return vec![block];
    }
    let halves = block.subnets(block.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, out)).collect()
}

#[cfg(test)]
mod tests {
    use super::without;

    fn left(block: &str, out: &str) -> Vec<String> {
        without(block.parse().unwrap(), out.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_excepted_is_cut_out_and_nothing_else() {
        assert_eq!(left("10.0.0.0/8", "10.128.0.0/10"), ["10.0.0.0/9", "10.192.0.0/10"]);
        assert_eq!(left("10.0.0.0/8", "10.0.0.0/8"), [""; 0]);
        assert_eq!(left("10.1.0.0/16", "10.0.0.0/8"), [""; 0]);
        assert_eq!(left("10.0.0.0/8", "11.0.0.0/8"), ["10.0.0.0/8"]);
        assert_eq!(left("fd00::/8", "10.0.0.0/8"), ["fd00::/8"]);
        assert_eq!(left("0.0.0.0/0", "10.0.0.1/32").len(), 32);
    }
}
