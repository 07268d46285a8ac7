//! States when an endpoint is left out and when it returns: by example, and for any history.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use proptest::prelude::*;

use super::{Bounds, Cause, Change, Family, Outliers, Pool, Trouble, Watch};
use crate::ObjectName;

const SECOND: Duration = Duration::from_secs(1);

fn pool() -> Pool {
    Pool { service: ObjectName::new("shop", "web"), port: 80, family: Family::V4 }
}

fn members(n: u8) -> Vec<SocketAddr> {
    (1..=n).map(|last| SocketAddr::new([10, 0, 0, last].into(), 8080)).collect()
}

/// A watch over `n` endpoints, and a clock.
struct Scene {
    watch: Watch,
    members: Vec<SocketAddr>,
    bounds: Bounds,
    now: Duration,
}

impl Scene {
    fn new(n: u8) -> Self {
        // Far from zero: nothing may count from the beginning of time.
        let now = Duration::from_secs(1_000_000);
        Self { watch: Watch::default(), members: members(n), bounds: Bounds::default(), now }
    }

    fn fails(&mut self, n: usize, times: u32) -> Vec<Change> {
        self.watch.failed(&pool(), (self.members[n], times), Cause::Refused, (&self.bounds, self.now));
        self.decides()
    }

    fn succeeds(&mut self, n: usize) {
        self.watch.succeeded(&pool(), self.members[n]);
    }

    fn decides(&mut self) -> Vec<Change> {
        self.watch.decide(&pool(), &self.members, Outliers::Ejected(self.bounds), self.now)
    }

    fn after(&mut self, time: Duration) -> Vec<Change> {
        self.now += time;
        self.decides()
    }

    fn out(&self) -> Vec<usize> {
        let is_out = |at: &SocketAddr| self.watch.troubles(&pool()).any(|(e, t)| e == *at && t.out.is_some());
        (0..self.members.len()).filter(|n| is_out(&self.members[*n])).collect()
    }
}

#[test]
fn five_failures_in_a_row_eject_and_a_success_between_them_does_not() {
    let mut scene = Scene::new(4);
    assert_eq!(scene.fails(0, 4), []);
    scene.succeeds(0);
    assert_eq!(scene.fails(0, 4), []);
    let [Change::Ejected(endpoint, Trouble { run: 5, times: 1, .. })] = scene.fails(0, 1)[..] else {
        panic!("the fifth ejects: {:?}", scene.watch)
    };
    assert_eq!((endpoint, scene.out()), (scene.members[0], vec![0]));
}

#[test]
fn failures_that_lie_far_apart_do_not_count_together() {
    let mut scene = Scene::new(4);
    for _ in 0..20 {
        assert_eq!(scene.fails(0, 1), []);
        assert_eq!(scene.after(scene.bounds.interval + SECOND), []);
    }
    assert_eq!(scene.watch, Watch::default(), "and nothing is kept of them");
}

#[test]
fn it_returns_by_itself_and_its_next_failure_ejects_it_for_longer_up_to_a_bound() {
    let mut scene = Scene::new(4);
    scene.fails(0, 5);
    for times in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10] {
        let lasts = scene.bounds.base * times;
        assert_eq!(scene.after(lasts - SECOND), [], "{times}");
        assert_eq!(scene.after(SECOND), [Change::Returned(scene.members[0])], "{times}");
        assert_eq!(scene.fails(0, 1).len(), 1, "one more is enough now");
    }
    scene.after(scene.bounds.longest);
    scene.succeeds(0);
    assert_eq!(scene.fails(0, 4), [], "a success begins the count anew");
    scene.succeeds(0);
    scene.after(scene.bounds.longest + SECOND);
    assert_eq!(scene.watch, Watch::default(), "one that served for long enough is as good as new");
}

