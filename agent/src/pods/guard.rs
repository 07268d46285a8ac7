//! Sets a guard at the host's end of each pod's interfaces, so that a pod can send in nobody else's name.
//!
//! The host's ends are found from the host alone: each interface of the node's namespace whose other end is in the pod's. A pod
//! has no say in that. What its own end is like, link address and all, is asked inside the pod, once: at the first look the CNI
//! is done, for the workload has its addresses; what a pod makes of its interface later changes nothing.
//!
//! A pod that is not in the mesh is left alone, save that it may not take the address of one that is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
};

use millrace_abi::{Guard, GuardKind};
use millrace_model::{Membership, Workload};

use super::{
    Found, Pod, Pods, chain,
    links::{self, Inside, Link},
};
use crate::{
    config::Switch,
    kernel::{Kernel, plan::addr},
};

/// The guards of a node.
#[derive(Debug)]
pub(super) struct Guards {
    switch: Switch,
    /// By the index of the host's end.
    held: BTreeMap<u32, Guard>,
    /// This namespace's numbers for the pods', by their cookies.
    numbers: BTreeMap<u64, u32>,
}

impl Guards {
    /// `held` are those that an agent before this one set.
    pub(super) fn new(switch: Switch, held: BTreeMap<u32, Guard>) -> Self {
        Self { switch, held, numbers: BTreeMap::new() }
    }

    /// The host's ends of a namespace's interfaces.
    fn ends<'l>(&mut self, found: &Found, links: &'l [Link]) -> Vec<&'l Link> {
        let number = match self.numbers.get(&found.cookie) {
            Some(number) => Some(*number),
            // An error is as good as none: what has no number has no interface here.
            None => links::number_of(found.namespace.as_fd()).ok().flatten(),
        };
        let Some(number) = number else { return Vec::new() };
        self.numbers.insert(found.cookie, number);
        links.iter().filter(|link| link.is_veth && link.netns == Some(number)).collect()
    }
}

impl Pods {
    /// Sets the guards that are missing, and takes away those of pods that are gone. Why a pod has none is said on it.
    pub(super) async fn guard(&mut self, kernel: &mut Kernel) {
        let links = match self.guards.switch {
            Switch::On => links::links(),
            Switch::Off => Ok(Vec::new()),
        };
        let links = match links {
            Ok(links) => links,
            Err(why) => {
                tracing::warn!(error = &why as &dyn std::error::Error, "the node's interfaces can't be read");
                return;
            }
        };
        let mut wanted = BTreeSet::new();
        for pod in self.pods.values_mut() {
            let Some(found) = pod.found.clone() else { continue };
            let ends = self.guards.ends(&found, &links);
            wanted.extend(ends.iter().map(|end| end.index));
            let unguarded = match (self.guards.switch, ends.is_empty()) {
                (Switch::Off, _) => Some("--anti-spoofing is off".to_owned()),
                (Switch::On, true) => Some("it has no veth whose other end is in the node's namespace".to_owned()),
                (Switch::On, false) => {
                    set(pod, &found, &ends, (&self.entrant, &mut self.guards.held, kernel)).await.err()
                }
            };
            let is_new = unguarded != pod.unguarded && pod.workload.membership != Membership::Outside;
            if let Some(why) = unguarded.as_ref().filter(|_| is_new) {
                tracing::warn!(workload = %pod.workload.name, why, "the pod can send in others' names");
            }
            pod.unguarded = unguarded;
        }
        for interface in self.guards.held.keys().copied().filter(|index| !wanted.contains(index)).collect::<Vec<_>>() {
            match kernel.unguard(interface) {
                Ok(()) => drop(self.guards.held.remove(&interface)),
                Err(why) => {
                    tracing::warn!(error = &why as &dyn std::error::Error, interface, "a guard can't be removed");
                }
            }
        }
        let known: BTreeSet<u64> = self.pods.values().filter_map(Pod::cookie).collect();
        self.guards.numbers.retain(|cookie, _| known.contains(cookie));
    }
}

/// Sets the guards of one pod that are not set as they should be.
async fn set(
    pod: &Pod,
    found: &Found,
    ends: &[&Link],
    (entrant, held, kernel): (&super::Entrant, &mut BTreeMap<u32, Guard>, &mut Kernel),
) -> Result<(), String> {
    let id = pod.workload.id();
    let is_outside = pod.workload.membership == Membership::Outside;
    let is_its = |guard: &&Guard| guard.id == id && (guard.kind == GuardKind::Outside as u16) == is_outside;
    let inside = if ends.iter().all(|end| held.get(&end.index).filter(is_its).is_some()) {
        None
    } else {
        let inside = entrant.within(found.namespace.clone(), links::inside).await;
        Some(inside.map_err(|why| format!("its interfaces can't be read: {why}"))?)
    };
    for end in ends {
        let before = held.get(&end.index).filter(is_its).copied();
        let guard = match (before, &inside) {
            (Some(guard), _) => addressed(guard, &pod.workload),
            (None, Some(inside)) => made(&pod.workload, end, ends, inside)?,
            (None, None) => continue,
        };
        if before == Some(guard) {
            continue;
        }
        kernel.guard(end.index, &guard).map_err(|why| chain(&why))?;
        held.insert(end.index, guard);
    }
    Ok(())
}

