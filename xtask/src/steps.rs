//! Runs named steps one after another, and says at the end how long each took and which failed.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{clock, console};

/// What tests a step ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, and steps that are no tests but failed.
    pub(crate) failed: u64,
}

impl Tally {
    /// Both together.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

struct Step {
    name: String,
    wall: Duration,
    outcome: Result<Tally, String>,
}

/// The steps run so far. A failed step does not stop the next: one run says all that is wrong.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

impl Steps {
    /// Runs a step that counts no tests; its value, or None when it failed.
    pub(crate) fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        console::begin(name);
        let began = clock::now();
        let (value, outcome) = match step() {
            Ok(value) => (Some(value), Ok(Tally::default())),
            Err(error) => (None, Err(format!("{error:#}"))),
        };
        self.note(name, clock::now() - began, outcome);
        value
    }

    /// Runs a step that counts tests.
    pub(crate) fn count(&mut self, name: &str, step: impl FnOnce() -> Result<Tally>) {
        console::begin(name);
        let began = clock::now();
        let outcome = step().map_err(|error| format!("{error:#}"));
        self.note(name, clock::now() - began, outcome);
    }

    fn note(&mut self, name: &str, wall: Duration, outcome: Result<Tally, String>) {
        if let Err(why) = &outcome {
            console::say(&format!("{name}: {why}"));
        }
        console::flush();
        self.done.push(Step { name: name.to_owned(), wall, outcome });
    }

    /// What all steps counted: a failed step that counts no tests is one failure.
    pub(crate) fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for step in &self.done {
            sum.add(match &step.outcome {
                Ok(tally) => *tally,
                Err(_) => Tally { passed: 0, failed: 1 },
            });
        }
        sum
    }

    /// Says the table of wall times, then what failed, then `N passed, N failed`; an error unless all passed and there was a test.
    pub(crate) fn finish(&self) -> Result<()> {
        console::begin("wall times");
        for step in &self.done {
            console::say(&row(step));
        }
        let whole: Duration = self.done.iter().map(|step| step.wall).sum();
        console::say(&format!("{:>8.1} s  in all", whole.as_secs_f64()));
        let tally = self.tally();
        console::say(&format!("\n{} passed, {} failed", tally.passed, tally.failed));
        if tally.failed > 0 {
            let failed: Vec<&str> = self.done.iter().filter(|step| is_failed(step)).map(|step| &*step.name).collect();
            bail!("failed: {}", failed.join(", "));
        }
        if tally.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }
}

fn is_failed(step: &Step) -> bool {
    step.outcome.as_ref().map_or(true, |tally| tally.failed > 0)
}

fn row(step: &Step) -> String {
    let outcome = match &step.outcome {
        Ok(Tally { passed: 0, failed: 0 }) => "ok".to_owned(),
        Ok(Tally { passed, failed }) => format!("{passed} passed, {failed} failed of"),
        Err(_) => "FAILED".to_owned(),
    };
    format!("{:>8.1} s  {outcome} {}", step.wall.as_secs_f64(), step.name)
}

#[cfg(test)]
mod tests {
    use super::{Steps, Tally};

    #[test]
    fn a_step_that_fails_is_counted_and_the_next_still_runs() {
        let mut steps = Steps::default();
        assert_eq!(steps.run("one", || -> anyhow::Result<()> { anyhow::bail!("no") }), None);
        steps.count("two", || Ok(Tally { passed: 3, failed: 0 }));
        assert_eq!(steps.tally(), Tally { passed: 3, failed: 1 });
        assert!(steps.finish().unwrap_err().to_string().contains("one"));
    }

    #[test]
    fn a_run_without_a_test_is_not_a_success() {
        let mut steps = Steps::default();
        steps.run("lint", || Ok(()));
        assert!(steps.finish().is_err());
    }
}
