//! Accepts connections: TLS 1.3 only, a client certificate asked for but not demanded, for a joining node has none yet.
//!
//! Who has none gets little: few connections at once, for a short time. The control plane's own certificate lives in memory.

mod callers;

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;
use millrace_model::Identity;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use self::callers::{ByCaller, OfCaller};
use crate::metrics::{Metrics, ReasonLabel};

/// A handshake is two round trips.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// As many handshakes as two cores do in a second.
const MAX_HANDSHAKES: usize = 1024;
/// As many of them with one caller, who is an address, or the /64 of an IPv6 one: a host has that to itself. Nodes behind one
/// address all come at once after a restart; whom this refuses comes again.
const MAX_HANDSHAKES_WITH_ONE: usize = 256;
/// A cluster's nodes, and then some.
const MAX_CONNECTIONS: usize = 10_000;
/// Connections without a certificate: nodes that join.
const MAX_STRANGERS: usize = 256;
/// As many of them with one caller.
const MAX_STRANGERS_WITH_ONE: usize = 32;
/// How long one may last: to join takes a second.
const STRANGER: Duration = Duration::from_secs(30);
/// Connections that wait to be served.
const BACKLOG: usize = 64;
/// gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whom its certificate names; None where it has none.
    pub identity: Option<Identity>,
    /// From when its certificate holds, in seconds since 1970.
    pub not_before_unix: u64,
    /// Where it calls from.
    pub address: SocketAddr,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Some(identity) => write!(f, "{identity} at {}", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// Why a connection goes no further.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There are as many as there may be.
    #[error("too many connections")]
    TooMany,
    /// There are as many handshakes under way with this caller as there may be.
    #[error("too many handshakes under way with one caller")]
    TooManyHandshakes,
    /// There are as many without a certificate as there may be.
    #[error("too many connections without a certificate")]
    TooManyStrangers,
    /// The handshake took too long.
    #[error("the TLS handshake took too long")]
    Slow,
    /// The handshake failed: no TLS 1.3, a certificate that does not chain to the root or is out of its time.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The certificate names no one identity of this trust domain.
    #[error("the client's certificate does not name one identity of this mesh")]
    Identity,
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::TooMany => "too_many",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::TooManyStrangers => "too_many_without_certificate",
            Self::Slow => "handshake_timeout",
            Self::Handshake(_) => "handshake",
            Self::Identity => "identity",
        }
    }
}

/// The control plane's own certificate; the newest is shown.
#[derive(Debug)]
pub struct Shown(Mutex<Arc<CertifiedKey>>);

impl Shown {
    /// Shows this one first.
    pub fn new(first: CertifiedKey) -> Self {
        Self(Mutex::new(Arc::new(first)))
    }

