//! Answers what happens to a connection, by `millrace_model::explain` on the snapshot that a process works by.

mod filters;
mod flags;
mod request;
mod retries;

use std::path::Path;

use millrace_model::{
    Ejected, Explanation, Mesh, Protocol, Workload,
    explain::{Step, explain_datagram, explain_without as by_model},
};

use crate::{
    Ending, Failure,
    asked::Asked,
    config::{By, Explain, Format, Process},
    names::{self, Family},
    out,
    table::plain,
};

/// Explains one connection. No is the answer where all of it would be refused.
pub(crate) async fn explain(run_dir: &Path, question: &Explain) -> Result<Ending, Failure> {
    let Explain { from, to, http, header, v6, udp, by, output } = question;
    if let Some(http) = http {
        let asked = Asked::parse_of_host(http)?.with(header)?;
        return of_request(run_dir, (from.as_deref(), &asked), *by, *output).await;
    }
    // The command line has them where it has no request.
    let (Some(from), Some(to)) = (from, to) else { return Err(Failure::Usage("who calls what?".to_owned())) };
    let mesh = mesh(run_dir, *by, from).await?;
    let caller = names::workload(&mesh, from)?;
    let family = if *v6 { Family::V6 } else { Family::First };
    let target = names::target(&mesh, to, (family, if *udp { Protocol::Udp } else { Protocol::Tcp }))?;
    let ejected = ejected(run_dir, &caller, *by).await;
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

/// Explains one request. No is the answer where it would fail.
async fn of_request(
    run_dir: &Path,
    (from, asked): (Option<&str>, &Asked),
    by: Option<By>,
    output: Format,
) -> Result<Ending, Failure> {
    let mesh = match from {
        Some(from) => mesh(run_dir, by, from).await?,
        None => names::mesh(run_dir, if by == Some(By::Control) { Process::Control } else { Process::Agent }).await?,
    };
    let caller = from.map(|from| names::workload(&mesh, from)).transpose()?;
    let ejected = match &caller {
        Some(caller) => ejected(run_dir, caller, by).await,
        None => Ejected::default(),
    };
    let answer = request::explain(&mesh, caller.as_deref(), asked, &ejected)?;
    match output {
        Format::Json => out::print_json(&answer)?,
        Format::Table => out::print(&sentences(&answer.steps, mesh.snapshot.generation))?,
    };
    Ok(if answer.outcome.is_good() { Ending::Yes } else { Ending::No })
}

/// What a caller meets is its own node's to know: of another node's pods nothing is said.
async fn ejected(run_dir: &Path, caller: &Workload, by: Option<By>) -> Ejected {
    if by == Some(By::Control) || names::node(run_dir).await.ok().as_deref() != Some(&*caller.node) {
        return Ejected::default();
    }
    // An agent of another version may not say: the rest is true all the same.
    names::ejected(run_dir).await.unwrap_or_default()
}

/// The snapshot to ask by. The agent's knows all that its own pods can reach; of another node's pods, the control plane.
async fn mesh(run_dir: &Path, by: Option<By>, from: &str) -> Result<Mesh, Failure> {
    match by {
        Some(By::Agent) => return names::mesh(run_dir, Process::Agent).await,
        Some(By::Control) => return names::mesh(run_dir, Process::Control).await,
        None => {}
    }
    let agent = names::mesh(run_dir, Process::Agent).await;
    let node = names::node(run_dir).await.ok();
    let is_here = |mesh: &Mesh| names::workload(mesh, from).is_ok_and(|w| node.as_deref() == Some(&*w.node));
    if agent.as_ref().is_ok_and(is_here) {
        return agent;
    }
    names::mesh(run_dir, Process::Control).await.or(agent)
}

fn text(explanation: &Explanation) -> String {
    sentences(&explanation.steps, explanation.generation)
}

fn sentences(steps: &[Step], generation: u64) -> String {
    let width = steps.iter().map(|step| step.topic.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Step { topic, text: sentence } in steps {
        let indent = match topic.as_str() {
            "outcome" => "\n",
            _ => "",
        };
        text.push_str(&format!("{indent}{topic:width$}  {}\n", plain(sentence)));
    }
    text.push_str(&format!("{:width$}  by generation {}\n", "", generation));
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
