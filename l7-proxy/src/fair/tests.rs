//! States who is polled when, by a clock that only the tasks' own work moves.

mod held;

use std::{
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millrace_model::ObjectName;
use millrace_node::clock;
use tokio::task::JoinSet;

use super::Turns;
use crate::{
    home::Pod,
    limits::{Accounts, Budget, Limits, WorkloadLimits},
};

fn pod(name: &str) -> Pod {
    Pod { name: ObjectName::new("shop", name), uid: "1".into() }
}

thread_local! {
    static WORKED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// What the tasks have worked on this thread, as a time.
pub(crate) fn now() -> Instant {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    *BEGAN.get_or_init(clock::now) + WORKED.get()
}

/// Work of so long, in one poll.
pub(crate) fn busy(time: Duration) {
    WORKED.set(WORKED.get() + time);
}

/// Comes back when the tasks of this thread have worked so long in all.
pub(crate) async fn worked(time: Duration) {
    while WORKED.get() < time {
        tokio::task::yield_now().await;
    }
}

/// Runs `n` tasks of each of these workloads, which are always ready, for 300 ms of work; polls that each workload had.
async fn polls(accounts: &Accounts, workloads: &[(&str, usize)]) -> Vec<u64> {
    let turns = Arc::new(Turns::by_clock(now));
    let mut tasks = JoinSet::new();
    let counts: Vec<Arc<AtomicU64>> = workloads.iter().map(|_| Arc::default()).collect();
    for ((name, n), count) in workloads.iter().zip(&counts) {
        for _ in 0..*n {
            let count = count.clone();
            let account = accounts.of(&pod(name));
            tasks.spawn(turns.schedule(&account, async move {
                loop {
                    busy(Duration::from_micros(20));
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            }));
        }
    }
    tokio::select! {
        () = turns.pace() => {}
        () = worked(Duration::from_millis(300)) => {}
    }
    tasks.shutdown().await;
    counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
}

#[tokio::test]
async fn a_workload_with_eight_times_the_tasks_has_no_more_of_a_worker() {
    let accounts = Accounts::new(Budget::new(0));
    let had = polls(&accounts, &[("many", 400), ("few", 50)]).await;
    let [many, few] = had[..] else { panic!() };
    assert!(few * 11 > many * 10 && many * 11 > few * 10, "{had:?}");
}

#[tokio::test]
async fn a_share_is_by_weight() {
    let accounts = Accounts::new(Budget::new(0));
    let heavy = WorkloadLimits { weight: 400, ..WorkloadLimits::default() };
    accounts.set(Limits { of: [(pod("heavy").name, heavy)].into(), ..Limits::default() });
    let had = polls(&accounts, &[("heavy", 200), ("usual", 200)]).await;
    let [heavy, usual] = had[..] else { panic!() };
    assert!(heavy * 10 > usual * 35 && heavy * 10 < usual * 45, "{had:?}");
}

/// What waits in a queue is let go when its task is aborted, and those behind it go on.
#[tokio::test]
async fn a_task_that_is_aborted_in_the_queue_holds_nobody_up() {
    let accounts = Accounts::new(Budget::new(0));
    let (turns, account) = (Arc::new(Turns::by_clock(now)), accounts.of(&pod("web")));
    let mut tasks = JoinSet::new();
    let done = Arc::new(AtomicU64::new(0));
    for n in 0..200 {
        let done = done.clone();
        let abort = tasks.spawn(turns.schedule(&account, async move {
            for _ in 0..5 {
                busy(Duration::from_micros(50));
                tokio::task::yield_now().await;
            }
            done.fetch_add(1, Ordering::Relaxed);
        }));
        if n % 3 == 0 {
            tasks.spawn(async move {
                tokio::time::sleep(Duration::from_micros(500 * n)).await;
                abort.abort();
            });
        }
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = turns.pace() => {}
        ended = tokio::time::timeout(Duration::from_secs(20), all) => ended.expect("all tasks end"),
    }
    assert!(done.load(Ordering::Relaxed) >= 133, "{done:?}");
}

/// The delay of one small task behind a flood, in polls of the flood: without turns it is the flood's number.
#[tokio::test]
async fn one_ready_task_waits_for_a_quantum_of_another_workload_and_not_for_all_its_tasks() {
    let accounts = Accounts::new(Budget::new(0));
    let turns = Arc::new(Turns::by_clock(now));
    let flood = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..2000 {
        let flood = flood.clone();
        tasks.spawn(turns.schedule(&accounts.of(&pod("flood")), async move {
            loop {
                busy(Duration::from_micros(20));
                flood.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }));
    }
    let light = turns.schedule(&accounts.of(&pod("light")), async {
        let mut waited = Vec::new();
        for _ in 0..50 {
            let before = flood.load(Ordering::Relaxed);
            tokio::task::yield_now().await;
            waited.push(flood.load(Ordering::Relaxed) - before);
        }
        waited.into_iter().skip(1).max().unwrap()
    });
    let waited = tokio::select! {
        () = turns.pace() => 0,
        waited = light => waited,
    };
    tasks.shutdown().await;
    assert!(waited > 0 && waited <= 2 * 10, "{waited} polls of the flood lay between, of 2000 that were ready");
}

/// Who has the worker for itself, or leaves it time to rest, is never sent into a queue, however much it works.
#[test]
fn a_worker_that_rests_sends_nobody_into_a_queue() {
    let accounts = Accounts::new(Budget::new(0));
    let (turns, account) = (Arc::new(Turns::by_clock(now)), accounts.of(&pod("alone")));
    let work = || async {
        for _ in 0..100 {
            busy(Duration::from_micros(150));
            // The thread has nothing to do until then.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let run = |builder: &mut tokio::runtime::Builder| {
        let before = account.n_turns_waited();
        let runtime = builder.enable_time().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = turns.pace() => {}
                () = turns.schedule(&account, work()) => {}
            }
        });
        account.n_turns_waited() - before
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let never_rests = run(&mut builder);
    assert!(never_rests > 10, "where no round begins by itself it waits for one again and again: {never_rests}");
    assert_eq!(run(builder.on_thread_park(turns.rests())), 0);
}
