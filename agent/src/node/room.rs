//! Notices that the kernel had no room for something: such a refusal is told, never only counted.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use millrace_abi::Reason;

/// One line in this time for each reason, with how often: a flood of connections must not become one of log lines.
const PACE: Duration = Duration::from_secs(10);

/// What a full table makes the kernel programs count.
const FULL: [Reason; 5] =
    [Reason::HandoffFull, Reason::HandoffLost, Reason::StorageFull, Reason::FlowDropped, Reason::TornTable];

/// How often each was counted when it was told last.
#[derive(Debug, Default)]
pub(super) struct Room {
    told: BTreeMap<Reason, (u64, Option<Instant>)>,
}

impl Room {
    /// What is to be told now, and how often it happened since it was told last. What was counted before the first
    /// call was another agent's to tell.
    pub(super) fn lacking(&mut self, counters: &[(Reason, u64)], now: Instant) -> Vec<(Reason, u64)> {
        let mut lacking = Vec::new();
        for (reason, count) in counters.iter().filter(|(reason, _)| FULL.contains(reason)) {
            let (told, at) = self.told.entry(*reason).or_insert((*count, None));
            let is_due = at.is_none_or(|at| now.duration_since(at) >= PACE);
            if *count > *told && is_due {
                lacking.push((*reason, *count - *told));
                (*told, *at) = (*count, Some(now));
            }
        }
        lacking
    }
}

#[cfg(test)]
mod tests {
    use millrace_abi::Reason;

    use super::{PACE, Room};

    #[test]
    fn a_full_table_is_told_at_once_and_then_at_a_pace() {
        let began = millrace_node::clock::now();
        let mut room = Room::default();
        let full = |count| [(Reason::HandoffFull, count), (Reason::Direct, 7)];
        assert_eq!(room.lacking(&full(5), began), [], "counted before this agent began");
        assert_eq!(room.lacking(&full(6), began), [(Reason::HandoffFull, 1)]);
        assert_eq!(room.lacking(&full(9), began), [], "told a moment ago");
        assert_eq!(room.lacking(&full(9), began + PACE), [(Reason::HandoffFull, 3)]);
        assert_eq!(room.lacking(&full(9), began + PACE * 3), []);
    }
}
