//! Converts how a service's connections are spread, and where its endpoints are.

use std::time::Duration;

use millrace_model::{self as model, service::Readiness};

use super::{Undecodable, bad};
use crate::mesh as pb;

pub(super) fn traffic(traffic: &model::Traffic) -> pb::Traffic {
    let model::Traffic { affinity, reach } = traffic;
    pb::Traffic {
        client_ip_affinity_s: match affinity {
            model::Affinity::None => None,
            model::Affinity::ClientIp { timeout } => Some(u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)),
        },
        reach: match reach {
            model::Reach::Cluster => pb::Reach::Cluster,
            model::Reach::Local => pb::Reach::Local,
        }
        .into(),
    }
}

pub(super) fn traffic_from(traffic: Option<pb::Traffic>) -> Result<model::Traffic, Undecodable> {
    let pb::Traffic { client_ip_affinity_s, reach } = traffic.ok_or_else(|| bad("service.traffic", "missing"))?;
    Ok(model::Traffic {
        affinity: match client_ip_affinity_s {
            None => model::Affinity::None,
            Some(0) => return Err(bad("service.traffic.client_ip_affinity_s", "no time at all")),
            Some(seconds) => model::Affinity::ClientIp { timeout: Duration::from_secs(seconds.into()) },
        },
        reach: match pb::Reach::try_from(reach) {
            Ok(pb::Reach::Cluster) => model::Reach::Cluster,
            Ok(pb::Reach::Local) => model::Reach::Local,
            Ok(pb::Reach::Unspecified) | Err(_) => return Err(bad("service.traffic.reach", reach)),
        },
    })
}

pub(super) fn readiness(readiness: Readiness) -> i32 {
    match readiness {
        Readiness::Ready => pb::Readiness::Ready,
        Readiness::Leaving => pb::Readiness::Leaving,
        Readiness::Unready => pb::Readiness::Unready,
    }
    .into()
}

pub(super) fn readiness_from(readiness: i32) -> Result<Readiness, Undecodable> {
    match pb::Readiness::try_from(readiness) {
        Ok(pb::Readiness::Ready) => Ok(Readiness::Ready),
        Ok(pb::Readiness::Leaving) => Ok(Readiness::Leaving),
        Ok(pb::Readiness::Unready) => Ok(Readiness::Unready),
        Ok(pb::Readiness::Unspecified) | Err(_) => Err(bad("endpoint.readiness", readiness)),
    }
}

pub(super) fn place(place: &model::Place) -> pb::Place {
    let model::Place { node, for_nodes, for_zones } = place;
    pb::Place {
        node: node.as_ref().map(ToString::to_string),
        for_nodes: for_nodes.iter().map(ToString::to_string).collect(),
        for_zones: for_zones.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn place_from(place: Option<pb::Place>) -> Result<model::Place, Undecodable> {
    let pb::Place { node, for_nodes, for_zones } = place.ok_or_else(|| bad("endpoint.place", "missing"))?;
    Ok(model::Place {
        node: node.map(Into::into),
        for_nodes: for_nodes.into_iter().map(Into::into).collect(),
        for_zones: for_zones.into_iter().map(Into::into).collect(),
    })
}
