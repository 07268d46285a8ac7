//! Lives one tunnel that arrived, and each connection in it: who speaks, what it asks, whether it may, the application, bytes both ways.

use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use millrace_model::{Facts, Identity, Mesh};
use millrace_node::{clock, credentials, drain::Drain};
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    accept::Accepted,
    application::{self, Called},
    copy::{self, AtSocket, Stream},
    dial::{Connected, tune},
    fault::Why,
    frames,
    frames::{Counted, Role, why_ended},
    gather::{Gather, Gathered, gathered},
    handshakes::{Caller, UnderWay},
    head::{self, BadAuthority},
    limits::{Charge, Waits},
    metrics::{Direction, End},
    outbound::{POLICY, REASON},
    proxy::Proxy,
    rarely::Rarely,
    record::{Party, Record},
    tunnel::{self, STREAMS_TAKEN, Windows, Wire},
    worker::Worker,
};

/// How long a tunnel without a stream is kept: longer than the dialling end keeps it, which knows better.
const IDLE: Duration = Duration::from_secs(300);

/// How long the streams of a broken tunnel may take to notice: they are woken by it.
const LAST_STREAMS: Duration = Duration::from_secs(5);

/// A tunnel's HTTP/2.
type Tunnel = h2::server::Connection<Gathered<tunnel::Arriving>, Bytes>;

/// What a peer asks of one connection, and how it is answered.
type Asking = (Request<RecvStream>, SendResponse<Bytes>);

/// A tunnel whose peer has proven who it is.
#[derive(Debug)]
struct Arrived {
    peer: Identity,
    peer_address: SocketAddr,
    /// The address that it came to: the only one that a stream of it may name.
    address: IpAddr,
    /// For how long its certificate holds. No new stream is taken after that.
    valid_for: Duration,
    /// Its certificate: once it is revoked, nothing goes on.
    leaf: Option<CertificateDer<'static>>,
    /// Who was called: by its key peers are believed.
    called: Identity,
    accepted: Accepted,
    /// Who is counted for it.
    caller: Caller,
    /// Whose buffers its bytes wait in.
    waits: Arc<Waits>,
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

/// A tunnel that came to a workload of this node.
pub(crate) async fn serve(worker: Arc<Worker>, mut accepted: Accepted, socket: TcpStream) {
    let proxy = &worker.proxy;
    let (peer_address, arrived) = (accepted.peer, socket.local_addr());
    tune(&socket);
    proxy.tuning.now().buffers(&socket);
    let opened = match arrived {
        Ok(local) => Box::pin(shake_hands(&worker, &accepted, local.ip().to_canonical(), socket)).await,
        Err(_broken) => Err(Why::TunnelBroken),
    };
    let caller = Caller::at(&proxy.current(), peer_address.ip());
    let waits = Arc::new(accepted.account.waits(caller));
    let opened = opened.and_then(|opened| Ok((opened, waits.charge(tunnel::HELD).map_err(Why::Limited)?)));
    accepted.pending = None;
    match opened {
        Ok(((Shaken { peer, called }, address, tls), charge)) => {
            let valid_for = valid_for(&tls);
            let leaf = tls.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|leaf| leaf.clone().into_owned());
            let arrived = Arc::new(Arrived {
                peer,
                peer_address,
                address,
                valid_for,
                leaf,
                called,
                accepted,
                caller,
                waits,
                charge,
            });
            Box::pin(serve_streams(&worker, &arrived, tls)).await;
        }
        Err(why) => {
            proxy.metrics.handshake_failed(End::Server, why.name());
            let mut record = Record::begin(proxy.clone(), Direction::Inbound, Party::at(peer_address));
            record.target.workload = Some(accepted.home.pod.name.to_string());
            record.end(Err(why));
        }
    }
}

/// The two ends of a handshake.
struct Shaken {
    peer: Identity,
    called: Identity,
}

