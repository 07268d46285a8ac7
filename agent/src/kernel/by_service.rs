//! Reads which UDP sockets of a namespace were connected by a service. The program that shows them stands at no hook: it runs
//! while it is read, in the namespace that the reading thread is in.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{Btf, Ebpf, programs::Program};
use millrace_abi::udp;

use super::{error::AttachError, object::patiently, syscall};
use crate::native::u64_at;

/// The program's name, and the kernel's iterator that it is one of.
pub(super) const PROGRAM: &str = "by_service";
const OF: &str = "udp";
/// The function that stands for that iterator in the kernel's BTF.
pub(super) const FUNCTION: &str = "bpf_iter_udp";

/// BPF_TRACE_ITER.
const ATTACH_TYPE: u32 = 28;

/// A UDP socket that was connected by a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// What it was connected to, as its application has it.
    pub service: SocketAddr,
    /// Whom it was given.
    pub backend: SocketAddr,
}

/// What lists them.
#[derive(Debug)]
pub struct ByService(OwnedFd);

impl ByService {
    /// Loads the program.
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, AttachError> {
        let missing = AttachError::Missing { what: "program", name: PROGRAM };
        let refused = |source| AttachError::Refused { program: PROGRAM, source: Box::new(source) };
        let Some(Program::Iter(program)) = ebpf.program_mut(PROGRAM) else { return Err(missing) };
        let btf = Btf::from_sys_fs().map_err(|error| refused(error.into()))?;
        patiently(|| program.load(OF, &btf)).map_err(refused)?;
        let program = program.fd().map_err(refused)?;
        let link = syscall::link_device(program.as_fd(), 0, ATTACH_TYPE, 0);
        link.map(Self).map_err(|source| AttachError::Link { program: PROGRAM.to_owned(), source })
    }

    /// The sockets of the calling thread's namespace, by the kernel's numbers of them. One that is connected to somebody else by now is among them still.
    pub fn list(&self) -> io::Result<BTreeMap<u64, Connected>> {
        let mut shown = Vec::new();
        File::from(syscall::iterator(self.0.as_fd())?).read_to_end(&mut shown)?;
        let (each, rest) = shown.as_chunks::<{ size_of::<udp::ByService>() }>();
        match rest {
            [] => each.iter().map(connected).collect::<Option<_>>().ok_or_else(|| io::ErrorKind::InvalidData.into()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A `udp::ByService`.
fn connected(bytes: &[u8; size_of::<udp::ByService>()]) -> Option<(u64, Connected)> {
    let address = |at: usize| bytes.get(at..at + 16)?.try_into().ok().map(|ip: [u8; 16]| Ipv6Addr::from(ip));
    let port = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let socket = |ip_at, port_at| Some(SocketAddr::new(IpAddr::from(address(ip_at)?).to_canonical(), port(port_at)?));
    Some((u64_at(bytes, 0)?, Connected { service: socket(8, 40)?, backend: socket(24, 42)? }))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use millrace_abi::{Original, udp::ByService};

    use super::connected;

    #[test]
    fn a_record_is_read_where_the_program_wrote_it() {
        assert_eq!((offset_of!(ByService, cookie), offset_of!(ByService, original)), (0, 8));
        assert_eq!((offset_of!(Original, addr), offset_of!(Original, backend)), (0, 16));
        assert_eq!((offset_of!(Original, port), offset_of!(Original, backend_port)), (32, 34));
        let mut bytes = [0; size_of::<ByService>()];
        bytes[0] = 7;
        bytes[8..24].copy_from_slice(&std::net::Ipv4Addr::new(10, 96, 0, 1).to_ipv6_mapped().octets());
        bytes[24..40].copy_from_slice(&"fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        bytes[40..44].copy_from_slice(&[0, 53, 0x14, 0xe9]);
        let (cookie, found) = connected(&bytes).unwrap();
        assert_eq!(cookie, u64::from_ne_bytes([7, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(found.service, "10.96.0.1:53".parse().unwrap());
        assert_eq!(found.backend, "[fd00::2]:5353".parse().unwrap());
    }
}
