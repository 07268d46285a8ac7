//! Bounds TLS handshakes under way: all in all, and from one caller, so that none can keep the others out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use millrace_model::Mesh;

/// With pods of the mesh, and as many again with others: at half a millisecond of CPU each this is half a second's work of
/// one core.
const MOST: usize = 1024;

/// With one caller: a peer node's restart brings a tunnel for each of its workers and pods, a few tens.
const MOST_WITH_ONE: usize = 64;

/// What an IPv6 host outside the mesh may have to itself: its interface's 64 bits are its own to choose.
const HOST_BITS: u32 = 64;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// The address of a pod of the mesh. Each counts alone: the pods of a node can share a /64.
    Pod(IpAddr),
    /// Any other address.
    Other(IpAddr),
}

impl Caller {
    /// Who has this address.
    pub(crate) fn at(mesh: &Mesh, address: IpAddr) -> Self {
        let address = address.to_canonical();
        if mesh.workload_at(address).is_some() { Self::Pod(address) } else { Self::Other(address) }
    }

    /// Whom it is counted with.
    pub(crate) fn counted(self) -> Self {
        match self {
            Self::Other(IpAddr::V6(v6)) => {
                Self::Other(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << HOST_BITS)).into())
            }
            Self::Pod(_) | Self::Other(IpAddr::V4(_)) => self,
        }
    }
}

/// Handshakes under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshakes(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    pods: Share,
    others: Share,
}

impl Counts {
    fn share(&mut self, caller: Caller) -> (&mut Share, IpAddr) {
        match caller.counted() {
            Caller::Pod(address) => (&mut self.pods, address),
            Caller::Other(address) => (&mut self.others, address),
        }
    }
}

#[derive(Debug, Default)]
struct Share {
    total: usize,
    of: HashMap<IpAddr, usize>,
}

/// One handshake, under way until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    handshakes: Handshakes,
    caller: Caller,
}

impl Handshakes {
    /// The right to begin one with this caller; None where there are too many.
    pub(crate) fn begin(&self, caller: Caller) -> Option<UnderWay> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (share, address) = counts.share(caller);
        let own = share.of.get(&address).copied().unwrap_or(0);
        if share.total >= MOST || own >= MOST_WITH_ONE {
            return None;
        }
        share.total += 1;
        share.of.insert(address, own + 1);
        Some(UnderWay { handshakes: self.clone(), caller })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut counts = self.handshakes.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (share, address) = counts.share(self.caller);
        if let Some(count) = share.of.get_mut(&address) {
            *count -= 1;
            share.total -= 1;
            if *count == 0 {
                share.of.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{Caller, Handshakes, MOST, MOST_WITH_ONE};

    fn other(address: &str) -> Caller {
        Caller::Other(address.parse().unwrap())
    }

    #[test]
    fn one_address_can_not_keep_the_others_out() {
        let handshakes = Handshakes::default();
        let mut held: Vec<_> = (0..MOST_WITH_ONE).map(|_| handshakes.begin(other("10.0.0.1")).unwrap()).collect();
        assert!(handshakes.begin(other("10.0.0.1")).is_none());
        assert!(handshakes.begin(other("10.0.0.2")).is_some());
        held.pop();
        assert!(handshakes.begin(other("10.0.0.1")).is_some());
    }

    #[test]
    fn a_host_with_a_whole_prefix_is_one_caller_and_pods_that_share_one_are_not() {
        let handshakes = Handshakes::default();
        let within = |n: usize| IpAddr::V6(format!("2001:db8::{n:x}").parse().unwrap());
        let _held: Vec<_> = (0..MOST_WITH_ONE).map(|n| handshakes.begin(Caller::Other(within(n))).unwrap()).collect();
        assert!(handshakes.begin(Caller::Other(within(MOST_WITH_ONE))).is_none());
        assert!(handshakes.begin(other("2001:db8:0:1::1")).is_some());
        let pods: Vec<_> = (0..=MOST_WITH_ONE).map(|n| handshakes.begin(Caller::Pod(within(n)))).collect();
        assert!(pods.iter().all(Option::is_some));
    }

    #[test]
    fn all_others_together_can_not_keep_a_pod_out() {
        let handshakes = Handshakes::default();
        let address = |n: usize| IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(n).unwrap()));
        let held: Vec<_> = (0..MOST).map(|n| handshakes.begin(Caller::Other(address(n))).unwrap()).collect();
        assert!(handshakes.begin(Caller::Other(address(MOST))).is_none());
        assert!(handshakes.begin(Caller::Pod(address(0))).is_some());
        drop(held);
        assert!(handshakes.begin(Caller::Other(address(MOST))).is_some());
    }
}
