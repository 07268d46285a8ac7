//! Sends a request again as its rule says (GEP-1731), while nothing of an answer was passed on.
//!
//! An attempt is what every request gets: an endpoint, and another where that could not be reached. What comes of it and is a failure by
//! the rule is followed by another attempt, elsewhere if there is an elsewhere, after a pause; unless there were enough, the service's
//! budget is spent, the body was too long to be kept, or the request's time is over first. Nothing of this is on the way of a request
//! whose rule has no retry. `budget` bounds how many, `kept` keeps bodies.

mod budget;
mod kept;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, request::Parts};
use millrace_model::{Mesh, ObjectName, Retry, RetryBudget, retry::Origin, route::Speaks};
use millrace_node::clock;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use rand::Rng as _;

use super::{
    body::Outgoing,
    counts::ByReason,
    endpoint::Endpoints,
    expect::{self, Gate},
    fault::Fault,
    received::Received,
    request::{Callers, Seen, in_time},
    upstream::Lease,
};
use crate::{
    fault::Retry as May,
    metrics::{ByCause, Word},
};

pub(crate) use budget::Budgets;
pub(crate) use kept::{Kept, Repeated};

/// A pause is doubled with each attempt, up to so many times the first.
const LONGEST: u32 = 16;

/// The cause of an attempt that had an answer.
const STATUS: &str = "status";

/// What a request is sent by.
pub(crate) struct By<'r> {
    pub(crate) retry: &'r Retry,
    pub(crate) mesh: &'r Mesh,
    pub(crate) service: &'r ObjectName,
    pub(crate) speaks: Speaks,
    /// When the whole of it is over.
    pub(crate) deadline: Option<Instant>,
    /// How long an attempt may take.
    pub(crate) part: Option<Duration>,
    /// Whether its body waits to be asked for.
    pub(crate) is_expected: bool,
}

/// A request that was answered.
pub(crate) struct Sent {
    pub(crate) response: Response<Received>,
    pub(crate) lease: Lease,
    pub(crate) gate: Option<Arc<Gate>>,
    /// When the time of this attempt is over.
    pub(crate) part_ends: Option<Instant>,
}

/// Why a request that failed is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// It was, as often as the rule says.
    Attempts,
    /// Too many are, for this service.
    Budget,
    /// Its body was too long to be kept.
    Body,
    /// Its time would be over.
    Time,
}

impl Withheld {
    /// Its one name.
    fn name(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Budget => "budget",
            Self::Body => "body",
            Self::Time => "time",
        }
    }

    /// What an answer of the endpoint's own is marked with in logs and metrics, where it is passed on for this.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::Attempts => "retries_exhausted",
            Self::Budget => BUDGET,
            Self::Body => "retry_body_too_large",
            Self::Time => "retry_too_late",
        }
    }
}

/// The name of a budget that is spent, as a fault.
pub(crate) const BUDGET: &str = "retry_budget_exhausted";

/// Sends, and sends again.
#[expect(clippy::large_futures, reason = "it has one box, which its caller makes")]
pub(crate) async fn send(
    callers: &Arc<Callers>,
    by: By<'_>,
    endpoints: &mut Endpoints<'_>,
    (head, body): (Parts, Outgoing),
    seen: &mut Seen,
) -> Result<Sent, Fault> {
    let By { retry, mesh, service, speaks, deadline, part, is_expected } = by;
    let proxy = &callers.worker.proxy;
    let budget =
        mesh.snapshot.services.get(service).map_or_else(RetryBudget::default, |service| service.traffic.retries);
    proxy.retries.asked(service, &budget);
    let kept = Kept::new(body, || callers.waits());
    let mut n_made = 0;
    loop {
        let mut head = head.clone();
        let (body, gate) = expect::hold(is_expected, &mut head, kept.again());
        let part_ends = part.map(|part| clock::now() + part);
        let sending = callers.send(mesh, (&mut *endpoints, speaks), (head, body), seen);
        let ended = in_time(sending, deadline, part).await;
        let cause = match &ended {
            Ok((response, _)) if retry.codes.contains(&response.status().as_u16()) => Some(STATUS),
            Ok(_) => None,
            Err(fault) => failed(fault),
        };
        let Some(cause) = cause else {
            return ended.map(|(response, lease)| Sent { response, lease, gate, part_ends });
        };
        let pause = pause(retry.backoff, n_made, rand::rng().random());
        let withheld = if n_made >= retry.attempts {
            Some(Withheld::Attempts)
        } else if !kept.can_repeat() {
            Some(Withheld::Body)
        } else if deadline.is_some_and(|deadline| clock::now() + pause >= deadline) {
            Some(Withheld::Time)
        } else if !proxy.retries.take(service, &budget) {
            Some(Withheld::Budget)
        } else {
            None
        };
        if let Some(withheld) = withheld {
            proxy.metrics.http.retries.withheld(withheld);
            seen.recording.withheld(withheld);
            // By the policy's own words (GEP-3388); where nobody wrote one, the endpoint's answer says more.
            if withheld == Withheld::Budget && budget.origin == Origin::Policy {
                return Err(Fault::RetryBudget);
            }
            return ended.map(|(response, lease)| Sent { response, lease, gate, part_ends });
        }
        n_made += 1;
        proxy.metrics.http.retries.made(cause);
        seen.recording.retried();
        tracing::debug!(target: "request", %service, cause, n_made, "a request is sent again");
        // Whose body was not asked for, or is on its way still, waits for it.
        let is_done = kept.is_sent() && gate.is_none_or(|gate| !gate.close());
        let failed = ended.ok().filter(|_| is_done);
        in_time(let_go(failed, pause), deadline, None).await?;
        endpoints.anew();
    }
}

