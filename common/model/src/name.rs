//! Names objects the way Kubernetes does: a namespace and a name.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A namespaced object's name. Ordered by namespace, then name, as conflicts are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ObjectName {
    /// The namespace; never empty for an object of the mesh.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl ObjectName {
    /// The name from its two halves.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Eight bytes that stand for this name in kernel maps.
    ///
    /// SHA-256, truncated: an id survives a restart with no state kept, and to take on another's id
    /// on purpose costs 2^64 trials. Never zero, which the kernel reads as "none".
    pub fn id(&self) -> u64 {
        stable_id(&[self.namespace.as_bytes(), self.name.as_bytes()])
    }
}

/// A non-zero 64-bit id for a list of byte strings; the lengths are hashed too, so that no two lists collide by joining.
pub fn stable_id(parts: &[&[u8]]) -> u64 {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    u64::from_be_bytes(first).max(1)
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.to_string()
    }
}

/// The text is not `namespace/name`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not namespace/name")]
pub struct NotAName(String);

impl TryFrom<String> for ObjectName {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

impl std::str::FromStr for ObjectName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(NotAName(text.to_owned())),
        }
    }
}
