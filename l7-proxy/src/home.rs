//! Says which pod a listener belongs to, and whether that pod is still there. Its connections end when it goes.

use std::{sync::Arc, time::Duration};

use millrace_model::{Mesh, ObjectName, Workload};
use millrace_node::wire;
use tokio::sync::watch;

use crate::fault::Why;

/// How long connections of a pod that is gone go on: its applications have ended in order, most of the time, and what they said last is still on
/// its way. Connections of one that is not there end by themselves, and before that.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// A pod of this node, by name and instance: its successor under the same name is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pod {
    /// Its namespace and name.
    pub(crate) name: ObjectName,
    /// Its instance: what the messages call its uid.
    pub(crate) uid: Arc<str>,
}

impl Pod {
    /// The pod that a message names; None where it names none.
    pub(crate) fn from_wire(name: Option<wire::mesh::ObjectName>, uid: &str) -> Option<Self> {
        let wire::mesh::ObjectName { namespace, name } = name?;
        Some(Self { name: ObjectName::new(&namespace, &name), uid: uid.into() })
    }

    /// Its name as messages carry it.
    pub(crate) fn wire_name(&self) -> wire::mesh::ObjectName {
        let ObjectName { namespace, name } = &self.name;
        wire::mesh::ObjectName { namespace: namespace.to_string(), name: name.to_string() }
    }

    /// What the snapshot says of it.
    pub(crate) fn workload<'m>(&self, mesh: &'m Mesh) -> Result<&'m Arc<Workload>, Why> {
        match mesh.snapshot.workloads.get(&self.name) {
            Some(workload) if workload.instance == self.uid => Ok(workload),
            Some(_) | None => Err(Why::UnknownWorkload),
        }
    }
}

/// A pod for as long as its listeners are held.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    /// Which.
    pub(crate) pod: Pod,
    gone: watch::Receiver<()>,
}

impl Home {
    /// A home that is there until the sender is dropped.
    pub(crate) fn new(pod: Pod) -> (watch::Sender<()>, Self) {
        let (sender, gone) = watch::channel(());
        (sender, Self { pod, gone })
    }

    /// Waits until the pod is gone, and what it said last has had its time to arrive.
    pub(crate) async fn silent(&self) {
        self.gone().await;
        tokio::time::sleep(LAST_WORDS).await;
    }

    /// Waits until the pod is gone.
    pub(crate) async fn gone(&self) {
        let mut gone = self.gone.clone();
        while gone.changed().await.is_ok() {}
    }
}
