//! A node as the control plane sees one: it joins, subscribes, and says what it has applied.

use std::{net::SocketAddr, pin::Pin, sync::Arc, task};

use hyper_util::rt::TokioIo;
use millrace_model::{Policy, Snapshot};
use millrace_node::credentials::{Expect, KeyMaterial, client_config, csr, new_key, pinned_root_client_config};
use millrace_wire::control::{
    Applied, Certificate, Have, IssueRequest, JoinRequest, NodeMessage, control_client::ControlClient,
    node_message::Kind,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::ClientConfig};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::mesh::{Mesh, PATIENCE};

/// As an agent takes: a first Update is the whole mesh.
const MAX_UPDATE: usize = 256 * 1024 * 1024;

/// A node that joined.
pub(crate) struct Node {
    material: KeyMaterial,
    trust_domain: Arc<str>,
}

impl Node {
    /// Joins by this token, of whatever kind.
    pub(crate) async fn join(mesh: &Mesh, token: &str) -> Result<Self, Status> {
        let issuer = &mesh.control.issuer;
        let (root, domain) = (issuer.roots.authority().root_sha256(), &*issuer.settings.trust_domain);
        Box::pin(Self::pinned(mesh.control.address, root, domain, token)).await
    }

    /// Joins by a join token, which says what root to expect.
    pub(crate) async fn join_at(address: SocketAddr, domain: &str, token: &str) -> Result<Self, Status> {
        let hex = token.rsplit('.').nth(1).unwrap();
        let mut root = [0; 32];
        for (index, byte) in root.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(index * 2..index * 2 + 2).unwrap(), 16).unwrap();
        }
        Box::pin(Self::pinned(address, root, domain, token)).await
    }

    async fn pinned(address: SocketAddr, root: [u8; 32], domain: &str, token: &str) -> Result<Self, Status> {
        let mut client = connect(address, pinned_root_client_config(root).unwrap()).await;
        let key = new_key().unwrap();
        let request = JoinRequest { token: token.to_owned(), csr_der: csr(&key).unwrap() };
        let Certificate { chain_der, bundle_der } = client.join(request).await?.into_inner();
        let read = |der: Vec<Vec<u8>>| der.into_iter().map(CertificateDer::from).collect();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let material = KeyMaterial { chain: read(chain_der), key, bundle: read(bundle_der), revoked: Vec::new() };
        Ok(Self { material, trust_domain: domain.into() })
    }

    /// Subscribes, to see the policies as updates bring them.
    pub(crate) async fn policies(&self, address: SocketAddr) -> Updates {
        let mut client = self.client(address).await;
        let (say, said) = mpsc::channel(16);
        say.send(message(Kind::Have(Have { generation: 0 }))).await.unwrap();
        let stream = client.subscribe(ReceiverStream::new(said)).await.unwrap().into_inner();
        Updates { stream, snapshot: Snapshot::default(), _say: say }
    }

    /// Joins by a join token for the node of this name.
    pub(crate) async fn named(mesh: &Mesh, name: &str) -> Self {
        let issuer = &mesh.control.issuer;
        let (lifetime, now) = (millrace_control::issue::token::MAX_LIFETIME, millrace_control::clock::unix_time());
        let token = issuer.tokens.make(name, issuer.roots.authority().root_sha256(), lifetime, now).unwrap();
        Self::join(mesh, &token).await.unwrap()
    }

    async fn client(&self, address: SocketAddr) -> ControlClient<Channel> {
        self.try_client(address).await.unwrap()
    }

    /// A client of the control plane there, if there is one.
    pub(crate) async fn try_client(
        &self,
        address: SocketAddr,
    ) -> Result<ControlClient<Channel>, tonic::transport::Error> {
        let expect = Expect::AnyInTrustDomain(self.trust_domain.clone());
        let config = client_config(Some(&self.material), &self.material.bundle, expect, &[b"h2"]).unwrap();
        try_connect(address, config).await
    }

    /// Asks for a certificate of this identity.
    pub(crate) async fn issue(&self, mesh: &Mesh, identity: &str) -> Result<Certificate, Status> {
        let request = IssueRequest { identity: identity.to_owned(), csr_der: csr(&new_key().unwrap()).unwrap() };
        self.client(mesh.control.address).await.issue(request).await.map(tonic::Response::into_inner)
    }

    /// Subscribes, and applies at once whatever comes, until the handle is aborted.
    pub(crate) async fn follow(&self, mesh: &Mesh) -> JoinHandle<()> {
        let mut client = self.client(mesh.control.address).await;
        let (say, said) = mpsc::channel(16);
        say.send(message(Kind::Have(Have { generation: 0 }))).await.unwrap();
        let mut updates = client.subscribe(ReceiverStream::new(said)).await.unwrap().into_inner();
        tokio::spawn(async move {
            while let Ok(Some(update)) = updates.message().await {
                if update.from == update.to {
                    continue; // It says by what peers are believed.
                }
                let generation = millrace_wire::convert::delta(update).unwrap().to;
                if say.send(message(Kind::Applied(Applied { generation, failures: Vec::new() }))).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// A subscription that is read one update at a time.
pub(crate) struct Updates {
    stream: tonic::Streaming<millrace_wire::mesh::Update>,
    snapshot: Snapshot,
    /// While this is open, so is the stream.
    _say: mpsc::Sender<NodeMessage>,
}

impl Updates {
    /// Takes updates in until one of the policies is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Policy) -> bool) {
        while !self.snapshot.policies.values().any(|policy| wanted(policy)) {
            let update = tokio::time::timeout(PATIENCE, self.stream.message()).await.expect("an update in time");
            let update = update.unwrap().expect("the stream goes on");
            if update.from == update.to {
                continue; // It says by what peers are believed.
            }
            let delta = millrace_wire::convert::delta(update).unwrap();
            self.snapshot = self.snapshot.apply(&delta).unwrap();
        }
    }
}

pub(crate) fn message(kind: Kind) -> NodeMessage {
    NodeMessage { kind: Some(kind) }
}

async fn connect(address: SocketAddr, config: ClientConfig) -> ControlClient<Channel> {
    try_connect(address, config).await.unwrap()
}

async fn try_connect(
    address: SocketAddr,
    mut config: ClientConfig,
) -> Result<ControlClient<Channel>, tonic::transport::Error> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    let endpoint = Endpoint::from_static("http://control");
    let channel = endpoint.connect_with_connector(Connector { tls, address }).await?;
    Ok(ControlClient::new(channel).max_decoding_message_size(MAX_UPDATE))
}

#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
    address: SocketAddr,
}

type Stream = TokioIo<TlsStream<TcpStream>>;

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<std::io::Result<()>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { tls, address } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("control.invalid").map_err(std::io::Error::other)?;
            Ok(TokioIo::new(tls.connect(name, stream).await?))
        })
    }
}