/// What an attempt failed of, where another may go better.
fn failed(fault: &Fault) -> Option<&'static str> {
    match fault {
        Fault::Unreached(why) if why.retry() == May::IfUnsent => Some(why.name()),
        Fault::Broken | Fault::BackendTimeout => Some(fault.name()),
        Fault::Unreached(_)
        | Fault::Bad(_)
        | Fault::NoRoute
        | Fault::Filter
        | Fault::Origin
        | Fault::Injected(_)
        | Fault::Unresolved
        | Fault::NoEndpoint
        | Fault::RequestTimeout
        | Fault::RetryBudget => None,
    }
}

/// How long is waited before the next: never less than the rule says, and up to half more, so that what failed together does not come
/// back together.
fn pause(backoff: Duration, n_made: u32, draw: u32) -> Duration {
    let base = backoff.saturating_mul(1_u32.checked_shl(n_made).unwrap_or(LONGEST).min(LONGEST));
    base.saturating_add((base / 2).mul_f64(f64::from(draw) / f64::from(u32::MAX)))
}

/// Waits, and reads meanwhile what is left of an answer that nobody gets: its connection is good for another request then.
async fn let_go(failed: Option<(Response<Received>, Lease)>, pause: Duration) -> Result<(), Fault> {
    let pause = tokio::time::sleep(pause);
    let drained = async {
        if let Some((response, lease)) = failed {
            lease.give_back_after(response.into_body()).await;
        }
    };
    tokio::pin!(pause);
    tokio::select! {
        biased;
        () = drained => {}
        () = &mut pause => return Ok(()),
    }
    pause.await;
    Ok(())
}

/// What is counted: `millrace_proxy_http_retries_total{cause}` and `millrace_proxy_http_retries_withheld_total{reason}`.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    made: Family<ByCause, Counter>,
    withheld: Family<ByReason, Counter>,
}

impl Counts {
    fn made(&self, cause: &'static str) {
        self.made.get_or_create(&ByCause { cause: Word(cause) }).inc();
    }

    fn withheld(&self, withheld: Withheld) {
        self.withheld.get_or_create(&ByReason { reason: Word(withheld.name()) }).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_retries",
            "Requests sent again, by what the attempt before failed of",
            self.made.clone(),
        );
        registry.register(
            "http_retries_withheld",
            "Requests that failed and were not sent again though their rule has a retry, by why not",
            self.withheld.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::pause;

    #[test]
    fn a_pause_is_never_shorter_than_the_rule_says_and_grows_up_to_a_bound() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(100), 0, 0), ms(100));
        assert_eq!(pause(ms(100), 0, u32::MAX), ms(150));
        assert_eq!(pause(ms(100), 1, 0), ms(200));
        assert_eq!(pause(ms(100), 9, 0), ms(1_600));
        assert_eq!(pause(ms(100), 40, 0), ms(1_600));
        assert_eq!(pause(Duration::ZERO, 3, u32::MAX), Duration::ZERO);
        assert!(pause(Duration::MAX, 5, 7) >= Duration::MAX / 2);
    }
}
