//! Bounds how much of something one caller may have, so that none can keep the others out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// What an IPv6 host has to itself: its interface's 64 bits are its own to choose.
const HOST_BITS: u32 = 64;

/// How much each caller has.
#[derive(Clone, Debug)]
pub(super) struct ByCaller {
    most: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One more of a caller's, until dropped.
#[derive(Debug)]
pub(super) struct OfCaller {
    of: ByCaller,
    caller: IpAddr,
}

impl ByCaller {
    /// So much at most for each.
    pub(super) fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// One more for whoever has this address; None where it has as much as it may.
    pub(super) fn take(&self, address: IpAddr) -> Option<OfCaller> {
        let caller = caller(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(caller).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(OfCaller { of: self.clone(), caller })
    }
}

impl Drop for OfCaller {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

/// Whom an address is counted with.
fn caller(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << HOST_BITS)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::ByCaller;

    #[test]
    fn an_address_or_a_hosts_prefix_has_its_bound_and_no_more() {
        let callers = ByCaller::new(2);
        let take = |address: &str| callers.take(address.parse().unwrap());
        for (mine, also_mine, other) in
            [("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1")]
        {
            let held = [take(mine).unwrap(), take(also_mine).unwrap()];
            assert!(take(mine).is_none() && take(also_mine).is_none(), "{mine}");
            assert!(take(other).is_some(), "{mine}");
            drop(held);
            assert!(take(mine).is_some(), "{mine}");
        }
        assert!(callers.counts.lock().unwrap().is_empty());
    }
}
