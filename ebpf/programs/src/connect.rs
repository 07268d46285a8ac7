//! Decides a connect: where it goes, whether it may, and what the socket remembers of it.

use aya_ebpf::{
    helpers::generated::{bpf_get_netns_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use millrace_abi::{
    Action, Dest, LOOPBACK_V6, OUTBOUND_PORT, Original, OriginalMode, Pod, PodKind, Port, Reason, ServiceKey, Verdict,
    VerdictKey, action, config, decide, spread,
};

use crate::{
    endpoint::{self, Endpoint, Family},
    flow::{self, Flow},
    host,
    maps::{DESTS, ENDS, ORIGINAL, PODS, VERDICTS},
    pending,
    service::{self, Pick, Picked},
    storage::{self, Socket},
};

/// Lets the call go on.
pub const ALLOW: i32 = 1;
/// Fails the call with the errno that was set.
const REFUSE: i32 = 0;

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_MPTCP: u32 = 262;

/// The life of a connect.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    if !is_tcp(ctx) {
        return ALLOW;
    }
    let socket = Socket::of_call(ctx);
    if socket.is_exempt() {
        flow::count(Reason::Exempt);
        return ALLOW;
    }
    let asked = endpoint::read(ctx.sock_addr, family);
    // SAFETY: the helper takes this program's context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    // SAFETY: the entry is read at once and not kept; user space replaces entries whole.
    let pod = unsafe { PODS.get(netns) };
    let is_host = matches!(pod, Some(pod) if pod.kind == PodKind::Host as u32);
    let is_mesh_address = (pod.is_none() || is_host) && is_mesh_address(&asked, IPPROTO_TCP);
    let (pod, key) = match pod {
        Some(host) if is_host && is_mesh_address => {
            let (pod, key) = host::caller(host, netns);
            (Some(pod), key)
        }
        pod => (pod, netns),
    };
    let mut went = match decide::caller(pod.map(|pod| pod.kind), is_mesh_address) {
        Some(reason) => Outcome::of(reason, &asked),
        None => match pod {
            // A socket that connects again must not keep what it once asked for.
            Some(pod) => {
                socket.remove(&ORIGINAL);
                socket.remove(&ENDS);
                decided(pod, key, &asked)
            }
            None => Outcome::of(Reason::UnknownNamespace, &asked),
        },
    };
    went.reason = carried_out(ctx, family, &asked, &went);
    if let Some(pod) = pod
        && is_host
        && is_mesh_address
    {
        host::note(socket, pod, key, &went.target);
    }
    if went.reason == Reason::Untouched {
        flow::count(went.reason); // No record: what leaves the mesh is not the mesh's to tell.
        return ALLOW;
    }
    let source = pod.map_or(0, |pod| pod.id);
    let target = went.target;
    flow::record(went.reason, &Flow { netns, source, policy: went.policy, asked: &asked, target: &target });
    if flow::is_on(config::DEBUG) {
        debug!(ctx, "connect from {} to {:i}: reason {}", source, asked.addr, went.reason as u32);
    }
    match action(went.reason) {
        Action::Pass => ALLOW,
        Action::Refuse(errno) => refuse(errno),
        Action::Drop => refuse(millrace_abi::reason::EPERM),
    }
}

/// What was decided of a connect.
struct Outcome {
    reason: Reason,
    /// The backend, or what was asked for.
    target: Endpoint,
    policy: u64,
    /// Whether the client was given the target for longer than this connection.
    binds: bool,
}

impl Outcome {
    /// Of what was asked for, and no other.
    #[inline(always)]
    fn of(reason: Reason, asked: &Endpoint) -> Self {
        Self { reason, target: *asked, policy: 0, binds: false }
    }
}

