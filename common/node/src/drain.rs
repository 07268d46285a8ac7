//! Turns SIGTERM and SIGINT into a deadline that everything in the process can wait for.

use std::{
    future::pending,
    io,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::clock;

/// Whether the process is ending, and by when it must have. Cheap to clone; give one to every task.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<Option<Instant>>);

/// Begins the drain.
#[derive(Debug)]
pub struct Trigger(watch::Sender<Option<Instant>>);

impl Trigger {
    /// Ends the process's work by `deadline`. A second call can only bring the deadline forward.
    pub fn begin(&self, deadline: Instant) {
        self.0.send_if_modified(|held| {
            let sooner = held.is_none_or(|held| deadline < held);
            if sooner {
                *held = Some(deadline);
            }
            sooner
        });
    }
}

impl Drain {
    /// A drain that begins when its Trigger says so; never, if the Trigger is dropped before it did.
    pub fn new() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(None);
        (Trigger(sender), Self(receiver))
    }

    /// A drain that the first SIGTERM or SIGINT begins, with `grace` until its deadline; a second one ends it at once.
    pub fn on_signal(grace: Duration) -> io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (trigger, drain) = Self::new();
        tokio::spawn(async move {
            for grace in [grace, Duration::ZERO] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                trigger.begin(clock::now() + grace);
            }
            // The Trigger stays: dropping it would read as "no drain will come" to who begins to wait only now.
            pending::<()>().await;
        });
        Ok(drain)
    }

    /// The deadline, where the drain has begun.
    pub fn deadline(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Waits until the drain begins, and says its deadline.
    pub async fn begun(&mut self) -> Instant {
        match self.0.wait_for(Option::is_some).await.map(|held| *held) {
            Ok(Some(deadline)) => deadline,
            Ok(None) | Err(_) => pending().await,
        }
    }

    /// Waits until there is a deadline before this one; any, where none is known.
    pub async fn sooner(&mut self, known: Option<Instant>) -> Instant {
        let is_sooner = |held: &Option<Instant>| held.is_some_and(|held| known.is_none_or(|known| held < known));
        match self.0.wait_for(is_sooner).await.map(|held| *held) {
            Ok(Some(deadline)) => deadline,
            Ok(None) | Err(_) => pending().await,
        }
    }

    /// Waits until the drain's deadline has passed.
    pub async fn over(&mut self) {
        let mut deadline = self.begun().await;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => return,
                Ok(()) = self.0.changed() => deadline = self.deadline().unwrap_or(deadline),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Drain;
    use crate::clock;

    #[tokio::test]
    async fn a_second_signal_brings_the_deadline_forward_and_never_back() {
        let (trigger, mut drain) = Drain::new();
        assert_eq!(drain.deadline(), None);
        let now = clock::now();
        trigger.begin(now + Duration::from_secs(60));
        assert_eq!(drain.begun().await, now + Duration::from_secs(60));
        trigger.begin(now + Duration::from_secs(90));
        assert_eq!(drain.deadline(), Some(now + Duration::from_secs(60)));
        assert_eq!(drain.sooner(None).await, now + Duration::from_secs(60));
        trigger.begin(now);
        assert_eq!(drain.sooner(Some(now + Duration::from_secs(60))).await, now);
        drain.over().await;
    }
}
