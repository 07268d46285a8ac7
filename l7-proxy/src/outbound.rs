//! Lives one outbound connection: what was asked for, an endpoint, a tunnel to it, bytes both ways.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, StatusCode, header};
use millrace_model::{Protocol, Workload, outlier::Pool};
use rand::Rng as _;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    accept::Accepted,
    copy::{self, AtSocket, Stream},
    fault::{Fault, Retry, Why},
    head,
    home::Home,
    http::{Taken, take},
    limits::Account,
    maps::Asked,
    metrics::Direction,
    pick::{Candidate, candidates, pick},
    pool::{Ends, Place},
    proxy::Open,
    record::{Party, Record},
    stock::Family,
    worker::Worker,
};

/// How many endpoints one connection may try: a dead node and one more, not a whole broken service.
const ATTEMPTS: u32 = 3;

/// How long all of it may take. The application's connect has succeeded: it waits for its first byte or a reset.
const OPENING: Duration = Duration::from_secs(30);

/// How often one endpoint is tried when a tunnel that was there before turns out to be closing.
const STALE: u32 = 2;

/// How long the far side may take to answer CONNECT: its own dial of the application takes at most half of it.
const ANSWER: Duration = Duration::from_secs(12);

/// The header in which a Millrace peer names its reason for a refusal.
pub(crate) const REASON: &str = "x-millrace-reason";

/// The header in which it names the policy.
pub(crate) const POLICY: &str = "x-millrace-policy";

/// A connection that an application of this node made to a workload of another.
pub(crate) async fn serve(worker: Arc<Worker>, mut accepted: Accepted, socket: TcpStream) {
    let mut record = Record::begin(worker.proxy.clone(), Direction::Outbound, Party::at(accepted.peer));
    let (socket, asked) = match Box::pin(take(&worker, &mut accepted, socket, &mut record)).await {
        Taken::Ended(ended) => return record.end(ended),
        Taken::Not(socket, asked) => (socket, asked),
    };
    let opened = tokio::select! {
        opened = timeout(OPENING, open(&worker, &accepted, asked, &mut record)) => opened,
        () = copy::reset_of(&socket) => Ok(Err(Why::ClientReset)),
    };
    let ended = match opened.unwrap_or(Err(Why::AnswerTimeout)) {
        Ok((held, stream)) => {
            record.carrying();
            accepted.pending = None;
            let gone = async {
                accepted.home.silent().await;
                Why::Gone
            };
            let ended = copy::through_tunnel(socket, stream, AtSocket::Client, &record.carried.clone(), gone).await;
            drop(held);
            ended
        }
        Err(why) => {
            drop(socket);
            Err(why)
        }
    };
    record.end(ended);
}

/// A stream that an endpoint has accepted. Nothing was read from the application before.
async fn open<'w>(
    worker: &'w Arc<Worker>,
    accepted: &Accepted,
    asked: Result<Asked, Why>,
    record: &mut Record,
) -> Result<(Held<'w>, Stream), Why> {
    let mesh = worker.proxy.current();
    let welcome = worker.proxy.welcome()?;
    let asked = asked?;
    record.asked = Some(asked.address);
    record.target = Party::at(asked.backend);
    let source = accepted.home.pod.workload(&mesh)?.clone();
    let (outliers, view) = (&worker.proxy.outliers, (&*mesh, &*welcome.node));
    let pool = mesh.service_at(asked.address.ip(), asked.address.port(), Protocol::Tcp);
    let pool = pool.map(|service| Pool::at(&service.name, asked.address));
    let mut left = candidates(&mesh, &welcome.node, asked, |pool| outliers.out_of(view, pool))?;
    let mut last = Why::NoBackend;
    while record.attempts < ATTEMPTS {
        let draws = [rand::rng().random(), rand::rng().random()];
        let outstanding = |endpoints| worker.proxy.outstanding.of(endpoints);
        let Some(candidate) = pick(&mut left, draws, outstanding) else { break };
        let client = client_of(&source, accepted.peer, candidate.address)?;
        record.attempts += 1;
        record.source = Party::of(&source, client);
        record.target = Party::of(&candidate.peer.workload, candidate.address);
        if record.attempts > 1 {
            worker.proxy.metrics.retries.inc();
        }
        let open = worker.proxy.outstanding.open(candidate.address);
        let ends = ends((&accepted.home, &source), client, &candidate);
        match attempt(worker, (&accepted.account, &ends), &candidate, client).await {
            Ok((place, stream)) => {
                if let Some(pool) = &pool {
                    outliers.succeeded((pool, candidate.address));
                }
                return Ok((Held((place, open)), stream));
            }
            Err(fault) => {
                if let (Some(pool), Some(cause)) = (&pool, fault.why.blames_endpoint()) {
                    outliers.failed(view, (pool, candidate.address), cause);
                }
                tracing::debug!(endpoint = %candidate.address, reason = fault.why.name(), "an endpoint failed");
                drop(open);
                last = fault.why;
                match fault.retry {
                    Retry::IfUnsent => {}
                    Retry::No => break,
                }
            }
        }
    }
    Err(last)
}

