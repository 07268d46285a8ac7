//! Decides who leads, by a Lease: whoever renewed it, until nobody saw it renewed for as long as it holds. Clocks of different machines are
//! never compared: what counts is how long *this* replica has seen the same renewal.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};

use crate::clock;

/// The Lease's name.
const NAME: &str = "millrace-control";
/// How long a leader that says nothing is left in office. Statuses wait that long when one is killed; nothing else does.
const TERM: Duration = Duration::from_secs(10);
/// How often the leader renews it: three may be lost.
const RENEW: Duration = Duration::from_secs(2);
/// A leader stops this long before others may begin.
const MARGIN: Duration = Duration::from_secs(2);
/// A call that takes longer has failed.
const CALL: Duration = Duration::from_secs(3);

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is ours, or nobody's: write our name into it.
    Take,
    /// It is another's.
    Wait,
}

/// The renewal that was seen last, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    holder: Option<String>,
    renewed: Option<MicroTime>,
    since: Instant,
}

impl Seen {
    /// What is known after the Lease was read at `now`.
    fn after(self, lease: &LeaseSpec, now: Instant) -> Self {
        let same = self.holder == lease.holder_identity && self.renewed == lease.renew_time;
        Self {
            holder: lease.holder_identity.clone(),
            renewed: lease.renew_time.clone(),
            since: if same { self.since } else { now },
        }
    }

    fn step(&self, own: &str, now: Instant) -> Step {
        match self.holder.as_deref() {
            None | Some("") => Step::Take,
            Some(holder) if holder == own => Step::Take,
            Some(_) if now.saturating_duration_since(self.since) >= TERM => Step::Take,
            Some(_) => Step::Wait,
        }
    }
}

/// This replica's part in who leads.
pub(super) struct Leader {
    leases: Api<Lease>,
    own: Arc<str>,
    seen: Option<Seen>,
    /// Since when, and until when, this replica leads.
    held: Option<(Instant, Instant)>,
}

impl Leader {
    pub(super) fn new(client: Client, namespace: &str, own: &Arc<str>) -> Self {
        Self { leases: Api::namespaced(client, namespace), own: own.clone(), seen: None, held: None }
    }

    /// Renews the Lease where that is due, or tries to get it; until when this replica leads, if it does.
    pub(super) async fn renew(&mut self, now: Instant) -> Option<Instant> {
        if let Some((renewed, until)) = self.held
            && now < renewed + RENEW
        {
            return Some(until);
        }
        let was_leading = self.held.is_some_and(|(_, until)| now < until);
        match tokio::time::timeout(CALL, self.try_renew(now)).await {
            Ok(Ok(Step::Take)) => {
                if !was_leading {
                    tracing::info!(replica = %self.own, "this replica leads: it writes the statuses");
                }
                self.held = Some((now, now + TERM - MARGIN));
            }
            Ok(Ok(Step::Wait)) => self.held = None,
            // What was held holds until it runs out.
            Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "the lease can't be renewed"),
            Err(_) => tracing::debug!("the lease is not renewed in time"),
        }
        self.held.map(|(_, until)| until).filter(|until| now < *until)
    }

    async fn try_renew(&mut self, now: Instant) -> kube::Result<Step> {
        let Some(mut lease) = self.leases.get_opt(NAME).await? else {
            let first = Lease { metadata: named(), spec: Some(self.spec(0)) };
            return match self.leases.create(&PostParams::default(), &first).await {
                Ok(_) => Ok(Step::Take),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Step::Wait),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let before = self.seen.take().unwrap_or(Seen { holder: None, renewed: None, since: now });
        let seen = before.after(&spec, now);
        let step = seen.step(&self.own, now);
        self.seen = Some(seen);
        if step == Step::Wait {
            return Ok(Step::Wait);
        }
        let turns = spec.lease_transitions.unwrap_or_default();
        let is_new = spec.holder_identity.as_deref() != Some(&*self.own);
        lease.spec = Some(self.spec(turns + i32::from(is_new)));
        // The version read is the version replaced: of two that try at once, one fails.
        match self.leases.replace(NAME, &PostParams::default(), &lease).await {
            Ok(_) => Ok(Step::Take),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Step::Wait),
            Err(error) => Err(error),
        }
    }

    /// Gives the Lease back, if it is ours.
    pub(super) async fn release(&mut self) {
        if self.held.take().is_none() {
            return;
        }
        if let Ok(Err(error)) = tokio::time::timeout(CALL, self.give_back()).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the lease is not given back: it runs out");
        }
    }

    async fn give_back(&self) -> kube::Result<()> {
        if let Some(mut lease) = self.leases.get_opt(NAME).await?
            && let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&*self.own))
        {
            spec.holder_identity = Some(String::new());
            self.leases.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    fn spec(&self, turns: i32) -> LeaseSpec {
        let now = now();
        LeaseSpec {
            holder_identity: Some(self.own.to_string()),
            lease_duration_seconds: i32::try_from(TERM.as_secs()).ok(),
            renew_time: Some(now.clone()),
            acquire_time: Some(now),
            lease_transitions: Some(turns),
            ..LeaseSpec::default()
        }
    }
}

fn named() -> ObjectMeta {
    ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() }
}

/// The wall clock, as Kubernetes spells it.
pub(super) fn timestamp() -> Timestamp {
    let micros = i64::try_from(clock::unix_time().as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(crate) fn now() -> MicroTime {
    MicroTime(timestamp())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::{
        api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp,
    };

    use super::{Seen, Step, TERM};

    fn lease(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_that_nobody_renews_is_taken_by_the_time_that_this_replica_saw_pass() {
        let start = crate::clock::now();
        // Whatever the holder's clock says: it may be years off.
        let seen = Seen { holder: None, renewed: None, since: start }.after(&lease("other", 1), start);
        assert_eq!(seen.step("own", start), Step::Wait);
        let seen = seen.after(&lease("other", 1), start + TERM / 2);
        assert_eq!(seen.step("own", start + TERM - Duration::from_millis(1)), Step::Wait);
        assert_eq!(seen.step("own", start + TERM), Step::Take);
        let renewed = seen.after(&lease("other", 2), start + TERM);
        assert_eq!(renewed.step("own", start + TERM), Step::Wait);
    }

    #[test]
    fn ones_own_lease_and_one_that_was_given_back_are_taken_at_once() {
        let start = crate::clock::now();
        for holder in ["own", ""] {
            let seen = Seen { holder: None, renewed: None, since: start }.after(&lease(holder, 1), start);
            assert_eq!(seen.step("own", start), Step::Take, "{holder:?}");
        }
    }
}
