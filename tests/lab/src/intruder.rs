//! One who means harm, in a pod: root in its namespace, with NET_RAW and NET_ADMIN. The program is `intruder`; frames are forged
//! by [`crate::frames`], which needs a namespace and no process in it.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::clock;

/// How long a connect or a greeting is waited for.
const PATIENCE: Duration = Duration::from_secs(4);

/// How to connect, other than plainly.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Ways {
    /// With this mark on the socket.
    #[arg(long)]
    pub mark: Option<u32>,
    /// From this address, which need not be the pod's.
    #[arg(long)]
    pub from: Option<SocketAddr>,
    /// By MPTCP.
    #[arg(long)]
    pub mptcp: bool,
    /// By Fast Open: data goes with the SYN, and nobody calls connect.
    #[arg(long)]
    pub fast_open: bool,
    /// In a network namespace of its own.
    #[arg(long)]
    pub nested: bool,
    /// In a user namespace of its own.
    #[arg(long)]
    pub user: bool,
    /// Out of another cgroup.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
}

/// What became of a connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// How it failed: the name of the errno, or of what was missing.
    pub error: Option<String>,
    /// What the application said, which it says to whom it accepts.
    pub greeting: Option<String>,
}

/// Tries to reach an application.
pub fn connect(target: SocketAddr, ways: &Ways) -> Tried {
    match enter(ways).and_then(|()| reach(target, ways)) {
        Ok(greeting) => Tried { error: None, greeting: Some(greeting) },
        Err(error) => Tried { error: Some(name(&error)), greeting: None },
    }
}

#[expect(unsafe_code, reason = "the safe form is deprecated")]
fn enter(Ways { nested, user, cgroup, .. }: &Ways) -> io::Result<()> {
    if let Some(cgroup) = cgroup {
        std::fs::create_dir_all(cgroup)?;
        std::fs::write(cgroup.join("cgroup.procs"), "0")?;
    }
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWUSER, *user);
    flags.set(UnshareFlags::NEWNET, *nested);
    // SAFETY: no descriptor table is unshared.
    unsafe { unshare_unsafe(flags)? };
    Ok(())
}

fn reach(target: SocketAddr, ways: &Ways) -> io::Result<String> {
    let protocol = if ways.mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(protocol))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if let Some(mark) = ways.mark {
        socket.set_mark(mark)?;
    }
    if let Some(from) = ways.from {
        // Also an address that is not here.
        if from.is_ipv4() {
            socket.set_freebind_v4(true)?;
        } else {
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&from.into())?;
    }
    if ways.fast_open {
        socket.send_to_with_flags(b"hold\n", &target.into(), libc::MSG_FASTOPEN)?;
    } else {
        socket.connect(&target.into())?;
    }
    let mut greeting = vec![0; 4096];
    let length = TcpStream::from(socket).read(&mut greeting)?;
    greeting.truncate(length);
    if greeting.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&greeting).into_owned())
}

fn name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| format!("{:?}", error.kind()), |errno| format!("errno {errno}"))
}

/// Connects that are begun and never answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flooded {
    /// How many are under way.
    pub under_way: usize,
    /// Where the last of them is from.
    pub from: Option<SocketAddr>,
    /// How many failed at once, by errno.
    pub refused: std::collections::BTreeMap<String, usize>,
}

/// Begins this many connects and holds those that are under way until `until` is there; `told` is called before that.
pub fn flood(target: SocketAddr, count: usize, until: &Path, told: impl FnOnce(&Flooded)) -> io::Result<()> {
    let (mut held, mut flooded) = (Vec::<OwnedFd>::new(), Flooded::default());
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&SockAddr::from(target)) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                flooded.from = socket.local_addr()?.as_socket();
                held.push(socket.into());
            }
            Err(error) => *flooded.refused.entry(name(&error)).or_default() += 1,
            Ok(()) => *flooded.refused.entry("connected".to_owned()).or_default() += 1,
        }
    }
    flooded.under_way = held.len();
    told(&flooded);
    clock::until(Duration::from_secs(120), "the end of the flood", || Ok(std::fs::metadata(until).map(drop)?))
        .map_err(io::Error::other)?;
    Ok(())
}

/// What can be bound to of the mesh's own, by address: the name of the errno, or None where it was bound.
pub fn bind(addresses: &[SocketAddr]) -> Vec<(SocketAddr, Option<String>)> {
    let bind = |address: &SocketAddr| {
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&(*address).into())?;
        socket.listen(16)?;
        Ok(socket)
    };
    let held: Vec<io::Result<Socket>> = addresses.iter().map(bind).collect();
    addresses.iter().zip(&held).map(|(address, held)| (*address, held.as_ref().err().map(name))).collect()
}
