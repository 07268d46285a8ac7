//! Chooses among weighted backends: by an alias table for the kernel, by least outstanding of two for the proxy.

/// One slot of an alias table (Vose, 1991): a draw keeps the slot's own backend or takes its alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The backend kept where the second draw is below `threshold`.
    pub own: usize,
    /// The backend taken otherwise.
    pub alias: usize,
    /// The share of draws, of 2^32, that keep `own`; `u32::MAX` keeps it always.
    pub threshold: u32,
}

/// A table with one slot for each backend of positive weight, from which two random numbers draw each backend
/// exactly as often as its weight says, to 1 in 2^32. Empty where no weight is positive.
pub fn alias_table(weights: &[u32]) -> Vec<Slot> {
    let live: Vec<(usize, u64)> =
        weights.iter().enumerate().filter(|(_, w)| **w > 0).map(|(i, w)| (i, u64::from(*w))).collect();
    let n = live.len() as u64;
    let total: u64 = live.iter().map(|(_, w)| w).sum();
    // Scaled so that the average slot holds exactly `total`: a slot below it has room, one above gives.
    let mut rooms: Vec<(usize, u64)> = Vec::new();
    let mut givers: Vec<(usize, u64)> = Vec::new();
    for (index, weight) in live {
        let share = weight.saturating_mul(n);
        if share < total { rooms.push((index, share)) } else { givers.push((index, share)) }
    }
    let mut table = Vec::new();
    while let Some((own, share)) = rooms.pop() {
        let Some((giver, rest)) = givers.pop() else {
            table.push(Slot { own, alias: own, threshold: u32::MAX });
            continue;
        };
        table.push(Slot { own, alias: giver, threshold: fraction(share, total) });
        let rest = rest - (total - share);
        if rest < total { rooms.push((giver, rest)) } else { givers.push((giver, rest)) }
    }
    table.extend(givers.into_iter().map(|(own, _)| Slot { own, alias: own, threshold: u32::MAX }));
    table.sort_by_key(|slot| slot.own);
    table
}

fn fraction(share: u64, total: u64) -> u32 {
    u32::try_from((u128::from(share) << 32) / u128::from(total.max(1))).unwrap_or(u32::MAX)
}

/// Which of two candidates, by what each has outstanding; the first where both have as much.
pub fn less_loaded<T>(first: (T, usize), second: (T, usize)) -> T {
    if second.1 < first.1 { second.0 } else { first.0 }
}

/// The index that `draw` falls on, among `weights` taken as adjoining intervals; None where all are zero.
pub fn weighted(weights: impl Iterator<Item = u32> + Clone, draw: u64) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    let mut left = draw.checked_rem(total)?;
    for (index, weight) in weights.enumerate() {
        match left.checked_sub(u64::from(weight)) {
            Some(rest) => left = rest,
            None => return Some(index),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{alias_table, weighted};

    proptest! {
        /// Summed over the slots, each backend's share of draws is its weight's, within rounding.
        #[test]
        fn the_table_draws_each_backend_as_its_weight_says(weights in prop::collection::vec(0u32..1000, 1..60)) {
            let table = alias_table(&weights);
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            prop_assert_eq!(table.len(), weights.iter().filter(|w| **w > 0).count());
            let mut share = vec![0f64; weights.len()];
            for slot in &table {
                let own = if slot.threshold == u32::MAX { 1.0 } else { f64::from(slot.threshold) / 4_294_967_296.0 };
                share[slot.own] += own / table.len() as f64;
                share[slot.alias] += (1.0 - own) / table.len() as f64;
            }
            for (got, weight) in share.iter().zip(&weights).filter(|_| total > 0) {
                prop_assert!((got - f64::from(*weight) / total as f64).abs() < 1e-6);
            }
        }

        #[test]
        fn a_backend_of_weight_zero_is_never_drawn(weights in prop::collection::vec(0u32..3, 1..20), draw: u64) {
            match weighted(weights.iter().copied(), draw) {
                Some(index) => prop_assert!(weights[index] > 0),
                None => prop_assert!(weights.iter().all(|w| *w == 0)),
            }
        }
    }
}
