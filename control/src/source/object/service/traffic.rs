//! Reads how a service's connections are spread: session affinity, internal traffic policy, traffic distribution.
//!
//! `externalTrafficPolicy` is not read: it speaks of traffic that enters the cluster, which is not the mesh's.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use millrace_model::{Affinity, Reach, Traffic};

use crate::{diagnostic::Problems, world::Distribution};

/// What Kubernetes takes where none is written: three hours.
const DEFAULT_TIMEOUT: i32 = 10_800;
/// Kubernetes' own bound: a day.
const MAX_TIMEOUT: i32 = 86_400;

pub(super) fn traffic(spec: &core::ServiceSpec, problems: &mut Problems) -> Traffic {
    Traffic { affinity: affinity(spec, problems), reach: reach(spec, problems), ..Traffic::default() }
}

fn affinity(spec: &core::ServiceSpec, problems: &mut Problems) -> Affinity {
    let config = spec.session_affinity_config.as_ref();
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => {
            if config.is_some() {
                problems.slight(
                    "spec.sessionAffinityConfig",
                    "sessionAffinity is None, so it means nothing",
                    "write sessionAffinity: ClientIP, or leave the field out",
                );
            }
            Affinity::None
        }
        Some("ClientIP") => {
            let given = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
            let seconds = given.unwrap_or(DEFAULT_TIMEOUT);
            if !(1..=MAX_TIMEOUT).contains(&seconds) {
                problems.fatal(
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                    format!("{seconds} is out of bounds"),
                    format!("write a whole number from 1 to {MAX_TIMEOUT}"),
                );
            }
            Affinity::ClientIp { timeout: Duration::from_secs(u64::from(seconds.unsigned_abs())) }
        }
        Some(other) => {
            problems.fatal(
                "spec.sessionAffinity",
                format!("{other:?} is not one of its values"),
                "write ClientIP or None",
            );
            Affinity::None
        }
    }
}

fn reach(spec: &core::ServiceSpec, problems: &mut Problems) -> Reach {
    match spec.internal_traffic_policy.as_deref() {
        None | Some("" | "Cluster") => Reach::Cluster,
        Some("Local") => Reach::Local,
        Some(other) => {
            problems.fatal(
                "spec.internalTrafficPolicy",
                format!("{other:?} is not one of its values"),
                "write Cluster or Local",
            );
            Reach::Cluster
        }
    }
}

pub(super) fn distribution(spec: &core::ServiceSpec, problems: &mut Problems) -> Distribution {
    match spec.traffic_distribution.as_deref() {
        None | Some("") => Distribution::Even,
        Some("PreferSameNode") => Distribution::SameNode,
        Some("PreferSameZone" | "PreferClose") => Distribution::SameZone,
        Some(other) => {
            // A preference, not a rule: without it every endpoint is as near as another.
            problems.slight(
                "spec.trafficDistribution",
                format!("{other:?} is not a preference that the mesh knows"),
                "write PreferSameNode, PreferSameZone or PreferClose",
            );
            Distribution::Even
        }
    }
}
