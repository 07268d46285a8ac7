//! Shifts the date of a process that this is preloaded into, by as many seconds as a file says at that moment: the machine's clock is
//! everybody's. Certificates are judged by the date, timers by CLOCK_MONOTONIC, which is not touched.
//!
//! The file is mapped at the first call, before a process gives up the right to open files.
#![expect(
    unsafe_code,
    reason = "it stands in for a function of the C library, and is loaded before anything of Rust's"
)]

use std::{
    ffi::{c_int, c_void},
    ptr,
    sync::atomic::{AtomicI64, AtomicPtr, AtomicUsize, Ordering},
};

/// The environment variable that names the file: eight bytes, seconds, in the machine's order.
const FILE: &std::ffi::CStr = c"MILLRACE_LAB_SHIFT";

type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> c_int;

static REAL: AtomicUsize = AtomicUsize::new(0);
static SECONDS: AtomicPtr<AtomicI64> = AtomicPtr::new(ptr::null_mut());

/// The C library's, with the date shifted.
///
/// # Safety
/// As the C library's: `time` is null or leads to a timespec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let mut real = REAL.load(Ordering::Acquire);
    if real == 0 {
        begin();
        real = REAL.load(Ordering::Acquire);
    }
    // SAFETY: `begin` stored the address of the next function of this name, which has this type.
    let real = unsafe { std::mem::transmute::<usize, ClockGettime>(real) };
    // SAFETY: by the caller.
    let result = unsafe { real(clock, time) };
    let seconds = SECONDS.load(Ordering::Acquire);
    if result == 0 && clock == libc::CLOCK_REALTIME && !seconds.is_null() && !time.is_null() {
        // SAFETY: `begin` stored the address of a mapping that is never removed.
        let shift = unsafe { &*seconds }.load(Ordering::Relaxed);
        // SAFETY: by the caller.
        unsafe { (*time).tv_sec += shift };
    }
    result
}

fn begin() {
    // SAFETY: takes a name; without the function no program would have been linked.
    let real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
    // SAFETY: takes a name; nobody changes the environment this early.
    let path = unsafe { libc::getenv(FILE.as_ptr()) };
    if !path.is_null() {
        // SAFETY: a path of the environment.
        let file = unsafe { libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC) };
        let length = size_of::<AtomicI64>();
        // SAFETY: a new mapping, wherever there is room.
        let mapped =
            unsafe { libc::mmap(ptr::null_mut::<c_void>(), length, libc::PROT_READ, libc::MAP_SHARED, file, 0) };
        if mapped != libc::MAP_FAILED {
            SECONDS.store(mapped.cast(), Ordering::Release);
        }
        // SAFETY: opened above, or no descriptor, which is refused.
        unsafe { libc::close(file) };
    }
    REAL.store(real as usize, Ordering::Release);
}
