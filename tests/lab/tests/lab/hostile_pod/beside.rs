//! What neighbours feel: they call bob beside every attack, on their old connections and on new ones.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{Lab, clock, peer::Steady, process::Process};

use super::{ALICE, BOB, FAR};
use crate::scene::CALL;

/// Neighbours that call.
pub(crate) struct Neighbours {
    until: PathBuf,
    calling: Vec<Process>,
}

impl Neighbours {
    /// Two call: one on bob's node, one from another. Both have made a first call when this returns, and make another after [`Self::end`]:
    /// an attack that takes a few milliseconds has neighbours too.
    pub(crate) fn begin(lab: &Lab) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let until = lab.directory().join(format!("until-{n}"));
        let (program, path) = (lab.binaries().path("probe-peer")?.display().to_string(), until.display().to_string());
        let bob = lab.pod(BOB)?;
        let [v4, v6] = bob.addresses().both().map(|ip| std::net::SocketAddr::new(ip, 8080).to_string());
        let begin =
            |pod: &str| lab.pod(pod)?.start(&format!("steady-{n}"), &[&program, "steady", &v4, &v6, "--until", &path]);
        let calling: Vec<Process> = [ALICE, FAR].map(begin).into_iter().collect::<Result<_>>()?;
        for process in &calling {
            clock::until(CALL, "a neighbour calls", || {
                ensure!(
                    process.errors().contains("calling"),
                    "it says {:?} and {:?}",
                    process.output(),
                    process.errors()
                );
                Ok(())
            })?;
        }
        Ok(Self { until, calling })
    }

    /// They end; what became of their calls.
    pub(crate) fn end(self) -> Result<Steady> {
        fs::write(&self.until, "")?;
        let mut all = Steady::default();
        for mut process in self.calling {
            let status = process.wait(CALL)?;
            ensure!(status.success(), "a neighbour ended with {status}: {}", process.errors());
            let one: Steady = serde_json::from_str(&process.output()).context("what a neighbour says")?;
            all.echoes += one.echoes;
            all.connects += one.connects;
            all.n_failed += one.n_failed;
            all.failures.extend(one.failures);
        }
        Ok(all)
    }
}

/// A line of the table.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) outcome: String,
    pub(crate) stopped_by: &'static str,
    pub(crate) reasons: &'static [&'static str],
    pub(crate) calls: Steady,
}

/// The table, as a page has it.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| a pod | what became of it | stopped by | counted as | neighbours' calls, failed |\n|---|---|---|---|---|\n",
    );
    for Row { what, outcome, stopped_by, reasons, calls } in rows {
        let n = calls.connects + calls.echoes;
        let reasons = reasons.iter().map(|reason| format!("`{reason}`")).collect::<Vec<_>>().join(", ");
        writeln!(text, "| {what} | {outcome} | {stopped_by} | {reasons} | {n}, {} |", calls.n_failed).unwrap();
    }
    text
}
