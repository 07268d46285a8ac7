//! Tells the allocator to keep what a bulk stream frees: by itself it gives every 256 KiB buffer back to the kernel and
//! asks for it again, which costs a bulk stream two fifths of its CPU (2.2 s per GB against 1.3 on our bench).

/// Kept at the end of each thread's arena: what a dozen bulk streams have under way. What a burst used above it goes back.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 16 << 20;

/// Only larger blocks than this are mapped one by one; nothing that is carried is larger than a frame of 1 MiB.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 4 << 20;

/// Sets it for the whole process. Without glibc there is nothing to set.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt(3) has no safe wrapper")]
pub(crate) fn keep() {
    for (option, value) in [(libc::M_MMAP_THRESHOLD, MAPPED), (libc::M_TRIM_THRESHOLD, KEPT)] {
        // SAFETY: mallopt locks the arena that it changes, and takes any value for these two.
        let taken = unsafe { libc::mallopt(option, value) };
        if taken != 1 {
            tracing::warn!(option, value, "the allocator did not take an option");
        }
    }
}

/// Sets it for the whole process. Without glibc there is nothing to set.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep() {}
