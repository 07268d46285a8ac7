//! Checks a message against the number of descriptors that came with it, and its fields against their bounds. Pure.

use millrace_model::{Identity, identity};

use super::MAX_DESCRIPTORS;
use crate::wire::{
    mesh::ObjectName,
    node::{
        Applied, Close, Denial, Drain, Family, FromAgent, FromProxy, Hello, InForce, Keys, ListenerKind, Listeners,
        Retire, Returned, Snapshot, Sockets, Want, Welcome, from_agent, from_proxy,
    },
};

/// The longest name or version of a proxy, in bytes: it stands in log lines and metric labels.
const MAX_LABEL: usize = 63;

/// Why a message is refused. The connection that brought it is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No kind, or one that this version does not know.
    #[error("a message of no kind that this version knows")]
    Kind,
    /// Not the number of descriptors that it says.
    #[error("{message} came with {got} descriptors, not {expected}")]
    Descriptors {
        /// Which message.
        message: &'static str,
        /// How many it must have.
        expected: usize,
        /// How many it has.
        got: usize,
    },
    /// A field is missing or holds what it may not.
    #[error("{0} is missing, unknown or out of bounds")]
    Field(&'static str),
    /// One kind of listener twice.
    #[error("{0} lists a kind of listener twice")]
    Twice(&'static str),
    /// An identity that is none.
    #[error("{0} names no SPIFFE id")]
    Identity(&'static str, #[source] identity::Malformed),
}

/// Whether what an agent sent is well formed, and came with `n_descriptors` as it must.
pub fn check_from_agent(message: &FromAgent, n_descriptors: usize) -> Result<(), Malformed> {
    use from_agent::Kind;
    let FromAgent { kind } = message;
    match kind.as_ref().ok_or(Malformed::Kind)? {
        Kind::Welcome(Welcome { node }) => {
            count("Welcome", 2, n_descriptors)?;
            label("Welcome.node", node, MAX_NODE)
        }
        Kind::Snapshot(Snapshot { generation: _, settings, from: _ }) => {
            if settings.as_ref().is_some_and(|settings| settings.cpus.len() > MAX_CPUS) {
                return Err(Malformed::Field("Snapshot.settings.cpus"));
            }
            count("Snapshot", 1, n_descriptors)
        }
        Kind::Listeners(Listeners { workload, uid, kinds }) => {
            pod("Listeners.workload", workload.as_ref(), uid)?;
            listeners("Listeners", kinds, n_descriptors)
        }
        Kind::Close(Close { workload, uid }) => {
            pod("Close.workload", workload.as_ref(), uid)?;
            count("Close", 0, n_descriptors)
        }
        Kind::Sockets(Sockets { workload, uid, family, count: n }) => {
            pod("Sockets.workload", workload.as_ref(), uid)?;
            is_family("Sockets.family", *family)?;
            count("Sockets", at_most("Sockets.count", *n)?, n_descriptors)
        }
        Kind::Keys(Keys { identity }) => {
            count("Keys", 1, n_descriptors)?;
            is_identity("Keys", identity)
        }
        Kind::Drain(Drain { deadline_ms: _ }) => count("Drain", 0, n_descriptors),
        Kind::Retire(Retire { identity }) => {
            count("Retire", 0, n_descriptors)?;
            is_identity("Retire", identity)
        }
    }
}

/// Whether what a proxy sent is well formed, and came with `n_descriptors` as it must.
pub fn check_from_proxy(message: &FromProxy, n_descriptors: usize) -> Result<(), Malformed> {
    use from_proxy::Kind;
    let FromProxy { kind } = message;
    match kind.as_ref().ok_or(Malformed::Kind)? {
        Kind::Hello(Hello { name, version, draining: _, takes_differences: _ }) => {
            count("Hello", 0, n_descriptors)?;
            label("Hello.name", name, MAX_LABEL)?;
            label("Hello.version", version, MAX_LABEL)
        }
        Kind::Returned(Returned { workload, uid, kinds }) => {
            pod("Returned.workload", workload.as_ref(), uid)?;
            listeners("Returned", kinds, n_descriptors)
        }
        Kind::Want(Want { workload, uid, family, count: n }) => {
            pod("Want.workload", workload.as_ref(), uid)?;
            is_family("Want.family", *family)?;
            if at_most("Want.count", *n)? == 0 {
                return Err(Malformed::Field("Want.count"));
            }
            count("Want", 0, n_descriptors)
        }
        Kind::Applied(Applied { generation: _, in_force }) => {
            if in_force.len() > MAX_ROWS {
                return Err(Malformed::Field("Applied.in_force"));
            }
            for InForce { field, value } in in_force {
                label("Applied.in_force.field", field, MAX_LABEL)?;
                if value.len() > MAX_LABEL || value.chars().any(char::is_control) {
                    return Err(Malformed::Field("Applied.in_force.value"));
                }
            }
            count("Applied", 0, n_descriptors)
        }
        Kind::Denial(Denial { source: _, target: _, reason: _, policy: _ }) => count("Denial", 0, n_descriptors),
        Kind::Outcome(outcome) => {
            super::read_outcome(outcome)?;
            count("Outcome", 0, n_descriptors)
        }
    }
}

/// Processors that settings may name: as many as a NodeProfile may.
const MAX_CPUS: usize = 256;

/// Settings that a proxy may tell of: some more than a NodeProfile has.
const MAX_ROWS: usize = 64;

/// The longest name of a node, in bytes: Kubernetes' bound for one.
const MAX_NODE: usize = 253;

/// The longest uid of a pod, in bytes: Kubernetes' are 36, a directory's manifest may say its own.
const MAX_UID: usize = 128;

fn count(message: &'static str, expected: usize, got: usize) -> Result<(), Malformed> {
    if expected == got { Ok(()) } else { Err(Malformed::Descriptors { message, expected, got }) }
}

fn label(field: &'static str, text: &str, limit: usize) -> Result<(), Malformed> {
    let fits = !text.is_empty() && text.len() <= limit && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(()) } else { Err(Malformed::Field(field)) }
}

fn pod(field: &'static str, name: Option<&ObjectName>, uid: &str) -> Result<(), Malformed> {
    let ObjectName { namespace, name } = name.ok_or(Malformed::Field(field))?;
    label(field, namespace, MAX_NODE)?;
    label(field, name, MAX_NODE)?;
    if uid.len() <= MAX_UID { Ok(()) } else { Err(Malformed::Field(field)) }
}

fn listeners(message: &'static str, kinds: &[i32], n_descriptors: usize) -> Result<(), Malformed> {
    for (index, kind) in kinds.iter().enumerate() {
        match ListenerKind::try_from(*kind) {
            Ok(ListenerKind::Unspecified) | Err(_) => return Err(Malformed::Field(message)),
            Ok(
                ListenerKind::OutboundV4
                | ListenerKind::OutboundV6
                | ListenerKind::PlaintextV4
                | ListenerKind::PlaintextV6
                | ListenerKind::TunnelV4
                | ListenerKind::TunnelV6,
            ) => {}
        }
        if kinds.iter().take(index).any(|earlier| earlier == kind) {
            return Err(Malformed::Twice(message));
        }
    }
    count(message, kinds.len(), n_descriptors)
}

fn at_most(field: &'static str, count: u32) -> Result<usize, Malformed> {
    match usize::try_from(count) {
        Ok(count) if count <= MAX_DESCRIPTORS => Ok(count),
        Ok(_) | Err(_) => Err(Malformed::Field(field)),
    }
}

fn is_family(field: &'static str, family: i32) -> Result<(), Malformed> {
    match Family::try_from(family) {
        Ok(Family::V4 | Family::V6) => Ok(()),
        Ok(Family::Unspecified) | Err(_) => Err(Malformed::Field(field)),
    }
}

fn is_identity(message: &'static str, text: &str) -> Result<(), Malformed> {
    text.parse::<Identity>().map(|_| ()).map_err(|why| Malformed::Identity(message, why))
}
