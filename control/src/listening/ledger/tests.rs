//! What is passed on and what is written, in whatever order words come.

use std::{collections::BTreeSet, time::Duration};

use millrace_model::ObjectName;

use super::{AGAIN, Due, Ledger, Word, Written};
use crate::{publish::Report, world::Listener};

fn pods(names: &[&str]) -> BTreeSet<Listener> {
    names.iter().map(|pod| Listener { name: ObjectName::new("shop", pod), instance: "1".into() }).collect()
}

fn word(names: &[&str], version: &str) -> Word {
    Word { node: "a".into(), listening: pods(names), version: Some(version.to_owned()) }
}

fn report(names: &[&str]) -> Report {
    Report { node: "a".into(), listening: pods(names) }
}

fn due(ledger: &mut Ledger) -> Option<Due> {
    ledger.due(crate::clock::now(), |_| true)
}

fn done(ledger: &mut Ledger, version: &str) -> Option<Report> {
    ledger.written(Written::Done("a".into(), version.to_owned()), crate::clock::now())
}

#[test]
fn what_a_node_says_here_is_written_once_and_its_echo_is_no_news() {
    let mut ledger = Ledger::default();
    ledger.hear(&"a".into(), &pods(&["web"]));
    let Some(Due::Write(write)) = due(&mut ledger) else { panic!("it is to be written") };
    assert_eq!((write.listening, write.version), (pods(&["web"]), None));
    assert_eq!(due(&mut ledger), None, "one write at a time");
    assert_eq!(done(&mut ledger, "7"), None);
    assert_eq!(ledger.see(word(&["web"], "7")), None);
    ledger.hear(&"a".into(), &pods(&["web"]));
    assert_eq!(due(&mut ledger), None, "it stands there");
}

/// Annotations may have 256 KiB: more, and the API server would refuse the whole word, for good.
#[test]
fn a_word_that_no_lease_has_room_for_is_cut_by_name_and_its_rest_is_counted() {
    let name =
        |index: usize| ObjectName::new("a-namespace-of-some-length", &format!("deployment-5d4f8c7b9f-{index:05}"));
    let all: BTreeSet<Listener> =
        (0..5000).map(|index| Listener { name: name(index), instance: "0123456789abcdef".into() }).collect();
    let mut ledger = Ledger::default();
    let n_left_out = ledger.hear(&"a".into(), &all);
    let Some(Due::Write(write)) = due(&mut ledger) else { panic!("it is to be written") };
    assert_eq!(write.listening.len() + n_left_out, 5000);
    assert!(
        n_left_out > 0
            && write.listening.contains(all.first().unwrap())
            && !write.listening.contains(all.last().unwrap())
    );
    let written: std::collections::BTreeMap<&ObjectName, &str> =
        write.listening.iter().map(|pod| (&pod.name, &*pod.instance)).collect();
    let length = serde_json::to_string(&written).unwrap().len();
    assert!((249 * 1024..=250 * 1024).contains(&length), "{length}");
    // The echo of what was cut turns nobody back, also where it is listed anew.
    assert_eq!(done(&mut ledger, "7"), None);
    let echo = Word { node: "a".into(), listening: write.listening, version: Some("7".to_owned()) };
    assert_eq!((ledger.see(echo.clone()), ledger.list(vec![echo])), (None, vec![]));
    assert_eq!((ledger.hear(&"a".into(), &all), due(&mut ledger)), (n_left_out, None), "it stands there");
}

#[test]
fn what_is_seen_of_before_ones_own_write_does_not_turn_the_node_back() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.see(word(&["old"], "1")), Some(report(&["old"])));
    ledger.hear(&"a".into(), &pods(&["web"]));
    let Some(Due::Write(write)) = due(&mut ledger) else { panic!("it is to be written") };
    assert_eq!(write.version.as_deref(), Some("1"));
    // The node says more before the first is written: that goes next, and the first's echo does not come between.
    ledger.hear(&"a".into(), &pods(&["web", "db"]));
    assert_eq!(done(&mut ledger, "2"), None);
    assert_eq!(ledger.see(word(&["web"], "2")), None);
    let Some(Due::Write(write)) = due(&mut ledger) else { panic!("the newer is to be written") };
    assert_eq!((write.listening, write.version.as_deref()), (pods(&["web", "db"]), Some("2")));
}

