//! Reads and writes addresses in the contexts of programs, as 16 bytes and a port whatever the family.

use aya_ebpf::bindings::bpf_sock_addr;
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use millrace_abi::{Addr, Port, decide};

/// Address families as sockets have them: an IPv6 socket speaks IPv4 by v4-mapped addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// An address and a port.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Endpoint {
    pub addr: Addr,
    pub port: Port,
}

impl Endpoint {
    /// Both, as [`millrace_abi::Tuple::of`] takes them.
    #[inline(always)]
    pub fn parts(&self) -> (Addr, Port) {
        (self.addr, self.port)
    }
}

/// AF_INET6.
pub const AF_INET6: u32 = 10;

/// The v4-mapped form of an IPv4 address in network order, as contexts hold it.
#[inline(always)]
pub fn mapped(v4: u32) -> Addr {
    from_words([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), v4])
}

/// The address of four words in network order.
#[inline(always)]
pub fn from_words(words: [u32; 4]) -> Addr {
    // SAFETY: both are 16 bytes and take any value.
    unsafe { core::mem::transmute::<[u32; 4], Addr>(words) }
}

/// Reads four words of a context one by one: the verifier takes no wider or computed access to a context.
///
/// # Safety
/// `words` is the address of a field of four words in a live context.
#[inline(always)]
pub unsafe fn words(words: *const [u32; 4]) -> [u32; 4] {
    let first = words.cast::<u32>();
    // SAFETY: by the caller, the four words are there.
    unsafe {
        [read_volatile(first), read_volatile(first.add(1)), read_volatile(first.add(2)), read_volatile(first.add(3))]
    }
}

/// The address that a call was made with, or that it is about to return.
#[inline(always)]
pub fn read(call: *mut bpf_sock_addr, family: Family) -> Endpoint {
    // SAFETY: the context is valid while the program runs; only the fields of the family are touched.
    unsafe {
        let addr = match family {
            Family::V4 => mapped((*call).user_ip4),
            Family::V6 => from_words(words(addr_of!((*call).user_ip6))),
        };
        let port = (*call).user_port.to_ne_bytes();
        Endpoint { addr, port: [port[0], port[1]] }
    }
}

/// Puts another address into a call; false where the socket's family cannot say it.
#[inline(always)]
pub fn write(call: *mut bpf_sock_addr, family: Family, to: &Endpoint) -> bool {
    if !write_addr(call, family, &to.addr) {
        return false;
    }
    let port = u32::from_ne_bytes([to.port[0], to.port[1], 0, 0]);
    // SAFETY: the context is valid while the program runs, and this field may be written as one word.
    unsafe { write_volatile(addr_of_mut!((*call).user_port), port) };
    true
}

/// Puts another address into a call and leaves the port; false where the socket's family cannot say it.
#[inline(always)]
pub fn write_addr(call: *mut bpf_sock_addr, family: Family, to: &Addr) -> bool {
    // SAFETY: both are 16 bytes and take any value.
    let words = unsafe { core::mem::transmute::<Addr, [u32; 4]>(*to) };
    match family {
        Family::V4 => {
            if !decide::is_v4(to) {
                return false;
            }
            // SAFETY: as in `write`.
            unsafe { write_volatile(addr_of_mut!((*call).user_ip4), words[3]) };
        }
        Family::V6 => {
            // SAFETY: as in `write`, word by word: the verifier takes no merged store.
            unsafe {
                let first = addr_of_mut!((*call).user_ip6).cast::<u32>();
                write_volatile(first, words[0]);
                write_volatile(first.add(1), words[1]);
                write_volatile(first.add(2), words[2]);
                write_volatile(first.add(3), words[3]);
            }
        }
    }
    true
}