    /// Shows this one from now on.
    pub fn show(&self, next: CertifiedKey) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// How TLS is served: certificates of clients chain to `bundle`.
pub fn server_config(shown: Arc<Shown>, bundle: &[CertificateDer<'static>]) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for root in bundle {
        roots.add(root.clone())?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would carry a certificate that has run out since.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Accepts connections and hands on those whose handshake is done, until nobody takes them.
#[derive(Debug)]
pub struct Acceptor {
    /// Where they come in.
    pub listener: TcpListener,
    /// How TLS is served: to each by the newest.
    pub config: watch::Receiver<Arc<ServerConfig>>,
    /// The trust domain of clients.
    pub trust_domain: Arc<str>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Acceptor {
    /// The connections.
    pub fn run(self) -> mpsc::Receiver<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(self.accept(sender));
        receiver
    }

    async fn accept(self, sender: mpsc::Sender<io::Result<Connection>>) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
        let handshakes_by_caller = ByCaller::new(MAX_HANDSHAKES_WITH_ONE);
        let strangers_by_caller = ByCaller::new(MAX_STRANGERS_WITH_ONE);
        loop {
            // Waiting here leaves the rest in the kernel's backlog.
            let Ok(handshake) = handshakes.clone().acquire_owned().await else { return };
            let (stream, address) = tokio::select! {
                () = sender.closed() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, or a client that went again: the next may do better, after a breath.
                        tracing::warn!(%error, "could not accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let Ok(permit) = connections.clone().try_acquire_owned() else {
                self.refuse(address, &Refused::TooMany);
                continue;
            };
            let Some(of_caller) = handshakes_by_caller.take(address.ip()) else {
                self.refuse(address, &Refused::TooManyHandshakes);
                continue;
            };
            let opening = Opening {
                tls: TlsAcceptor::from(self.config.borrow().clone()),
                strangers: strangers.clone(),
                strangers_by_caller: strangers_by_caller.clone(),
                trust_domain: self.trust_domain.clone(),
                permit,
                address,
            };
            let (sender, metrics) = (sender.clone(), self.metrics.clone());
            tokio::spawn(async move {
                let opened = opening.open(stream).await;
                drop((handshake, of_caller));
                match opened {
                    // Nobody takes it when the server ends: then it is closed, as all others are.
                    Ok(connection) => drop(sender.send(Ok(connection)).await),
                    Err(refused) => refuse(&metrics, address, &refused),
                }
            });
        }
    }

    fn refuse(&self, address: SocketAddr, refused: &Refused) {
        refuse(&self.metrics, address, refused);
    }
}

fn refuse(metrics: &Metrics, address: SocketAddr, refused: &Refused) {
    let reason = refused.reason();
    metrics.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    let source = std::error::Error::source(refused).map(ToString::to_string).unwrap_or_default();
    tracing::info!(%address, reason, source, "a connection is refused");
}

/// A connection on its way to be served.
struct Opening {
    tls: TlsAcceptor,
    strangers: Arc<Semaphore>,
    strangers_by_caller: ByCaller,
    trust_domain: Arc<str>,
    permit: OwnedSemaphorePermit,
    address: SocketAddr,
}

impl Opening {
    async fn open(self, stream: TcpStream) -> Result<Connection, Refused> {
        stream.set_nodelay(true).map_err(Refused::Handshake)?;
        let tls = match timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return Err(Refused::Handshake(error)),
            Err(_) => return Err(Refused::Slow),
        };
        let (identity, not_before_unix) = match tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
            None => (None, 0),
            Some(leaf) => {
                let named = identity_of(leaf).filter(|(identity, _)| identity.trust_domain == self.trust_domain);
                named.map(|(identity, since)| (Some(identity), since)).ok_or(Refused::Identity)?
            }
        };
        let stranger = match identity {
            Some(_) => None,
            None => {
                let permit = self.strangers.try_acquire_owned().map_err(|_full| Refused::TooManyStrangers)?;
                let of_caller = self.strangers_by_caller.take(self.address.ip()).ok_or(Refused::TooManyStrangers)?;
                Some(Stranger { end: Box::pin(tokio::time::sleep(STRANGER)), _permits: (permit, of_caller) })
            }
        };
        Ok(Connection {
            tls,
            caller: Caller { identity, not_before_unix, address: self.address },
            stranger,
            _permit: self.permit,
        })
    }
}

/// The one identity that a certificate names, and from when it holds: exactly one URI among its names, and nothing else.
fn identity_of(leaf: &CertificateDer<'_>) -> Option<(Identity, u64)> {
    let (_, parsed) = parse_x509_certificate(leaf).ok()?;
    let names = &parsed.subject_alternative_name().ok()??.value.general_names;
    let since = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or_default();
    match names.as_slice() {
        [GeneralName::URI(uri)] => Some((uri.parse().ok()?, since)),
        _ => None,
    }
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Connection {
    tls: TlsStream<TcpStream>,
    caller: Caller,
    /// Without a certificate: its place among the few, and its end.
    stranger: Option<Stranger>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Stranger {
    end: Pin<Box<Sleep>>,
    _permits: (OwnedSemaphorePermit, OfCaller),
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(stranger) = &mut self.stranger
            && stranger.end.as_mut().poll_unpin(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