/// The answer to a write may come after the watch has shown it, and what another replica wrote over it.
#[test]
fn what_another_replica_wrote_after_ones_own_is_passed_on_in_whatever_order_they_are_told() {
    for told_late in [false, true] {
        let mut ledger = Ledger::default();
        ledger.hear(&"a".into(), &pods(&["web"]));
        assert!(matches!(due(&mut ledger), Some(Due::Write(_))));
        if told_late {
            assert_eq!(ledger.see(word(&["web"], "2")), None);
            assert_eq!(ledger.see(word(&["web", "new"], "3")), None, "it may be older than the write");
            assert_eq!(done(&mut ledger, "2"), Some(report(&["web", "new"])));
        } else {
            assert_eq!(done(&mut ledger, "2"), None);
            assert_eq!(ledger.see(word(&["web"], "2")), None);
            assert_eq!(ledger.see(word(&["web", "new"], "3")), Some(report(&["web", "new"])));
        }
        assert_eq!(due(&mut ledger), None, "what another wrote is not fought");
        assert_eq!(ledger.see(word(&["web"], "4")), Some(report(&["web"])));
    }
}

#[test]
fn a_write_that_was_overtaken_goes_over_the_other_only_while_the_node_is_here() {
    let overtaken = |ledger: &mut Ledger| {
        ledger.hear(&"a".into(), &pods(&["web"]));
        assert!(matches!(due(ledger), Some(Due::Write(_))));
        assert_eq!(ledger.written(Written::Overtaken(word(&["other"], "5")), crate::clock::now()), None);
    };
    let mut here = Ledger::default();
    overtaken(&mut here);
    let Some(Due::Write(write)) = due(&mut here) else { panic!("the node says so here") };
    assert_eq!((write.listening, write.version.as_deref()), (pods(&["web"]), Some("5")));
    let mut elsewhere = Ledger::default();
    overtaken(&mut elsewhere);
    assert_eq!(elsewhere.due(crate::clock::now(), |_| false), Some(Due::Pass(report(&["other"]))));
    assert_eq!(due(&mut elsewhere), None);
}

#[test]
fn a_write_that_failed_is_tried_again_after_a_rest_and_what_is_seen_meanwhile_is_older() {
    let mut ledger = Ledger::default();
    ledger.hear(&"a".into(), &pods(&["web"]));
    let now = crate::clock::now();
    assert!(ledger.due(now, |_| true).is_some());
    assert_eq!(ledger.written(Written::Failed("a".into()), now), None);
    assert_eq!(ledger.due(now, |_| true), None);
    assert_eq!(ledger.rests_until(), Some(now + AGAIN));
    assert_eq!(ledger.see(word(&["old"], "1")), None);
    let Some(Due::Write(write)) = ledger.due(now + AGAIN + Duration::from_millis(1), |_| true) else {
        panic!("it is tried again")
    };
    assert_eq!(write.version.as_deref(), Some("1"));
}

#[test]
fn a_lease_that_somebody_took_away_is_written_again_by_who_hears_the_node() {
    let mut ledger = Ledger::default();
    ledger.hear(&"a".into(), &pods(&["web"]));
    assert!(due(&mut ledger).is_some());
    done(&mut ledger, "2");
    ledger.gone("a");
    assert!(matches!(due(&mut ledger), Some(Due::Write(Word { version: None, .. }))));
    // Also where it was away when all were listed.
    done(&mut ledger, "3");
    assert_eq!(ledger.list(vec![]), []);
    assert!(due(&mut ledger).is_some());
    let mut other = Ledger::default();
    assert_eq!(other.list(vec![word(&["web"], "3")]), [report(&["web"])]);
    other.gone("a");
    assert_eq!(due(&mut other), None, "it never heard the node");
}
