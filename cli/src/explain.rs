//! Answers what happens to a connection, by `millrace_model::explain` on the snapshot that a process works by.

mod flags;

use std::path::Path;

use millrace_model::{
    Ejected, Explanation, Mesh, Protocol,
    explain::{Step, explain_datagram, explain_without as by_model},
};

use crate::{
    Ending, Failure,
    config::{By, Explain, Format, Process},
    names::{self, Family},
    out,
    table::plain,
};

/// Explains one connection. No is the answer where all of it would be refused.
pub(crate) async fn explain(run_dir: &Path, question: &Explain) -> Result<Ending, Failure> {
    let Explain { from, to, v6, udp, by, output } = question;
    let mesh = mesh(run_dir, *by, from).await?;
    let caller = names::workload(&mesh, from)?;
    let family = if *v6 { Family::V6 } else { Family::First };
    let target = names::target(&mesh, to, (family, if *udp { Protocol::Udp } else { Protocol::Tcp }))?;
    // What a caller meets is its own node's to know: of another node's pods nothing is said.
    let ejected = match caller.netns {
        // An agent of another version may not say: the rest is true all the same.
        Some(_) if *by != Some(By::Control) => names::ejected(run_dir).await.unwrap_or_default(),
        Some(_) | None => Ejected::default(),
    };
    let explanation = match udp {
        true => explain_datagram(&mesh, &caller, target),
        false => by_model(&mesh, &caller, target, &ejected),
    };
    match output {
        Format::Json => out::print_json(&explanation)?,
        Format::Table => {
            let flags = flags::lines(&mesh, &explanation).into_iter().map(|line| plain(&line) + "\n");
            out::print(&(text(&explanation) + &flags.collect::<String>()))?
        }
    };
    Ok(if explanation.outcome.lets_through() { Ending::Yes } else { Ending::No })
}

/// The snapshot to ask by. The agent's knows all that its own pods can reach; of another node's pods, the control plane.
async fn mesh(run_dir: &Path, by: Option<By>, from: &str) -> Result<Mesh, Failure> {
    match by {
        Some(By::Agent) => return names::mesh(run_dir, Process::Agent).await,
        Some(By::Control) => return names::mesh(run_dir, Process::Control).await,
        None => {}
    }
    let agent = names::mesh(run_dir, Process::Agent).await;
    // A netns is told to a workload's own node alone.
    let is_here = agent.as_ref().is_ok_and(|mesh| names::workload(mesh, from).is_ok_and(|w| w.netns.is_some()));
    if is_here {
        return agent;
    }
    names::mesh(run_dir, Process::Control).await.or(agent)
}

fn text(explanation: &Explanation) -> String {
    let width = explanation.steps.iter().map(|step| step.topic.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Step { topic, text: sentence } in &explanation.steps {
        let indent = match topic.as_str() {
            "outcome" => "\n",
            _ => "",
        };
        text.push_str(&format!("{indent}{topic:width$}  {}\n", plain(sentence)));
    }
    text.push_str(&format!("{:width$}  by generation {}\n", "", explanation.generation));
    text
}

#[cfg(test)]
mod tests {
    use super::text;
    use crate::names;

    #[test]
    fn an_explanation_reads_top_down_and_ends_with_what_it_comes_to() {
        let mesh = names::tests::mesh();
        let web = names::workload(&mesh, "shop/web").unwrap();
        let shown = text(&millrace_model::explain(&mesh, &web, "10.96.0.1:80".parse().unwrap()));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "caller   shop/web on node a, as spiffe://td/ns/shop/sa/web.");
        assert_eq!(lines[1], "address  10.96.0.1:80 is service shop/reviews.");
        assert!(lines[3].starts_with("outcome  shop/web can't call shop/reviews"), "{shown}");
    }
}
