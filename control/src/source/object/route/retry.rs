//! Reads when a rule's requests are sent again (GEP-1731).

use std::{collections::BTreeSet, time::Duration};

use gateway_api::experimental::httproutes::HttpRouteRulesRetry;
use millrace_model::Retry;

use crate::{diagnostic::Problems, source::object::duration::duration};

/// How often a request is sent again where nobody says: one more endpoint, and one more chance.
const ATTEMPTS: u32 = 2;

/// The most: who has failed ten times in a row is not helped by an eleventh.
const MAX_ATTEMPTS: u32 = 10;

/// How long is waited where nobody says: a round trip, and a moment for what was full.
const BACKOFF: Duration = Duration::from_millis(25);

/// Who waits longer than this has gone away.
const MAX_BACKOFF: Duration = Duration::from_secs(3_600);

/// Statuses that say of a request that it failed: Gateway API's own bounds.
const FAILURES: std::ops::RangeInclusive<i64> = 400..=599;

pub(super) fn retry(retry: &HttpRouteRulesRetry, field: &str, problems: &mut Problems) -> Retry {
    let HttpRouteRulesRetry { attempts, backoff, codes } = retry;
    let field = format!("{field}.retry");
    let place = format!("{field}.backoff");
    let backoff = backoff.as_deref().and_then(|text| duration(text, &place, (Duration::ZERO, MAX_BACKOFF), problems));
    Retry {
        codes: self::codes(codes.as_deref().unwrap_or_default(), &format!("{field}.codes"), problems),
        attempts: attempts
            .map_or(ATTEMPTS, |attempts| self::attempts(attempts, &format!("{field}.attempts"), problems)),
        backoff: backoff.unwrap_or(BACKOFF),
    }
}

fn attempts(attempts: i64, field: &str, problems: &mut Problems) -> u32 {
    let most = i64::from(MAX_ATTEMPTS);
    if attempts < 1 {
        let problem = format!("{attempts} is out of bounds");
        problems.fatal(field, problem, "write a whole number from 1, or leave the retry out");
    } else if attempts > most {
        let problem = format!("{attempts} are more than Millrace makes: a request is sent again {most} times");
        problems.slight(field, problem, format!("write at most {most}"));
    }
    u32::try_from(attempts.clamp(1, most)).unwrap_or(MAX_ATTEMPTS)
}

fn codes(codes: &[i64], field: &str, problems: &mut Problems) -> BTreeSet<u16> {
    let mut found = BTreeSet::new();
    for (index, code) in codes.iter().enumerate() {
        let place = format!("{field}[{index}]");
        match u16::try_from(*code) {
            Ok(status) if FAILURES.contains(code) => {
                if !found.insert(status) {
                    problems.fatal(place, format!("{status} stands twice"), "write each status once");
                }
            }
            Ok(_) | Err(_) => {
                problems.fatal(place, format!("{code} is no failure"), "write a status from 400 to 599");
            }
        }
    }
    found
}
