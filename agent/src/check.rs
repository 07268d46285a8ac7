//! Prints which kernel features are there, one by one, and what a missing one costs.

use std::io::{self, Write as _};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::{
    config::Format,
    kernel::features::{self, Feature, Need, Presence},
};

/// Asks for every feature and prints the answers. An error, and so a failing exit code, where a needed one is missing.
pub fn check(format: Format, forced: &[String]) -> anyhow::Result<()> {
    let features = features::probe_without(forced);
    let text = match format {
        Format::Json => format!("{:#}\n", Value::Array(features.iter().map(to_json).collect())),
        Format::Table => features.iter().map(to_line).collect(),
    };
    io::stdout().write_all(text.as_bytes()).context("standard output can't be written")?;
    ensure!(features::suffices(&features), "this kernel lacks what Millrace needs, or may not be asked");
    Ok(())
}

fn to_json(feature: &Feature) -> Value {
    let Feature { name, presence, need, without } = feature;
    let detail = match presence {
        Presence::Present | Presence::Missing => "",
        Presence::Unknown(why) => why,
    };
    json!({
        "feature": name,
        "there": *presence == Presence::Present,
        "needed": *need == Need::Required,
        "cost": without,
        "detail": detail,
    })
}

fn to_line(feature: &Feature) -> String {
    let Feature { name, presence, need, without } = feature;
    let (there, detail) = match (presence, need) {
        (Presence::Present, _) => ("yes", String::new()),
        (Presence::Missing, Need::Required) => ("NO", without.to_string()),
        (Presence::Missing, Need::Optional) => ("no", without.to_string()),
        (Presence::Unknown(why), _) => ("?", format!("{without} (it can't be asked for: {why})")),
    };
    format!("{name:<34} {there:<4} {detail}").trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::{Feature, Need, Presence, to_json, to_line};

    #[test]
    fn what_is_missing_says_what_it_costs() {
        let lacking = |presence| Feature { name: "hook", presence, need: Need::Required, without: "no capture" };
        assert_eq!(to_line(&lacking(Presence::Present)), format!("{:<34} yes\n", "hook"));
        assert!(to_line(&lacking(Presence::Missing)).ends_with("NO   no capture\n"));
        assert!(
            to_line(&lacking(Presence::Unknown("EPERM".into())))
                .ends_with("?    no capture (it can't be asked for: EPERM)\n")
        );
        assert_eq!(to_json(&lacking(Presence::Missing))["there"], false);
    }
}
