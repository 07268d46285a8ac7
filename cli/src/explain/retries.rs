//! Says in a sentence when a request is sent again, and how a session's find their endpoint.

use millrace_model::{
    Retry, RetryBudget, Session,
    retry::Origin,
    session::{Carrier, Lifetime},
};

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

/// How a client's requests are kept with one endpoint.
pub(super) fn session(Session { name, carrier, absolute, idle, tag: _ }: &Session) -> String {
    let by = match carrier {
        Carrier::Header => format!("header {name}"),
        Carrier::Cookie { lifetime: Lifetime::Session, .. } => format!("cookie {name}"),
        Carrier::Cookie { lifetime: Lifetime::Permanent, .. } => format!("permanent cookie {name}"),
    };
    let ends: Vec<String> = absolute
        .map(|time| format!("{time:?} after it began"))
        .into_iter()
        .chain(idle.map(|time| format!("{time:?} after its last request")))
        .collect();
    let ends =
        if ends.is_empty() { "while the endpoint is there".to_owned() } else { format!("until {}", ends.join(" or ")) };
    format!("A client's requests stay with one endpoint, whatever the shares, by {by}, {ends}.")
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
