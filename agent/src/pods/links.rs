//! Asks the kernel for interfaces and their addresses, in the namespace that the calling thread is in (rtnetlink(7)).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use millrace_model::Workload;

use crate::{
    native::u32_at,
    netlink::{Ask, ROUTE, ask, attribute, attributes},
};

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETNSID: u16 = 90;

/// `struct ifinfomsg`, `struct ifaddrmsg`, and `struct rtgenmsg` with what aligns it.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const GENERAL: usize = 4;

const IFLA_ADDRESS: u16 = 1;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
/// RTEXT_FILTER_SKIP_STATS: nobody here reads them, and they are the larger part of an answer.
const WITHOUT_STATISTICS: u32 = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// Its index in its namespace.
    pub(super) index: u32,
    /// Its link address.
    pub(super) mac: [u8; 6],
    /// True for one end of a veth pair.
    pub(super) is_veth: bool,
    /// The index of the other end, in that one's namespace.
    pub(super) peer: u32,
    /// The namespace that the other end is in, by this namespace's number for it; None where it is this one.
    pub(super) netns: Option<u32>,
}

/// A namespace's interfaces, and the addresses on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<(u32, IpAddr)>,
}

impl Inside {
    /// Whether it is this workload's: a process that left its pod's namespace for one of its own making took no address along.
    pub(super) fn is_of(&self, workload: &Workload) -> Result<(), String> {
        match workload.addresses.iter().find(|address| !self.addresses.iter().any(|(_, ip)| ip == *address)) {
            None => Ok(()),
            Some(address) => {
                Err(format!("the network namespace of its oldest process does not have its address {address}"))
            }
        }
    }
}

/// The interfaces of the calling thread's namespace.
pub(super) fn links() -> io::Result<Vec<Link>> {
    let body = [[0; LINK].as_slice(), &attribute(IFLA_EXT_MASK, WITHOUT_STATISTICS)].concat();
    let mut found = Vec::new();
    ask(ROUTE, (RTM_GETLINK, Ask::All), &body, &mut |message| {
        found.push(link(message)?);
        Some(())
    })?;
    Ok(found)
}

/// Interfaces and addresses of the calling thread's namespace.
pub(super) fn inside() -> io::Result<Inside> {
    let mut addresses = Vec::new();
    ask(ROUTE, (RTM_GETADDR, Ask::All), &[0; ADDRESS], &mut |message| {
        addresses.extend(address(message)?);
        Some(())
    })?;
    Ok(Inside { links: links()?, addresses })
}

/// The addresses of the lowest interface of the calling thread's namespace that is not loopback and has any that others know, IPv4 first:
/// in the order in which a kubelet tells them.
pub fn addresses_inside() -> io::Result<Vec<IpAddr>> {
    let Inside { links: _, addresses } = inside()?;
    let is_known = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    };
    let mut known: Vec<(u32, IpAddr)> = addresses.into_iter().filter(|(_, ip)| is_known(ip)).collect();
    let lowest = known.iter().map(|(index, _)| *index).min();
    known.retain(|(index, _)| Some(*index) == lowest);
    let v4 = known.iter().map(|(_, ip)| *ip).find(IpAddr::is_ipv4);
    let v6 = known.iter().map(|(_, ip)| *ip).find(IpAddr::is_ipv6);
    Ok(v4.into_iter().chain(v6).collect())
}

/// This namespace's number for another; None where it has none, and so no interface whose other end is there.
pub(super) fn number_of(netns: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let body = [[0; GENERAL].as_slice(), &attribute(NETNSA_FD, netns.as_raw_fd().cast_unsigned())].concat();
    let mut number = None;
    ask(ROUTE, (RTM_GETNSID, Ask::One), &body, &mut |message| {
        let (_, value) = attributes(message.get(GENERAL..)?).find(|(kind, _)| *kind == NETNSA_NSID)?;
        number = u32_at(value, 0).filter(|number| number.cast_signed() >= 0);
        Some(())
    })?;
    Ok(number)
}

fn link(message: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_at(message, 4)?, ..Link::default() };
    for (kind, value) in attributes(message.get(LINK..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            IFLA_LINK => link.peer = u32_at(value, 0)?,
            IFLA_LINK_NETNSID => link.netns = u32_at(value, 0),
            IFLA_LINKINFO => {
                link.is_veth = attributes(value).any(|(kind, value)| kind == IFLA_INFO_KIND && value == b"veth\0");
            }
            _ => {}
        }
    }
    Some(link)
}

/// An address and the index of its interface; Some(None) for a family that is not asked for.
fn address(message: &[u8]) -> Option<Option<(u32, IpAddr)>> {
    let index = u32_at(message, 4)?;
    let mut found = None;
    for (kind, value) in attributes(message.get(ADDRESS..)?) {
        let ip = match <[u8; 4]>::try_from(value) {
            Ok(v4) => Some(IpAddr::from(Ipv4Addr::from(v4))),
            Err(_) => <[u8; 16]>::try_from(value).ok().map(|v6| IpAddr::from(Ipv6Addr::from(v6))),
        };
        // Where both are said, the local one is the interface's own, the other its peer's.
        if kind == IFA_LOCAL || kind == IFA_ADDRESS && found.is_none() {
            found = ip.or(found);
        }
    }
    Some(found.map(|ip| (index, ip)))
}

#[cfg(test)]
mod tests {
    use super::inside;

    /// Every namespace has a loopback interface, the first, and most have its address.
    #[test]
    fn this_namespaces_own_interfaces_are_found() {
        let inside = inside().unwrap();
        let lo = inside.links.iter().find(|link| link.index == 1).unwrap();
        assert_eq!((lo.mac, lo.is_veth, lo.netns), ([0; 6], false, None));
        assert!(inside.addresses.iter().all(|(index, _)| inside.links.iter().any(|link| link.index == *index)));
        if let Some((index, _)) = inside.addresses.iter().find(|(_, ip)| ip.is_loopback()) {
            assert_eq!(*index, 1);
        }
    }
}
