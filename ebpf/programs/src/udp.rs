//! Decides what becomes of datagrams as they are sent, and shows applications whom they asked as they receive. The kernel
//! runs these with the socket locked: what is kept on a socket is changed by one at a time.

use aya_ebpf::{helpers::generated::bpf_get_netns_cookie, programs::SockAddrContext};
use core::ptr::{addr_of, read_volatile, write_volatile};
use millrace_abi::{
    Action, Addr, Original, OriginalMode, Pod, PodKind, Reason, ServiceValue, action, config, decide,
    reason::EPERM,
    udp::{Noted, Peer, Peers},
};

use crate::{
    asks::{self, Case},
    connect::{self, ALLOW},
    endpoint::{self, Endpoint, Family},
    flow,
    maps::{ORIGINAL, PEERS, PODS},
    service::{self, Pick},
    storage::{Make, Socket},
    told::{self, Told},
};

const SOCK_DGRAM: u32 = 2;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_UDPLITE: u32 = 136;
const TCP_ESTABLISHED: u32 = 1;

/// How often a backend is drawn that another service of this socket leads to already, before it is taken all the same.
const DRAWS: u32 = 3;

/// What every receive returns.
const SHOWN: i32 = 1;

/// Who sends, where programs have a say.
enum Sender {
    Pod(&'static Pod),
    /// Left alone.
    Free,
    Refused(Reason),
}

/// What was decided of a call.
struct Went {
    reason: Reason,
    /// The backend, or what was asked for.
    target: Endpoint,
    policy: u64,
    telling: Telling,
}

/// Whether a decision is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    Told,
    /// It was when its backend was picked.
    Known,
}

impl Went {
    /// To be filled in: by reference, as the stack has 512 bytes.
    const fn nowhere(asked: &Endpoint) -> Self {
        Self { reason: Reason::Untouched, target: *asked, policy: 0, telling: Telling::Told }
    }
}

/// The life of a connect of a datagram socket: nothing is sent, but what is sent later is judged now.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    if !is_udp(ctx) {
        return ALLOW;
    }
    let asked = endpoint::read(ctx.sock_addr, family);
    let netns = netns(ctx);
    let mut went = Went::nowhere(&asked);
    let mut source = 0;
    match sender(netns, &asked) {
        Sender::Free => return ALLOW,
        Sender::Refused(reason) => went.reason = reason,
        Sender::Pod(pod) => {
            source = pod.id;
            connected(ctx, family, (pod, netns), &asked, &mut went);
        }
    }
    end(netns, source, &asked, &went)
}

#[inline(always)]
fn connected(ctx: &SockAddrContext, family: Family, (pod, netns): (&Pod, u64), asked: &Endpoint, went: &mut Went) {
    let socket = Socket::of_call(ctx);
    // A socket that connects again must not keep what it once asked for.
    socket.remove(&ORIGINAL);
    let mut is_service = false;
    match pick(netns, asked, &mut went.target) {
        Picked::NoService => {}
        Picked::Backend => is_service = true,
        Picked::Refused(reason) => {
            went.reason = reason;
            return;
        }
    }
    let own = Endpoint { addr: bound(ctx, family, pod, &went.target), port: own_port(ctx) };
    judged(pod, &own, is_service, went);
    if is_service && matches!(action(went.reason), Action::Pass) {
        let mut original = Original {
            addr: asked.addr,
            backend: went.target.addr,
            port: asked.port,
            backend_port: went.target.port,
            mode: OriginalMode::Direct as u8,
            binds: 0,
            reserved: [0; 2],
        };
        if !socket.set(&ORIGINAL, &mut original) {
            went.reason = Reason::StorageFull;
        } else if !endpoint::write(ctx.sock_addr, family, &went.target) {
            went.reason = Reason::NoBackend;
        }
    }
}

