//! Makes the bpf(2) calls that aya has no method for: links updated in place and made with an order, maps frozen, read in
//! batches and opened for reading alone; and the plain element calls, as aya's need a trait the ABI's types cannot have here.
//!
//! The numbers and layouts are the kernel's: include/uapi/linux/bpf.h, `enum bpf_cmd` and `union bpf_attr`.

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use millrace_abi::{
    BackendKey, Dest, Exempt, Failures, Guard, Handoff, ListenerKey, Pending, Pod, ProbeKey, ServiceKey, ServiceValue,
    SlotKey, SlotValue, Tuning, Tuple, Verdict, VerdictKey,
    udp::{Ask, AskKey, StrangerKey},
};

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_ATTACH: libc::c_long = 8;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_FREEZE: libc::c_long = 22;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const ITER_CREATE: libc::c_long = 33;
const LINK_DETACH: libc::c_long = 34;

/// BPF_F_RDONLY: a descriptor that updates and deletes are refused on.
const READ_ONLY: u32 = 1 << 3;

/// MEMBARRIER_CMD_GLOBAL.
const MEMBARRIER_GLOBAL: libc::c_long = 1;

/// How many entries are asked for at a time: one call reads the tables of a small node.
const BATCH: u32 = 4096;

/// A key or value of the kernel's.
///
/// # Safety
/// The type has no padding, no pointers, and is valid whatever its bytes.
#[expect(unsafe_code, reason = "an implementation vouches for a layout")]
pub(super) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        // SAFETY: integers, and arrays and `repr(C)` structs of them without padding, whose sizes millrace-abi asserts.
        $(#[expect(unsafe_code, reason = "vouches for a layout")] unsafe impl Plain for $type {})*
    };
}
plain! {
    u32, u64, i32, [u8; 16], Pod, Dest, ServiceKey, ServiceValue, SlotKey, SlotValue, VerdictKey, Verdict, ProbeKey, Tuple, Handoff, Pending,
    ListenerKey, Exempt, Guard, BackendKey, Failures, LinkInfo, Tuning, StrangerKey, AskKey, Ask,
}

#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    /// Also the next key.
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Create {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

/// The first fields of BPF_PROG_LOAD's.
#[repr(C)]
struct Load {
    program_type: u32,
    n_instructions: u32,
    instructions: u64,
    license: u64,
    /// Level, size and buffer.
    log: [u32; 4],
    version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    attach_type: u32,
}

/// The first fields of BPF_PROG_ATTACH's.
#[repr(C)]
struct Stand {
    map: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct Update {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

/// The first fields of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    /// The cgroup's id, of a cgroup link; 0 where it is dead.
    pub(super) cgroup: u64,
    attach_type: u32,
    pad_2: u32,
}

#[expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: each caller below gives the command its own attributes, whose pointers live until the call is back; the
    // kernel reads and writes no more than the size given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[expect(unsafe_code, reason = "takes a descriptor from a raw system call")]
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of).addr() as u64
}

fn address_mut<T>(of: &mut T) -> u64 {
    std::ptr::from_mut(of).expose_provenance() as u64
}

#[expect(unsafe_code, reason = "makes a value that a system call fills")]
fn zero<T: Plain>() -> T {
    // SAFETY: a Plain type is valid whatever its bytes.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Writes an entry, new or old.
pub(super) fn update<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = Element { map: raw(map), pad: 0, key: address(key), value: address(value), flags: 0 };
    bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// The value of a key, if it is there.
pub(super) fn get<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = zero::<V>();
    let mut attr = Element { map: raw(map), pad: 0, key: address(key), value: address_mut(&mut value), flags: 0 };
    match bpf(MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes an entry, if it is there.
pub(super) fn delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = Element { map: raw(map), pad: 0, key: address(key), value: 0, flags: 0 };
    match bpf(MAP_DELETE_ELEM, &mut attr) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result.map(drop),
    }
}