#[test]
fn never_more_than_the_share_and_never_the_last() {
    for (n, percent, most) in [(1, 50, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (10, 50, 5), (4, 100, 3), (9, 0, 0)] {
        let mut scene = Scene::new(n);
        scene.bounds.percent = percent;
        for endpoint in 0..usize::from(n) {
            scene.fails(endpoint, 9);
        }
        assert_eq!(scene.out().len(), most, "{percent} % of {n}");
    }
}

#[test]
fn those_that_wait_for_room_leave_when_there_is_some_if_they_fail_still() {
    let mut scene = Scene::new(4);
    for endpoint in 0..3 {
        scene.fails(endpoint, 5);
    }
    assert_eq!(scene.out(), [0, 1]);
    scene.now += scene.bounds.base;
    assert!(scene.fails(2, 1).len() == 3, "two return, and the third leaves");
    assert_eq!(scene.out(), [2]);
}

#[test]
fn a_pool_that_shrinks_takes_back_who_is_too_many_and_forgets_who_went() {
    let mut scene = Scene::new(4);
    scene.fails(0, 5);
    scene.now += SECOND;
    scene.fails(1, 5);
    scene.members.truncate(3);
    assert_eq!(scene.decides(), [Change::Returned(scene.members[0])], "its time would be over first");
    scene.members.remove(1);
    assert_eq!(scene.decides(), []);
    assert_eq!(scene.out(), [] as [usize; 0]);
}

#[test]
fn switched_off_all_return_at_once() {
    let mut scene = Scene::new(4);
    scene.fails(0, 5);
    let changes = scene.watch.decide(&pool(), &scene.members, Outliers::Kept, scene.now);
    assert_eq!(changes, [Change::Returned(scene.members[0])]);
    assert_eq!(scene.watch, Watch::default());
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Fails(usize, u32),
    Succeeds(usize),
    Passes(u64),
    Members(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..6usize, 1..4u32).prop_map(|(n, times)| Event::Fails(n, times)),
        2 => (0..6usize).prop_map(Event::Succeeds),
        2 => (0..200u64).prop_map(Event::Passes),
        1 => (1..7u8).prop_map(Event::Members),
    ]
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (1..6u32, 1..60u64, 1..60u64, 1..10u64, 0..120u32).prop_map(|(failures, interval, base, times, percent)| Bounds {
        failures,
        interval: SECOND * u32::try_from(interval).unwrap(),
        base: SECOND * u32::try_from(base).unwrap(),
        longest: SECOND * u32::try_from(base * times).unwrap(),
        percent,
    })
}

proptest! {
    /// Whatever happens: enough are left, nobody is out without cause or for longer than the bound, and the changes told are
    /// the changes made.
    #[test]
    fn no_history_ejects_too_many_or_for_too_long(bounds in bounds(), events in prop::collection::vec(event(), 1..80)) {
        let mut scene = Scene { bounds, ..Scene::new(6) };
        let mut told: BTreeSet<SocketAddr> = BTreeSet::new();
        let mut failed_since_success = [0u32; 6];
        let mut was_out = [false; 6];
        for event in events {
            let changes = match event {
                Event::Fails(n, times) if n < scene.members.len() => {
                    failed_since_success[n] += times;
                    scene.fails(n, times)
                }
                Event::Succeeds(n) if n < scene.members.len() => {
                    scene.succeeds(n);
                    failed_since_success[n] = 0;
                    scene.decides()
                }
                Event::Fails(..) | Event::Succeeds(_) => Vec::new(),
                Event::Passes(seconds) => scene.after(SECOND * u32::try_from(seconds).unwrap()),
                Event::Members(n) => {
                    scene.members = members(n);
                    scene.decides()
                }
            };
            for change in changes {
                match change {
                    Change::Ejected(endpoint, trouble) => {
                        let n = scene.members.iter().position(|m| *m == endpoint).unwrap();
                        let needed = if was_out[n] { 1 } else { bounds.failures };
                        prop_assert!(failed_since_success[n] >= needed, "{endpoint} left without cause: {trouble:?}");
                        let (since, until) = trouble.out.unwrap();
                        prop_assert!(since == scene.now && until - since <= bounds.longest);
                        was_out[n] = true;
                        prop_assert!(told.insert(endpoint));
                    }
                    Change::Returned(endpoint) => prop_assert!(told.remove(&endpoint)),
                }
            }
            told.retain(|endpoint| scene.members.contains(endpoint));
            let out: BTreeSet<SocketAddr> = scene.out().into_iter().map(|n| scene.members[n]).collect();
            prop_assert_eq!(&out, &told);
            let n = scene.members.len();
            prop_assert!(out.len() < n, "somebody is left");
            prop_assert!(out.len() * 100 <= n * usize::try_from(bounds.percent).unwrap());
        }
        scene.after(bounds.longest + bounds.interval + SECOND);
        scene.after(bounds.longest + bounds.interval + SECOND);
        prop_assert_eq!(scene.watch, Watch::default(), "in the end all is forgotten");
    }
}
