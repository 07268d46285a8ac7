//! Names the ids and addresses of the kernel's records by what the Snapshot says of them.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use millrace_model::{Mesh, ObjectName, Protocol, Workload, map::Differs};

/// Who is behind the ids and addresses of the kernel's records.
#[derive(Debug, Default)]
pub struct Names {
    mesh: Mesh,
    workloads: HashMap<u64, Arc<Workload>>,
    policies: HashMap<u64, ObjectName>,
}

/// What an id stands for, as far as it is known: printed, `namespace/name`; the id where its name is not known any more; nothing
/// for 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named<N> {
    Nobody,
    Id(u64),
    Name(N),
}

impl<N: Clone> Named<N> {
    fn of(id: u64, known: Option<&N>) -> Self {
        match (id, known) {
            (0, _) => Self::Nobody,
            (_, Some(name)) => Self::Name(name.clone()),
            (id, None) => Self::Id(id),
        }
    }

    /// Whom it names.
    pub(super) fn known(&self) -> Option<&N> {
        match self {
            Self::Name(name) => Some(name),
            Self::Nobody | Self::Id(_) => None,
        }
    }
}

/// A workload, by its id.
pub(super) type Who = Named<Arc<Workload>>;

impl Who {
    /// The id; 0 for nobody.
    pub(super) fn id(&self) -> u64 {
        match self {
            Self::Nobody => 0,
            Self::Id(id) => *id,
            Self::Name(workload) => workload.id(),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => Ok(()),
            Self::Id(id) => write!(f, "#{id:016x}"),
            Self::Name(workload) => workload.name.fmt(f),
        }
    }
}

impl fmt::Display for Named<ObjectName> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => Ok(()),
            Self::Id(id) => write!(f, "#{id:016x}"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Names {
    /// The names of everything in `mesh`.
    pub fn of(mesh: &Mesh) -> Self {
        let mut names = Self::default();
        names.turn(mesh);
        names
    }

    /// Takes in what `mesh` names otherwise.
    pub fn turn(&mut self, mesh: &Mesh) {
        let (before, now) = (&self.mesh.snapshot, &mesh.snapshot);
        for Differs { key: _, before, now } in before.workloads.differences(&now.workloads) {
            // One made again under its name has another id.
            if let Some(before) = before {
                self.workloads.remove(&before.id());
            }
            if let Some(now) = now {
                self.workloads.insert(now.id(), now.clone());
            }
        }
        for Differs { key: name, before: _, now } in before.policies.differences(&now.policies) {
            match now {
                Some(_) => drop(self.policies.insert(name.id(), name.clone())),
                None => drop(self.policies.remove(&name.id())),
            }
        }
        self.mesh = mesh.clone();
    }

    /// The workload of this id.
    pub(super) fn who(&self, id: u64) -> Who {
        Named::of(id, self.workloads.get(&id))
    }

    /// The workload at this address.
    pub(super) fn at(&self, address: IpAddr) -> Who {
        self.mesh.workload_at(address).map_or(Named::Nobody, |workload| Named::Name(workload.clone()))
    }

    /// The service that this address and port are of.
    pub(super) fn service(&self, asked: SocketAddr) -> Option<&ObjectName> {
        self.mesh.service_at(asked.ip(), asked.port(), Protocol::Tcp).map(|service| &service.name)
    }

    /// The policy of this id.
    pub(super) fn policy(&self, id: u64) -> Named<ObjectName> {
        Named::of(id, self.policies.get(&id))
    }
}
