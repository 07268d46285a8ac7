//! Gives memory back to the kernel that was freed but kept: after a start, which parses much once, and after a burst.

/// What the allocator holds free goes back. Takes a millisecond or so: for quiet moments.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper")]
pub fn give_back() {
    // SAFETY: malloc_trim takes the arenas' own locks, and moves nothing that is in use.
    let _gave_any = unsafe { libc::malloc_trim(0) };
}

/// What the allocator holds free goes back. Without glibc there is nothing to ask.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
