//! A path on which packets take their time: two TUN devices in two network namespaces, and this process between them.
//!
//! No queueing discipline of the kernels that these tests run on delays packets. Here each packet is read from the one device and written to
//! the other when it is due, in order; what comes while thousands are under way is dropped, as a router would.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
};

use crate::{clock, place};

/// What both devices are called.
pub const DEVICE: &str = "slow0";

/// Packets under way in one direction: a window of 4 MiB and more.
const UNDER_WAY: usize = 4_096;
/// The largest packet there is.
const LONGEST: usize = 65_536;
/// How soon a thread without work sees that it is over.
const LOOK: Duration = Duration::from_millis(50);
/// Of `<linux/if_tun.h>`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;

/// The path; it goes when this is dropped.
#[derive(Debug)]
pub struct Delay {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A packet, and when it arrives.
type Packet = (Instant, Box<[u8]>);

impl Delay {
    /// A device named [`DEVICE`] in each of the two namespaces; what is sent through the one comes out of the other so much later. They are not
    /// up yet, and no route leads there.
    pub fn between(one: &Path, other: &Path, takes: Duration) -> Result<Self> {
        let [one, other] = [device(one)?, device(other)?].map(Arc::new);
        let is_over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (from, to) in [(one.clone(), other.clone()), (other, one)] {
            let (packets, due) = sync_channel(UNDER_WAY);
            let (reading, writing) = (is_over.clone(), is_over.clone());
            threads.push(thread::spawn(move || take(&from, &packets, takes, &reading)));
            threads.push(thread::spawn(move || give(&to, &due, &writing)));
        }
        Ok(Self { is_over, threads })
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn device(netns: &Path) -> Result<OwnedFd> {
    place::inside(netns, || -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let tun = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).context("open /dev/net/tun")?;
        let mut request = [0_u8; 40]; // A `struct ifreq`: a name of 16 bytes, then flags.
        let (name, rest) = request.split_at_mut(libc::IFNAMSIZ);
        name.iter_mut().zip(DEVICE.bytes()).for_each(|(to, byte)| *to = byte);
        let kind = libc::IFF_TUN | libc::IFF_NO_PI;
        rest.iter_mut().zip(u16::try_from(kind)?.to_ne_bytes()).for_each(|(to, byte)| *to = byte);
        #[expect(unsafe_code, reason = "no safe call makes a TUN device")]
        // SAFETY: the request is as long as the kernel reads and writes, and lives through the call.
        let made = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        if made < 0 { Err(io::Error::last_os_error()).context("make a TUN device") } else { Ok(tun) }
    })?
}

fn take(from: &OwnedFd, packets: &SyncSender<Packet>, takes: Duration, is_over: &AtomicBool) {
    let mut buffer = vec![0; LONGEST];
    let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
    while !is_over.load(Ordering::Relaxed) {
        let mut waiting = [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)];
        if poll(&mut waiting, Some(&patience)).is_ok_and(|ready| ready == 0) {
            continue;
        }
        // A device that is not up yet, or has gone, has nothing.
        let Ok(length) = rustix::io::read(from, &mut buffer) else { continue };
        if let Some(packet) = buffer.get(..length) {
            // Full: dropped.
            drop(packets.try_send((clock::now() + takes, packet.into())));
        }
    }
}

fn give(to: &OwnedFd, due: &Receiver<Packet>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        match due.recv_timeout(LOOK) {
            Ok((at, packet)) => {
                // It is under way for so long: this is the delay, and nothing is waited for.
                thread::sleep(at.saturating_duration_since(clock::now()));
                // A device that has gone takes nothing.
                rustix::io::write(to, &packet).ok();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