/// Every key of a map that cannot be read in batches, at most `capacity` of them.
pub(super) fn keys<K: Plain>(map: BorrowedFd<'_>, capacity: u32) -> io::Result<Vec<K>> {
    let mut found: Vec<K> = Vec::new();
    // A key that is removed meanwhile starts the kernel over: the bound ends that.
    for _ in 0..capacity {
        let mut next = zero::<K>();
        let last = found.last().map_or(0, address);
        let mut attr = Element { map: raw(map), pad: 0, key: last, value: address_mut(&mut next), flags: 0 };
        match bpf(MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => found.push(next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Where the kernel left off: a hash map's bucket, or a trie's last key, which is written whole.
type Cursor = [u64; 8];

/// Hands every entry of a map to `each`.
pub(super) fn entries<K: Plain, V: Plain>(map: BorrowedFd<'_>, mut each: impl FnMut(K, V)) -> io::Result<()> {
    let (mut from, mut to): (Cursor, Cursor) = ([0; 8], [0; 8]);
    let mut size = BATCH;
    let mut is_first = true;
    loop {
        let mut keys = vec![zero::<K>(); size as usize];
        let mut values = vec![zero::<V>(); size as usize];
        let mut attr = Batch {
            from: if is_first { 0 } else { address(&from) },
            to: address_mut(&mut to),
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: size,
            map: raw(map),
            element_flags: 0,
            flags: 0,
        };
        let result = bpf(MAP_LOOKUP_BATCH, &mut attr);
        let is_last = match result {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // One bucket holds more than was asked for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                size = size.saturating_mul(2);
                continue;
            }
            Err(error) => return Err(error),
        };
        keys.into_iter().zip(values).take(attr.count as usize).for_each(|(key, value)| each(key, value));
        if is_last {
            return Ok(());
        }
        (from, is_first) = (to, false);
    }
}

/// Refuses every later write from user space; programs still write.
pub(super) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    match bpf(MAP_FREEZE, &mut raw(map)) {
        // What is frozen may not be written, nor frozen again.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && is_frozen(map)? => Ok(()),
        result => result.map(drop),
    }
}

fn is_frozen(map: BorrowedFd<'_>) -> io::Result<bool> {
    let said = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    Ok(said.lines().any(|line| line.split_whitespace().eq(["frozen:", "1"])))
}

/// Opens a pin.
pub(super) fn open(pin: &Path) -> io::Result<OwnedFd> {
    open_with(pin, 0)
}

/// Opens a pinned map for reading alone.
pub(super) fn open_read_only(pin: &Path) -> io::Result<OwnedFd> {
    open_with(pin, READ_ONLY)
}

fn open_with(pin: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    owned(bpf(OBJ_GET, &mut Object { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags })?)
}

/// Pins a link.
pub(super) fn pin(object: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = Object { path: path.as_ptr().expose_provenance() as u64, fd: raw(object), flags: 0 };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Attaches a program to a cgroup or a network namespace.
pub(super) fn link(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let (program, target) = (raw(program), raw(target));
    let mut attr = Create { program, target, attach_type, flags, relative: 0, pad: 0, revision: 0 };
    owned(bpf(LINK_CREATE, &mut attr)?)
}

/// Attaches a program to an interface of the calling thread's namespace.
pub(super) fn link_device(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let program = raw(program);
    let mut attr = Create { program, target: interface, attach_type, flags, relative: 0, pad: 0, revision: 0 };
    owned(bpf(LINK_CREATE, &mut attr)?)
}

/// Begins to read what a link to an iterator shows of the calling thread's namespace.
pub(super) fn iterator(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // The link, and no flags.
    owned(bpf(ITER_CREATE, &mut [raw(link), 0])?)
}

/// Has a program stand at a map of sockets, in place of one that did.
pub(super) fn attach_to_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>, attach_type: u32) -> io::Result<()> {
    let mut attr = Stand { map: raw(map), program: raw(program), attach_type, flags: 0 };
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// The error of attaching a program to no cgroup at all, in this order.
pub(super) fn link_nowhere(program: &OwnedFd, attach_type: u32, flags: u32) -> io::Error {
    let program = raw(program.as_fd());
    let mut attr = Create { program, target: u32::MAX, attach_type, flags, relative: 0, pad: 0, revision: 0 };
    match bpf(LINK_CREATE, &mut attr) {
        Err(error) => error,
        Ok(_) => io::ErrorKind::Other.into(), // No descriptor has this number.
    }
}

/// Loads a program that returns 1, for nobody to attach.
pub(super) fn load_trivial(program_type: u32, attach_type: u32) -> io::Result<OwnedFd> {
    // `r0 = 1; exit`, as `struct bpf_insn`s: opcode, registers, offset, immediate.
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let license = c"GPL";
    let mut attr = Load {
        program_type,
        n_instructions: 2,
        instructions: address(&instructions),
        license: license.as_ptr().expose_provenance() as u64,
        log: [0; 4],
        version: 0,
        flags: 0,
        name: [0; 16],
        device: 0,
        attach_type,
    };
    owned(bpf(PROG_LOAD, &mut attr)?)
}

/// Puts another program into a link, between one packet and the next.
pub(super) fn relink(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_UPDATE, &mut Update { link: raw(link), program: raw(program), flags: 0, old: 0 }).map(drop)
}

/// Takes a link's program out at once, whoever holds the link.
pub(super) fn unlink(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_DETACH, &mut raw(link)).map(drop)
}

/// What a link says of itself.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = zero::<LinkInfo>();
    let length = u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?;
    bpf(OBJ_GET_INFO_BY_FD, &mut Info { fd: raw(link), length, info: address_mut(&mut info) })?;
    Ok(info)
}

/// Waits until every program that runs now has ended, where the kernel can say so.
#[expect(unsafe_code, reason = "membarrier(2) has no safe wrapper")]
pub(super) fn grace_period() -> io::Result<()> {
    // SAFETY: takes numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
