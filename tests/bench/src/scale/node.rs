//! A node without a kernel: joins as an agent does, with a certificate of its own, subscribes, reports its pods, and notes when
//! each generation came.

use std::{io, pin::Pin, sync::Arc, task, time::Instant};

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use millrace_model::{Identity, workload};
use millrace_node::credentials::{self, Expect, KeyMaterial};
use millrace_wire::{
    control::{Have, JoinRequest, Listener, Listening, NodeMessage, control_client::ControlClient, node_message::Kind},
    convert,
    mesh::{ObjectName, Update},
};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::world::{self, Pod};
use crate::clock;

/// The largest update taken: as the agent's.
const MAX_UPDATE: usize = 256 << 20;

/// A generation that came.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    /// The generation.
    pub(super) generation: u64,
    /// When it was decoded.
    pub(super) at: Instant,
    /// The changes in it; told by the first node alone.
    pub(super) changes: Vec<u16>,
}

/// What a node joins with.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) number: usize,
    pub(super) token: String,
    pub(super) address: std::net::SocketAddr,
    pub(super) pods: Vec<Pod>,
    /// The control plane takes few without a certificate from one address, and all of these have one.
    pub(super) joins: Arc<Semaphore>,
}

/// Joins, subscribes and follows until the control plane is gone. The first word is the generation it began with.
pub(super) async fn follow(joining: Joining, arrived: mpsc::Sender<Arrived>) -> Result<()> {
    let Joining { number, token, address, pods, joins } = joining;
    let root = token.split('.').nth(2).and_then(hash).context("a token has a root")?;
    let key = credentials::new_key()?;
    let pinned = credentials::pinned_root_client_config(root)?;
    let request = JoinRequest { token, csr_der: credentials::csr(&key)? };
    let turn = joins.acquire().await?;
    let certificate = ControlClient::new(dial(address, pinned).await?).join(request).await?.into_inner();
    drop(turn);
    let certificates = |der: &[_]| der.iter().map(|c: &Vec<u8>| CertificateDer::from(c.clone())).collect::<Vec<_>>();
    let bundle = certificates(&certificate.bundle_der);
    let material = KeyMaterial {
        chain: certificates(&certificate.chain_der),
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        bundle: bundle.clone(),
        revoked: Vec::new(),
    };
    let control = Identity::new("cluster.local", "millrace-system", "millrace-control");
    let tls = credentials::client_config(Some(&material), &bundle, Expect::Identity(control), &[b"h2"])?;
    let mut client = ControlClient::new(dial(address, tls).await?).max_decoding_message_size(MAX_UPDATE);
    let (say, said) = mpsc::channel(2);
    say.send(NodeMessage { kind: Some(Kind::Have(Have { generation: 0 })) }).await?;
    let listener = |pod: Pod| {
        let instance = workload::instance(&world::node(pod.node), &pod.account, Some(&pod.netns), &[]);
        let name = Some(ObjectName { namespace: pod.namespace, name: pod.name });
        Listener { name, instance: instance.to_string() }
    };
    let listening = Listening { workloads: pods.into_iter().map(listener).collect() };
    say.send(NodeMessage { kind: Some(Kind::Listening(listening)) }).await?;
    let mut updates = client.subscribe(ReceiverStream::new(said)).await?.into_inner();
    while let Some(update) = updates.message().await? {
        if update.from == update.to {
            continue; // It says by what peers are believed.
        }
        let (at, generation) = (clock::now(), update.to);
        let changes = if number == 0 && update.from != 0 { changes(update)? } else { Vec::new() };
        arrived.send(Arrived { generation, at, changes }).await?;
    }
    Ok(())
}

fn changes(update: Update) -> Result<Vec<u16>> {
    let delta = convert::delta(update)?;
    let endpoints = delta.endpoints.set.iter().flat_map(|(_, endpoints)| &endpoints.endpoints);
    Ok(endpoints.filter_map(|endpoint| world::change(endpoint.address)).collect())
}

/// 64 hexadecimal digits.
fn hash(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (text.len() == 64).then_some(bytes)
}

async fn dial(address: std::net::SocketAddr, tls: ClientConfig) -> Result<Channel> {
    let dial = Dial { address, tls: Arc::new(tls) };
    let window = 4 << 20; // As the agent's.
    let endpoint = Endpoint::from_static("https://millrace-control")
        .initial_stream_window_size(window)
        .initial_connection_window_size(window);
    Ok(endpoint.connect_with_connector(dial).await?)
}

#[derive(Clone)]
struct Dial {
    address: std::net::SocketAddr,
    tls: Arc<ClientConfig>,
}

type Stream = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;

impl tower_service::Service<Uri> for Dial {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<io::Result<()>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("millrace-control").map_err(io::Error::other)?;
            Ok(TokioIo::new(tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?))
        })
    }
}
