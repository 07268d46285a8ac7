//! Picks the endpoint of a request among those of a backend, and another where it could not be reached.

mod pools;

use std::{net::SocketAddr, sync::Arc};

use millrace_model::{
    Mesh, ObjectName, Workload,
    balance::{less_loaded, weighted},
    resolve::{Backend, Hop},
    route::Speaks,
};
use rand::Rng as _;

use super::{
    fault::Fault,
    reach::{self, Caller},
    request::Callers,
    session::{self, Id},
    upstream::{Ends, Lease},
};
use crate::{fault::Retry, outbound, worker::Worker};
use pools::Sound;

pub(crate) use pools::Pools;

/// How many endpoints one request may try: a dead node and one more, not a whole broken service.
const ATTEMPTS: u32 = 3;

/// The endpoints that a request may still be sent to.
pub(crate) struct Endpoints<'c> {
    callers: &'c Callers,
    caller: Arc<Workload>,
    node: Arc<str>,
    sound: Arc<Sound>,
    /// Those that it was sent to already.
    tried: Vec<SocketAddr>,
    speaks: Speaks,
    attempts: u32,
    /// The one that its session is with, until it was tried.
    first: Option<Box<Backend>>,
}

impl<'c> Endpoints<'c> {
    /// Those of a service's port, for clients of this node.
    pub(crate) fn of(
        callers: &'c Callers,
        mesh: &Arc<Mesh>,
        (name, port, speaks): (&ObjectName, u16, Speaks),
        caller: &Arc<Workload>,
    ) -> Result<Self, Fault> {
        let worker = &callers.worker;
        let service = mesh.snapshot.services.get(name).ok_or(Fault::NoEndpoint)?;
        let node = worker.proxy.welcome()?.node;
        let sound = worker.pools.behind((&worker.proxy, mesh), &node, (service, port), callers.asked);
        let sound = sound.ok_or(Fault::NoEndpoint)?;
        Ok(Self { callers, caller: caller.clone(), node, sound, tried: Vec::new(), speaks, attempts: 0, first: None })
    }

    /// Begins with the one that tokens call so; whether there is one.
    pub(crate) fn prefer(&mut self, mesh: &Mesh, of: (&ObjectName, u16), id: &Id) -> bool {
        self.first = self.sound.called(mesh, of, id).cloned().map(Box::new);
        self.first.is_some()
    }

    /// What tokens call the endpoint that was chosen last.
    pub(crate) fn id(&self, mesh: &Mesh, of: (&ObjectName, u16)) -> Option<Id> {
        let address = self.chosen()?;
        let mut all = self.sound.chosen.iter().chain(&self.sound.spare);
        Some(session::id(mesh, of, all.find(|backend| backend.address == address)?))
    }

    /// Puts back the endpoint that was chosen last: it was the connection that failed.
    pub(crate) fn again(&mut self) {
        self.tried.pop();
        self.attempts = self.attempts.saturating_sub(1);
    }

    /// As many may be tried again. Those that were tried are asked last; where there is no other, any.
    pub(crate) fn anew(&mut self) {
        self.attempts = 0;
        let is_new = |backend: &Backend| backend.weight > 0 && !self.tried.contains(&backend.address);
        if !self.sound.chosen.iter().chain(&self.sound.spare).any(is_new) {
            let last = self.tried.pop();
            self.tried.clear();
            // Not the one that has just failed, if it is not the only one.
            if self.sound.chosen.len() + self.sound.spare.len() > 1 {
                self.tried.extend(last);
            }
        }
    }

    /// The endpoint that was chosen last.
    pub(crate) fn chosen(&self) -> Option<SocketAddr> {
        self.tried.last().copied()
    }

    /// A connection to one of them.
    pub(crate) async fn lease(&mut self, worker: &Arc<Worker>, mesh: &Mesh) -> Result<Lease, Fault> {
        let mut last = Fault::NoEndpoint;
        while self.attempts < ATTEMPTS {
            let Some(backend) = self.next(worker) else { break };
            self.attempts += 1;
            let shown = outbound::client_of(&self.caller, self.callers.peer, backend.address)?;
            let caller = Caller::new(self.callers, &self.caller, shown);
            let ends = Ends {
                source: caller.home.pod.clone(),
                source_address: shown.ip(),
                target: backend.address,
                instance: instance(&backend),
                speaks: self.speaks.into(),
            };
            let (outliers, view) = (&worker.proxy.outliers, (mesh, &*self.node));
            if let Some(lease) = worker.upstreams.kept(&ends).await {
                return Ok(lease);
            }
            match Box::pin(reach::open(worker, mesh, &caller, (&backend, &ends))).await {
                Ok(opened) => {
                    let lease = worker.upstreams.add(&ends, opened, &caller.account);
                    outliers.succeeded((&self.sound.pool, backend.address));
                    return Ok(lease);
                }
                Err(fault) => {
                    if let Some(cause) = fault.why.blames_endpoint() {
                        outliers.failed(view, (&self.sound.pool, backend.address), cause);
                    }
                    let may_try = fault.retry == Retry::IfUnsent;
                    last = Fault::Unreached(fault.why);
                    if !may_try {
                        break;
                    }
                }
            }
        }
        Err(last)
    }

    /// The next to try: of two weighted draws the one with fewer requests under way for its weight. Spares come when no other is left.
    fn next(&mut self, worker: &Worker) -> Option<Backend> {
        if let Some(first) = self.first.take() {
            self.tried.push(first.address);
            return Some(*first);
        }
        let sound = &self.sound;
        let (one, other) = if self.tried.is_empty() {
            (sound.draw()?, sound.draw()?)
        } else {
            self.rest(&sound.chosen).or_else(|| self.rest(&sound.spare))?
        };
        let load = |count: usize, weight: u32| count.saturating_mul(usize::try_from(weight).unwrap_or(usize::MAX));
        let next = if one.address == other.address {
            one
        } else {
            let [n_one, n_other] = worker.upstreams.busy([one.address, other.address]);
            less_loaded((one, load(n_one, other.weight)), (other, load(n_other, one.weight)))
        };
        let next = next.clone();
        self.tried.push(next.address);
        Some(next)
    }

    /// Two draws of those that were not tried.
    fn rest<'b>(&self, backends: &'b [Backend]) -> Option<(&'b Backend, &'b Backend)> {
        let is_tried = |backend: &Backend| self.tried.contains(&backend.address);
        let weights = backends.iter().map(|backend| if is_tried(backend) { 0 } else { backend.weight });
        let draw = || backends.get(weighted(weights.clone(), rand::rng().random())?);
        Some((draw()?, draw()?))
    }
}

fn instance(backend: &Backend) -> Option<Arc<str>> {
    match &backend.hop {
        Hop::Local(workload) | Hop::Pending(workload) => Some(workload.instance.clone()),
        Hop::Tunnel(peer) => Some(peer.workload.instance.clone()),
        Hop::Plain => None,
    }
}