/// The life of a datagram that says where it goes.
#[inline(always)]
pub fn send(ctx: &SockAddrContext, family: Family) -> i32 {
    if !is_udp(ctx) {
        return ALLOW;
    }
    let asked = endpoint::read(ctx.sock_addr, family);
    let netns = netns(ctx);
    let mut went = Went::nowhere(&asked);
    let mut source = 0;
    match sender(netns, &asked) {
        Sender::Free => return ALLOW,
        Sender::Refused(reason) => went.reason = reason,
        Sender::Pod(pod) => {
            source = pod.id;
            sent(ctx, family, (pod, netns), &asked, &mut went);
        }
    }
    end(netns, source, &asked, &went)
}

#[inline(always)]
fn sent(ctx: &SockAddrContext, family: Family, (pod, netns): (&Pod, u64), asked: &Endpoint, went: &mut Went) {
    let socket = Socket::of_call(ctx);
    let how = match chosen(socket, netns, asked, &mut went.target) {
        Chosen::To(how) => how,
        Chosen::Refused(reason) => {
            went.reason = reason;
            return;
        }
    };
    let own = Endpoint { addr: source(ctx, family, pod), port: own_port(ctx) };
    judged(pod, &own, how != How::Straight, went);
    if !matches!(action(went.reason), Action::Pass) {
        return;
    }
    // Where a service of this socket leads to what is asked straight, its answers are to show that.
    let is_noted = how == How::New || how == How::Straight && is_taken(socket, asked);
    if is_noted && !noted(socket, asked, &went.target) {
        went.reason = Reason::StorageFull;
    } else if how != How::Straight && !endpoint::write(ctx.sock_addr, family, &went.target) {
        went.reason = Reason::NoBackend;
    } else if how == How::Known {
        went.telling = Telling::Known;
    }
}

/// Shows the service's address where a backend answered.
#[inline(always)]
pub fn receive(ctx: &SockAddrContext, family: Family) -> i32 {
    let socket = Socket::of_call(ctx);
    let from = endpoint::read(ctx.sock_addr, family);
    // What a socket was connected to speaks for it only while it is.
    if let Some(original) = socket.get(&ORIGINAL)
        && original.backend_port == from.port
        && original.backend == from.addr
        && is_connected(ctx)
    {
        endpoint::write(ctx.sock_addr, family, &Endpoint { addr: original.addr, port: original.port });
        return SHOWN;
    }
    if let Some(peers) = socket.get(&PEERS)
        && let Some((addr, port)) = peers.shown(&from.addr, from.port)
    {
        endpoint::write(ctx.sock_addr, family, &Endpoint { addr, port });
    }
    SHOWN
}

#[inline(always)]
fn sender(netns: u64, asked: &Endpoint) -> Sender {
    if decide::is_loopback(&asked.addr) {
        return Sender::Free;
    }
    // SAFETY: read at once; user space replaces entries whole.
    match unsafe { PODS.get(netns) } {
        Some(pod) if pod.kind == PodKind::Mesh as u32 => Sender::Pod(pod),
        pod => match decide::caller(pod.map(|pod| pod.kind), connect::is_mesh_address(asked, IPPROTO_UDP)) {
            Some(Reason::Untouched) | None => Sender::Free,
            Some(reason) => Sender::Refused(reason),
        },
    }
}

/// Writes why `own` may send to the target, or not, and the policy that says so.
#[inline(always)]
fn judged(pod: &Pod, own: &Endpoint, is_service: bool, went: &mut Went) {
    let number = judged_apart(pod.id, own, is_service.into(), went);
    // SAFETY: the number is a reason's, as `judged_apart` makes it of one.
    went.reason = unsafe { core::mem::transmute::<u32, Reason>(number) };
}

/// A function of its own, for the stack, as [`millrace_pick`] is.
#[inline(never)]
fn judged_apart(pod: u64, own: &Endpoint, is_service: u32, went: &mut Went) -> u32 {
    let mut case = Case { pod, policy: 0, own: *own, target: went.target, is_service };
    let reason = asks::judge(&mut case);
    went.policy = case.policy;
    reason as u32
}

