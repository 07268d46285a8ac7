//! Says what the kernel's tables hold, as a value, and one change of it.

use std::collections::{BTreeMap, BTreeSet};

use millrace_abi::{
    Addr, Dest, ListenerKey, Pod, ProbeKey, ServiceKey, ServiceValue, SlotKey, SlotValue, Verdict, VerdictKey,
    udp::StrangerKey,
};

/// What the tables hold that the agent writes. Hand-offs, storages and counters are the programs' own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Known network namespaces, by cookie.
    pub pods: BTreeMap<u64, Pod>,
    /// Addresses of mesh workloads.
    pub dests: BTreeMap<Addr, Dest>,
    /// Virtual addresses.
    pub services: BTreeMap<ServiceKey, ServiceValue>,
    /// The slots of every table.
    pub slots: BTreeMap<SlotKey, SlotValue>,
    /// Who may call whom.
    pub verdicts: BTreeMap<VerdictKey, Verdict>,
    /// Ports that the host reaches as such.
    pub probes: BTreeSet<ProbeKey>,
    /// What callers without identity may send, by UDP.
    pub strangers: BTreeMap<StrangerKey, Verdict>,
    /// Listeners that connections are steered to. A listener that nobody holds any more is not among them.
    pub listeners: BTreeSet<ListenerKey>,
}

/// One change of a [`State`]. Listeners are set by [`super::Kernel::set_listener`], which needs the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Makes a network namespace known.
    SetPod(u64, Pod),
    /// Forgets a network namespace.
    RemovePod(u64),
    /// Says how an address is reached.
    SetDest(Addr, Dest),
    /// Takes an address out of the mesh.
    RemoveDest(Addr),
    /// Turns a service to a table.
    SetService(ServiceKey, ServiceValue),
    /// Removes a service.
    RemoveService(ServiceKey),
    /// Fills a slot.
    SetSlot(SlotKey, SlotValue),
    /// Empties a slot.
    RemoveSlot(SlotKey),
    /// Writes a verdict.
    SetVerdict(VerdictKey, Verdict),
    /// Removes a verdict, which is a no.
    RemoveVerdict(VerdictKey),
    /// Lets the host reach a port that probes name.
    SetProbe(ProbeKey),
    /// Lets the host no longer reach it as such.
    RemoveProbe(ProbeKey),
    /// Writes a verdict on callers without identity.
    SetStranger(StrangerKey, Verdict),
    /// Removes one: what a wider one says counts then, or it is a no.
    RemoveStranger(StrangerKey),
    /// Stops steering to a listener.
    RemoveListener(ListenerKey),
}

impl State {
    /// Makes one change, as the kernel's tables would.
    pub fn apply(&mut self, write: &Write) {
        match *write {
            Write::SetPod(key, value) => drop(self.pods.insert(key, value)),
            Write::RemovePod(key) => drop(self.pods.remove(&key)),
            Write::SetDest(key, value) => drop(self.dests.insert(key, value)),
            Write::RemoveDest(key) => drop(self.dests.remove(&key)),
            Write::SetService(key, value) => drop(self.services.insert(key, value)),
            Write::RemoveService(key) => drop(self.services.remove(&key)),
            Write::SetSlot(key, value) => drop(self.slots.insert(key, value)),
            Write::RemoveSlot(key) => drop(self.slots.remove(&key)),
            Write::SetVerdict(key, value) => drop(self.verdicts.insert(key, value)),
            Write::RemoveVerdict(key) => drop(self.verdicts.remove(&key)),
            Write::SetProbe(key) => {
                self.probes.insert(key);
            }
            Write::RemoveProbe(key) => {
                self.probes.remove(&key);
            }
            Write::SetStranger(key, value) => drop(self.strangers.insert(key, value)),
            Write::RemoveStranger(key) => drop(self.strangers.remove(&key)),
            Write::RemoveListener(key) => {
                self.listeners.remove(&key);
            }
        }
    }
}
