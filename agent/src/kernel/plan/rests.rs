//! Says what a write means to others: which later ones rest on it when it fails, what is then written in its place so
//! that nothing is let through, and whether live connections must be judged again after it.

use millrace_abi::{
    Verdict, VerdictKey,
    udp::{STRANGER_FIXED_BITS, Stranger, StrangerKey},
};

use crate::kernel::state::{State, Write};

/// What one write gives, and later ones rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ground {
    /// Every slot of this table.
    Table(u32),
    /// That nobody draws from this table any more.
    Left(u32),
    /// Every verdict on this caller and group.
    Verdicts {
        /// The caller's id.
        source: u64,
        /// The group's id.
        group: u64,
    },
    /// Every verdict on callers without identity of this group.
    Strangers([u8; 8]),
    /// Every address of the mesh: a backend that is not among them would be dialled in plain text.
    Dests,
}

/// What `write` gives, where the tables hold `have`.
pub fn gives(have: &State, write: &Write) -> Option<Ground> {
    match write {
        Write::SetSlot(key, _) => Some(Ground::Table(key.table)),
        Write::SetVerdict(VerdictKey { source, group, .. }, _) => {
            Some(Ground::Verdicts { source: *source, group: *group })
        }
        Write::SetDest(..) => Some(Ground::Dests),
        Write::SetStranger(key, _) => Some(Ground::Strangers(key.stranger.group)),
        Write::RemoveService(key) => have.services.get(key).map(|service| Ground::Left(service.table)),
        Write::SetPod(..)
        | Write::RemovePod(_)
        | Write::RemoveDest(_)
        | Write::SetService(..)
        | Write::RemoveSlot(_)
        | Write::RemoveVerdict(_)
        | Write::SetProbe(_)
        | Write::RemoveProbe(_)
        | Write::RemoveStranger(_)
        | Write::RemoveListener(_) => None,
    }
}

/// What `write` rests on: without any of these it is left out.
pub fn rests_on(write: &Write) -> [Option<Ground>; 2] {
    match write {
        Write::SetService(_, value) => [Some(Ground::Table(value.table)), Some(Ground::Dests)],
        Write::SetVerdict(VerdictKey { source, group, .. }, verdict) if verdict.allow == 1 => {
            [Some(Ground::Verdicts { source: *source, group: *group }), None]
        }
        Write::SetStranger(key, verdict) if verdict.allow == 1 => [Some(Ground::Strangers(key.stranger.group)), None],
        Write::RemoveSlot(key) => [Some(Ground::Left(key.table)), None],
        Write::SetVerdict(..)
        | Write::SetSlot(..)
        | Write::SetDest(..)
        | Write::SetPod(..)
        | Write::RemovePod(_)
        | Write::RemoveDest(_)
        | Write::RemoveService(_)
        | Write::RemoveVerdict(_)
        | Write::SetProbe(_)
        | Write::RemoveProbe(_)
        | Write::SetStranger(..)
        | Write::RemoveStranger(_)
        | Write::RemoveListener(_) => [None, None],
    }
}

/// True where `write` could forbid what was allowed, so that connections made before it are to be judged again.
pub fn judges(write: &Write) -> bool {
    match write {
        Write::SetVerdict(_, verdict) | Write::SetStranger(_, verdict) => verdict.allow != 1,
        Write::RemoveVerdict(_) | Write::RemoveStranger(_) | Write::SetDest(..) => true,
        Write::SetPod(..)
        | Write::RemovePod(_)
        | Write::RemoveDest(_)
        | Write::SetService(..)
        | Write::RemoveService(_)
        | Write::SetSlot(..)
        | Write::RemoveSlot(_)
        | Write::SetProbe(_)
        | Write::RemoveProbe(_)
        | Write::RemoveListener(_) => false,
    }
}

/// What is written where `write` failed: a denial of one port that has no room becomes a denial of every port.
pub fn instead(write: &Write) -> Option<Write> {
    match write {
        Write::SetVerdict(key, verdict @ Verdict { allow, .. }) if *allow != 1 && key.port != [0; 2] => {
            Some(Write::SetVerdict(VerdictKey { port: [0; 2], ..*key }, *verdict))
        }
        // One block that has no room becomes every address.
        Write::SetStranger(key, verdict) if verdict.allow != 1 && key.prefix_len != STRANGER_FIXED_BITS => {
            let stranger = Stranger { addr: [0; 16], ..key.stranger };
            Some(Write::SetStranger(StrangerKey { prefix_len: STRANGER_FIXED_BITS, stranger }, *verdict))
        }
        Write::SetVerdict(..)
        | Write::SetSlot(..)
        | Write::SetDest(..)
        | Write::SetPod(..)
        | Write::RemovePod(_)
        | Write::RemoveDest(_)
        | Write::SetService(..)
        | Write::RemoveService(_)
        | Write::RemoveSlot(_)
        | Write::RemoveVerdict(_)
        | Write::SetProbe(_)
        | Write::RemoveProbe(_)
        | Write::SetStranger(..)
        | Write::RemoveStranger(_)
        | Write::RemoveListener(_) => None,
    }
}
