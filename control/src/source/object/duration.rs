//! Reads spans of time as Gateway API writes them (GEP-2257): up to four numbers with a unit each.

use std::time::Duration;

use crate::diagnostic::Problems;

/// Digits of one number, and numbers of one text: Gateway API's own bounds.
const MAX_DIGITS: usize = 5;
const MAX_PARTS: usize = 4;

/// The span of time in `text`, from `bounds.0` to `bounds.1`, or a problem.
pub(super) fn duration(
    text: &str,
    field: &str,
    bounds: (Duration, Duration),
    problems: &mut Problems,
) -> Option<Duration> {
    let Some(found) = parse(text) else {
        problems.fatal(field, format!("{text:?} is no span of time"), "write numbers with h, m, s or ms, such as 30s");
        return None;
    };
    if found < bounds.0 || found > bounds.1 {
        problems.fatal(
            field,
            format!("{text} is out of bounds"),
            format!("write a time from {}s to {}s", bounds.0.as_secs(), bounds.1.as_secs()),
        );
        return None;
    }
    Some(found)
}

fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    let mut n_parts = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (digits, after) = rest.split_at_checked(end)?;
        if digits.is_empty() || digits.len() > MAX_DIGITS || n_parts == MAX_PARTS {
            return None;
        }
        let number: u64 = digits.parse().ok()?;
        // Milliseconds before minutes: both begin with m.
        let (unit, next) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find_map(|(name, ms)| Some((ms, after.strip_prefix(name)?)))?;
        sum += Duration::from_millis(number * unit);
        rest = next;
        n_parts += 1;
    }
    (n_parts > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_span_is_numbers_with_units() {
        let ms = |text| parse(text).map(|found| found.as_millis());
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("250ms"), Some(250));
        assert_eq!(ms("1h1m1s1ms"), Some(3_661_001));
        for bad in ["", "30", "s", "-1s", "1.5s", "1 s", "30S", "123456s", "1s1s1s1s1s", "1d", "1µs", "１s"] {
            assert_eq!(ms(bad), None, "{bad:?}");
        }
    }
}
