//! Orders the writes of what callers without identity may send: what turns to no first, what turns to yes once addresses are
//! whose they should be.
//!
//! The longest prefix decides, so that a verdict which goes may uncover a wider one. Whatever allowed and shall not as
//! such is a no before anything else is written, and is removed last: a pair that is refused before and after is refused at
//! every step. One that is allowed before and after, by another part or port than before, may lose the datagrams of a moment.

use std::collections::BTreeSet;

use millrace_abi::Verdict;

use crate::kernel::state::{State, Write};

/// Writes, by when they are safe.
#[derive(Default)]
pub(super) struct Strangers {
    pub(super) denied: Vec<Write>,
    /// Of groups that no address is about to leave.
    pub(super) early: Vec<Write>,
    pub(super) late: Vec<Write>,
}

pub(super) fn strangers(have: &State, want: &State) -> Strangers {
    let mut made = Strangers::default();
    let gone = have.strangers.iter().filter(|(key, held)| held.allow == 1 && !want.strangers.contains_key(*key));
    made.denied.extend(gone.map(|(key, held)| Write::SetStranger(*key, Verdict { allow: 0, ..*held })));
    let leaving: BTreeSet<u64> = have
        .dests
        .iter()
        .filter(|(addr, dest)| want.dests.get(*addr).is_some_and(|next| next != *dest))
        .map(|(_, dest)| dest.group)
        .collect();
    for (key, verdict) in want.strangers.iter().filter(|(key, verdict)| have.strangers.get(*key) != Some(*verdict)) {
        let phase = match (verdict.allow == 1, leaving.contains(&u64::from_be_bytes(key.stranger.group))) {
            (false, _) => &mut made.denied,
            (true, false) => &mut made.early,
            (true, true) => &mut made.late,
        };
        phase.push(Write::SetStranger(*key, *verdict));
    }
    made
}
