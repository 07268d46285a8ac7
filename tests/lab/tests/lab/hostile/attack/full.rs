//! Attacks at their full size, for the table of memory in bench/README: each part has a lab of its own, and a bounded time.

use std::time::Duration;

use super::{
    in_lab,
    kinds::{Kind, Pace},
    table,
};

/// How long each goes on, or until it was counted by name.
const TIME: Duration = Duration::from_secs(4);

/// When one of a crowd that was sent away is there again: ten thousand of them are then 5,000 connects a second, beside those that stand.
const AGAIN: Duration = Duration::from_secs(2);

fn in_full(name: &str, kinds: &[Kind]) {
    in_lab(name, |lab| {
        let many = |kind| {
            let crowds = [
                (Kind::Idle, 10_000),
                (Kind::SlowTls, 10_000),
                (Kind::HalfClosed, 1_000),
                (Kind::IdleTunnels, 3_000),
                (Kind::NeverReads, 64),
                (Kind::NeverRead, 64),
            ];
            let crowd = crowds.iter().find(|(crowd, _)| *crowd == kind);
            crowd.map_or((16, Pace::Eager), |(_, many)| (*many, Pace::After(AGAIN)))
        };
        table(lab, kinds.iter().copied(), many, TIME)
    });
}

#[test]
#[ignore = "long: strangers' attacks at their full size, two minutes"]
fn attacks_at_their_full_size_by_strangers_cost_a_bounded_amount_of_memory() {
    in_full(
        "strangers-full",
        &[Kind::Handshakes, Kind::Garbage, Kind::HalfClosed, Kind::LongChain, Kind::Idle, Kind::SlowTls],
    );
}

#[test]
#[ignore = "long: floods of frames at their full size, two minutes"]
fn attacks_at_their_full_size_by_floods_cost_a_bounded_amount_of_memory() {
    in_full(
        "floods-full",
        &[
            Kind::RapidReset,
            Kind::Continuations,
            Kind::Settings,
            Kind::Pings,
            Kind::Windows,
            Kind::Priorities,
            Kind::Unknown,
            Kind::EmptyData,
            Kind::HeaderBomb,
            Kind::LargeFrame,
            Kind::LongAuthority,
            Kind::KeyUpdates,
        ],
    );
}

#[test]
#[ignore = "long: tunnels and streams that stand, at their full size, two minutes"]
fn attacks_at_their_full_size_by_what_stands_still_cost_a_bounded_amount_of_memory() {
    in_full("still-full", &[Kind::IdleTunnels, Kind::NeverReads, Kind::NeverRead, Kind::SlowPreface, Kind::SlowHead]);
}
