//! States how a workload is held to what it may have of processors, by a clock that its tasks' work moves, and the worker's rest.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::timeout};

use super::{Turns, busy, pod, worked};
use crate::limits::{Account, Accounts, Budget, Limits, WorkloadLimits};

const POLL: Duration = Duration::from_micros(20);

/// Ten seconds' worth: nobody who is held to anything comes to it, and who is not does not go on for ever.
const MOST_POLLS: u64 = 500_000;

/// A tenth of a processor.
const TENTH: u32 = 100;

/// Time as tokio has it, which jumps where nobody has anything to do, and what was worked.
fn now() -> Instant {
    thread_local! {
        static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let began = BEGAN.get().unwrap_or_else(super::now);
    BEGAN.set(Some(began));
    let worked = super::now().saturating_duration_since(began);
    tokio::time::Instant::now().into_std() + worked
}

/// Accounts of which `held` may have so much, and all others what there is.
fn accounts(cpu_millis: Option<u32>) -> Accounts {
    let accounts = Accounts::new(Budget::new(0));
    limit(&accounts, cpu_millis);
    accounts
}

fn limit(accounts: &Accounts, cpu_millis: Option<u32>) {
    let limits = WorkloadLimits { cpu_millis, ..WorkloadLimits::default() };
    accounts.set(Limits { of: [(pod("held").name, limits)].into(), ..Limits::default() });
}

/// Tasks that are as good as always ready; how often they were polled.
fn flood(tasks: &mut JoinSet<()>, turns: &Turns, account: &Arc<Account>, n: usize) -> Arc<AtomicU64> {
    let polls = Arc::<AtomicU64>::default();
    for _ in 0..n {
        let polls = polls.clone();
        tasks.spawn(turns.schedule(account, async move {
            while polls.fetch_add(1, Ordering::Relaxed) < MOST_POLLS {
                busy(POLL);
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        }));
    }
    polls
}

fn work(polls: &AtomicU64) -> Duration {
    POLL * u32::try_from(polls.load(Ordering::Relaxed)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_workload_has_its_tenth_of_a_busy_worker_and_its_neighbour_the_rest() {
    let (accounts, turns, mut tasks) = (accounts(Some(TENTH)), Turns::by_clock(now), JoinSet::new());
    let held = flood(&mut tasks, &turns, &accounts.of(&pod("held")), 100);
    let other = flood(&mut tasks, &turns, &accounts.of(&pod("other")), 2);
    tokio::select! {
        () = turns.pace() => {}
        () = worked(Duration::from_secs(1)) => {}
    }
    tasks.shutdown().await;
    let (held, other) = (work(&held), work(&other));
    assert!((Duration::from_millis(95)..Duration::from_millis(112)).contains(&held), "{held:?} of a second");
    assert!(other > Duration::from_millis(880), "{other:?} of a second");
}

/// Time jumps only where the worker has nothing to do: were it not asleep, none would go by.
#[tokio::test(start_paused = true)]
async fn who_is_alone_has_no_more_than_it_may_and_the_worker_sleeps_the_rest() {
    let (accounts, turns, mut tasks) = (accounts(Some(TENTH)), Turns::by_clock(now), JoinSet::new());
    let account = accounts.of(&pod("held"));
    let held = flood(&mut tasks, &turns, &account, 20);
    tokio::select! {
        () = turns.pace() => {}
        () = tokio::time::sleep(Duration::from_secs(2)) => {}
    }
    tasks.shutdown().await;
    let had = work(&held);
    // Of 2 s asleep and what it worked: a tenth, and a burst of 5 ms.
    assert!((Duration::from_millis(205)..Duration::from_millis(240)).contains(&had), "{had:?}");
    let throttled = account.processor.throttled();
    assert!(throttled > Duration::from_millis(1900) && throttled < Duration::from_millis(2300), "{throttled:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lifted_lets_go_within_a_tenth_of_a_second() {
    let (accounts, turns) = (accounts(Some(10)), Turns::by_clock(now));
    let life = turns.schedule(&accounts.of(&pod("held")), async {
        busy(Duration::from_millis(100));
        tokio::task::yield_now().await;
    });
    let began = now();
    let lifted = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        limit(&accounts, None);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = turns.pace() => {}
        () = lifted => {}
        () = life => {}
    }
    let took = now() - began;
    assert!(took >= Duration::from_millis(150) && took < Duration::from_millis(310), "{took:?}");
}

/// Whoever waits is woken by its own end too: no timer is asked for it.
#[tokio::test(start_paused = true)]
async fn tasks_that_are_held_back_end_with_their_worker_and_leave_nothing_behind() {
    let (accounts, turns, mut tasks) = (accounts(Some(10)), Turns::by_clock(now), JoinSet::new());
    let account = accounts.of(&pod("held"));
    flood(&mut tasks, &turns, &account, 1000);
    tokio::select! {
        () = turns.pace() => {}
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
    }
    assert!(account.processor.waits(now()).is_some(), "it is held back");
    timeout(Duration::from_millis(1), tasks.shutdown()).await.expect("all end at once");
    drop((turns, accounts));
    assert_eq!(Arc::strong_count(&account), 1, "nobody keeps the account");
}

/// What waits in a held queue is let go when its task is aborted, and those behind it go on.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_aborted_while_it_is_held_back_holds_nobody_up() {
    let (accounts, turns, mut tasks) = (accounts(Some(TENTH)), Turns::by_clock(now), JoinSet::new());
    let account = accounts.of(&pod("held"));
    let done = Arc::<AtomicU64>::default();
    let aborts: Vec<_> = (0..100)
        .map(|_| {
            let done = done.clone();
            tasks.spawn(turns.schedule(&account, async move {
                for _ in 0..10 {
                    busy(POLL * 10);
                    tokio::task::yield_now().await;
                }
                done.fetch_add(1, Ordering::Relaxed);
            }))
        })
        .collect();
    let all = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        aborts.iter().step_by(2).for_each(tokio::task::AbortHandle::abort);
        while tasks.join_next().await.is_some() {}
    };
    tokio::select! {
        () = turns.pace() => {}
        ended = timeout(Duration::from_secs(60), all) => ended.expect("all tasks end"),
    }
    assert!(done.load(Ordering::Relaxed) >= 50, "{done:?}");
}
