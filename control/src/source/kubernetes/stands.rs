//! Holds what stands on an object's status, and what of an object its status is to speak of.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use millrace_model::Map;
use serde_json::Value;

use crate::{diagnostic::Key, world::route::Parent};

/// What stands on the status of the objects that the mesh writes one on, by name.
pub type Standing = Map<Key, Arc<Stands>>;

/// What stands on an object's status.
#[derive(Clone, Debug, PartialEq)]
pub enum Stands {
    /// A policy's conditions: a map by their type, of which each controller writes its own.
    Conditions(Vec<Condition>),
    /// What stands on a route of each parent, and on an XBackendTrafficPolicy of each ancestor, everybody's and as it came: a list that is written whole, so only over the version
    /// that was read.
    Parents {
        /// The list.
        parents: Vec<Value>,
        /// The version of the object that it stood on.
        version: Arc<str>,
    },
}

/// Which object each of those that bear no status of the mesh is, by name, of as many as an event may have to speak of: NetworkPolicies, and
/// what had a fault.
pub type Uids = Map<Key, Arc<str>>;

/// What each route and XBackendTrafficPolicy asks for, by name.
pub type AllAsked = Map<Key, Asked>;

/// What a route asks for, as far as its status must say so though the rest of it can't be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The services that it asks to be attached to, of a policy its targets.
    pub parents: Vec<Parent>,
    /// How many rules it has.
    pub n_rules: usize,
    /// The generation of it that is in force: its own, an earlier one's, or none.
    pub in_force: Option<i64>,
}