async fn shake_hands(
    worker: &Worker,
    accepted: &Accepted,
    address: IpAddr,
    socket: TcpStream,
) -> Result<(Shaken, IpAddr, TlsStream<Wire>), Why> {
    let proxy = &worker.proxy;
    let workload = match own_workload(&proxy.current(), accepted, address) {
        Ok(workload) => workload,
        Err(why) => {
            copy::abortive(&socket);
            return Err(why);
        }
    };
    let key = proxy.keys.get(&workload).ok_or(Why::NoKey)?;
    let _under_way = begin_handshake(proxy, accepted.peer.ip()).ok_or(Why::HandshakesFull)?;
    let accepting = TlsAcceptor::from(key.server.clone()).accept(tunnel::wire(socket));
    let mut tls = match timeout(tunnel::HANDSHAKE, accepting).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a tunnel was refused");
            return Err(Why::Handshake(credentials::refusal(&error).map_or("handshake", credentials::Refusal::name)));
        }
        Err(_elapsed) => return Err(Why::HandshakeTimeout),
    };
    let (_, session) = tls.get_mut();
    session.set_buffer_limit(Some(tunnel::TLS_BUFFER));
    if session.alpn_protocol() != Some(b"h2") {
        return Err(Why::Handshake("no_alpn"));
    }
    let peer = credentials::peer_identity(session.peer_certificates().unwrap_or_default());
    let called = key.identity.clone();
    peer.map(|peer| (Shaken { peer, called }, address, tls)).map_err(|refusal| Why::Handshake(refusal.name()))
}

/// The right to shake hands: pods of the mesh have a share that nobody else can use up.
fn begin_handshake(proxy: &Proxy, peer: IpAddr) -> Option<UnderWay> {
    proxy.handshakes.begin(Caller::at(&proxy.current(), peer))
}

fn valid_for(tls: &TlsStream<Wire>) -> Duration {
    let leaf = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let not_after = leaf.and_then(|leaf| credentials::validity(leaf).ok()).map(|(_, not_after)| not_after);
    let not_after = not_after.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    not_after.saturating_sub(clock::unix_time())
}

/// Who is spoken to, at the address that the connection came to. The listener's own address is nobody's.
fn own_workload(mesh: &Mesh, accepted: &Accepted, address: IpAddr) -> Result<Identity, Why> {
    let workload = accepted.home.pod.workload(mesh)?;
    if workload.addresses.contains(&address) { Ok(workload.identity.clone()) } else { Err(Why::OwnListener) }
}

/// Every connection of one tunnel, until the tunnel ends, its workload goes or the proxy drains.
async fn serve_streams(worker: &Arc<Worker>, arrived: &Arc<Arrived>, tls: TlsStream<Wire>) {
    let proxy = &worker.proxy;
    let (tls, carried) = Counted::new(tls, Role::Server);
    let (tls, gather) = gathered(tls);
    let tuning = proxy.tuning.now();
    let mut connection = match timeout(tunnel::HANDSHAKE, tunnel::server(&tuning).handshake(tls)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) | Err(_) => return proxy.metrics.handshake_failed(End::Server, "http2"),
    };
    gather.begin();
    let _counted = proxy.metrics.tunnel(End::Server);
    let ping = connection.ping_pong();
    let mut windows = Windows::new(arrived.accepted.account.tight(), tuning.stream_window);
    let mut gone = Rarely::new(Box::pin(arrived.accepted.home.gone()));
    let mut silenced = Rarely::new(Box::pin(arrived.accepted.home.silent()));
    let mut revoked = Rarely::new(Box::pin(revoked(proxy, arrived)));
    let mut silent = Rarely::new(Box::pin(tunnel::peer_is_silent(ping)));
    let mut closing = Rarely::new(Box::pin(drained_or_expired(proxy.drain.clone(), arrived.valid_for)));
    let (mut is_closing, idle) = (false, tokio::time::sleep(IDLE));
    tokio::pin!(idle);
    let mut streams = JoinSet::new();
    loop {
        let n_open = streams.len();
        tokio::select! {
            // What hardly ever happens first: it costs a look, and bytes that always come may not keep it from being seen.
            biased;
            () = &mut silenced => break,
            () = &mut gone, if !is_closing => {
                // What its applications said last goes out; nobody is let in any more.
                is_closing = true;
                connection.graceful_shutdown();
            }
            () = &mut revoked => break proxy.metrics.tunnel_broken(End::Server, "revoked"),
            () = &mut silent => break proxy.metrics.tunnel_broken(End::Server, "silent"),
            () = &mut closing, if !is_closing => {
                // Streams that are open go on; the peer makes new ones in another tunnel.
                is_closing = true;
                connection.graceful_shutdown();
            }
            () = idle.as_mut(), if n_open == 0 && !is_closing => {
                is_closing = true;
                connection.graceful_shutdown();
            }
            window = windows.turned() => tunnel::resized(connection.set_initial_window_size(window)),
            Some(ended) = streams.join_next() => {
                worker.note(ended);
                idle.as_mut().reset(tokio::time::Instant::now() + IDLE);
            }
            // At most this many at once, also of those that their peer has reset: each may hold a dial.
            stream = next_stream((&mut connection, &gather), n_open < STREAMS_TAKEN as usize) => match stream {
                Some(Ok((request, respond))) => {
                    let life = serve_stream(worker.clone(), (arrived.clone(), carried.clone()), request, respond);
                    streams.spawn(worker.turns.schedule(&arrived.accepted.account, life));
                }
                Some(Err(error)) => break broken(arrived, proxy, &error, &carried),
                None => break,
            },
        }
    }
    // The streams see the tunnel's end when the connection is dropped, and each writes its own.
    drop(connection);
    let ended = async {
        while let Some(ended) = streams.join_next().await {
            worker.note(ended);
        }
    };
    if timeout(LAST_STREAMS, ended).await.is_err() {
        streams.shutdown().await;
    }
}

