//! Writes flow records of datagrams: each decision once in a while, and no more of a pod in a second than may be. A datagram
//! costs its sender next to nothing; its record must not cost others theirs.

use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_ktime_get_ns};
use millrace_abi::{
    Reason, config,
    udp::{Pace, TOLD_LIFE_NS, ToldKey, paced},
};

use crate::{
    endpoint::Endpoint,
    flow::{self, Flow},
    maps::{PACE, TOLD},
};

/// A decision on a datagram.
#[repr(C)]
pub struct Told {
    /// The workload that it is told of.
    pub pod: u64,
    pub netns: u64,
    /// The calling workload's id.
    pub source: u64,
    pub policy: u64,
    pub asked: Endpoint,
    pub target: Endpoint,
    /// A [`Reason`].
    pub reason: u32,
}

/// Counts a decision, and writes its record if it is due.
#[inline(always)]
pub fn record(reason: Reason, told: &Told) {
    flow::count(reason);
    if flow::is_on(config::FLOWS) {
        let _: u32 = tell(told);
    }
}

/// Writes a decision's record if it is due; 1 where it was.
#[inline(always)]
pub fn tell(told: &Told) -> u32 {
    // As in `asks::judge`: the verifier goes through it once.
    millrace_tell(told)
}

/// 1 where a record was due.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn millrace_tell(told: *const Told) -> u32 {
    // SAFETY: null, or what `record` was given.
    let Some(told) = (unsafe { told.as_ref() }) else { return 0 };
    // SAFETY: reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let (pod, reason) = (told.pod, told.reason);
    let key = ToldKey { pod, addr: told.asked.addr, reason, port: told.asked.port, reserved: [0; 2] };
    // SAFETY: read at once.
    if unsafe { TOLD.get(key) }.is_some_and(|at| now.saturating_sub(*at) < TOLD_LIFE_NS) {
        return 0;
    }
    // SAFETY: copied at once.
    let pace = unsafe { PACE.get(pod) }.copied().unwrap_or(Pace { second: 0, records: 0 });
    let Some(pace) = paced(pace, now) else {
        flow::count(Reason::UdpFlowPaced);
        return 0;
    };
    // Without room for either a record is told again, or one more in a second.
    let _: Result<(), i32> = PACE.insert(pod, pace, BPF_ANY.into());
    let _: Result<(), i32> = TOLD.insert(key, now, BPF_ANY.into());
    let Told { netns, source, policy, asked, target, .. } = told;
    // SAFETY: the number is a reason's: whoever fills it in writes it of one.
    let reason = unsafe { core::mem::transmute::<u32, Reason>(reason) };
    flow::write(reason, &Flow { netns: *netns, source: *source, policy: *policy, asked, target }, 1);
    1
}
