//! Follows the connections that a node's kernel decides, as lines for people or for programs.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use bytes::{Buf as _, Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt as _;
use millrace_model::Mesh;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Ending, Failure,
    client::Client,
    config::{Flows, Format, Process},
    names::{self, Owner},
    out::{self, Reader},
    table::plain,
};

/// The longest line read: a flow is a few hundred bytes.
const MAX_LINE: usize = 64 * 1024;

/// One connection decided. Fields that this version does not know are kept for `-o json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Flow {
    at: String,
    verdict: String,
    source: String,
    asked: String,
    target: String,
    policy: String,
    /// `ended` for one end of a connection that closed, which has the fields below; else a decision.
    event: String,
    side: String,
    /// The called workload, where its address was not known.
    target_workload: String,
    bytes_sent: u64,
    bytes_received: u64,
    duration_us: u64,
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

/// How many of the flows that the agent remembers are shown before it is followed, where nothing else is asked for.
const TAIL: usize = 10;

/// Prints flows until the agent ends them, or for good.
pub(crate) async fn flows(run_dir: &Path, filter: &Flows) -> Result<Ending, Failure> {
    let agent = Client::new(Process::Agent, run_dir);
    // Names are for show and for filters; a node that has no snapshot yet has flows all the same.
    let mesh = names::mesh(run_dir, Process::Agent).await.unwrap_or_default();
    let kept = agent.ask(Method::GET, "/flows?follow=false", Bytes::new()).await?;
    let kept: Vec<&[u8]> = kept.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    if filter.output == Format::Table && out::print(HEAD)? == Reader::Gone {
        return Ok(Ending::Yes);
    }
    for line in tail(&kept, filter, &mesh)? {
        if print(&line, filter, &mesh)? == Reader::Gone {
            return Ok(Ending::Yes);
        }
    }
    if !filter.no_follow {
        follow(&agent, filter, &mesh, Seen { last: kept.last().map(|line| line.to_vec()), left: kept.len() }).await?;
    }
    Ok(Ending::Yes)
}

/// The last of the lines kept that are wanted.
fn tail(kept: &[&[u8]], filter: &Flows, mesh: &Mesh) -> Result<Vec<Vec<u8>>, Failure> {
    let n = match (filter.last, filter.no_follow) {
        (Some(n), _) => n,
        (None, true) => kept.len(),
        (None, false) => TAIL,
    };
    let mut lines = Vec::new();
    for line in kept.iter().rev() {
        if lines.len() >= n {
            break;
        }
        if wanted(&parse(line)?, filter, mesh) {
            lines.push(line.to_vec());
        }
    }
    lines.reverse();
    Ok(lines)
}

/// What the agent repeats at the beginning of its stream: lines up to the last one it kept when it was first asked.
struct Seen {
    last: Option<Vec<u8>>,
    left: usize,
}

impl Seen {
    /// True for a line that was shown already, or was passed over.
    fn is_repeated(&mut self, line: &[u8]) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        // Nothing before the last one can be new; and it can't come later than it stood, only sooner.
        if self.last.as_deref() == Some(line) {
            self.left = 0;
        }
        true
    }
}

async fn follow(agent: &Client, filter: &Flows, mesh: &Mesh, mut seen: Seen) -> Result<(), Failure> {
    let mut body = agent.follow("/flows?follow=true").await?;
    let mut pending = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|why| agent.broken(why))?.into_data() else { continue };
        pending.extend_from_slice(&piece);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = pending.split_to(end);
            pending.advance(1);
            let new = !line.is_empty() && !seen.is_repeated(&line);
            if new && wanted(&parse(&line)?, filter, mesh) && print(&line, filter, mesh)? == Reader::Gone {
                return Ok(());
            }
        }
        if pending.len() > MAX_LINE {
            return Err(Failure::Failed(format!("the agent sent a flow of over {MAX_LINE} bytes")));
        }
    }
    Ok(())
}

const HEAD: &str = "TIME          VERDICT            SOURCE                    TARGET\n";

fn parse(line: &[u8]) -> Result<Flow, Failure> {
    serde_json::from_slice(line).map_err(|source| Failure::Unreadable {
        process: Process::Agent,
        path: "/flows".to_owned(),
        source,
    })
}

fn print(line: &[u8], filter: &Flows, mesh: &Mesh) -> Result<Reader, Failure> {
    match filter.output {
        Format::Json => out::print(&format!("{}\n", String::from_utf8_lossy(line))),
        Format::Table => out::print(&row(&parse(line)?, mesh)),
    }
}

fn wanted(flow: &Flow, filter: &Flows, mesh: &Mesh) -> bool {
    let Flows { from, to, verdict, last: _, no_follow: _, output: _ } = filter;
    let from_fits = from.as_ref().is_none_or(|from| names_it(from, &flow.source));
    let to_fits = to.as_ref().is_none_or(|to| {
        [&flow.asked, &flow.target, &flow.target_workload].into_iter().any(|address| {
            let socket = address.parse::<SocketAddr>().ok();
            names_it(to, address)
                || socket.is_some_and(|s| s.ip().to_string() == *to)
                || socket.and_then(|s| Owner::of(mesh, s)).is_some_and(|owner| is_called(owner, to))
        })
    });
    from_fits && to_fits && (verdict.is_empty() || verdict.contains(&flow.verdict))
}

fn is_called(owner: Owner<'_>, wanted: &str) -> bool {
    names_it(wanted, &owner.name().to_string()) || owner.to_string() == wanted
}