/// A tunnel did not end in order: counted by how, and told to who looks.
fn broken(arrived: &Arrived, proxy: &Proxy, error: &h2::Error, carried: &frames::Carried) {
    let reason = why_ended(error, carried);
    proxy.metrics.tunnel_broken(End::Server, reason);
    let (peer, workload) = (&arrived.peer, &arrived.accepted.home.pod.name);
    tracing::debug!(reason, %peer, address = %arrived.peer_address, %workload, %error, "a tunnel broke");
}

/// The next connection in the tunnel, where there is room for one; None when the tunnel has ended. Whichever it waits for,
/// it moves the bytes of those that are open.
async fn next_stream(
    (connection, gather): (&mut Tunnel, &Gather<tunnel::Arriving>),
    has_room: bool,
) -> Option<Result<Asking, h2::Error>> {
    poll_fn(|cx| {
        let next = if has_room {
            connection.poll_accept(cx)
        } else {
            connection.poll_closed(cx).map(|closed| closed.err().map(Err))
        };
        if next.is_pending() {
            gather.flush(cx);
        }
        next
    })
    .await
}

/// Waits until the peer's certificate is not believed any more.
async fn revoked(proxy: &Proxy, arrived: &Arrived) {
    match &arrived.leaf {
        Some(leaf) => proxy.keys.revoked(&arrived.called, leaf).await,
        None => std::future::pending().await,
    }
}

/// Waits until the tunnel should take no new streams: the proxy drains, or its peer's certificate has expired.
async fn drained_or_expired(mut drain: Drain, valid_for: Duration) {
    tokio::select! {
        _ = drain.begun() => {}
        () = tokio::time::sleep(valid_for) => {}
    }
}

/// One connection in a tunnel.
async fn serve_stream(
    worker: Arc<Worker>,
    (arrived, answered): (Arc<Arrived>, frames::Carried),
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let party = Party::named(&arrived.peer, arrived.peer_address);
    let mut record = Record::begin(worker.proxy.clone(), Direction::Inbound, party);
    record.target.workload = Some(arrived.accepted.home.pod.name.to_string());
    let (head, recv) = request.into_parts();
    let account = &arrived.accepted.account;
    let admitted = account.connect(Some(arrived.caller)).and_then(|counted| {
        let pending = account.begin(&counted)?;
        Ok((counted, pending))
    });
    let opened = match admitted {
        Ok((counted, pending)) => tokio::select! {
            opened = open(&worker, &arrived, &head, &mut record) => {
                drop(pending);
                opened.map(|opened| (counted, opened))
            }
            // Nothing was said on it yet: its peer shall ask elsewhere, and at once.
            () = arrived.accepted.home.gone() => Err(Why::Gone),
            // A peer that gives up must not keep a dial going.
            _ = poll_fn(|cx| respond.poll_reset(cx)) => Err(Why::ClientReset),
        },
        Err(limit) => Err(Why::Limited(limit)),
    };
    let ended = match opened {
        Ok((counted, (called, Connected { socket, held }))) => match respond.send_response(Response::new(()), false) {
            Ok(send) => {
                record.carrying();
                answered.one_more();
                let stop = application::denied_or_gone(&worker.proxy, &arrived.accepted.home, called);
                let stream = Stream { send, recv, waits: arrived.waits.clone() };
                let carried = record.carried.clone();
                let ended = copy::through_tunnel(socket, stream, AtSocket::Target, &carried, stop).await;
                drop((held, counted));
                ended
            }
            Err(_broken) => {
                drop(socket);
                Err(Why::ClientReset)
            }
        },
        Err(why) => {
            refuse(&mut respond, &why);
            Err(why)
        }
    };
    record.end(ended);
}

