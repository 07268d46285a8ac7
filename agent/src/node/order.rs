//! Knows in which order generations came. Each replica of the control plane counts by itself: of two numbers the smaller may be the newer.

use std::collections::VecDeque;

/// The proxy is some generations behind at most: one that is not among these is older than all.
const KEPT: usize = 64;

/// The generations that came last, oldest first.
#[derive(Debug, Default)]
pub(super) struct Order(VecDeque<u64>);

impl Order {
    /// This one came.
    pub(super) fn came(&mut self, generation: u64) {
        if self.0.back() == Some(&generation) {
            return;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(generation);
    }

    /// Of two, the one that came first.
    pub(super) fn earlier(&self, one: u64, other: u64) -> u64 {
        let place = |generation| self.0.iter().rposition(|came| *came == generation);
        if place(one) <= place(other) { one } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT, Order};

    #[test]
    fn what_came_first_is_earlier_whichever_number_is_smaller() {
        let mut order = Order::default();
        [900, 100, 100, 101].into_iter().for_each(|generation| order.came(generation));
        assert_eq!((order.earlier(900, 100), order.earlier(101, 100)), (900, 100));
        assert_eq!(order.earlier(0, 900), 0, "one that never came is older than all");
        (1000..1000 + KEPT as u64).for_each(|generation| order.came(generation));
        assert_eq!(order.earlier(1000, 900), 900);
    }
}
