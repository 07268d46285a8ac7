//! Says how long to wait before a program that ended is started again. Pure.

use std::time::Duration;

/// The first pause: an end that was an accident is over at once.
const FIRST: Duration = Duration::from_millis(500);

/// The longest pause: somebody who mends the cause should not wait long to see it.
const LONGEST: Duration = Duration::from_secs(15);

/// A program that ran this long was sound: its next end is a new story.
const SOUND: Duration = Duration::from_secs(60);

/// How long the last pause was, if there was one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff(Option<Duration>);

impl Backoff {
    /// The pause after a program ended that had run for `lived`: twice the last one, up to the longest.
    pub(super) fn pause(&mut self, lived: Duration) -> Duration {
        let pause = match self.0 {
            Some(last) if lived < SOUND => (last * 2).min(LONGEST),
            Some(_) | None => FIRST,
        };
        self.0 = Some(pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Backoff, FIRST, LONGEST, SOUND};

    #[test]
    fn a_program_that_keeps_dying_is_tried_ever_more_rarely_but_never_given_up() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..8).map(|_| backoff.pause(Duration::ZERO)).collect();
        assert_eq!(pauses[0], FIRST);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[7], LONGEST);
        assert_eq!(backoff.pause(SOUND), FIRST);
    }
}
