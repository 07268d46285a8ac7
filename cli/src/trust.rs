//! Shows and changes whom the mesh believes: its roots, and the nodes that were taken out. Asks the control plane of this host.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Ending, Failure,
    client::Client,
    config::{Format, Nodes, Process, Root, RootStep},
    out,
    table::Table,
};

/// The roots, as the control plane tells of them.
#[derive(Debug, Serialize, Deserialize)]
struct Roots {
    roots: Vec<OneRoot>,
    expires_unix: u64,
    /// What each node holds; None for one that is away.
    nodes: BTreeMap<String, Option<Holds>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct OneRoot {
    sha256: String,
    part: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Holds {
    believes_all: bool,
    shows_only_the_one_that_signs: bool,
}

/// A node that was taken out.
#[derive(Debug, Serialize, Deserialize)]
struct Revoked {
    before_unix: u64,
    until_unix: u64,
    is_out: bool,
}

/// Shows the roots, after a step where one is asked for.
pub(crate) async fn root(run_dir: &Path, asked: &Root) -> Result<Ending, Failure> {
    let client = Client::new(Process::Control, run_dir);
    let Root { step, force, output } = asked;
    let step = match step {
        RootStep::Status => None,
        RootStep::Add => Some("add"),
        RootStep::Activate => Some("activate"),
        RootStep::Retire => Some("retire"),
        RootStep::Reload => Some("reload"),
    };
    if let Some(step) = step {
        let body = json!({ "step": step, "force": force }).to_string();
        client.ask(Method::POST, "/root", Bytes::from(body)).await?;
    }
    let roots: Roots = client.json("/root").await?;
    match output {
        Format::Json => out::print_json(&roots)?,
        Format::Table => out::print(&of_roots(&roots))?,
    };
    Ok(Ending::Yes)
}

/// Shows the nodes that were taken out, after one was, or was let in again.
pub(crate) async fn nodes(run_dir: &Path, asked: &Nodes) -> Result<Ending, Failure> {
    let client = Client::new(Process::Control, run_dir);
    let Nodes { revoke, readmit, output } = asked;
    for (verb, node) in [("revoke", revoke), ("readmit", readmit)] {
        if let Some(node) = node {
            let body = json!({ verb: node }).to_string();
            client.ask(Method::POST, "/revoked", Bytes::from(body)).await?;
        }
    }
    let revoked: BTreeMap<String, Revoked> = client.json("/revoked").await?;
    match output {
        Format::Json => out::print_json(&revoked)?,
        Format::Table => out::print(&of_revoked(&revoked))?,
    };
    Ok(Ending::Yes)
}

fn of_roots(roots: &Roots) -> String {
    let mut table = Table::new(["ROOT (SHA-256)", "PART"]);
    for OneRoot { sha256, part } in &roots.roots {
        table.row([sha256.clone(), part.clone()]);
    }
    let mut nodes = Table::new(["NODE", "BELIEVES ALL", "CERTIFICATES"]);
    for (node, holds) in &roots.nodes {
        let (believes, shows) = match holds {
            None => ("away", "unknown"),
            Some(Holds { believes_all, shows_only_the_one_that_signs }) => (
                if *believes_all { "yes" } else { "not yet" },
                if *shows_only_the_one_that_signs { "under the root that signs" } else { "some under a former root" },
            ),
        };
        nodes.row([node.clone(), believes.to_owned(), shows.to_owned()]);
    }
    format!("{table}\n{nodes}")
}

fn of_revoked(revoked: &BTreeMap<String, Revoked>) -> String {
    if revoked.is_empty() {
        return "No node is revoked.\n".to_owned();
    }
    let mut table = Table::new(["NODE", "STATE", "CERTIFICATES REFUSED"]);
    for (node, Revoked { before_unix, until_unix, is_out }) in revoked {
        let state = if *is_out { "revoked" } else { "joined again" };
        table.row([
            node.clone(),
            state.to_owned(),
            format!("from before {before_unix}; none is left after {until_unix}"),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::{Holds, OneRoot, Roots, of_revoked, of_roots};

    #[test]
    fn a_node_that_is_behind_is_seen_at_once() {
        let holds = |believes_all| Some(Holds { believes_all, shows_only_the_one_that_signs: true });
        let roots = Roots {
            roots: vec![OneRoot { sha256: "ab".into(), part: "signs".into() }],
            expires_unix: 0,
            nodes: [("a".to_owned(), holds(true)), ("b".to_owned(), holds(false)), ("c".to_owned(), None)].into(),
        };
        let shown = of_roots(&roots);
        for line in ["ab              signs", "a     yes           under", "b     not yet", "c     away"] {
            assert!(shown.contains(line), "{line:?} is not in\n{shown}");
        }
        assert_eq!(of_revoked(&Default::default()), "No node is revoked.\n");
    }
}
