//! How long the proxy's threads run at a stretch while others are ready too.
//!
//! A message waits for as many turns at the kernel's scheduler as it has stations: two proxies, and applications. A thread that asks
//! for short turns waits less for each (EEVDF: the earlier its deadline, the sooner it runs), and gets no more of the processor for it:
//! `sched_setattr(2)`, `sched_runtime` of a thread under SCHED_OTHER. Linux before 6.12 takes no notice of it.

use std::io;

/// A turn, in nanoseconds: the shortest that the kernel gives. Its own is 1.4 ms on two processors, and another's message would wait for what
/// is left of it.
const SLICE_NS: u64 = 100_000;
/// Of a `struct sched_attr`, as this program knows it.
const SIZE: u32 = 48;
const _: () = assert!(size_of::<libc::sched_attr>() == SIZE as usize);

/// Asks for such turns for the calling thread, and for those that it starts from then on. It takes no privilege.
pub(crate) fn shorten() -> io::Result<()> {
    let mut wanted = of_this_thread()?;
    wanted.sched_runtime = SLICE_NS;
    #[expect(unsafe_code, reason = "libc has no wrapper of sched_setattr")]
    // SAFETY: the structure is as long as it says, and the kernel only reads it.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How the calling thread is scheduled: what is not asked for stays.
fn of_this_thread() -> io::Result<libc::sched_attr> {
    let mut held = libc::sched_attr {
        size: SIZE,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    #[expect(unsafe_code, reason = "libc has no wrapper of sched_getattr")]
    // SAFETY: the kernel writes no more than the size that it is given.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut held, SIZE, 0) };
    if done == 0 { Ok(held) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::{SLICE_NS, of_this_thread, shorten};

    #[test]
    fn a_thread_that_asked_and_those_it_starts_have_short_turns_and_are_as_nice_as_they_were() {
        std::thread::spawn(|| {
            let before = of_this_thread().unwrap();
            shorten().unwrap();
            for held in [of_this_thread().unwrap(), std::thread::spawn(|| of_this_thread().unwrap()).join().unwrap()] {
                assert_eq!(held.sched_runtime, SLICE_NS);
                assert_eq!((held.sched_policy, held.sched_nice), (before.sched_policy, before.sched_nice));
            }
        })
        .join()
        .unwrap();
    }
}