/// Tells what was decided, and does it.
#[inline(always)]
fn end(netns: u64, pod: u64, asked: &Endpoint, went: &Went) -> i32 {
    let reason = went.reason;
    if reason == Reason::Untouched {
        return ALLOW; // Not even counted: what leaves the mesh pays for none of it.
    }
    flow::count(reason);
    if went.telling == Telling::Told && flow::is_on(config::FLOWS) {
        let _: u32 = told_apart(netns, pod, asked, went);
    }
    match action(reason) {
        Action::Pass => ALLOW,
        Action::Refuse(errno) => connect::refuse(errno),
        Action::Drop => connect::refuse(EPERM),
    }
}

/// A function of its own, for the stack, as [`millrace_pick`] is.
#[inline(never)]
fn told_apart(netns: u64, pod: u64, asked: &Endpoint, went: &Went) -> u32 {
    let Went { target, policy, reason, .. } = *went;
    told::tell(&Told { pod, netns, source: pod, policy, asked: *asked, target, reason: reason as u32 })
}

/// How it was found who a datagram goes to.
enum Chosen {
    To(How),
    Refused(Reason),
}

/// Who that is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// No service was asked for.
    Straight,
    /// Whom this socket sent to before.
    Known,
    /// Somebody new.
    New,
}

#[inline(always)]
fn chosen(socket: Socket, netns: u64, asked: &Endpoint, target: &mut Endpoint) -> Chosen {
    let key = connect::service_key(asked, IPPROTO_UDP);
    let Some(service) = service::service(&key) else { return Chosen::To(How::Straight) };
    if let Some(peers) = socket.get_mut(&PEERS, Make::Never) {
        let at = peers.tick();
        let place = peers.find(&asked.addr, asked.port);
        if let Some(peer) = entry(peers, place)
            && lives(service, peer)
        {
            peer.at = at;
            *target = Endpoint { addr: peer.backend, port: peer.backend_port };
            return Chosen::To(How::Known);
        }
    }
    let mut draws = 1;
    loop {
        match pick(netns, asked, target) {
            Picked::NoService => return Chosen::To(How::Straight),
            Picked::Refused(reason) => return Chosen::Refused(reason),
            Picked::Backend => {}
        }
        if draws >= DRAWS || !is_taken(socket, target) {
            return Chosen::To(How::New);
        }
        draws += 1;
    }
}

/// What became of a pick: a backend is written where it was asked for.
enum Picked {
    NoService,
    Backend,
    Refused(Reason),
}

/// Whether a pick found a backend, as a number that is no reason's.
const BACKEND: u32 = u32::MAX;
const NO_SERVICE: u32 = u32::MAX - 1;

/// Picks a backend for a socket that has none.
#[inline(always)]
fn pick(netns: u64, asked: &Endpoint, target: &mut Endpoint) -> Picked {
    match millrace_pick(netns, asked, target) {
        BACKEND => Picked::Backend,
        NO_SERVICE => Picked::NoService,
        // SAFETY: every other number is a reason's, as `millrace_pick` makes it of one.
        number => Picked::Refused(unsafe { core::mem::transmute::<u32, Reason>(number) }),
    }
}

/// A function of its own, so that its part of the stack's 512 bytes is free again for what comes next; and with a symbol, so that
/// the verifier goes through it once, not once for each way there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn millrace_pick(netns: u64, asked: *const Endpoint, target: *mut Endpoint) -> u32 {
    // SAFETY: null, or what `pick` was given.
    let Some(asked) = (unsafe { asked.as_ref() }) else { return NO_SERVICE };
    // SAFETY: as above; nobody else has it meanwhile.
    let Some(target) = (unsafe { target.as_mut() }) else { return NO_SERVICE };
    match service::pick(netns, &connect::service_key(asked, IPPROTO_UDP)) {
        Pick::NoService => NO_SERVICE,
        Pick::Refused(reason) => reason as u32,
        Pick::Backend(picked) => {
            *target = picked.backend;
            BACKEND
        }
    }
}

/// True where another address leads to this backend already, by this socket.
#[inline(always)]
fn is_taken(socket: Socket, backend: &Endpoint) -> bool {
    socket.get(&PEERS).is_some_and(|peers| peers.is_taken(&backend.addr, backend.port))
}

