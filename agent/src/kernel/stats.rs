//! Measures what each program costs: nanoseconds a run, counted by the kernel itself.

use std::{os::fd::OwnedFd, time::Duration};

use aya::{
    programs::{Program, ProgramInfo},
    sys::{Stats, enable_stats},
};

use super::{error::AttachError, object::Kernel};

/// While this lives the kernel counts the time of every BPF program, for about 30 ns a run. Dropped, it stops by itself.
#[derive(Debug)]
pub struct Counting(#[expect(dead_code, reason = "held open, for its drop")] OwnedFd);

/// What a program has cost since it was loaded, as far as it was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Which.
    pub program: &'static str,
    /// How often it ran.
    pub n_runs: u64,
    /// How long, all runs together.
    pub time: Duration,
}

impl Cost {
    /// What it has cost since an earlier time, a run in the mean; None where it has not run.
    pub fn ns_per_run_since(&self, earlier: &Self) -> Option<f64> {
        let n_runs = self.n_runs.checked_sub(earlier.n_runs).filter(|n_runs| *n_runs > 0)?;
        Some(self.time.saturating_sub(earlier.time).as_secs_f64() * 1e9 / n_runs as f64)
    }
}

/// Turns counting on.
pub fn count() -> Result<Counting, AttachError> {
    enable_stats(Stats::RunTime)
        .map(Counting)
        .map_err(|error| AttachError::Link { program: "(counting of run time)".to_owned(), source: error.io_error })
}

/// A program, and how many instructions of it the verifier looked at.
pub type Verified = (&'static str, u32);

impl Kernel {
    /// How many instructions the verifier looked at, of each program that it took: what a kernel allows is a million.
    pub fn verified(&self) -> Result<Vec<Verified>, AttachError> {
        let hooks = super::attach::CGROUP.iter().chain([&super::attach::INBOUND, &super::attach::SPOOF]);
        let hooks = hooks.chain(&super::attach::FORGED).map(|hook| hook.program);
        let list = self.by_service().map(|_| super::by_service::PROGRAM);
        let count = |program| Ok((program, self.info(program)?.verified_instruction_count().unwrap_or(0)));
        hooks.chain(list).map(count).collect()
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "aya's kinds of program, of which the object has these")]
    fn info(&self, program: &'static str) -> Result<ProgramInfo, AttachError> {
        let loaded = self.loaded(program).ok_or(AttachError::Missing { what: "program", name: program })?;
        let info = match loaded {
            Program::CgroupSockAddr(program) => program.info(),
            Program::SockOps(program) => program.info(),
            Program::SkLookup(program) => program.info(),
            Program::SchedClassifier(program) => program.info(),
            Program::SkSkb(program) => program.info(),
            Program::SkMsg(program) => program.info(),
            Program::Iter(program) => program.info(),
            _ => return Err(AttachError::Missing { what: "program", name: program }),
        };
        info.map_err(|source| AttachError::Refused { program, source: Box::new(source) })
    }

    /// What each program has cost so far, in the order of [`super::attach::CGROUP`], then `inbound`, `spoof`, those that hold
    /// what is forged, and what lists sockets, where there is such a program.
    pub fn costs(&self) -> Result<Vec<Cost>, AttachError> {
        let hooks = super::attach::CGROUP.iter().chain([&super::attach::INBOUND, &super::attach::SPOOF]);
        let hooks = hooks.chain(&super::attach::FORGED);
        let list = self.by_service().map(|_| super::by_service::PROGRAM);
        hooks
            .map(|hook| hook.program)
            .chain(list)
            .map(|program| {
                let info = self.info(program)?;
                Ok(Cost { program, n_runs: info.run_count(), time: info.run_time() })
            })
            .collect()
    }
}
