//! Sends each case of a corpus over a connection of its own, and says which came to another end than it must.
//!
//! A case of HTTP/1 is bytes; what it must come to is the answers in order, each a status and either the reason of a refusal or what
//! the endpoint saw: method, target and bytes of body. So a request that was smuggled shows, whoever smuggled it. A case of HTTP/2 is
//! frames, see [`frames`]; what it must come to is what becomes of stream 1, or of the connection.

pub mod frames;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Seen,
    raw::{exchange, unescaped},
};

/// Cases at a time.
const AT_ONCE: usize = 16;

/// How long an end that says nothing more is listened to.
const SILENCE: Duration = Duration::from_millis(700);

/// One case.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// A sentence.
    pub name: String,
    /// RFC and section that it rests on.
    pub rfc: String,
    /// HTTP/1's bytes, escaped.
    #[serde(default)]
    pub send: String,
    /// HTTP/2's frames.
    #[serde(default)]
    pub frames: Vec<String>,
    /// What it must come to.
    pub want: Vec<String>,
}

/// What became of a corpus.
#[derive(Debug, serde::Serialize, Deserialize)]
pub struct Outcome {
    /// Cases.
    pub n_cases: usize,
    /// Those that came to another end, each in a line.
    pub failed: Vec<String>,
}

/// Sends all cases of a file.
pub async fn run(text: &str, target: &str) -> Result<Outcome> {
    let cases: Vec<Case> = serde_json::from_str(text)?;
    let (turns, mut all) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    let n_cases = cases.len();
    for case in cases {
        ensure!(case.rfc.contains(' '), "{}: names RFC and section", case.name);
        let (turns, target) = (turns.clone(), target.to_owned());
        all.spawn(async move {
            let _turn = turns.acquire().await?;
            let came = one(&case, &target).await.with_context(|| case.name.clone())?;
            let line = format!("{} (RFC {}): must be {:?}, was {came:?}", case.name, case.rfc, case.want);
            Ok::<_, anyhow::Error>((came != case.want).then_some(line))
        });
    }
    let mut failed = Vec::new();
    while let Some(ended) = all.join_next().await {
        failed.extend(ended??);
    }
    failed.sort();
    Ok(Outcome { n_cases, failed })
}

async fn one(case: &Case, target: &str) -> Result<Vec<String>> {
    if case.frames.is_empty() {
        let (came, _) = exchange(target, &unescaped(&case.send), SILENCE).await?;
        return Ok(answers(&came));
    }
    let (came, is_closed) = exchange(target, &frames::written(&case.frames)?, SILENCE).await?;
    Ok(vec![frames::outcome(&came, is_closed)?])
}

/// The answers in these bytes, each in a few words.
fn answers(mut came: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    while !came.is_empty() {
        let Some(end) = came.windows(4).position(|four| four == b"\r\n\r\n") else {
            all.push(format!("cut: {}", String::from_utf8_lossy(came)));
            break;
        };
        let (head, rest) = came.split_at(end + 4);
        let head = String::from_utf8_lossy(head).to_lowercase();
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let is_chunked = field("transfer-encoding").is_some();
        let length = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let (body, rest) = match rest.windows(5).position(|five| five == b"0\r\n\r\n") {
            Some(end) if is_chunked => rest.split_at(end + 5),
            Some(_) | None => rest.split_at(rest.len().min(length)),
        };
        came = rest;
        let said = match (field(crate::web::REASON), serde_json::from_slice::<Seen>(body)) {
            (Some(reason), _) => format!(" {reason}"),
            (None, Ok(Seen { method, target, n_body, .. })) => format!(" {method} {target} {n_body}"),
            (None, Err(_)) => String::new(),
        };
        all.push(status + &said);
    }
    all
}
