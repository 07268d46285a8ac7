//! Reads HTTPFaults.

use std::time::Duration;

use millrace_crd as crd;
use millrace_model::{
    ObjectName,
    route::{InjectedFault, Share},
};

use super::{duration::duration, meta};
use crate::{diagnostic::Problems, world::route::HttpFault};

/// Who waits longer than this has gone away.
const MAX_DELAY: Duration = Duration::from_secs(3_600);

/// Statuses that say of a request that it failed.
const FAILURES: std::ops::RangeInclusive<u32> = 400..=599;

pub(super) fn fault(name: &ObjectName, fault: &crd::HttpFault, problems: &mut Problems) -> HttpFault {
    meta::check(&fault.metadata, problems);
    let crd::HttpFaultSpec { delay, abort } = &fault.spec;
    if delay.is_none() && abort.is_none() {
        problems.fatal("spec", "it does nothing", "write delay, abort or both");
    }
    let injects = InjectedFault {
        delay: delay.as_ref().and_then(|delay| self::delay(delay, problems)),
        abort: abort.as_ref().and_then(|abort| self::abort(abort, problems)),
    };
    HttpFault { name: name.clone(), injects }
}

fn delay(delay: &crd::FaultDelay, problems: &mut Problems) -> Option<(Duration, Share)> {
    let crd::FaultDelay { duration: text, percent, fraction } = delay;
    let field = "spec.delay.duration";
    let time = duration(text, field, (Duration::ZERO, MAX_DELAY), problems);
    if time == Some(Duration::ZERO) {
        problems.fatal(field, "it is no time at all", "write a longer time, or leave the delay out");
    }
    let share = share(*percent, fraction.as_ref(), "spec.delay", problems);
    Some((time?, share?))
}

fn abort(abort: &crd::FaultAbort, problems: &mut Problems) -> Option<(u16, Share)> {
    let crd::FaultAbort { status, percent, fraction } = abort;
    if !FAILURES.contains(status) {
        problems.fatal("spec.abort.status", format!("{status} is no failure"), "write a status from 400 to 599");
    }
    let share = share(*percent, fraction.as_ref(), "spec.abort", problems);
    Some((u16::try_from(*status).ok()?, share?))
}

fn share(
    percent: Option<u32>,
    fraction: Option<&crd::FaultFraction>,
    field: &str,
    problems: &mut Problems,
) -> Option<Share> {
    let (numerator, denominator) = match (percent, fraction) {
        (Some(percent), None) => (percent, 100),
        (None, Some(crd::FaultFraction { numerator, denominator })) => (*numerator, denominator.unwrap_or(100)),
        (None, None) => {
            problems.fatal(field, "it does not say of how many requests", "write percent, or fraction");
            return None;
        }
        (Some(_), Some(_)) => {
            problems.fatal(field, "there are percent and fraction", "keep one of the two");
            return None;
        }
    };
    if denominator == 0 || numerator > denominator {
        let problem = format!("{numerator} of {denominator} is no share");
        problems.fatal(field, problem, "write a percent from 0 to 100, or a fraction of at most 1");
        return None;
    }
    Some(Share { numerator, denominator })
}
