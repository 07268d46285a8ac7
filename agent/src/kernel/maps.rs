//! Reads and writes the kernel's maps, one entry at a time, and names the one that is full.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, OwnedFd},
};

use millrace_abi::{
    Addr, AffinityKey, AffinityValue, BackendKey, Dest, End, Exempt, Failures, Guard, Handoff, ListenerKey, Listening,
    ListeningKey, N_REASONS, Original, Pending, Pod, ProbeKey, ServiceKey, ServiceValue, ShownClient, SlotKey,
    SlotValue, Tuning, Tuple, Verdict, VerdictKey,
    capacity::{self, FLOW_BYTES},
    map,
    udp::{Ask, AskKey, Pace, Peers, StrangerKey, ToldKey},
};

use super::{
    capacities::Capacities,
    missing::{GRACE, Missing},
    state::{State, Write},
    syscall::{self, Plain},
};

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// There is no room for another entry.
    #[error("the kernel's map {map} is full: it holds {capacity} entries")]
    Full {
        /// Which.
        map: &'static str,
        /// How many it holds.
        capacity: u32,
    },
    /// The kernel refused for another reason.
    #[error("cannot read or write the kernel's map {map}")]
    Io {
        /// Which.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What a map must be like to be of this version: sizes in bytes, and entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) capacity: u32,
}

