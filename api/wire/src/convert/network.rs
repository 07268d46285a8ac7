//! Turns policies, and what they make of workloads, into their messages and back. Loses nothing; an unknown kind of source refuses all.

use millrace_model as model;

use super::{Texts, Undecodable, bad, each, name, pb, port_from, protocol, protocol_from};

pub(super) fn network(network: &model::network::Network) -> pb::Network {
    let model::network::Network { egress, peers, class, is_host } = network;
    pb::Network {
        egress: egress.iter().map(name).collect(),
        peers: peers.iter().copied().collect(),
        class: *class,
        is_host: *is_host,
    }
}

pub(super) fn network_from(network: pb::Network, said: &mut Texts) -> Result<model::network::Network, Undecodable> {
    let pb::Network { egress, peers, class, is_host } = network;
    Ok(model::network::Network {
        egress: egress.into_iter().map(|n| said.name(Some(n), "workload.network.egress")).collect::<Result<_, _>>()?,
        peers: peers.into_iter().collect(),
        class,
        is_host,
    })
}

pub(super) fn policy(policy: &model::Policy) -> pb::Policy {
    let model::Policy { name: own_name, action, rules, tier } = policy;
    pb::Policy {
        name: Some(name(own_name)),
        action: match action {
            model::Action::Allow => pb::PolicyAction::Allow,
            model::Action::Deny => pb::PolicyAction::Deny,
        }
        .into(),
        rules: rules.iter().map(rule).collect(),
        network: match tier {
            model::Tier::Access => None,
            model::Tier::Network { egress } => Some(pb::NetworkTier { egress: egress.iter().map(rule).collect() }),
        },
    }
}

fn rule(rule: &model::Rule) -> pb::Rule {
    let model::Rule { from, ports, protocol: only } = rule;
    pb::Rule {
        from: from.iter().map(source).collect(),
        ports: ports.iter().map(|p| u32::from(*p)).collect(),
        protocol: only.map(protocol),
    }
}

fn source(source: &model::Source) -> pb::Source {
    pb::Source {
        kind: Some(match source {
            model::Source::Identity(identity) => pb::source::Kind::Identity(identity.to_string()),
            model::Source::Namespace(namespace) => pb::source::Kind::Namespace(namespace.to_string()),
            model::Source::Block(block) => pb::source::Kind::Block(block.to_string()),
            model::Source::Peers(id) => pb::source::Kind::Peers(*id),
        }),
    }
}

pub(super) fn policy_from(policy: pb::Policy, said: &mut Texts) -> Result<model::Policy, Undecodable> {
    let pb::Policy { name, action, rules, network } = policy;
    Ok(model::Policy {
        name: said.name(name, "policy.name")?,
        action: match pb::PolicyAction::try_from(action) {
            Ok(pb::PolicyAction::Allow) => model::Action::Allow,
            Ok(pb::PolicyAction::Deny) => model::Action::Deny,
            Ok(pb::PolicyAction::Unspecified) | Err(_) => return Err(bad("policy.action", action)),
        },
        rules: each(rules, |rule| rule_from(rule, said))?,
        tier: match network {
            None => model::Tier::Access,
            Some(pb::NetworkTier { egress }) => {
                model::Tier::Network { egress: each(egress, |rule| rule_from(rule, said))? }
            }
        },
    })
}

fn rule_from(rule: pb::Rule, said: &mut Texts) -> Result<model::Rule, Undecodable> {
    let pb::Rule { from, ports, protocol: only } = rule;
    Ok(model::Rule {
        from: each(from, |source| source_from(source, said))?,
        ports: ports.into_iter().map(|p| port_from(p, "policy.rules.ports")).collect::<Result<_, _>>()?,
        protocol: only.map(|only| protocol_from(only, "policy.rules.protocol")).transpose()?,
    })
}

fn source_from(source: pb::Source, said: &mut Texts) -> Result<model::Source, Undecodable> {
    match source.kind {
        Some(pb::source::Kind::Identity(id)) => {
            Ok(model::Source::Identity(said.identity(&id, "policy.rules.from.identity")?))
        }
        Some(pb::source::Kind::Namespace(namespace)) => Ok(model::Source::Namespace(said.one(&namespace))),
        Some(pb::source::Kind::Block(block)) => {
            Ok(model::Source::Block(block.parse().map_err(|why| bad("policy.rules.from.block", why))?))
        }
        Some(pb::source::Kind::Peers(id)) => Ok(model::Source::Peers(id)),
        None => Err(bad("policy.rules.from", "a kind of source that this version does not know")),
    }
}
