//! Runs all that must pass before a change lands, and says how long each part took.

use anyhow::Result;

use crate::{command::Demo, config::Config, demo, lint, setup, steps::Steps, test, tidy};

/// Every step, the cheap ones first; a failed step does not stop the next.
pub(crate) fn run(config: &Config) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("setup", || setup::quietly(config));
    steps.run("formatting", || lint::format(config));
    steps.run("tidy", || tidy::run(config));
    test::all(config, None, &mut steps);
    steps.run("demo", || demo::show(config, Demo { keep: false, once: true }));
    // Last: it checks what the tests compiled, and shares with them only what was built for build scripts.
    steps.run("clippy", || lint::clippy(config));
    steps.finish()
}
