//! What finding a rule costs: not more for more hosts, and no client makes it dear.

use std::time::{Duration, Instant};

use super::{Table, bound, get, one_route, prefix, rule, table};

/// Look-ups in one round.
const ASKED: usize = 1_000;

/// Hosts where there are many.
const MANY: usize = 10_000;

fn with_hosts(n: usize) -> Table {
    let route = |index: usize| {
        let host = format!("s{index}.example.com");
        bound(&format!("r{index}"), &[&host], vec![rule("one", vec![prefix("/shop")]), rule("two", vec![prefix("/")])])
    };
    table((0..n).map(route).collect())
}

/// The best of several rounds: what else runs on the machine only ever adds to one.
#[expect(clippy::disallowed_methods, reason = "a cost is what the test is about")]
fn time(table: &Table, n_hosts: usize) -> Duration {
    let round = |_| {
        let begun = Instant::now();
        for number in 0..ASKED {
            let url = format!("s{}.example.com/shop/x", number * 7919 % n_hosts);
            assert_eq!(get(table, &url, &[]).as_deref(), Some("one"));
        }
        begun.elapsed()
    };
    (0..5).map(round).min().unwrap_or_default()
}

/// A search of all hosts would take a thousand times as long.
#[test]
fn a_rule_is_found_among_ten_thousand_hosts_as_fast_as_among_ten() {
    let (few, many) = (time(&with_hosts(10), 10), time(&with_hosts(MANY), MANY));
    assert!(many < few * 5, "{many:?} for {ASKED} among {MANY} hosts, {few:?} among ten");
}

/// What takes minutes where every segment of a path, and every label of a host, is looked up with all that stands before it.
#[test]
fn a_long_path_and_a_long_host_cost_by_their_length() {
    let rules = one_route(&[("all", prefix("/")), ("deep", prefix("/a/b"))]);
    let hosts = table(vec![bound("r", &["*.example.com"], vec![rule("host", vec![prefix("/")])])]);
    let (path, host) = ("/a".repeat(30_000), "a.".repeat(30_000));
    for _ in 0..20 {
        assert_eq!(get(&rules, &format!("web{path}"), &[]).as_deref(), Some("all"));
        assert_eq!(get(&hosts, &format!("{host}example.com/"), &[]).as_deref(), Some("host"));
        assert_eq!(get(&hosts, &format!("{host}example.org/"), &[]), None);
    }
}
