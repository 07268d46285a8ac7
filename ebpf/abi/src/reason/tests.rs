//! States what each reason does to a connection, and that numbers and names are one to one.

extern crate std;

use std::collections::BTreeSet;

use super::{Action, Reason, action};

#[test]
fn every_reason_has_a_number_and_a_name_of_its_own() {
    let numbers: BTreeSet<u32> = Reason::ALL.iter().map(|reason| *reason as u32).collect();
    let names: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!((numbers.len(), names.len()), (Reason::ALL.len(), Reason::ALL.len()));
    for reason in Reason::ALL {
        assert_eq!(Reason::from_number(reason as u32), Some(reason));
        assert!(reason.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", reason.name());
    }
}

#[test]
fn a_number_of_another_version_is_no_reason() {
    assert_eq!(Reason::from_number(31), None);
    assert_eq!(Reason::from_number(u32::MAX), None);
}

/// sk_lookup has no errno to give, and a connect has no packet to drop.
#[test]
fn connects_are_refused_and_arrivals_are_dropped() {
    for reason in Reason::ALL {
        let is_arrival = reason.name().starts_with("in_") || reason.name().starts_with("spoofed_");
        match action(reason) {
            Action::Refuse(errno) => assert!(!is_arrival && errno > 0, "{reason:?}"),
            Action::Drop => assert!(is_arrival, "{reason:?}"),
            Action::Pass => {}
        }
    }
}