/// Whether `wanted` means `name`: by being it, or by being its namespace with the slash.
fn names_it(wanted: &str, name: &str) -> bool {
    wanted == name || (wanted.ends_with('/') && name.starts_with(wanted))
}

fn row(flow: &Flow, mesh: &Mesh) -> String {
    let Flow { at, verdict, source, asked, target, policy, .. } = flow;
    let shown = |address: &str| match address.parse().ok().and_then(|a| Owner::of(mesh, a)) {
        Some(owner) => format!("{owner}:{}", address.rsplit_once(':').map_or("", |(_, port)| port)),
        None => address.to_owned(),
    };
    let time = at.split_once('T').map_or(at.as_str(), |(_, time)| time);
    let time: String = time.trim_end_matches('Z').chars().take(12).collect();
    let source = if source.is_empty() { "?" } else { source };
    let mut line = format!("{time:12}  {verdict:17}  {source:24}  {}", shown(asked));
    if !target.is_empty() && target != asked {
        line.push_str(&format!(" -> {}", shown(target)));
    }
    if !policy.is_empty() {
        line.push_str(&format!("  by {policy}"));
    }
    if flow.event == "ended" {
        line.push_str(&end(flow));
    }
    plain(&line) + "\n"
}

/// What is told of an end: by whom, how much, how long.
fn end(Flow { side, bytes_sent, bytes_received, duration_us, .. }: &Flow) -> String {
    let (seconds, thousandths) = (duration_us / 1_000_000, duration_us / 1000 % 1000);
    format!("  {side}: {bytes_sent} B sent, {bytes_received} B received in {seconds}.{thousandths:03} s")
}

#[cfg(test)]
mod tests {
    use super::{Flow, Seen, row, tail, wanted};
    use crate::{
        config::{Flows, Format},
        names,
    };

    fn flow() -> Flow {
        serde_json::from_str(
            r#"{"at":"2026-01-02T03:04:05.678901Z","verdict":"denied","source":"shop/web","netns":7,
                "asked":"10.96.0.1:80","target":"10.0.0.1:8080","policy":"shop/only-api"}"#,
        )
        .unwrap()
    }

    fn filter() -> Flows {
        Flows { from: None, to: None, verdict: vec![], last: None, no_follow: false, output: Format::Table }
    }

    #[test]
    fn a_flow_is_shown_by_the_names_that_people_know() {
        assert_eq!(
            row(&flow(), &names::tests::mesh()),
            "03:04:05.678  denied             shop/web                  reviews.shop:80 -> shop/web:8080  by shop/only-api\n"
        );
    }

    #[test]
    fn an_end_says_how_much_and_how_long() {
        let ended: Flow = serde_json::from_str(
            r#"{"at":"2026-01-02T03:04:05.678901Z","event":"ended","verdict":"closed","side":"client","source":"shop/web",
                "asked":"10.96.0.1:80","target":"","bytes_sent":100,"bytes_received":2000,"duration_us":61005999,"rtt_us":7}"#,
        )
        .unwrap();
        assert_eq!(
            row(&ended, &names::tests::mesh()),
            "03:04:05.678  closed             shop/web                  reviews.shop:80  client: 100 B sent, 2000 B received in 61.005 s\n"
        );
    }

    #[test]
    fn a_filter_takes_names_namespaces_and_addresses() {
        let mesh = names::tests::mesh();
        for from in ["shop/web", "shop/"] {
            assert!(wanted(&flow(), &Flows { from: Some(from.into()), ..filter() }, &mesh));
        }
        for to in ["10.96.0.1:80", "10.96.0.1", "10.0.0.1", "shop/reviews", "reviews.shop", "shop/"] {
            assert!(wanted(&flow(), &Flows { to: Some(to.into()), ..filter() }, &mesh), "{to}");
        }
        for to in ["10.96.0.1:8", "10.96.0", "shop/review", "other/"] {
            assert!(!wanted(&flow(), &Flows { to: Some(to.into()), ..filter() }, &mesh), "{to}");
        }
        assert!(!wanted(&flow(), &Flows { from: Some("shop/we".into()), ..filter() }, &mesh));
        assert!(wanted(&flow(), &Flows { verdict: vec!["denied".into()], ..filter() }, &mesh));
        assert!(!wanted(&flow(), &Flows { verdict: vec!["direct".into()], ..filter() }, &mesh));
    }

    #[test]
    fn the_last_ones_wanted_are_shown_and_none_twice() {
        let line = |verdict: &str, n: u8| format!(r#"{{"verdict":"{verdict}","at":"{n}"}}"#).into_bytes();
        let lines = [line("direct", 1), line("denied", 2), line("direct", 3), line("denied", 4)];
        let kept: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let shown = |filter: Flows| tail(&kept, &filter, &names::tests::mesh()).unwrap();
        assert_eq!(shown(filter()), lines);
        assert_eq!(shown(Flows { last: Some(2), ..filter() }), lines[2..]);
        assert_eq!(shown(Flows { last: Some(1), verdict: vec!["direct".into()], ..filter() }), [line("direct", 3)]);

        // The agent forgot the first two, and has a new one.
        let mut seen = Seen { last: Some(lines[3].clone()), left: 4 };
        let stream = [&lines[2], &lines[3], &line("direct", 5), &line("direct", 6)];
        assert_eq!(stream.map(|line| seen.is_repeated(line)), [true, true, false, false]);
        let mut none = Seen { last: None, left: 0 };
        assert!(!none.is_repeated(&lines[0]));
    }
}
