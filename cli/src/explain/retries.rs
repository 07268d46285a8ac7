//! Says in a sentence when a request is sent again.

use millrace_model::{Retry, RetryBudget, retry::Origin};

/// What the rule asks for.
pub(super) fn rule(Retry { codes, attempts, backoff }: &Retry) -> String {
    let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
    let when = match codes.as_slice() {
        [] => "where an endpoint does not answer".to_owned(),
        [one] => format!("where an endpoint does not answer, or answers {one}"),
        all => format!("where an endpoint does not answer, or answers one of {}", all.join(", ")),
    };
    let times = if *attempts == 1 { "once".to_owned() } else { format!("up to {attempts} times") };
    format!("It is sent again {times}, {when}; after {backoff:?} at least, elsewhere if it can be.")
}

/// What the backend bears.
pub(super) fn budget(budget: &RetryBudget) -> String {
    let RetryBudget { percent, interval, min_count, min_interval, origin } = budget;
    let whose = match origin {
        Origin::Default => "as no policy says otherwise; beyond that the last answer is passed on",
        Origin::Policy => "as its XBackendTrafficPolicy says; beyond that it is a 503, retry_budget_exhausted",
    };
    format!(
        "From one node at most {percent} % more than was asked within {interval:?}, or {min_count} within {min_interval:?}, {whose}."
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_model::{Retry, RetryBudget};

    use super::{budget, rule};

    #[test]
    fn a_retry_is_a_sentence_with_its_values() {
        let retry = Retry { codes: [503, 502].into(), attempts: 3, backoff: Duration::from_millis(25) };
        assert_eq!(
            rule(&retry),
            "It is sent again up to 3 times, where an endpoint does not answer, or answers one of 502, 503; after 25ms at \
             least, elsewhere if it can be."
        );
        assert!(
            budget(&RetryBudget::default())
                .starts_with("From one node at most 20 % more than was asked within 10s, or 10")
        );
    }
}
