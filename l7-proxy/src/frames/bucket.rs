//! Lets so many through at once, and so many a second.

use std::time::Instant;

/// Tokens, as many as there may be at first; one more for each `1/rate` of a second that has passed.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: u32,
    most: u32,
    left: u32,
    /// When `left` was counted last; None: it was never empty.
    at: Option<Instant>,
}

impl Bucket {
    pub(crate) const fn new(rate: u32, most: u32) -> Self {
        Self { rate, most, left: most, at: None }
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// Takes one. The clock is read only where none is left.
    pub(crate) fn take(&mut self, began: Instant, now: impl FnOnce() -> Instant) -> bool {
        if self.left == 0 {
            let now = now();
            let since = now.saturating_duration_since(self.at.unwrap_or(began));
            let earned = since.as_secs_f64() * f64::from(self.rate);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to `most`")]
            let earned = earned.min(f64::from(self.most)) as u32;
            if earned == 0 {
                return false;
            }
            (self.left, self.at) = (earned, Some(now));
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Bucket;

    #[test]
    fn what_is_spent_comes_back_with_time_and_never_more_than_fits() {
        let began = millrace_node::clock::now();
        let at = |ms| move || began + Duration::from_millis(ms);
        let mut bucket = Bucket::new(100, 3);
        let mut take = |ms| bucket.take(began, at(ms));
        assert_eq!([take(0), take(0), take(0), take(0)], [true, true, true, false]);
        assert_eq!([take(9), take(11), take(11)], [false, true, false]);
        assert_eq!([take(9000), take(9000), take(9000), take(9000)], [true, true, true, false]);
    }
}
