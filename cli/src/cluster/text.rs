//! Lays a cluster out for people.

use super::view::{Node, Policy, Replica, View};
use crate::table::{Table, plain};

/// Names of policies that a row lists; the rest are counted.
const LISTED: usize = 3;

pub(super) fn text(view: &View) -> String {
    let View { replicas, nodes, policies, amiss } = view;
    let mut blocks = vec![replica_table(replicas), node_table(nodes), policy_table(policies)];
    blocks.retain(|block| !block.is_empty());
    let mut text: Vec<String> = blocks.iter().map(ToString::to_string).collect();
    text.push(match amiss.as_slice() {
        [] => "Nothing is amiss.\n".to_owned(),
        lines => format!("Amiss:\n{}", lines.iter().map(|line| format!("  - {}\n", plain(line))).collect::<String>()),
    });
    text.join("\n")
}

fn replica_table(replicas: &[Replica]) -> Table {
    let mut table = Table::new(["REPLICA", "NODES", "SAID", "LEADS"]);
    for Replica { name, leads, n_nodes, said_s } in replicas {
        let leads = if *leads { "yes" } else { "" };
        table.row([name.clone(), n_nodes.to_string(), format!("{said_s} s ago"), leads.to_owned()]);
    }
    table
}

fn node_table(nodes: &[Node]) -> Table {
    let mut table = Table::new(["NODE", "REPLICA", "PODS", "NOT APPLIED YET"]);
    for Node { name, replica, n_listening, late, failures: _ } in nodes {
        let mut listed = late.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
        if late.len() > LISTED {
            listed += &format!(" and {} more", late.len() - LISTED);
        }
        let replica = replica.clone().unwrap_or_else(|| "none".to_owned());
        table.row([name.clone(), replica, n_listening.to_string(), listed]);
    }
    table
}

fn policy_table(policies: &[Policy]) -> Table {
    let mut table = Table::new(["KIND", "NAME", "ACCEPTED", "ENFORCED", "WHY"]);
    for Policy { kind, name, accepted, enforced, message } in policies {
        table.row([kind, name, accepted, enforced, message].map(Clone::clone));
    }
    table
}
