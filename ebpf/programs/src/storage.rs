//! Reads and writes what sockets carry. aya's methods take a `SockAddrContext` only; sockops has sockets too.
//!
//! An MPTCP connection has two sockets: the one that the application holds, which names are asked of, and the subflow,
//! which connects and is accepted. What is written to a subflow is written to the other too.

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::SkStorage,
    helpers::generated::{bpf_setsockopt, bpf_sk_storage_delete, bpf_sk_storage_get, bpf_skc_to_mptcp_sock},
    programs::SockAddrContext,
};
use core::{ffi::c_void, ptr};

use crate::maps::EXEMPT;

/// The loopback device is the first of every namespace.
pub const LOOPBACK_IFINDEX: u32 = 1;

const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;

/// 1 where this kernel has MPTCP: without it the helper's type is unknown to the verifier. Set as the object is loaded, so
/// that the verifier leaves out what is not called.
#[unsafe(no_mangle)]
static MPTCP: u32 = 0;

/// Whether a value that is missing is made.
#[derive(Clone, Copy)]
pub enum Make {
    Never,
    Zeroed,
}

/// A socket that the verifier knows to be there.
#[derive(Clone, Copy)]
pub struct Socket(*mut c_void);

impl Socket {
    /// The socket that a call is about.
    #[inline(always)]
    pub fn of_call(ctx: &SockAddrContext) -> Self {
        // SAFETY: the context is valid while the program runs, and the kernel fills `sk` for every such program.
        Self(unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk }.cast())
    }

    /// The socket behind this pointer of a context; None where the kernel gives none.
    #[inline(always)]
    pub fn of_pointer(sk: *mut c_void) -> Option<Self> {
        if sk.is_null() { None } else { Some(Self(sk)) }
    }

    /// For a helper that takes a socket.
    #[inline(always)]
    pub fn as_ptr(self) -> *mut c_void {
        self.0
    }

    /// What this storage holds for the socket. By reference: the stack has 512 bytes.
    #[inline(always)]
    pub fn get<T>(self, storage: &'static SkStorage<T>) -> Option<&'static T> {
        // SAFETY: the helper takes the map's address and a socket; a null value with no flags creates nothing.
        let found = unsafe { bpf_sk_storage_get(map(storage), self.0, ptr::null_mut(), 0) }.cast::<T>();
        // SAFETY: not null, so it is a value of T in the socket's storage, which outlives this run of the program.
        if found.is_null() { None } else { Some(unsafe { &*found }) }
    }

    /// What this storage holds for the socket, to be changed. Where the caller holds the socket's lock, nobody else has it.
    #[inline(always)]
    pub fn get_mut<T>(self, storage: &'static SkStorage<T>, make: Make) -> Option<&'static mut T> {
        let flags = match make {
            Make::Never => 0,
            Make::Zeroed => BPF_SK_STORAGE_GET_F_CREATE.into(),
        };
        // SAFETY: as in `get`; with the flag and a null value, a new entry is all zero.
        let found = unsafe { bpf_sk_storage_get(map(storage), self.0, ptr::null_mut(), flags) }.cast::<T>();
        // SAFETY: as in `get`; programs of calls run with their socket locked, so that this is the one reference.
        if found.is_null() { None } else { Some(unsafe { &mut *found }) }
    }

    /// Stores a value; false where there is no room for it.
    #[inline(always)]
    pub fn set<T: Copy>(self, storage: &'static SkStorage<T>, value: &mut T) -> bool {
        self.put(storage, value) && self.mptcp().is_none_or(|outer| outer.put(storage, value))
    }

    #[inline(always)]
    fn put<T: Copy>(self, storage: &'static SkStorage<T>, value: &mut T) -> bool {
        let first = ptr::from_mut(value).cast();
        // SAFETY: as in `get`; with the flag, `first` is the value that a new entry begins with.
        let found = unsafe { bpf_sk_storage_get(map(storage), self.0, first, BPF_SK_STORAGE_GET_F_CREATE.into()) };
        if found.is_null() {
            return false;
        }
        // SAFETY: not null, so it is a value of T; one that was there before is overwritten.
        unsafe { *found.cast::<T>() = *value };
        true
    }

    /// Removes what this storage holds for the socket, if it does.
    #[inline(always)]
    pub fn remove<T>(self, storage: &'static SkStorage<T>) {
        self.clear(storage);
        if let Some(outer) = self.mptcp() {
            outer.clear(storage);
        }
    }

    #[inline(always)]
    fn clear<T>(self, storage: &'static SkStorage<T>) {
        // SAFETY: as in `get`. The one failure is that there was nothing.
        let _: i64 = unsafe { bpf_sk_storage_delete(map(storage), self.0) };
    }

    /// The MPTCP socket that this one is a subflow of.
    #[inline(always)]
    fn mptcp(self) -> Option<Self> {
        // SAFETY: a static of this object, which nobody writes while programs run.
        if unsafe { ptr::read_volatile(&raw const MPTCP) } == 0 {
            return None;
        }
        // SAFETY: the helper takes a socket, and gives null for one that is no subflow.
        Self::of_pointer(unsafe { bpf_skc_to_mptcp_sock(self.0) }.cast())
    }

    /// True for the proxy's own sockets, by the mark that only the agent can set.
    #[inline(always)]
    pub fn is_exempt(self) -> bool {
        self.get(&EXEMPT).is_some()
    }
}

/// Unbinds a calling socket from the device it is bound to, other than loopback; false where that is not allowed.
#[inline(always)]
pub fn unbind(ctx: &SockAddrContext) -> bool {
    // SAFETY: as in `of_call`; the verifier knows the socket's fields.
    let device = unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).bound_dev_if };
    if device == 0 || device == LOOPBACK_IFINDEX {
        return true;
    }
    let mut none = [0u8; 4];
    // SAFETY: the helper takes the context, and reads the name of no device.
    let result = unsafe {
        bpf_setsockopt(ctx.sock_addr.cast(), SOL_SOCKET, SO_BINDTODEVICE, none.as_mut_ptr().cast(), none.len() as i32)
    };
    result == 0
}

#[inline(always)]
fn map<T>(storage: &'static SkStorage<T>) -> *mut c_void {
    ptr::from_ref(storage).cast_mut().cast()
}
