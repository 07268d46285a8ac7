//! Bounds TLS handshakes under way: all in all, and from one address, so that no caller can keep the others out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// All in all: at half a millisecond of CPU each this is half a second's work of one core.
const MOST: usize = 1024;

/// From one address: a peer node's restart brings a tunnel for each of its workers and pods, a few tens.
const MOST_FROM_ONE: usize = 64;

/// Handshakes under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshakes(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One handshake, under way until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    handshakes: Handshakes,
    from: IpAddr,
}

impl Handshakes {
    /// The right to begin one with a peer at this address; None where there are too many.
    pub(crate) fn begin(&self, from: IpAddr) -> Option<UnderWay> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, own) = (under_way.values().sum::<usize>(), under_way.get(&from).copied().unwrap_or(0));
        if total >= MOST || own >= MOST_FROM_ONE {
            return None;
        }
        under_way.insert(from, own + 1);
        Some(UnderWay { handshakes: self.clone(), from })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = self.handshakes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Handshakes, MOST_FROM_ONE};

    #[test]
    fn one_address_can_not_keep_the_others_out() {
        let handshakes = Handshakes::default();
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut held: Vec<_> = (0..MOST_FROM_ONE).map(|_| handshakes.begin(one).unwrap()).collect();
        assert!(handshakes.begin(one).is_none());
        assert!(handshakes.begin(other).is_some());
        held.pop();
        assert!(handshakes.begin(one).is_some());
    }
}
