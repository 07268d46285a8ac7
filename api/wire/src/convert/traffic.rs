//! Converts how a service's connections are spread, and where its endpoints are.

use std::time::Duration;

use millrace_model::{self as model, outlier::Bounds, service::Readiness};

use super::{Texts, Undecodable, bad, retry};
use crate::mesh as pb;

pub(super) fn traffic(traffic: &model::Traffic) -> pb::Traffic {
    let model::Traffic { affinity, reach, outliers, retries } = traffic;
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
        outliers: Some(pb::Outliers { kind: Some(outliers_to(outliers)) }),
        retries: retry::budget(retries),
    }
}

fn outliers_to(outliers: &model::Outliers) -> pb::outliers::Kind {
    let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match outliers {
        model::Outliers::Kept => pb::outliers::Kind::Kept(true),
        model::Outliers::Ejected(Bounds { failures, interval, base, longest, percent }) => {
            pb::outliers::Kind::Ejected(pb::Bounds {
                failures: *failures,
                interval_ms: ms(interval),
                base_ms: ms(base),
                longest_ms: ms(longest),
                percent: *percent,
            })
        }
    }
}

fn outliers_from(outliers: Option<pb::Outliers>) -> Result<model::Outliers, Undecodable> {
    let field = "service.traffic.outliers";
    match outliers.and_then(|outliers| outliers.kind).ok_or_else(|| bad(field, "missing"))? {
        pb::outliers::Kind::Kept(_) => Ok(model::Outliers::Kept),
        pb::outliers::Kind::Ejected(pb::Bounds { failures: 0, .. }) => Err(bad(field, "no failure at all")),
        pb::outliers::Kind::Ejected(pb::Bounds { failures, interval_ms, base_ms, longest_ms, percent }) => {
            let [interval, base, longest] = [interval_ms, base_ms, longest_ms].map(Duration::from_millis);
            Ok(model::Outliers::Ejected(Bounds { failures, interval, base, longest, percent }))
        }
    }
}

pub(super) fn traffic_from(traffic: Option<pb::Traffic>) -> Result<model::Traffic, Undecodable> {
    let pb::Traffic { client_ip_affinity_s, reach, outliers, retries } =
        traffic.ok_or_else(|| bad("service.traffic", "missing"))?;
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
        outliers: outliers_from(outliers)?,
        retries: retry::budget_from(retries)?,
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

pub(super) fn place_from(place: Option<pb::Place>, said: &mut Texts) -> Result<model::Place, Undecodable> {
    let pb::Place { node, for_nodes, for_zones } = place.ok_or_else(|| bad("endpoint.place", "missing"))?;
    Ok(model::Place {
        node: node.map(|node| said.one(&node)),
        for_nodes: for_nodes.iter().map(|node| said.one(node)).collect(),
        for_zones: for_zones.iter().map(|zone| said.one(zone)).collect(),
    })
}
