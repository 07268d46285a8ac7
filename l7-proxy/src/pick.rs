//! Picks the endpoint of an outbound connection: pure, with chance as an argument.

use std::net::SocketAddr;

use millrace_model::{
    Destination, Mesh,
    balance::{less_loaded, weighted},
    resolve::{Backend, Hop, Peer, hop, resolve},
};

use crate::{fault::Why, maps::Asked};

/// An endpoint that a tunnel leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The application's address.
    pub(crate) address: SocketAddr,
    /// Its share.
    pub(crate) weight: u32,
    /// The tunnel's far end.
    pub(crate) peer: Peer,
}

/// Every endpoint that may take a connection: the asked service's remote ones, or the one that the kernel picked.
///
/// The kernel drew among all of a service's endpoints and decided that this connection leaves the node; among those that
/// do, the proxy draws again, because it alone knows how many connections each has open.
pub(crate) fn candidates(mesh: &Mesh, node: &str, asked: Asked) -> Result<Vec<Candidate>, Why> {
    if let Destination::Service { name: _, backends } = resolve(mesh, node, asked.address) {
        let remote: Vec<Candidate> = backends
            .into_iter()
            .filter_map(|Backend { address, weight, hop }| match hop {
                Hop::Tunnel(peer) => Some(Candidate { address, weight, peer }),
                Hop::Plain | Hop::Local(_) | Hop::Pending(_) => None,
            })
            .collect();
        if !remote.is_empty() {
            return Ok(remote);
        }
    }
    match hop(mesh, node, asked.backend) {
        Hop::Tunnel(peer) => Ok(vec![Candidate { address: asked.backend, weight: 1, peer }]),
        Hop::Plain => Err(Why::BackendOutside),
        Hop::Local(_) => Err(Why::BackendLocal),
        Hop::Pending(_) => Err(Why::BackendPending),
    }
}

/// Takes one of `candidates` away: of two weighted draws the one with less open per weight. Those of `zone` go first.
pub(crate) fn pick(
    candidates: &mut Vec<Candidate>,
    zone: Option<&str>,
    draws: [u64; 2],
    outstanding: impl Fn([SocketAddr; 2]) -> [usize; 2],
) -> Option<Candidate> {
    let is_near = |candidate: &Candidate| zone.is_some() && candidate.peer.workload.zone.as_deref() == zone;
    let near = candidates.iter().any(is_near);
    let weights = candidates.iter().map(|c| if !near || is_near(c) { c.weight } else { 0 });
    let [first, second] = draws.map(|draw| weighted(weights.clone(), draw));
    let (first, second) = (first?, second?);
    let (one, other) = (candidates.get(first)?, candidates.get(second)?);
    let [n_one, n_other] = outstanding([one.address, other.address]);
    // Compared crosswise, so that an endpoint of ten times the weight may have ten times as many open.
    let load = |count: usize, weight: u32| count.saturating_mul(usize::try_from(weight).unwrap_or(usize::MAX));
    let index = less_loaded((first, load(n_one, other.weight)), (second, load(n_other, one.weight)));
    Some(candidates.swap_remove(index))
}

#[cfg(test)]
mod tests;
