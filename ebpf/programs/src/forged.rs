//! Holds connections that somebody else began: those that were established in the name of a connect that is under way, but by
//! another SYN than its own. Such a socket cannot be refused any more, so it is made deaf and dumb:
//!
//! - FORGED's programs drop what it receives, the data of the very segment that established it included, and what is written;
//! - bound to loopback, it is no longer found for packets from anywhere else, which makes room for the true connection;
//! - a keepalive that nobody can answer ends it within seconds.

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::generated::{bpf_setsockopt, bpf_skc_to_tcp_sock},
};
use core::ptr;

use crate::{
    maps::FORGED,
    storage::{LOOPBACK_IFINDEX, Socket},
};

/// SK_DROP, of the programs that stand at FORGED.
pub const DROP: u32 = 0;

const SOL_SOCKET: i32 = 1;
const SO_KEEPALIVE: i32 = 9;
const SO_RCVLOWAT: i32 = 18;
const SO_BINDTOIFINDEX: i32 = 62;
const IPPROTO_TCP: i32 = 6;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;

/// Where `write_seq` stands in the kernel's `struct tcp_sock`: as this kernel's BTF says, set as the object is loaded. 0: it is
/// not known, and no connection is compared.
#[unsafe(no_mangle)]
static WRITE_SEQ: u32 = 0;

/// What the other end of a connection will expect first, before the SYN is sent: no field of the context has it by then. 0 where
/// it can't be read.
#[inline(always)]
pub fn next_sequence(socket: Socket) -> u32 {
    // SAFETY: a static of this object, which nobody writes while programs run.
    let offset = unsafe { ptr::read_volatile(&raw const WRITE_SEQ) };
    if offset == 0 {
        return 0;
    }
    // SAFETY: the helper takes a socket, and gives null for one that is not TCP's.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.as_ptr()) };
    if tcp.is_null() {
        return 0;
    }
    // SAFETY: the verifier has the kernel's own types, and takes this offset only where it is a field of four bytes.
    unsafe { tcp.cast::<u8>().add(offset as usize).cast::<u32>().read_volatile() }.wrapping_add(1)
}

/// Makes a connection that was just established good for nothing. Each step is taken whatever became of the others.
#[inline(always)]
pub fn hold(ops: *mut bpf_sock_ops, cookie: u64) {
    // SAFETY: the context is valid while the program runs, and the helper alone uses it.
    let _: Result<(), i32> = FORGED.update(cookie, unsafe { &mut *ops }, 0);
    // A listener's low-water mark would have the kernel wait with what FORGED's program shall drop.
    set(ops, SOL_SOCKET, SO_RCVLOWAT, 1);
    set(ops, SOL_SOCKET, SO_BINDTOIFINDEX, LOOPBACK_IFINDEX as i32);
    set(ops, IPPROTO_TCP, TCP_KEEPIDLE, 1);
    set(ops, IPPROTO_TCP, TCP_KEEPINTVL, 1);
    set(ops, IPPROTO_TCP, TCP_KEEPCNT, 1);
    set(ops, SOL_SOCKET, SO_KEEPALIVE, 1);
}

#[inline(always)]
fn set(ops: *mut bpf_sock_ops, level: i32, option: i32, mut value: i32) {
    let length = size_of::<i32>() as i32;
    // SAFETY: the helper takes this program's context, and reads `length` bytes of the value.
    let _: i64 = unsafe { bpf_setsockopt(ops.cast(), level, option, ptr::from_mut(&mut value).cast(), length) };
}
