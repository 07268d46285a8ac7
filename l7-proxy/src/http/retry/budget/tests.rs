//! States what a budget lets through.

use std::{collections::VecDeque, time::Duration};

use millrace_model::{ObjectName, RetryBudget};
use proptest::prelude::*;

use super::{Budgets, MAX_SERVICES, Window};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn budget(percent: u32, min_count: u32) -> RetryBudget {
    RetryBudget { percent, min_count, interval: ms(10_000), min_interval: ms(1_000), ..RetryBudget::default() }
}

/// How many of `n` asked for at once are let through.
fn taken(window: &mut Window, budget: &RetryBudget, now: Duration, n: u32) -> u32 {
    (0..n).map(|_| u32::from(window.take(budget, now))).sum()
}

#[test]
fn a_part_of_what_is_asked_may_be_sent_again() {
    let budget = budget(20, 0);
    let mut window = Window::new(&budget);
    (0..1_000).for_each(|n| window.asked(ms(n)));
    assert_eq!(taken(&mut window, &budget, ms(1_000), 1_000), 200);
    assert_eq!(taken(&mut window, &budget, ms(9_000), 10), 0, "they count for the whole interval");
    assert_eq!(taken(&mut window, &budget, ms(13_000), 10), 0, "what was asked is forgotten too");
}

#[test]
fn a_few_may_be_in_any_case() {
    let budget = budget(0, 3);
    let mut window = Window::new(&budget);
    assert_eq!(taken(&mut window, &budget, ms(0), 10), 3);
    assert_eq!(taken(&mut window, &budget, ms(999), 10), 0);
    assert_eq!(taken(&mut window, &budget, ms(1_200), 10), 3);
}

#[test]
fn a_budget_of_nothing_lets_nothing_through() {
    let budget = budget(0, 0);
    let mut window = Window::new(&budget);
    (0..1_000).for_each(|_| window.asked(ms(0)));
    assert_eq!(taken(&mut window, &budget, ms(1), 100), 0);
}

#[test]
fn services_without_end_take_no_memory_without_end() {
    let (budgets, budget) = (Budgets::default(), RetryBudget { interval: ms(3_600_000), ..budget(100, 10) });
    for n in 0..MAX_SERVICES + 10 {
        budgets.asked(&ObjectName::new("shop", &format!("s{n}")), &budget);
    }
    assert_eq!(budgets.of.lock().unwrap().len(), MAX_SERVICES);
    assert!(budgets.take(&ObjectName::new("shop", "s1"), &budget));
    assert!(!budgets.take(&ObjectName::new("shop", "another"), &budget), "who is not counted is sent nothing again");
}

proptest! {
    /// The bound that is promised: of any interval, no more retries than the part of what was asked, and those few.
    #[test]
    fn in_no_interval_are_there_more_than_were_promised(
        steps in prop::collection::vec((0u64..400, any::<bool>()), 1..400),
        percent in 0u32..=100,
        min_count in 0u32..20,
    ) {
        let budget = budget(percent, min_count);
        let mut window = Window::new(&budget);
        let (mut now, mut asked, mut made) = (0, VecDeque::new(), VecDeque::new());
        for (wait, is_retry) in steps {
            now += wait;
            if !is_retry {
                window.asked(ms(now));
                asked.push_back(now);
            } else if window.take(&budget, ms(now)) {
                made.push_back(now);
                let within = |all: &VecDeque<u64>, time: u64| all.iter().filter(|at| **at + time > now).count() as u64;
                // A window is a part longer than it should be, never shorter.
                let share = within(&asked, 11_000) * u64::from(percent) / 100;
                let is_share = within(&made, 10_000) <= share;
                let is_least = within(&made, 1_000) <= u64::from(min_count);
                prop_assert!(is_share || is_least, "at {now}");
            }
        }
    }
}
