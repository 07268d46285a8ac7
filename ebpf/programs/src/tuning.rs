//! Sets what a node is tuned to on its connections: congestion control and initial window. Neither the proxy nor an application
//! could choose every algorithm: the kernel keeps most for the privileged, and a program of its own may set any.
//!
//! The algorithm is set before the SYN where this end connects, as one that needs ECN has to ask for it there; the window once
//! the connection is established, as the kernel sets its own just before.

use aya_ebpf::{bindings::bpf_sock_ops, helpers::generated::bpf_setsockopt};
use core::ffi::c_void;
use millrace_abi::{PodKind, TUNNEL_PORT};

use crate::{
    maps::{CLIENT, PODS, TUNING},
    storage::Socket,
};

const SOL_TCP: i32 = 6;
const TCP_CONGESTION: i32 = 13;
const TCP_BPF_IW: i32 = 1001;

/// When a connection is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// This end connects, and has sent nothing.
    Connecting,
    /// What this end connected is established.
    Connected,
    /// This end has accepted.
    Accepted,
}

/// Whose connection it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Tunnel,
    Pod,
}

/// True where the node tunes connections at all.
#[inline(always)]
pub fn is_on() -> bool {
    TUNING.get(0).is_some_and(|tuning| tuning.is_on != 0)
}

/// Sets what the node is tuned to on this connection.
#[inline(always)]
pub fn tune(ops: *mut bpf_sock_ops, socket: Option<Socket>, netns: u64, moment: Moment) {
    let Some(tuning) = TUNING.get(0) else { return };
    if tuning.is_on == 0 {
        return;
    }
    let Some(whose) = socket.and_then(|socket| whose(ops, socket, netns, moment)) else { return };
    let algorithm = match whose {
        Whose::Tunnel => &tuning.tunnel_algorithm,
        Whose::Pod => &tuning.pod_algorithm,
    };
    if moment != Moment::Connected && algorithm[0] != 0 {
        set(ops, TCP_CONGESTION, algorithm.as_ptr().cast(), algorithm.len() as i32);
    }
    if moment != Moment::Connecting && whose == Whose::Pod && tuning.pod_initial_window != 0 {
        let window = &raw const tuning.pod_initial_window;
        set(ops, TCP_BPF_IW, window.cast(), size_of::<u32>() as i32);
    }
}

/// None for what nobody tunes: what is not a pod's of the mesh, and the proxy's dials of applications.
#[inline(always)]
fn whose(ops: *mut bpf_sock_ops, socket: Socket, netns: u64, moment: Moment) -> Option<Whose> {
    // SAFETY: read at once.
    let pod = unsafe { PODS.get(netns) }?;
    if pod.kind != PodKind::Mesh as u32 {
        return None;
    }
    if moment == Moment::Accepted {
        // SAFETY: the context is valid while the program runs. `local_port` is in host order.
        let port = unsafe { (*ops).local_port };
        let is_tunnel = port == u32::from(u16::from_be_bytes(TUNNEL_PORT));
        return Some(if is_tunnel { Whose::Tunnel } else { Whose::Pod });
    }
    if !socket.is_exempt() {
        return Some(Whose::Pod);
    }
    if socket.get(&CLIENT).is_some() { None } else { Some(Whose::Tunnel) }
}

/// What fails is left as the kernel has it: the agent asked beforehand whether the algorithm is there.
#[inline(always)]
fn set(ops: *mut bpf_sock_ops, option: i32, value: *const c_void, length: i32) {
    // SAFETY: the helper takes this program's context, and reads `length` bytes of a value of TUNING.
    let _: i64 = unsafe { bpf_setsockopt(ops.cast(), SOL_TCP, option, value.cast_mut(), length) };
}
