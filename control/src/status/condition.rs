//! Says whether conditions that should stand on an object differ from those that do. Pure.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// The longest message that an API server takes.
const MAX_MESSAGE: usize = 32_768;

/// A condition that should stand on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its type.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: Holds,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, for a person.
    pub message: String,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
}

impl Holds {
    fn text(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
        }
    }
}

/// The conditions to write for `wanted` of this generation, given those that stand; None where they say so already. A condition that
/// keeps its status keeps the time at which that turned.
pub fn change(wanted: &[Wanted], standing: &[Condition], generation: i64, now: Timestamp) -> Option<Vec<Condition>> {
    let next: Vec<Condition> = wanted.iter().map(|one| next(one, standing, generation, now)).collect();
    let stands = next.iter().all(|one| standing.contains(one));
    (!stands).then_some(next)
}

/// The condition to stand for this one, given those that stand.
pub(super) fn next(wanted: &Wanted, standing: &[Condition], generation: i64, now: Timestamp) -> Condition {
    let Wanted { name, holds, reason, message } = wanted;
    let before = standing.iter().find(|one| one.type_ == *name && one.status == holds.text());
    Condition {
        type_: (*name).to_owned(),
        status: holds.text().to_owned(),
        reason: (*reason).to_owned(),
        message: bounded(message),
        observed_generation: Some(generation),
        last_transition_time: before.map_or(Time(now), |one| one.last_transition_time.clone()),
    }
}

fn bounded(text: &str) -> String {
    let end = (0..=text.len().min(MAX_MESSAGE)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::{Holds, MAX_MESSAGE, Wanted, bounded, change};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn accepted(holds: Holds, message: &str) -> Wanted {
        Wanted { name: "Accepted", holds, reason: "Because", message: message.to_owned() }
    }

    #[test]
    fn what_stands_there_already_is_not_written_again() {
        let wanted = [accepted(Holds::True, "good")];
        let first = change(&wanted, &[], 3, at(100)).unwrap();
        assert_eq!(change(&wanted, &first, 3, at(200)), None);
    }

    #[test]
    fn the_time_of_turning_is_kept_until_the_status_turns() {
        let first = change(&[accepted(Holds::True, "good")], &[], 3, at(100)).unwrap();
        let later = change(&[accepted(Holds::True, "better")], &first, 4, at(200)).unwrap();
        assert_eq!((later[0].last_transition_time.0, later[0].observed_generation), (at(100), Some(4)));
        let turned = change(&[accepted(Holds::False, "bad")], &later, 4, at(300)).unwrap();
        assert_eq!(turned[0].last_transition_time.0, at(300));
    }

    #[test]
    fn a_condition_of_somebody_else_is_neither_written_nor_a_reason_to_write() {
        let mut standing = change(&[accepted(Holds::True, "good")], &[], 3, at(100)).unwrap();
        let mut theirs = standing[0].clone();
        theirs.type_ = "example.org/Audited".to_owned();
        standing.push(theirs);
        assert_eq!(change(&[accepted(Holds::True, "good")], &standing, 3, at(200)), None);
        let next = change(&[accepted(Holds::True, "other")], &standing, 3, at(200)).unwrap();
        assert_eq!(next.len(), 1);
    }

    #[test]
    fn a_message_too_long_for_the_api_server_is_cut_between_letters() {
        let text = "\u{e4}".repeat(MAX_MESSAGE);
        assert!(bounded(&text).len() <= MAX_MESSAGE && bounded(&text).len() > MAX_MESSAGE - 2);
    }
}
