//! Makes real socket storage in the kernel, by bpf(2) alone: no program, no loader. Needs root, as the whole lab does.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_BTF_LOAD: libc::c_long = 18;
const SK_STORAGE: u64 = 24;
const NO_PREALLOC: u64 = 1;

/// A socket storage map whose values are `size` bytes, or None where this user may not make one.
pub(crate) fn storage(size: u32) -> Option<OwnedFd> {
    // BTF with two types: an int of four bytes, the key, and a struct of `size` bytes without named members.
    let types: Vec<u32> = vec![1, 1 << 24, 4, 32 | (1 << 24), 1, 4 << 24, size];
    let strings = b"\0k\0";
    let n_types = u32::try_from(types.len() * 4).unwrap();
    let n_strings = u32::try_from(strings.len()).unwrap();
    let mut btf: Vec<u8> = Vec::new();
    btf.extend(0xeb9fu16.to_le_bytes());
    btf.extend([1, 0]);
    for field in [24, 0, n_types, n_types, n_strings] {
        btf.extend(field.to_le_bytes());
    }
    types.iter().for_each(|word| btf.extend(word.to_le_bytes()));
    btf.extend(strings);
    let mut load = [0u64; 4];
    load[0] = btf.as_ptr().expose_provenance() as u64;
    load[2] = btf.len() as u64;
    let btf_fd = bpf(BPF_BTF_LOAD, &load)?;
    let mut create = [0u64; 9];
    create[0] = SK_STORAGE | (4 << 32); // type, key size
    create[1] = u64::from(size); // value size
    create[2] = NO_PREALLOC;
    create[6] = u64::try_from(btf_fd.as_raw_fd()).unwrap() | (1 << 32); // btf, key's type
    create[7] = 2; // value's type
    bpf(BPF_MAP_CREATE, &create)
}

#[expect(unsafe_code, reason = "bpf(2) by hand: the proxy has no loader")]
fn bpf(command: libc::c_long, attributes: &[u64]) -> Option<OwnedFd> {
    let size = size_of_val(attributes);
    // SAFETY: the attributes live through the call and are of the size given; what they point to outlives it too.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: bpf(2) returned a new descriptor that nobody else owns.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
