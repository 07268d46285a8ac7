//! Counts every decision, and writes flow records where they are asked for.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ktime_get_ns,
};
use millrace_abi::{FlowEvent, Reason, capacity, config};

use crate::{
    endpoint::Endpoint,
    maps::{CONFIG, FLOWS, REASONS},
};

/// True where this bit of `millrace_abi::config` is on.
#[inline(always)]
pub fn is_on(bit: u32) -> bool {
    CONFIG.get(0).is_some_and(|bits| bits & bit != 0)
}

/// Counts a decision.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: this processor's own counter.
        unsafe { *counter += 1 };
    }
}

/// What a flow record says beside its reason.
pub struct Flow<'a> {
    pub netns: u64,
    pub source: u64,
    pub policy: u64,
    pub asked: &'a Endpoint,
    pub target: &'a Endpoint,
}

/// Counts a decision and writes its record.
#[inline(always)]
pub fn record(reason: Reason, flow: &Flow<'_>) {
    count(reason);
    write(reason, flow, 0);
}

/// Writes the record of a decision that was counted.
#[inline(always)]
pub fn write(reason: Reason, flow: &Flow<'_>, is_datagram: u32) {
    if !is_on(config::FLOWS) {
        return;
    }
    let Some(mut entry) = FLOWS.reserve::<FlowEvent>(0) else {
        count(Reason::FlowDropped);
        return;
    };
    entry.write(FlowEvent {
        // SAFETY: reads a clock.
        at_ns: unsafe { bpf_ktime_get_ns() },
        netns: flow.netns,
        source: flow.source,
        policy: flow.policy,
        asked: flow.asked.addr,
        target: flow.target.addr,
        asked_port: flow.asked.port,
        target_port: flow.target.port,
        reason: reason as u32,
        is_datagram,
        reserved: 0,
    });
    entry.submit(wakes());
}

/// How a record that was reserved is handed over. The agent reads on a timer, for to be woken costs 3 us: it is as the ring
/// becomes half full, by the few records that pass that mark.
#[inline(always)]
pub fn wakes() -> u64 {
    const HALF: u64 = capacity::FLOW_BYTES as u64 / 2;
    // Several processors may pass it at once: each of a few dozen records wakes.
    const MARK: u64 = 4096;
    let waits = FLOWS.query(BPF_RB_AVAIL_DATA.into());
    if waits >= HALF && waits < HALF + MARK { BPF_RB_FORCE_WAKEUP.into() } else { BPF_RB_NO_WAKEUP.into() }
}
