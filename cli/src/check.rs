//! Shows the kernel's features one by one, as `millrace-agent check` finds them, and what a missing one costs.

use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::{
    Ending, Failure,
    config::{Format, Process},
    out, program,
    table::Table,
};

/// One kernel feature, as the agent reports it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Feature {
    /// What it is.
    feature: String,
    /// Whether it is there.
    there: bool,
    /// Whether nothing works without it.
    needed: bool,
    /// What is lost without it.
    #[serde(default)]
    cost: String,
    /// What was tried, or why it could not be told.
    #[serde(default)]
    detail: String,
}

/// Asks the agent's program, which need not be running.
pub(crate) async fn check(format: Format) -> Result<Ending, Failure> {
    let program = program::beside(Process::Agent)?;
    let asked = Command::new(program)
        .args(["check", "-o", "json"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .await;
    let output = asked.map_err(|why| Failure::Failed(format!("millrace-agent does not start: {why}")))?;
    // Its exit code says the same as its features, unless it could not look at all.
    let features: Vec<Feature> =
        serde_json::from_slice(&output.stdout).map_err(|source| match output.status.success() {
            true => Failure::Unreadable { process: Process::Agent, path: "check".to_owned(), source },
            false => Failure::Failed("millrace-agent check failed".to_owned()),
        })?;
    match format {
        Format::Json => out::print_json(&features)?,
        Format::Table => out::print(&text(&features))?,
    };
    let all_needed = features.iter().all(|feature| feature.there || !feature.needed);
    Ok(if all_needed { Ending::Yes } else { Ending::No })
}

fn text(features: &[Feature]) -> String {
    let mut table = Table::new(["FEATURE", "THERE", "WITHOUT IT"]);
    for Feature { feature, there, needed, cost, detail } in features {
        let is_there = match (there, needed) {
            (true, _) => "yes",
            (false, true) => "NO",
            (false, false) => "no",
        };
        let cost = if *there || detail.is_empty() { cost.clone() } else { format!("{cost} ({detail})") };
        table.row([feature.clone(), is_there.to_owned(), cost]);
    }
    let missing = features.iter().filter(|f| !f.there && f.needed).count();
    let lesser = features.iter().filter(|f| !f.there && !f.needed).count();
    let verdict = match (missing, lesser) {
        (0, 0) => "This host can run Millrace, with everything it offers.".to_owned(),
        (0, n) => format!("This host can run Millrace, without what {n} missing feature(s) would give."),
        (n, _) => format!("This host can't run Millrace: {n} needed feature(s) are missing."),
    };
    format!("{table}\n{verdict}\n")
}

#[cfg(test)]
mod tests {
    use super::{Feature, text};

    #[test]
    fn a_needed_feature_that_is_missing_is_said_last_and_loud() {
        let feature = |name: &str, there, needed| Feature {
            feature: name.to_owned(),
            there,
            needed,
            cost: "no capture".to_owned(),
            detail: "EINVAL".to_owned(),
        };
        let shown = text(&[feature("sk_lookup", false, true), feature("tcx", true, false)]);
        assert!(shown.contains("sk_lookup  NO     no capture (EINVAL)"), "{shown}");
        assert!(shown.ends_with("can't run Millrace: 1 needed feature(s) are missing.\n"), "{shown}");
    }
}