/// What every map that is pinned must be like.
pub(super) fn layouts(capacities: &Capacities) -> [(&'static str, Layout); map::ALL.len()] {
    fn of<K, V>(capacity: u32) -> Layout {
        Layout { key: size_of::<K>(), value: size_of::<V>(), capacity }
    }
    let room = |map| capacities.get(map);
    [
        (map::CONFIG, of::<u32, u32>(1)),
        (map::PODS, of::<u64, Pod>(room(map::PODS))),
        (map::DESTS, of::<Addr, Dest>(room(map::DESTS))),
        (map::SERVICES, of::<ServiceKey, ServiceValue>(room(map::SERVICES))),
        (map::SLOTS, of::<SlotKey, SlotValue>(room(map::SLOTS))),
        (map::AFFINITY, of::<AffinityKey, AffinityValue>(room(map::AFFINITY))),
        (map::FAILURES, of::<BackendKey, Failures>(capacity::FAILURES)),
        (map::LISTENING, of::<ListeningKey, Listening>(capacity::LISTENING)),
        (map::VERDICTS, of::<VerdictKey, Verdict>(room(map::VERDICTS))),
        (map::PROBES, of::<ProbeKey, u32>(room(map::PROBES))),
        (map::HANDOFFS, of::<Tuple, Handoff>(room(map::HANDOFFS))),
        (map::PENDING, of::<u64, Pending>(room(map::PENDING))),
        (map::LISTENERS, of::<ListenerKey, i32>(room(map::LISTENERS))),
        (map::GUARDS, of::<u32, Guard>(capacity::GUARDS)),
        (map::FORGED, of::<u64, u32>(capacity::FORGED)),
        (map::ORIGINAL, of::<i32, Original>(0)),
        (map::CLIENT, of::<i32, ShownClient>(0)),
        (map::ENDS, of::<i32, End>(0)),
        (map::EXEMPT, of::<i32, Exempt>(0)),
        (map::REASONS, of::<u32, u64>(N_REASONS)),
        (map::FLOWS, Layout { key: 0, value: 0, capacity: FLOW_BYTES }),
        (map::TUNING, of::<u32, Tuning>(1)),
        (map::STRANGERS, of::<StrangerKey, Verdict>(capacity::STRANGERS)),
        (map::ASKS, of::<AskKey, Ask>(capacity::ASKS)),
        (map::PEERS, of::<i32, Peers>(0)),
        (map::TOLD, of::<ToldKey, u64>(capacity::TOLD)),
        (map::PACE, of::<u64, Pace>(capacity::PACE)),
    ]
}

/// One of the kernel's maps, with the types it was made with.
pub(super) struct Table<K, V> {
    name: &'static str,
    capacity: u32,
    fd: OwnedFd,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    fn open<E>(
        open: impl Fn(&'static str, Layout) -> Result<OwnedFd, E>,
        name: &'static str,
        capacity: u32,
    ) -> Result<Self, E> {
        let layout = Layout { key: size_of::<K>(), value: size_of::<V>(), capacity };
        Ok(Self { name, capacity, fd: open(name, layout)?, types: PhantomData })
    }

    pub(super) fn set(&self, key: &K, value: &V) -> Result<(), MapError> {
        syscall::update(self.fd.as_fd(), key, value).map_err(|error| self.why(error))
    }

    pub(super) fn remove(&self, key: &K) -> Result<(), MapError> {
        syscall::delete(self.fd.as_fd(), key).map_err(|error| self.why(error))
    }

    pub(super) fn all<C: FromIterator<(K, V)>>(&self) -> Result<C, MapError> {
        let mut found = Vec::new();
        self.each(|key, value| found.push((key, value)))?;
        Ok(found.into_iter().collect())
    }

    fn count(&self) -> Result<u64, MapError> {
        let mut n = 0;
        self.each(|_, _| n += 1)?;
        Ok(n)
    }

    fn each(&self, each: impl FnMut(K, V)) -> Result<(), MapError> {
        syscall::entries(self.fd.as_fd(), each).map_err(|error| self.why(error))
    }

    fn keys(&self) -> Result<Vec<K>, MapError> {
        syscall::keys(self.fd.as_fd(), self.capacity).map_err(|error| self.why(error))
    }

    pub(super) fn why(&self, source: io::Error) -> MapError {
        let Self { name: map, capacity, .. } = *self;
        // Hash maps say E2BIG and tries ENOSPC, socket storages ENOMEM: that is not their capacity but the machine's.
        if matches!(source.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) {
            MapError::Full { map, capacity }
        } else {
            MapError::Io { map, source }
        }
    }
}

/// Every map that the agent writes.
pub(super) struct Tables {
    pub(super) config: Table<u32, u32>,
    pods: Table<u64, Pod>,
    dests: Table<Addr, Dest>,
    services: Table<ServiceKey, ServiceValue>,
    slots: Table<SlotKey, SlotValue>,
    verdicts: Table<VerdictKey, Verdict>,
    /// The value says nothing.
    probes: Table<ProbeKey, u32>,
    strangers: Table<StrangerKey, Verdict>,
    /// Programs' own: only read.
    asks: Table<AskKey, Ask>,
    handoffs: Table<Tuple, Handoff>,
    /// Made and counted by programs; removed where it says nothing any more.
    failures: Table<BackendKey, Failures>,
    /// Counted by programs; removed with the pod.
    pending: Table<u64, Pending>,
    /// The value is a socket's descriptor when written, and is not read.
    pub(super) listeners: Table<ListenerKey, i32>,
    /// By the index of an interface.
    pub(super) guards: Table<u32, Guard>,
    /// The key is a socket's descriptor.
    pub(super) exempt: Table<i32, Exempt>,
    pub(super) tuning: Table<u32, Tuning>,
    /// True where a service was flipped and a program may still draw from its old table.
    has_flipped: bool,
    /// True where the kernel says when programs have ended.
    waits: bool,
}

/// Backends, and how often connections failed to each.
pub(super) type Failed<B> = Vec<(B, Failures)>;

impl Tables {
    /// The tables, by `open`, which gives the descriptor of the map of a name and layout.
    pub(super) fn open<E>(
        open: impl Fn(&'static str, Layout) -> Result<OwnedFd, E>,
        (capacities, missing): (&Capacities, &Missing),
    ) -> Result<Self, E> {
        let room = |map| capacities.get(map);
        Ok(Self {
            config: Table::open(&open, map::CONFIG, 1)?,
            pods: Table::open(&open, map::PODS, room(map::PODS))?,
            dests: Table::open(&open, map::DESTS, room(map::DESTS))?,
            services: Table::open(&open, map::SERVICES, room(map::SERVICES))?,
            slots: Table::open(&open, map::SLOTS, room(map::SLOTS))?,
            verdicts: Table::open(&open, map::VERDICTS, room(map::VERDICTS))?,
            probes: Table::open(&open, map::PROBES, room(map::PROBES))?,
            strangers: Table::open(&open, map::STRANGERS, capacity::STRANGERS)?,
            asks: Table::open(&open, map::ASKS, capacity::ASKS)?,
            handoffs: Table::open(&open, map::HANDOFFS, room(map::HANDOFFS))?,
            failures: Table::open(&open, map::FAILURES, capacity::FAILURES)?,
            pending: Table::open(&open, map::PENDING, room(map::PENDING))?,
            listeners: Table::open(&open, map::LISTENERS, room(map::LISTENERS))?,
            guards: Table::open(&open, map::GUARDS, capacity::GUARDS)?,
            exempt: Table::open(&open, map::EXEMPT, 0)?,
            tuning: Table::open(&open, map::TUNING, 1)?,
            has_flipped: false,
            waits: !missing.lacks(GRACE),
        })
    }

    /// Reads everything back.
    pub(super) fn state(&self) -> Result<State, MapError> {
        Ok(State {
            pods: self.pods.all()?,
            dests: self.dests.all()?,
            services: self.services.all()?,
            slots: self.slots.all()?,
            verdicts: self.verdicts.all()?,
            probes: self.probes.keys()?.into_iter().collect(),
            strangers: self.strangers.all()?,
            listeners: self.listeners.keys()?.into_iter().collect(),
        })
    }

    /// Carries out one write. Removing what is not there is done already.
    pub(super) fn write(&mut self, write: &Write) -> Result<(), MapError> {
        match write {
            Write::SetPod(key, value) => self.pods.set(key, value),
            Write::RemovePod(key) => {
                self.pods.remove(key)?;
                // After the pod: nothing is counted for a namespace that is not known.
                self.pending.remove(key)
            }
            Write::SetDest(key, value) => self.dests.set(key, value),
            Write::RemoveDest(key) => self.dests.remove(key),
            Write::SetService(key, value) => {
                self.has_flipped = true;
                self.services.set(key, value)
            }
            Write::RemoveService(key) => {
                self.has_flipped = true;
                self.services.remove(key)
            }
            Write::SetSlot(key, value) => self.slots.set(key, value),
            Write::RemoveSlot(key) => {
                self.settle();
                self.slots.remove(key)
            }
            Write::SetVerdict(key, value) => self.verdicts.set(key, value),
            Write::RemoveVerdict(key) => self.verdicts.remove(key),
            Write::SetProbe(key) => self.probes.set(key, &1),
            Write::RemoveProbe(key) => self.probes.remove(key),
            Write::SetStranger(key, value) => self.strangers.set(key, value),
            Write::RemoveStranger(key) => self.strangers.remove(key),
            Write::RemoveListener(key) => self.listeners.remove(key),
        }
    }

    /// Waits, before the first slot after a flip is emptied, for the programs that may have read the service before it. A
    /// slot emptied under a program's feet would be missing, or, as the kernel reuses the entry's memory, another's.
    fn settle(&mut self) {
        if self.has_flipped {
            // Where the kernel cannot say, the programs look the service up again for a slot that is missing.
            self.has_flipped = !self.waits || syscall::grace_period().is_err();
        }
    }

    /// When this ask was last seen, if it is remembered.
    pub(super) fn asked(&self, key: &AskKey) -> Result<Option<Ask>, MapError> {
        syscall::get(self.asks.fd.as_fd(), key).map_err(|error| self.asks.why(error))
    }

    /// The backends that connections failed to, and how often.
    pub(super) fn failures(&self) -> Result<Failed<BackendKey>, MapError> {
        self.failures.all()
    }

    /// Forgets a backend's failures.
    pub(super) fn forget_failures(&self, key: &BackendKey) -> Result<(), MapError> {
        self.failures.remove(key)
    }

    /// How many hand-offs there are now, and how many pods have a count of theirs. The other tables hold what was written to
    /// them.
    pub(super) fn n_handoffs(&self) -> Result<(u64, u64), MapError> {
        Ok((self.handoffs.count()?, self.pending.count()?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use millrace_abi::map;

    use super::{Capacities, layouts};

    #[test]
    fn every_map_that_is_pinned_has_a_layout() {
        let named: BTreeSet<_> = layouts(&Capacities::default()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(named, map::ALL.into());
    }
}