/// What an open connection keeps of others until it ends: its place in the tunnel, and its count at the endpoint.
struct Held<'w>(#[expect(dead_code, reason = "held for its drop")] (Place, Open<'w>));

/// Asks one endpoint, by a tunnel that is there or a new one.
pub(crate) async fn attempt(
    worker: &Arc<Worker>,
    (account, ends): (&Arc<Account>, &Ends),
    candidate: &Candidate,
    client: SocketAddr,
) -> Result<(Place, Stream), Fault> {
    let mut stale = 0;
    loop {
        let place = worker.pool.place(&worker.proxy, account, ends).await?;
        match timeout(ANSWER, connect(&place, candidate, client)).await {
            Ok(Ok((send, recv))) => {
                place.carried.one_more();
                let stream = Stream { send, recv, waits: place.waits.clone() };
                return Ok((place, stream));
            }
            Ok(Err(Why::TunnelBroken)) if stale < STALE => {
                stale += 1;
                worker.pool.retire(ends, &place);
            }
            Ok(Err(why)) => return Err(why.into()),
            Err(_elapsed) => return Err(Why::AnswerTimeout.into()),
        }
    }
}

/// CONNECT, and what the far side answers.
async fn connect(
    place: &Place,
    candidate: &Candidate,
    client: SocketAddr,
) -> Result<(SendStream<Bytes>, RecvStream), Why> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(candidate.address.to_string())
        .header(header::FORWARDED, head::forwarded_for(client))
        .body(())
        .map_err(|_unbuildable| Why::Aborted)?;
    let mut send = place.send.clone().ready().await.map_err(|_broken| Why::TunnelBroken)?;
    let (response, send) = send.send_request(request, false).map_err(|_broken| Why::TunnelBroken)?;
    let (head, recv) = response.await.map_err(|_broken| Why::TunnelBroken)?.into_parts();
    match head.status {
        StatusCode::OK => Ok((send, recv)),
        StatusCode::UNAUTHORIZED => Err(Why::PeerDenied(said(&head.headers, POLICY))),
        StatusCode::SERVICE_UNAVAILABLE => Err(Why::PeerUnavailable(said(&head.headers, REASON))),
        status => Err(Why::PeerRejected(status.as_u16())),
    }
}

/// A header's text, or nothing: what a peer says is for people to read, and decides nothing.
fn said(headers: &HeaderMap, name: &str) -> Arc<str> {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().into()
}

pub(crate) fn ends((home, source): (&Home, &Workload), client: SocketAddr, candidate: &Candidate) -> Ends {
    Ends {
        source: home.pod.clone(),
        source_identity: source.identity.clone(),
        source_address: client.ip(),
        peer: candidate.peer.identity.clone(),
        peer_uid: candidate.peer.workload.instance.clone(),
        tunnel: candidate.peer.tunnel,
    }
}

/// Whom the target shall see: the pod, at the address of the target's family, with the application's own port.
///
/// The captured connection came over loopback, so its source address says nothing unless it is the pod's own.
pub(crate) fn client_of(source: &Workload, peer: SocketAddr, target: SocketAddr) -> Result<SocketAddr, Why> {
    let own = |address: &&IpAddr| **address == peer.ip().to_canonical() && address.is_ipv4() == target.is_ipv4();
    let same_family = |address: &&IpAddr| Family::of(**address) == Family::of(target.ip());
    let address = source.addresses.iter().find(own).or_else(|| source.addresses.iter().find(same_family));
    address.map(|address| SocketAddr::new(*address, peer.port())).ok_or(Why::NoBackend)
}
