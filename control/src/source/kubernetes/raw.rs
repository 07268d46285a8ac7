//! Takes an object from the API server as it came: a tree, of which nothing has to fit.
//!
//! So no object, whatever fields a newer API gave it, can break a list or a watch: what does not fit is found later, by the reader
//! that also reads files, and is that object's fault alone.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope},
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Stands;
use crate::diagnostic::Kind;

/// An object as it came.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    /// What the watch itself needs to know of it.
    meta: ObjectMeta,
    /// All of it.
    pub(super) value: Value,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(Value::deserialize(deserializer)?))
    }
}

impl From<Value> for Raw {
    fn from(mut value: Value) -> Self {
        if let Some(Value::Object(meta)) = value.get_mut("metadata") {
            // Who set which field: a third of a small object, and nothing that the mesh asks.
            meta.remove("managedFields");
        }
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let meta = ObjectMeta {
            name: text("/metadata/name"),
            namespace: text("/metadata/namespace"),
            uid: text("/metadata/uid"),
            resource_version: text("/metadata/resourceVersion"),
            generation: value.pointer("/metadata/generation").and_then(Value::as_i64),
            ..ObjectMeta::default()
        };
        Self { meta, value }
    }
}

impl Raw {
    /// The conditions on its status that are conditions.
    fn conditions(&self) -> Vec<Condition> {
        let list = self.value.pointer("/status/conditions").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|one| Condition::deserialize(one).ok()).collect()
    }
}

impl Raw {
    /// What stands on the status of an object of this kind; None for one that the mesh writes none on.
    pub(super) fn stands(&self, kind: Kind) -> Option<Stands> {
        if kind.is_own() {
            return Some(Stands::Conditions(self.conditions()));
        }
        let list = if kind.is_route() { "/status/parents" } else { "/status/ancestors" };
        let parents = || self.value.pointer(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let version = || self.meta.resource_version.as_deref().unwrap_or_default().into();
        kind.has_entries().then(|| Stands::Parents { parents: parents(), version: version() })
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use kube::Resource as _;
    use serde_json::json;

    use super::Raw;

    #[test]
    fn an_object_of_any_shape_is_taken() {
        for value in [json!({}), json!(3), json!({"metadata": []}), json!({"metadata": {"name": 4, "generation": "x"}})]
        {
            let raw: Raw = serde_json::from_value(value.clone()).unwrap();
            assert_eq!((raw.meta().name.as_deref(), raw.conditions()), (None, vec![]), "{value}");
        }
    }

    #[test]
    fn who_manages_which_field_is_not_kept() {
        let raw = Raw::from(json!({"metadata": {"name": "a", "managedFields": [{"manager": "x"}]}}));
        assert_eq!(raw.value, json!({"metadata": {"name": "a"}}));
    }
}
