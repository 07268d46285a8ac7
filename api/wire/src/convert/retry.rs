//! Converts when requests are sent again.

use std::time::Duration;

use millrace_model::{Retry, RetryBudget, retry::Origin};

use super::{Undecodable, bad};
use crate::mesh as pb;

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn retry(retry: &Retry) -> pb::Retry {
    let Retry { codes, attempts, backoff } = retry;
    pb::Retry {
        codes: codes.iter().map(|code| u32::from(*code)).collect(),
        attempts: *attempts,
        backoff_ms: ms(*backoff),
    }
}

pub(super) fn retry_from(retry: pb::Retry) -> Result<Retry, Undecodable> {
    let pb::Retry { codes, attempts, backoff_ms } = retry;
    let code = |code: u32| match u16::try_from(code) {
        Ok(code @ 400..=599) => Ok(code),
        Ok(_) | Err(_) => Err(bad("routes.rules.retry.codes", format!("{code} is no failure"))),
    };
    if attempts == 0 {
        return Err(bad("routes.rules.retry.attempts", "none at all"));
    }
    Ok(Retry {
        codes: codes.into_iter().map(code).collect::<Result<_, _>>()?,
        attempts,
        backoff: Duration::from_millis(backoff_ms),
    })
}

/// Nothing for what everybody has: most services.
pub(super) fn budget(budget: &RetryBudget) -> Option<pb::RetryBudget> {
    if *budget == RetryBudget::default() {
        return None;
    }
    let RetryBudget { percent, interval, min_count, min_interval, origin } = budget;
    Some(pb::RetryBudget {
        percent: *percent,
        interval_ms: ms(*interval),
        min_count: *min_count,
        min_interval_ms: ms(*min_interval),
        is_policy: match origin {
            Origin::Default => false,
            Origin::Policy => true,
        },
    })
}

pub(super) fn budget_from(budget: Option<pb::RetryBudget>) -> Result<RetryBudget, Undecodable> {
    let Some(budget) = budget else { return Ok(RetryBudget::default()) };
    let pb::RetryBudget { percent, interval_ms, min_count, min_interval_ms, is_policy } = budget;
    if percent > 100 {
        return Err(bad("service.traffic.retries.percent", percent));
    }
    if interval_ms == 0 || min_interval_ms == 0 {
        return Err(bad("service.traffic.retries.interval_ms", "no time at all"));
    }
    Ok(RetryBudget {
        percent,
        interval: Duration::from_millis(interval_ms),
        min_count,
        min_interval: Duration::from_millis(min_interval_ms),
        origin: if is_policy { Origin::Policy } else { Origin::Default },
    })
}