/// The guard, with the addresses that the workload has now.
fn addressed(guard: Guard, workload: &Workload) -> Guard {
    let first = |is: fn(&IpAddr) -> bool| workload.addresses.iter().copied().find(is).map_or([0; 16], addr);
    Guard { v4: first(IpAddr::is_ipv4), v6: first(IpAddr::is_ipv6), ..guard }
}

/// A guard for an interface that has had none.
fn made(workload: &Workload, end: &Link, ends: &[&Link], inside: &Inside) -> Result<Guard, String> {
    let own = inside.links.iter().find(|link| link.index == end.peer).ok_or("its end of the veth is not there yet")?;
    let on = |index: u32| inside.addresses.iter().filter(move |(at, _)| *at == index).map(|(_, ip)| *ip);
    let has_own = |end: &Link| on(end.peer).any(|ip| workload.addresses.contains(&ip));
    // A pod that has put its address elsewhere, behind a bridge of its own say, has its first interface for it.
    let is_own = if ends.iter().any(|end| has_own(end)) {
        has_own(end)
    } else {
        ends.iter().all(|other| end.index <= other.index)
    };
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let link_local = on(end.peer).find(is_link_local).unwrap_or_else(|| of_link_address(own.mac));
    let kind = match workload.membership {
        Membership::Outside | Membership::Host => GuardKind::Outside,
        Membership::Pending | Membership::Enrolled if is_own => GuardKind::Own,
        Membership::Pending | Membership::Enrolled => GuardKind::Other,
    };
    let (mac, id) = (own.mac, workload.id());
    let guard =
        Guard { v4: [0; 16], v6: [0; 16], link_local: addr(link_local), id, told_ns: 0, mac, kind: kind as u16 };
    Ok(addressed(guard, workload))
}

/// The link-local address that is made of a link address, where an interface has none yet (RFC 4291, appendix A).
fn of_link_address(mac: [u8; 6]) -> IpAddr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]).into()
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use millrace_abi::GuardKind;
    use millrace_model::{Encryption, Identity, Membership, ObjectName, Workload};

    use super::{Inside, Link, made, of_link_address};
    use crate::kernel::plan::addr;

    fn workload() -> Arc<Workload> {
        Arc::new(Workload {
            name: ObjectName::new("shop", "web"),
            instance: "1".into(),
            identity: Identity::new("td", "shop", "web"),
            addresses: vec![[10, 0, 0, 1].into(), "fd00::1".parse().unwrap()],
            node: "a".into(),
            zone: None,
            netns: Some("/run/netns/x".into()),
            membership: Membership::Enrolled,
            encryption: Encryption::default(),
            policies: [].into(),
            probe_ports: [].into(),
            telemetry: None,
            network: None,
        })
    }

    fn end(index: u32, peer: u32) -> Link {
        Link { index, peer, is_veth: true, netns: Some(0), ..Link::default() }
    }

    fn inside(addresses: &[(u32, &str)]) -> Inside {
        let link = |index: u32, last| Link { index, mac: [2, 0, 0, 0, 0, last], ..Link::default() };
        let addresses = addresses.iter().map(|(index, ip)| (*index, ip.parse().unwrap())).collect();
        Inside { links: vec![link(2, 2), link(3, 3)], addresses }
    }

    #[test]
    fn the_interface_with_the_pods_address_is_its_own_and_others_are_others() {
        let (first, second) = (end(7, 2), end(8, 3));
        let ends = [&first, &second];
        let seen = inside(&[(2, "192.168.0.9"), (3, "10.0.0.1"), (3, "fe80::33")]);
        let (other, own) =
            (made(&workload(), &first, &ends, &seen).unwrap(), made(&workload(), &second, &ends, &seen).unwrap());
        assert_eq!((other.kind, own.kind), (GuardKind::Other as u16, GuardKind::Own as u16));
        assert_eq!((own.mac, own.link_local), ([2, 0, 0, 0, 0, 3], addr("fe80::33".parse().unwrap())));
        assert_eq!((own.v4, own.v6), (addr([10, 0, 0, 1].into()), addr("fd00::1".parse().unwrap())));
    }

    #[test]
    fn a_pod_whose_address_is_on_no_interface_of_the_node_is_held_to_its_first() {
        let (first, second) = (end(7, 2), end(8, 3));
        let kind = |end| made(&workload(), end, &[&second, &first], &inside(&[])).unwrap().kind;
        assert_eq!((kind(&first), kind(&second)), (GuardKind::Own as u16, GuardKind::Other as u16));
        assert!(made(&workload(), &end(9, 5), &[&first], &inside(&[])).is_err(), "its own end is gone");
    }

    #[test]
    fn a_link_local_address_is_made_as_the_kernel_makes_it() {
        let expected: IpAddr = "fe80::a00:27ff:fe4e:66a1".parse().unwrap();
        assert_eq!(of_link_address([0x08, 0x00, 0x27, 0x4e, 0x66, 0xa1]), expected);
    }
}
