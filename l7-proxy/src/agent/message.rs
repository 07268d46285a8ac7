//! Converts between the hand-over's messages and the proxy's own words.

use millrace_node::{
    credentials::KeyMaterial,
    wire::{
        mesh::ObjectName,
        node::{self, ListenerKind, from_proxy},
    },
};
use prost::Message as _;

use super::Ended;
use crate::{
    accept::Kind,
    home::Pod,
    record::Denial,
    stock::{Family, Want},
};

/// The longest text in a Denial: with four of them a packet is far from full.
const MAX_TEXT: usize = 1024;

pub(super) fn pod(name: Option<ObjectName>, uid: &str) -> Result<Pod, Ended> {
    Pod::from_wire(name, uid).ok_or(Ended::Unusable("a pod without a name"))
}

pub(super) fn family(family: i32) -> Result<Family, Ended> {
    match node::Family::try_from(family) {
        Ok(node::Family::V4) => Ok(Family::V4),
        Ok(node::Family::V6) => Ok(Family::V6),
        Ok(node::Family::Unspecified) | Err(_) => Err(Ended::Unusable("an unknown address family")),
    }
}

pub(super) fn listener_kind(kind: i32) -> Result<ListenerKind, Ended> {
    ListenerKind::try_from(kind).map_err(|_unknown| Ended::Unusable("an unknown kind of listener"))
}

/// What a listener is for, and of which family it is.
pub(super) fn purpose(kind: ListenerKind) -> Result<(Kind, Family), Ended> {
    match kind {
        ListenerKind::OutboundV4 => Ok((Kind::Outbound, Family::V4)),
        ListenerKind::OutboundV6 => Ok((Kind::Outbound, Family::V6)),
        ListenerKind::PlaintextV4 => Ok((Kind::Plaintext, Family::V4)),
        ListenerKind::PlaintextV6 => Ok((Kind::Plaintext, Family::V6)),
        ListenerKind::TunnelV4 => Ok((Kind::Tunnel, Family::V4)),
        ListenerKind::TunnelV6 => Ok((Kind::Tunnel, Family::V6)),
        ListenerKind::Unspecified => Err(Ended::Unusable("an unknown kind of listener")),
    }
}

pub(super) fn key_material(bytes: &[u8]) -> Result<KeyMaterial, Ended> {
    let message = node::KeyMaterial::decode(bytes).map_err(|_undecodable| Ended::Unusable("key material"))?;
    KeyMaterial::try_from(message).map_err(|_incomplete| Ended::Unusable("incomplete key material"))
}

pub(super) fn want(want: Want) -> from_proxy::Kind {
    let Want { pod, family, count } = want;
    from_proxy::Kind::Want(node::Want {
        workload: Some(pod.wire_name()),
        uid: pod.uid.to_string(),
        family: match family {
            Family::V4 => node::Family::V4,
            Family::V6 => node::Family::V6,
        }
        .into(),
        count: u32::try_from(count).unwrap_or(u32::MAX),
    })
}

pub(super) fn denial(denial: Denial) -> from_proxy::Kind {
    let Denial { source, target, reason, policy } = denial;
    from_proxy::Kind::Denial(node::Denial {
        source: short(source),
        target: short(target),
        reason: reason.to_owned(),
        policy: short(policy),
    })
}

fn short(mut text: String) -> String {
    while text.len() > MAX_TEXT {
        text.pop();
    }
    text
}
