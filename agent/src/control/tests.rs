//! States what is told to the control plane and in what order, and how long a node waits for it.

use std::{collections::BTreeSet, time::Duration};

use millrace_model::ObjectName;
use millrace_node::wire::control::node_message::Kind;

use super::{Report, backoff, untold};

fn tell_all(sent: &mut Report, now: &Report) -> Vec<Kind> {
    std::iter::from_fn(|| {
        let (message, told) = untold(sent, now)?;
        *sent = told;
        message.kind
    })
    .collect()
}

#[test]
fn a_node_that_does_not_know_yet_says_nothing_of_its_listeners() {
    assert!(tell_all(&mut Report::default(), &Report::default()).is_empty());
    let none_open = Report { listening: Some(BTreeSet::new()), ..Report::default() };
    assert!(matches!(tell_all(&mut Report::default(), &none_open)[..], [Kind::Listening(_)]));
}

#[test]
fn each_change_is_told_once_and_listeners_before_generations() {
    let web = (ObjectName::new("shop", "web"), "1".into());
    let now = Report { listening: Some(BTreeSet::from([web])), applied: 3, failures: vec![] };
    let mut sent = Report::default();
    let [Kind::Listening(listening), Kind::Applied(applied)] = &tell_all(&mut sent, &now)[..] else { panic!() };
    assert_eq!((listening.workloads.len(), applied.generation), (1, 3));
    assert!(tell_all(&mut sent, &now).is_empty());
    let failing = Report { failures: vec!["map VERDICTS is full".into()], ..now };
    assert!(matches!(tell_all(&mut sent, &failing)[..], [Kind::Applied(_)]));
}

#[test]
fn waits_grow_to_their_bound_and_never_vanish() {
    let most = Duration::from_secs(5);
    for failed in 0..100 {
        for jitter in [0.0, 0.5, 1.0, f64::NAN, -3.0, 7.0] {
            let wait = backoff(failed, jitter, most);
            assert!(wait >= Duration::from_millis(100) && wait <= most, "{failed} {jitter}: {wait:?}");
        }
    }
    assert_eq!(backoff(99, 0.0, most), most);
}
