//! Carries, as bytes, what came here for a routed port though nobody routes this pod's requests: the routes are another namespace's,
//! or went just now. No endpoint was picked for it, so it is picked here, of this node's too.

use std::{net::SocketAddr, sync::Arc};

use millrace_model::{
    Ejected, Facts, Mesh, Workload,
    balance::weighted,
    outlier::Pool,
    resolve::{Backend, Hop, Standing, survey},
};
use rand::Rng as _;
use tokio::net::TcpStream;

use crate::{
    accept::Accepted,
    application::{self, Called},
    copy::{self, AtSocket},
    dial::{Connected, dial},
    fault::{Retry, Why},
    handshakes::Caller,
    home::{Home, Pod},
    outbound,
    pick::{Candidate, Turn},
    record::{Party, Record},
    stock::Family,
    worker::Worker,
};

/// How many endpoints one connection may try: as through a tunnel.
const ATTEMPTS: u32 = 3;

/// A connection from accept to end.
pub(crate) async fn serve(
    worker: &Arc<Worker>,
    accepted: &mut Accepted,
    (socket, asked): (TcpStream, SocketAddr),
    record: &mut Record,
) -> Result<(), Why> {
    let mesh = worker.proxy.current();
    let source = accepted.home.pod.workload(&mesh)?.clone();
    let mut backends = backends(worker, &mesh, asked)?;
    let mut last = Why::NoBackend;
    while record.attempts < ATTEMPTS {
        let index = weighted(backends.iter().map(|backend| backend.weight), rand::rng().random());
        let Some(index) = index else { break };
        let backend = backends.swap_remove(index);
        record.attempts += 1;
        let shown = outbound::client_of(&source, accepted.peer, backend.address)?;
        record.source = Party::of(&source, shown);
        record.target = Party::at(backend.address);
        match reach(worker, &mesh, (&*accepted, &source), (&backend, shown)).await {
            Ok(reached) => {
                record.carrying();
                accepted.pending = None;
                return Box::pin(carry(worker, accepted, (socket, reached), record)).await;
            }
            Err(fault) => {
                last = fault.why;
                if fault.retry == Retry::No {
                    break;
                }
            }
        }
    }
    Err(last)
}

/// The service's endpoints for clients of this node.
fn backends(worker: &Worker, mesh: &Mesh, asked: SocketAddr) -> Result<Vec<Backend>, Why> {
    let node = worker.proxy.welcome()?.node;
    let service = mesh.service_at(asked.ip(), asked.port(), millrace_model::Protocol::Tcp).ok_or(Why::NoBackend)?;
    let out: Ejected = worker.proxy.outliers.out_of((mesh, &node), &Pool::at(&service.name, asked));
    let found = survey(mesh, &node, service, asked, &out).into_iter().filter_map(|(_, standing)| match standing {
        Standing::Chosen(backend) => Some(backend),
        Standing::Spare(_) | Standing::LeftOut(_) => None,
    });
    Ok(found.collect())
}

/// An endpoint that has accepted.
enum Reached {
    Tunnel(crate::pool::Place, copy::Stream),
    Local(Connected, Home, Facts, tokio::sync::watch::Sender<()>),
    Plain(Connected),
}

async fn reach(
    worker: &Arc<Worker>,
    mesh: &Mesh,
    (accepted, source): (&Accepted, &Arc<Workload>),
    (backend, shown): (&Backend, SocketAddr),
) -> Result<Reached, crate::fault::Fault> {
    let proxy = &worker.proxy;
    match &backend.hop {
        Hop::Tunnel(peer) => {
            let candidate =
                Candidate { address: backend.address, weight: backend.weight, peer: peer.clone(), turn: Turn::First };
            let ends = outbound::ends((&accepted.home, source), shown, &candidate);
            let (place, stream) = outbound::attempt(worker, (&accepted.account, &ends), &candidate, shown).await?;
            Ok(Reached::Tunnel(place, stream))
        }
        Hop::Local(workload) => {
            let identity = Some(source.identity.clone());
            let facts = Facts { identity, address: shown.ip(), port: backend.address.port() };
            application::authorized(mesh, workload, &facts)?;
            let (present, home) = Home::new(Pod { name: workload.name.clone(), uid: workload.instance.clone() });
            let connected = application::dial_shown(proxy, &home, backend.address, shown).await?;
            Ok(Reached::Local(connected, home, facts, present))
        }
        Hop::Plain => {
            let unconnected = proxy.stock.take(&accepted.home.pod, Family::of(backend.address.ip())).await?;
            copy::abortive(&unconnected.socket);
            Ok(Reached::Plain(dial(unconnected, backend.address).await?))
        }
        Hop::Pending(_) => Err(Why::BackendPending.into()),
    }
}

async fn carry(
    worker: &Arc<Worker>,
    accepted: &Accepted,
    (client, reached): (TcpStream, Reached),
    record: &Record,
) -> Result<(), Why> {
    let gone = async {
        accepted.home.gone().await;
        Why::Gone
    };
    let carried = record.carried.clone();
    let waits = Arc::new(accepted.account.waits(Caller::at(&worker.proxy.current(), accepted.peer.ip())));
    match reached {
        Reached::Tunnel(place, stream) => {
            let ended = copy::through_tunnel(client, stream, AtSocket::Client, &carried, gone).await;
            drop(place);
            ended
        }
        Reached::Local(Connected { socket, held }, home, facts, present) => {
            let denied = application::denied_or_gone(&worker.proxy, &home, Called::Known(facts));
            let stop = async {
                tokio::select! {
                    why = denied => why,
                    why = gone => why,
                }
            };
            let ended = Box::pin(copy::between_sockets(client, socket, (&carried, &waits), stop)).await;
            drop((held, present));
            ended
        }
        Reached::Plain(Connected { socket, held }) => {
            let ended = copy::between_sockets(client, socket, (&carried, &waits), gone).await;
            drop(held);
            ended
        }
    }
}
