//! Reads the clock: the only file here that knows the time.

use std::time::{Duration, Instant, SystemTime};

/// Now, for measuring.
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since 1970, for saying when something was measured.
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The calendar's day of a time since 1970, in UTC, as 2026-11-22.
pub fn day(since_1970: Duration) -> String {
    // Howard Hinnant's "days to civil": years begin in March, so that a leap day is a year's last.
    const DAYS_PER_ERA: u64 = 146_097;
    let days = since_1970.as_secs() / 86_400 + 719_468;
    let (era, of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn a_day_is_named_as_the_calendar_does() {
        let day = |seconds| super::day(Duration::from_secs(seconds));
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(1_795_305_600), "2026-11-22");
    }
}