/// What becomes of a mesh pod's connect.
#[inline(always)]
fn decided(pod: &Pod, key: u64, asked: &Endpoint) -> Outcome {
    if decide::is_loopback(&asked.addr) {
        return Outcome::of(Reason::Untouched, asked);
    }
    // One key and one question of the quota for both ways: a second of either is more than the stack has.
    let service = service_key(asked, IPPROTO_TCP);
    let is_routed = service::is_routed(pod, &service);
    let picked = if is_routed { Pick::NoService } else { service::pick_open(key, &service) };
    let (target, is_service, binds) = match picked {
        Pick::NoService => (*asked, false, false),
        Pick::Backend(Picked { backend, binds }) => (backend, true, binds),
        Pick::Refused(reason) => return Outcome::of(reason, asked),
    };
    let (reason, policy) = if is_routed {
        (Reason::Proxied, 0)
    } else {
        // SAFETY: copied at once.
        let dest = unsafe { DESTS.get(target.addr) };
        let verdict = dest.and_then(|dest| verdict(pod.id, dest, target.port));
        let reason = decide::connect(pod, dest, is_service, target.port, verdict);
        (reason, verdict.map_or(0, |verdict| verdict.policy))
    };
    Outcome { reason: decide::within_quota(reason, pending::of(key)), target, policy, binds }
}

/// Writes to socket and call what was decided, and returns the reason, or why it could not be.
#[inline(always)]
fn carried_out(ctx: &SockAddrContext, family: Family, asked: &Endpoint, went: &Outcome) -> Reason {
    let is_service = went.target.addr != asked.addr || went.target.port != asked.port;
    let (mode, to) = match went.reason {
        Reason::Proxied if !storage::unbind(ctx) => return Reason::BoundToDevice,
        Reason::Proxied => (OriginalMode::Proxied, outbound_listener(&went.target)),
        Reason::Direct | Reason::PlainBackend | Reason::Own | Reason::HostRemote if is_service => {
            (OriginalMode::Direct, went.target)
        }
        _ => return went.reason,
    };
    let mut original = Original {
        addr: asked.addr,
        backend: went.target.addr,
        port: asked.port,
        backend_port: went.target.port,
        mode: mode as u8,
        binds: went.binds.into(),
        reserved: [0; 2],
    };
    if !Socket::of_call(ctx).set(&ORIGINAL, &mut original) {
        return Reason::StorageFull;
    }
    // A backend of a family that the socket cannot speak is none.
    if endpoint::write(ctx.sock_addr, family, &to) { went.reason } else { Reason::NoBackend }
}

/// Where the in-pod listener takes a connection that is captured.
#[inline(always)]
fn outbound_listener(target: &Endpoint) -> Endpoint {
    let addr = spread::outbound(&target.addr, target.port, service::draw()).unwrap_or(LOOPBACK_V6);
    Endpoint { addr, port: OUTBOUND_PORT }
}

#[inline(always)]
pub fn service_key(asked: &Endpoint, protocol: u8) -> ServiceKey {
    ServiceKey { addr: asked.addr, port: asked.port, protocol, reserved: 0 }
}

/// What is written of this caller and callee; None where nothing is, and where nobody asks.
#[inline(always)]
pub fn verdict(source: u64, dest: &Dest, port: Port) -> Option<&'static Verdict> {
    verdict_by(source, dest, port, [0; 6])
}

/// The same, of a protocol.
#[inline(always)]
pub fn verdict_by(source: u64, dest: &Dest, port: Port, reserved: [u8; 6]) -> Option<&'static Verdict> {
    if dest.group == 0 {
        return None;
    }
    let exact = VerdictKey { source, group: dest.group, port, reserved };
    // SAFETY: read at once, by the caller's caller.
    if let Some(verdict) = unsafe { VERDICTS.get(exact) } {
        return Some(verdict);
    }
    // SAFETY: as above.
    unsafe { VERDICTS.get(VerdictKey { port: [0; 2], ..exact }) }
}

/// True for a service's address or a mesh workload's.
#[inline(always)]
pub fn is_mesh_address(asked: &Endpoint, protocol: u8) -> bool {
    DESTS.get_ptr(asked.addr).is_some() || service::is_service(&service_key(asked, protocol))
}

#[inline(always)]
fn is_tcp(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    kind == SOCK_STREAM && (protocol == IPPROTO_TCP.into() || protocol == IPPROTO_MPTCP)
}

#[inline(always)]
pub fn refuse(errno: i32) -> i32 {
    // SAFETY: takes a number.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}
