//! Carries a Plan out against the kernel's maps, or against their twin in memory. Decides nothing: what a failed write
//! means for the others stands in `plan`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    maps::MapError,
    plan::{Aim, Ground, Part, Plan, gives, instead, judges, plan, plan_part, rests_on, sweep},
    state::{State, Write},
};

/// Where writes go: the kernel's maps, or memory.
pub trait Maps {
    /// Carries out one write.
    fn write(&mut self, write: &Write) -> Result<(), MapError>;
}

/// What became of a Plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many writes were carried out.
    pub n_written: u64,
    /// How many of them could forbid what was allowed.
    pub n_judging: u64,
    /// How many were left out because one that they rest on failed.
    pub n_left_out: u64,
    /// Why writes failed, and how many for each reason. Empty: the kernel holds what it should.
    pub failures: BTreeMap<String, u64>,
}

/// Has `maps`, which hold `have`, reach `aim`, as far as they take it; `have`, and a part's, is then what they hold.
pub fn reach(maps: &mut dyn Maps, have: &mut State, aim: &mut Aim) -> Outcome {
    match aim {
        Aim::Whole(want) => reconcile(maps, have, want),
        Aim::Part(part) => {
            let plan = plan_part(have, part);
            let Part { have: held, want, .. } = &mut **part;
            carry_out(plan, &mut Both { maps, have }, held, want)
        }
    }
}

/// Makes `maps`, which hold `have`, hold `want`, as far as they take it; `have` is then what they hold.
pub fn reconcile(maps: &mut dyn Maps, have: &mut State, want: &State) -> Outcome {
    carry_out(plan(have, want), maps, have, want)
}

/// Of a part, what is written there is written to the whole too.
struct Both<'b> {
    maps: &'b mut dyn Maps,
    have: &'b mut State,
}

impl Maps for Both<'_> {
    fn write(&mut self, write: &Write) -> Result<(), MapError> {
        self.maps.write(write)?;
        self.have.apply(write);
        Ok(())
    }
}

fn carry_out(plan: Plan, maps: &mut dyn Maps, have: &mut State, want: &State) -> Outcome {
    let Plan { tighten, add, flip, sweep: rest } = plan;
    let mut run = Run { maps, have, lost: BTreeSet::new(), outcome: Outcome::default() };
    for write in tighten.iter().chain(&add).chain(&flip) {
        run.write(write);
    }
    // What was planned to be swept may still be referred to where a write failed: it is asked of what was reached.
    let rest = if run.outcome.failures.is_empty() { rest } else { sweep(run.have, want, &run.have.services) };
    for write in &rest {
        run.write(write);
    }
    run.outcome
}

struct Run<'r> {
    maps: &'r mut dyn Maps,
    have: &'r mut State,
    lost: BTreeSet<Ground>,
    outcome: Outcome,
}

impl Run<'_> {
    fn write(&mut self, write: &Write) {
        if rests_on(write).iter().flatten().any(|ground| self.lost.contains(ground)) {
            self.outcome.n_left_out += 1;
            return;
        }
        if !self.attempt(write) {
            self.lost.extend(gives(self.have, write));
            // Its own failure is counted like any other; there is nothing further to fall back to.
            if let Some(other) = instead(write) {
                self.attempt(&other);
            }
        }
    }

    /// True where the write was carried out.
    fn attempt(&mut self, write: &Write) -> bool {
        match self.maps.write(write) {
            Ok(()) => {
                self.outcome.n_written += 1;
                self.outcome.n_judging += u64::from(judges(write));
                self.have.apply(write);
                true
            }
            Err(why) => {
                *self.outcome.failures.entry(why.to_string()).or_default() += 1;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
