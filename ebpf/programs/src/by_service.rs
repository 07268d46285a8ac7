//! Lists the UDP sockets of a namespace that were connected by a service, and whose: an iterator, which runs when the agent reads
//! it and at no other time. What a socket carries is shown by no other means, as sock_diag(7) lists no storage of UDP sockets.

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_seq_write};
use core::{ffi::c_void, ptr};
use millrace_abi::{OriginalMode, udp::ByService};

use crate::{maps::ORIGINAL, storage::Socket};

/// Go on with the next socket.
const NEXT: i32 = 0;

/// `struct bpf_iter__udp`, as far as it is read: each of its pointers takes eight bytes.
#[repr(C)]
pub struct Each {
    meta: *const Meta,
    /// Null once all were shown.
    socket: *mut c_void,
}

/// `struct bpf_iter_meta`, as far as it is read.
#[repr(C)]
struct Meta {
    to: *mut c_void,
}

/// Shows one socket. The kernel holds its lock meanwhile, so that none is seen in the midst of a connect.
#[inline(always)]
pub fn show(each: *const Each) -> i32 {
    // SAFETY: the context of such a program, whose fields the verifier knows.
    let (meta, socket) = unsafe { ((*each).meta, (*each).socket) };
    let Some(socket) = Socket::of_pointer(socket) else { return NEXT };
    let Some(original) = socket.get(&ORIGINAL) else { return NEXT };
    if original.mode != OriginalMode::Direct as u8 {
        return NEXT;
    }
    // SAFETY: the helper takes a socket.
    let cookie = unsafe { bpf_get_socket_cookie(socket.as_ptr()) };
    let shown = ByService { cookie, original: *original };
    // SAFETY: as for `each`.
    let to = unsafe { (*meta).to };
    // Where there is no room left the kernel hands out what it has, and shows this socket again. SAFETY: reads as much as there is.
    let _: i64 = unsafe { bpf_seq_write(to.cast(), ptr::from_ref(&shown).cast(), size_of::<ByService>() as u32) };
    NEXT
}
