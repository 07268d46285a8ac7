//! Picks the endpoint of an outbound connection: pure, with chance as an argument.

use std::net::SocketAddr;

use millrace_model::{
    Ejected, Mesh, Protocol,
    balance::{less_loaded, weighted},
    outlier::Pool,
    port,
    resolve::{Backend, Hop, Peer, Standing, hop, survey},
};

use crate::{
    fault::Why,
    maps::{Asked, Pick},
};

/// An endpoint that a tunnel leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The application's address.
    pub(crate) address: SocketAddr,
    /// Its share.
    pub(crate) weight: u32,
    /// The tunnel's far end.
    pub(crate) peer: Peer,
    /// When it is tried.
    pub(crate) turn: Turn,
}

/// When a candidate is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// Among the first.
    First,
    /// Where those failed: they were nearer.
    Later,
}

impl Candidate {
    /// A backend that a tunnel leads to.
    fn of(Backend { address, weight, hop }: Backend, turn: Turn) -> Option<Self> {
        match hop {
            Hop::Tunnel(peer) => Some(Self { address, weight, peer, turn }),
            Hop::Plain | Hop::Local(_) | Hop::Pending(_) => None,
        }
    }
}

/// Every endpoint that may take a connection: the asked service's remote ones, or the one that the kernel picked.
///
/// The kernel drew among all of a service's endpoints and decided that this connection leaves the node; among those that
/// do, the proxy draws again, because it alone knows how many connections each has open. A pick that binds is kept. `out` says
/// which endpoints of the service's pool are left out.
pub(crate) fn candidates(
    mesh: &Mesh,
    node: &str,
    asked: Asked,
    out: impl FnOnce(&Pool) -> Ejected,
) -> Result<Vec<Candidate>, Why> {
    let service = mesh.service_at(asked.address.ip(), asked.address.port(), Protocol::Tcp);
    if let (Some(service), Pick::Free) = (service, asked.pick) {
        let out = out(&Pool::at(&service.name, asked.address));
        let remote: Vec<Candidate> = survey(mesh, node, service, asked.address, &out)
            .into_iter()
            .filter_map(|(_, standing)| match standing {
                Standing::Chosen(backend) => Candidate::of(backend, Turn::First),
                Standing::Spare(backend) => Candidate::of(backend, Turn::Later),
                Standing::LeftOut(_) => None,
            })
            .collect();
        if remote.iter().any(|candidate| candidate.turn == Turn::First) {
            return Ok(remote);
        }
    }
    match hop(mesh, node, asked.backend) {
        Hop::Tunnel(peer) => Ok(vec![Candidate { address: asked.backend, weight: 1, peer, turn: Turn::First }]),
        Hop::Plain => match leaving(mesh, node, asked.backend) {
            Some(peer) => Ok(vec![Candidate { address: asked.backend, weight: 1, peer, turn: Turn::First }]),
            None => Err(Why::BackendOutside),
        },
        Hop::Local(_) => Err(Why::BackendLocal),
        Hop::Pending(_) => Err(Why::BackendPending),
    }
}

/// A workload of another node that left the mesh, while this node's kernel still sent us a connection to it: its own node
/// takes tunnels for it a while longer.
fn leaving(mesh: &Mesh, node: &str, backend: SocketAddr) -> Option<Peer> {
    let workload = mesh.workload_at(backend.ip()).filter(|workload| *workload.node != *node)?;
    let tunnel = SocketAddr::new(backend.ip(), port::TUNNEL);
    Some(Peer { workload: workload.clone(), identity: workload.identity.clone(), tunnel })
}

/// Takes one of `candidates` away: of two weighted draws the one with less open per weight. Those farther away come when no
/// other is left.
pub(crate) fn pick(
    candidates: &mut Vec<Candidate>,
    draws: [u64; 2],
    outstanding: impl Fn([SocketAddr; 2]) -> [usize; 2],
) -> Option<Candidate> {
    let turn = candidates.iter().map(|candidate| candidate.turn).min()?;
    let weights = candidates.iter().map(|c| if c.turn == turn { c.weight } else { 0 });
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