/// The application, dialled, where the request is one that this tunnel may make.
async fn open(
    worker: &Worker,
    arrived: &Arrived,
    head: &http::request::Parts,
    record: &mut Record,
) -> Result<(Called, Connected), Why> {
    let mesh = worker.proxy.current();
    if head.method != Method::CONNECT {
        return Err(Why::NotConnect);
    }
    let authority = head.uri.authority().ok_or(Why::BadAuthority)?;
    let port = head::target(authority.as_str(), arrived.address).map_err(|bad| match bad {
        BadAuthority::Malformed => Why::BadAuthority,
        BadAuthority::Loopback => Why::LoopbackAuthority,
        BadAuthority::OtherAddress => Why::OtherAddress,
        BadAuthority::MeshPort => Why::MeshPort,
    })?;
    let client = client(&mesh, arrived, head)?;
    record.source = match mesh.workload_at(client.ip()) {
        Some(workload) if workload.identity == arrived.peer => Party::of(workload, client),
        Some(_) | None => Party::named(&arrived.peer, client),
    };
    let facts = Facts { identity: Some(arrived.peer.clone()), address: client.ip(), port };
    let target = SocketAddr::new(arrived.address, port);
    record.target.address = Some(target);
    let home = &arrived.accepted.home;
    let workload = home.pod.workload(&mesh)?;
    record.target = Party::of(workload, target);
    application::authorized(&mesh, workload, &facts)?;
    let connected = application::dial_shown(&worker.proxy, home, target, client).await?;
    Ok((Called::Known(facts), connected))
}

/// Whom to show: what the peer forwards, where that is an address of a workload with the peer's own identity.
/// Anybody else's would let one identity speak for another's address.
fn client(mesh: &Mesh, arrived: &Arrived, head: &http::request::Parts) -> Result<SocketAddr, Why> {
    let mut values = head.headers.get_all(header::FORWARDED).iter();
    let forwarded = match (values.next(), values.next()) {
        (Some(value), None) => head::forwarded(value.as_bytes()).map_err(|_malformed| Why::BadForwarded)?,
        (Some(_), Some(_)) => return Err(Why::BadForwarded),
        (None, _) => None,
    };
    let own = forwarded.filter(|forwarded| {
        mesh.workload_at(forwarded.address).is_some_and(|workload| workload.identity == arrived.peer)
    });
    // The application's socket has room for a client of its own family alone: it would be shown this proxy's end.
    if own.is_some_and(|own| own.address.is_ipv4() != arrived.address.is_ipv4()) {
        return Err(Why::BadForwarded);
    }
    let peer = SocketAddr::new(arrived.peer_address.ip().to_canonical(), arrived.peer_address.port());
    Ok(own.map_or(peer, |own| SocketAddr::new(own.address, own.port.unwrap_or(peer.port()))))
}

/// Answers by status, and names the reason for people.
fn refuse(respond: &mut SendResponse<Bytes>, why: &Why) {
    let mut response = Response::new(());
    *response.status_mut() = why.status();
    response.headers_mut().insert(REASON, HeaderValue::from_static(why.name()));
    if why.status() == StatusCode::UNAUTHORIZED
        && let Some(Ok(policy)) = why.policy().map(HeaderValue::try_from)
    {
        response.headers_mut().insert(POLICY, policy);
    }
    if respond.send_response(response, true).is_err() {
        tracing::debug!("a refused stream was gone before it was answered");
    }
}
