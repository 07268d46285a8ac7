//! Keeps HANDOFFS, and counts each pod's records in it, so that no pod can fill it for the others.
//!
//! A count is exact, whatever runs beside it, by two rules. A record is counted before it is written, and the count is read
//! after that: of connects that race for the last place, whoever's addition comes last in the count's own order reads all of
//! them, finds the count past the quota, takes its own off again and writes nothing. So records never outnumber the quota, and
//! all that a race can cost is a place that two give back to one another. A record is taken off the count by whoever the
//! kernel lets remove it: an entry's removal succeeds once, under its bucket's lock, and `accepted` and `closed` race for it.
//! The pod that is counted down is read of the record before it is removed; another record may stand under its key by then, but
//! a key is one pod's own: it holds an address registered to one pod, or its namespace's cookie, and connects of one namespace
//! to one 4-tuple exclude each other.

use aya_ebpf::bindings::BPF_NOEXIST;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use millrace_abi::{Handoff, Pending, Reason, Tuple, capacity};

use crate::maps::{HANDOFFS, PENDING};

/// How many records this namespace has; None where it never had one.
#[inline(always)]
pub fn of(netns: u64) -> Option<&'static Pending> {
    // SAFETY: read at once; nobody replaces the entry, and the agent removes it only with the pod.
    unsafe { PENDING.get(netns) }
}

/// Counts and writes a record; why not, where there is no room.
#[inline(always)]
pub fn write(key: &Tuple, record: &Handoff) -> Result<(), Reason> {
    if !counted_up(record.netns) {
        return Err(Reason::TooManyPending);
    }
    if HANDOFFS.insert(key, record, BPF_NOEXIST.into()).is_ok() {
        return Ok(());
    }
    // What may be there is of a connect that is over: were it replaced in place, it would be counted for ever.
    remove(key, record.netns);
    if HANDOFFS.insert(key, record, BPF_NOEXIST.into()).is_ok() {
        return Ok(());
    }
    add(record.netns, -1);
    Err(Reason::HandoffFull)
}

/// Removes a record, and takes it off the count of the namespace that it says, unless somebody else did.
#[inline(always)]
pub fn remove(key: &Tuple, netns: u64) {
    if HANDOFFS.remove(key).is_ok() {
        add(netns, -1);
    }
}

/// False where the namespace has its quota; nothing is counted then.
#[inline(always)]
fn counted_up(netns: u64) -> bool {
    if netns == 0 {
        return true;
    }
    let pending = PENDING.get_ptr_mut(netns).or_else(|| {
        // Another may have been quicker, which is as good; or there is no room, and the next look says so.
        let _: Result<(), i32> = PENDING.insert(netns, Pending { records: 0 }, BPF_NOEXIST.into());
        PENDING.get_ptr_mut(netns)
    });
    let Some(pending) = pending else { return false };
    change(pending, 1);
    // SAFETY: values of hash maps are aligned to 8, and live until the program is over.
    let is_counted = unsafe { pending.cast::<i64>().read_volatile() } <= i64::from(capacity::PENDING_PER_POD);
    if !is_counted {
        change(pending, -1);
    }
    is_counted
}

/// Adds to the count of a namespace, if it has one.
#[inline(always)]
fn add(netns: u64, by: i64) {
    if netns == 0 {
        return;
    }
    if let Some(pending) = PENDING.get_ptr_mut(netns) {
        change(pending, by);
    }
}

#[inline(always)]
fn change(pending: *mut Pending, by: i64) {
    // The kernel's atomic addition, which `core::sync::atomic` hides for a target without compare-and-swap in its description.
    // What it was is not asked for: the kernel has had that since 5.12, and the linker's default processor is older.
    // SAFETY: as in `counted_up`.
    let _: i64 = unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(pending.cast::<i64>(), by) };
}
