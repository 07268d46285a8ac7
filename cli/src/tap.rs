//! Shows a pod's requests as they end, where its TelemetryPolicy lets them be watched.

use std::path::Path;

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::{
    Ending, Failure,
    client::Client,
    config::{Format, Process, Tap},
    out::{self, Reader},
    table::plain,
};

/// The longest line read: a path can be as long as a head, and is escaped.
const MAX_LINE: usize = 512 * 1024;

const HEAD: &str =
    "TIME             CODE  FLAGS               MS       METHOD  URL                                       TO\n";

/// Prints requests until the proxy ends them, or as many as were asked for.
pub(crate) async fn tap(run_dir: &Path, tap: &Tap) -> Result<Ending, Failure> {
    let Tap { workload, count, output } = tap;
    let proxy = Client::new(Process::Proxy, run_dir);
    let mut body = proxy.follow(&format!("/tap?workload={workload}")).await?;
    if *output == Format::Table && out::print(HEAD)? == Reader::Gone {
        return Ok(Ending::Yes);
    }
    let mut left = count.unwrap_or(usize::MAX);
    let mut pending = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|why| proxy.broken(why))?.into_data() else { continue };
        pending.extend_from_slice(&piece);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = pending.split_to(end);
            pending.advance(1);
            left = left.saturating_sub(1);
            if print(&line, *output)? == Reader::Gone || left == 0 {
                return Ok(Ending::Yes);
            }
        }
        if pending.len() > MAX_LINE {
            return Err(Failure::Failed(format!("the proxy sent a line of over {MAX_LINE} bytes")));
        }
    }
    Ok(Ending::Yes)
}

fn print(line: &[u8], output: Format) -> Result<Reader, Failure> {
    match output {
        Format::Json => out::print(&format!("{}\n", String::from_utf8_lossy(line))),
        Format::Table => {
            let said: Value = serde_json::from_slice(line).map_err(|source| Failure::Unreadable {
                process: Process::Proxy,
                path: "/tap".to_owned(),
                source,
            })?;
            out::print(&row(&said))
        }
    }
}

fn row(said: &Value) -> String {
    if let Some(missed) = said.get("missed") {
        return format!("  {missed} were not shown: this was read too slowly\n");
    }
    let text = |field: &str| said.get(field).and_then(Value::as_str).map_or("-".to_owned(), plain);
    let number = |field: &str| said.get(field).and_then(Value::as_u64).unwrap_or_default();
    // RFC 3339's time of day.
    let time = text("time").split('T').nth(1).map_or_else(String::new, |time| time.trim_end_matches('Z').to_owned());
    let whole = number("duration_us");
    let millis = format!("{}.{:03}", whole / 1_000, whole % 1_000);
    let url = format!("{}{}", text("host"), text("path"));
    let (code, flags, method, to) = (number("code"), text("flags"), text("method"), text("destination_workload"));
    format!("{time:15}  {code:<4}  {flags:18}  {millis:>7}  {method:6}  {url:40}  {to}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::row;

    #[test]
    fn a_row_says_what_was_asked_of_whom_and_how_it_ended() {
        let said = json!({
            "time": "2026-01-31T12:00:00.000123Z", "code": 503, "flags": "connect_refused", "duration_us": 12_034,
            "method": "GET", "host": "web", "path": "/a\u{1b}[2J", "destination_workload": null,
        });
        let row = row(&said);
        assert!(row.starts_with("12:00:00.000123  503   connect_refused"), "{row}");
        assert!(row.contains(" 12.034  GET     web/a") && row.ends_with("  -\n"), "{row}");
        assert!(!row.contains('\u{1b}'), "what a client chose is no command to the terminal: {row:?}");
    }

    #[test]
    fn what_was_missed_is_said() {
        assert!(row(&json!({"missed": 7})).contains("7 were not shown"));
    }
}
