//! Picks the endpoint of a request among those of a backend, and another where it could not be reached.

use std::{net::SocketAddr, sync::Arc};

use millrace_model::{
    Mesh, ObjectName, Protocol, Service, Workload,
    balance::{less_loaded, weighted},
    outlier::Pool,
    resolve::{Backend, Hop, Standing, survey},
    route::Speaks,
};
use rand::Rng as _;

use super::{
    fault::Fault,
    reach::{self, Caller},
    request::Callers,
    upstream::{Ends, Lease},
};
use crate::{fault::Retry, outbound, worker::Worker};

/// How many endpoints one request may try: a dead node and one more, not a whole broken service.
const ATTEMPTS: u32 = 3;

/// The endpoints that a request may still be sent to.
pub(crate) struct Endpoints<'c> {
    callers: &'c Callers,
    caller: Arc<Workload>,
    node: Arc<str>,
    /// The pool, as failures in it are known.
    pool: Pool,
    chosen: Vec<Backend>,
    spare: Vec<Backend>,
    speaks: Speaks,
    attempts: u32,
    last: Option<SocketAddr>,
    returned: Option<Backend>,
}

impl<'c> Endpoints<'c> {
    /// Those of a service's port, for clients of this node.
    pub(crate) fn of(
        callers: &'c Callers,
        mesh: &Mesh,
        (name, port, speaks): (&ObjectName, u16, Speaks),
        caller: &Arc<Workload>,
    ) -> Result<Self, Fault> {
        let proxy = &callers.worker.proxy;
        let service = mesh.snapshot.services.get(name).ok_or(Fault::NoEndpoint)?;
        let node = proxy.welcome()?.node;
        let (mut chosen, mut spare) = (Vec::new(), Vec::new());
        let mut pool = None;
        for asked in addresses(service, callers.asked, port) {
            let this = Pool::at(&service.name, asked);
            let out = proxy.outliers.out_of((mesh, &node), &this);
            for (_, standing) in survey(mesh, &node, service, asked, &out) {
                match standing {
                    Standing::Chosen(backend) => chosen.push(backend),
                    Standing::Spare(backend) => spare.push(backend),
                    Standing::LeftOut(_) => {}
                }
            }
            pool = Some(this);
            if !chosen.is_empty() {
                break;
            }
        }
        let (Some(pool), false) = (pool, chosen.is_empty()) else { return Err(Fault::NoEndpoint) };
        let caller = caller.clone();
        Ok(Self { callers, caller, node, pool, chosen, spare, speaks, attempts: 0, last: None, returned: None })
    }

    /// Puts back the endpoint that was chosen last: it was the connection that failed.
    pub(crate) fn again(&mut self) {
        self.chosen.extend(self.returned.take());
        self.attempts = self.attempts.saturating_sub(1);
    }

    /// The endpoint that was chosen last.
    pub(crate) fn chosen(&self) -> Option<SocketAddr> {
        self.last
    }

    /// A connection to one of them.
    pub(crate) async fn lease(&mut self, worker: &Arc<Worker>, mesh: &Mesh) -> Result<Lease, Fault> {
        let mut last = Fault::NoEndpoint;
        while self.attempts < ATTEMPTS {
            let Some(backend) = self.next(worker) else { break };
            self.attempts += 1;
            self.last = Some(backend.address);
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
                self.returned = Some(backend);
                return Ok(lease);
            }
            match Box::pin(reach::open(worker, mesh, &caller, (&backend, &ends))).await {
                Ok(opened) => {
                    let lease = worker.upstreams.add(&ends, opened, &caller.account);
                    outliers.succeeded((&self.pool, backend.address));
                    self.returned = Some(backend);
                    return Ok(lease);
                }
                Err(fault) => {
                    if let Some(cause) = fault.why.blames_endpoint() {
                        outliers.failed(view, (&self.pool, backend.address), cause);
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

    /// Takes one away: of two weighted draws the one with fewer requests under way for its weight. Spares come when no other is left.
    fn next(&mut self, worker: &Worker) -> Option<Backend> {
        if self.chosen.is_empty() {
            self.chosen = std::mem::take(&mut self.spare);
        }
        let weights = self.chosen.iter().map(|backend| backend.weight);
        let draw = || weighted(weights.clone(), rand::rng().random());
        let (first, second) = (draw()?, draw()?);
        let (one, other) = (self.chosen.get(first)?, self.chosen.get(second)?);
        let [n_one, n_other] = worker.upstreams.busy([one.address, other.address]);
        let load = |count: usize, weight: u32| count.saturating_mul(usize::try_from(weight).unwrap_or(usize::MAX));
        let index = less_loaded((first, load(n_one, other.weight)), (second, load(n_other, one.weight)));
        Some(self.chosen.swap_remove(index))
    }
}

fn instance(backend: &Backend) -> Option<Arc<str>> {
    match &backend.hop {
        Hop::Local(workload) | Hop::Pending(workload) => Some(workload.instance.clone()),
        Hop::Tunnel(peer) => Some(peer.workload.instance.clone()),
        Hop::Plain => None,
    }
}

/// What a service's endpoints are asked for at: its own addresses, of the family that the client spoke before the other; where it
/// has none, the client's own word.
fn addresses(service: &Service, asked: SocketAddr, port: u16) -> Vec<SocketAddr> {
    let has_port = service.ports.iter().any(|one| one.port == port && one.protocol == Protocol::Tcp);
    if !has_port {
        return vec![];
    }
    let asked = SocketAddr::new(asked.ip().to_canonical(), port);
    let mut all: Vec<SocketAddr> = service.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
    all.sort_by_key(|address| address.is_ipv4() != asked.is_ipv4());
    if all.is_empty() { vec![asked] } else { all }
}