/// The entry at this place, if that is one. The place goes through memory, of which the verifier knows nothing: it would
/// otherwise go through the rest of the program once for each place.
#[inline(always)]
fn entry(peers: &mut Peers, place: usize) -> Option<&mut Peer> {
    // SAFETY: a field of a value that is borrowed here alone.
    unsafe { write_volatile(&raw mut peers.place, place as u32) };
    // SAFETY: as above.
    let place = unsafe { read_volatile(&raw const peers.place) } as usize;
    peers.all.get_mut(place)
}

/// True where the backend is one of the service's still. Its slot is known, most often.
#[inline(always)]
fn lives(service: ServiceValue, peer: &mut Peer) -> bool {
    let backend = Endpoint { addr: peer.backend, port: peer.backend_port };
    let Some(slot) = service::holding(&service, peer.slot, &backend) else { return false };
    peer.slot = slot;
    true
}

/// Remembers whom a service's datagrams of this socket go to; false where there is no room.
#[inline(always)]
fn noted(socket: Socket, asked: &Endpoint, target: &Endpoint) -> bool {
    let Some(peers) = socket.get_mut(&PEERS, Make::Zeroed) else { return false };
    let at = peers.tick();
    let (place, noted) = peers.room(&asked.addr, asked.port);
    if noted == Noted::Forgot {
        flow::count(Reason::UdpForgotten);
    }
    let Some(peer) = entry(peers, place) else { return false };
    peer.asked = asked.addr;
    peer.backend = target.addr;
    peer.at = at;
    peer.asked_port = asked.port;
    peer.backend_port = target.port;
    peer.slot = u32::MAX; // Looked for with the next datagram.
    true
}

/// True for a socket of datagrams. All that a connect of TCP pays for datagrams is this look and a call.
#[inline(always)]
pub fn is_datagram(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.sock_addr).type_ == SOCK_DGRAM }
}

/// True for a socket of datagrams by UDP, or UDP-Lite, which the same hooks run for.
#[inline(always)]
fn is_udp(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    kind == SOCK_DGRAM && (protocol == IPPROTO_UDP.into() || protocol == IPPROTO_UDPLITE)
}

#[inline(always)]
fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes this program's context.
    unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

/// The port that the socket sends from; zero where it has none yet.
#[inline(always)]
fn own_port(ctx: &SockAddrContext) -> [u8; 2] {
    // SAFETY: as in `is_udp`; the verifier knows the socket's fields. This one is in host order.
    let port = unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).src_port };
    (port as u16).to_be_bytes()
}

#[inline(always)]
fn is_connected(ctx: &SockAddrContext) -> bool {
    // SAFETY: as in `own_port`.
    unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).state == TCP_ESTABLISHED }
}

/// The address that a datagram is sent from, as far as the call says; else the pod's.
#[inline(always)]
fn source(ctx: &SockAddrContext, family: Family, pod: &Pod) -> Addr {
    // SAFETY: the context is valid while the program runs, and these fields are there as a datagram is sent.
    let said = unsafe {
        match family {
            Family::V4 => endpoint::mapped((*ctx.sock_addr).msg_src_ip4),
            Family::V6 => endpoint::from_words(endpoint::words(addr_of!((*ctx.sock_addr).msg_src_ip6))),
        }
    };
    or_of_pod(said, family, pod)
}

/// The address that a socket is bound to, where that is told; else the pod's of the target's family.
#[inline(always)]
fn bound(ctx: &SockAddrContext, family: Family, pod: &Pod, target: &Endpoint) -> Addr {
    if decide::is_v4(&target.addr) && family == Family::V6 {
        return pod.v4;
    }
    // SAFETY: as in `own_port`.
    let said = unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        match family {
            Family::V4 => endpoint::mapped((*socket).src_ip4),
            Family::V6 => endpoint::from_words(endpoint::words(addr_of!((*socket).src_ip6))),
        }
    };
    or_of_pod(said, family, pod)
}

#[inline(always)]
fn or_of_pod(said: Addr, family: Family, pod: &Pod) -> Addr {
    match family {
        Family::V4 if said == endpoint::mapped(0) => pod.v4,
        Family::V6 if said == [0; 16] => pod.v6,
        _ => said,
    }
}
