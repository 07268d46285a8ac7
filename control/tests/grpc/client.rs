//! A control plane in this process, and a client with a node's certificate.

use std::{path::Path, pin::Pin, sync::Arc, task, time::Duration};

use hyper_util::rt::TokioIo;
use millrace_control::{config::Config, issue::token::MAX_LIFETIME, run::Control, world::Settings};
use millrace_wire::control::{
    Applied, Certificate, Have, IssueRequest, JoinRequest, Listener, Listening, NodeMessage,
    control_client::ControlClient, node_message::Kind,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// Long enough for a busy machine, short enough to see a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Mesh {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) state: tempfile::TempDir,
    pub(crate) control: Control,
}

impl Mesh {
    /// A control plane over these files.
    pub(crate) async fn with(files: &[(&str, &str)]) -> Self {
        Self::until(files, std::future::pending()).await
    }

    /// A control plane over these files, that is told to stop.
    pub(crate) async fn until(files: &[(&str, &str)], stop: impl Future<Output = ()> + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let state = tempfile::tempdir().unwrap();
        let control = Control::start(config(directory.path(), state.path()), None, stop).await.unwrap();
        Self { directory, state, control }
    }

    /// Another control plane over the same files and state, in place of this one.
    pub(crate) async fn restarted(self) -> Self {
        let Self { directory, state, control } = self;
        control.stop().await;
        let control =
            Control::start(config(directory.path(), state.path()), None, std::future::pending()).await.unwrap();
        Self { directory, state, control }
    }

    /// A control plane whose certificates live this long.
    pub(crate) async fn with_leaves_of(leaf_lifetime: Duration) -> Self {
        let (directory, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config { leaf_lifetime, ..config(directory.path(), state.path()) };
        let control = Control::start(config, None, std::future::pending()).await.unwrap();
        Self { directory, state, control }
    }

    /// The certificate that the control plane shows now.
    pub(crate) async fn shown(&self) -> CertificateDer<'static> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(RootIs(self.root())))
            .with_no_client_auth();
        let stream = TcpStream::connect(self.control.address).await.unwrap();
        let name = ServerName::try_from("control.invalid").unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        tls.get_ref().1.peer_certificates().unwrap()[0].clone()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    pub(crate) fn token(&self, node: &str) -> String {
        let issuer = &self.control.issuer;
        issuer
            .tokens
            .make(node, issuer.roots.authority().root_sha256(), MAX_LIFETIME, millrace_control::clock::unix_time())
            .unwrap()
    }

    /// Takes a node out as a person does, by the admin socket; what it answers.
    pub(crate) async fn revokes(&self, node: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut socket = tokio::net::UnixStream::connect(self.state.path().join("admin.sock")).await.unwrap();
        let body = format!("{{\"revoke\":\"{node}\"}}");
        let head =
            format!("POST /revoked HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.control.issuer.roots.authority().root().clone()
    }

    /// A client that shows nothing.
    pub(crate) async fn stranger(&self) -> ControlClient<Channel> {
        connect(self, None).await
    }

    /// A client that shows a certificate.
    pub(crate) async fn client(&self, own: &Own) -> ControlClient<Channel> {
        connect(self, Some(own)).await
    }

    /// A node that joined.
    pub(crate) async fn node(&self, name: &str) -> Own {
        let key = key();
        let request = JoinRequest { token: self.token(name), csr_der: csr(&key) };
        let certificate = self.stranger().await.join(request).await.unwrap().into_inner();
        Own::new(certificate, &key)
    }
}

fn config(directory: &Path, state: &Path) -> Config {
    Config {
        source: millrace_control::config::Source::Directory(directory.to_owned()),
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: state.join("admin.sock"),
        state_dir: state.to_owned(),
        mesh: Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() },
        leaf_lifetime: Duration::from_secs(24 * 60 * 60),
        node_lifetime: Duration::from_secs(24 * 60 * 60),
        log: "off".to_owned(),
    }
}

pub(crate) fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn csr(key: &rcgen::KeyPair) -> Vec<u8> {
    rcgen::CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

/// A certificate and its key.
pub(crate) struct Own {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
}

impl Own {
    pub(crate) fn new(certificate: Certificate, key: &rcgen::KeyPair) -> Self {
        Self { chain: certificate.chain_der.into_iter().map(CertificateDer::from).collect(), key: key.serialize_der() }
    }
}

async fn connect(mesh: &Mesh, own: Option<&Own>) -> ControlClient<Channel> {
    try_connect(mesh, own, &[&rustls::version::TLS13]).await.unwrap()
}

/// Connects with TLS of these versions.
pub(crate) async fn try_connect(
    mesh: &Mesh,
    own: Option<&Own>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<ControlClient<Channel>, tonic::transport::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RootIs(mesh.root())));
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(Own { chain, key }) => {
            config.with_client_auth_cert(chain.clone(), PrivateKeyDer::Pkcs8(key.clone().into())).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
    let address = mesh.control.address;
    let channel = Endpoint::from_static("http://control")
        .connect_with_connector(Connector(Arc::new(move || {
            let tls = tls.clone();
            Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("control.invalid").map_err(std::io::Error::other)?;
                Ok(TokioIo::new(tls.connect(name, stream).await?))
            })
        })))
        .await?;
    Ok(ControlClient::new(channel))
}

type Stream = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;
type Connecting = Pin<Box<dyn Future<Output = std::io::Result<Stream>> + Send>>;

#[derive(Clone)]
struct Connector(Arc<dyn Fn() -> Connecting + Send + Sync>);

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = std::io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<std::io::Result<()>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Connecting {
        (self.0)()
    }
}

/// Takes a server whose chain ends in this root, as an agent does that pins it.
#[derive(Debug)]
struct RootIs(CertificateDer<'static>);

impl ServerCertVerifier for RootIs {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        assert_eq!(above.last(), Some(&self.0), "the server's chain ends in the root that tokens pin");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.clone())?;
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &roots,
            above,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, leaf, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A Subscribe stream.
pub(crate) struct Subscription {
    pub(crate) say: mpsc::Sender<NodeMessage>,
    pub(crate) updates: Streaming<millrace_wire::mesh::Update>,
    pub(crate) snapshot: millrace_model::Snapshot,
}

impl Subscription {
    pub(crate) async fn open(
        client: &mut ControlClient<Channel>,
        have: millrace_model::Snapshot,
    ) -> Result<Self, Status> {
        let (say, said) = mpsc::channel(16);
        say.send(message(Kind::Have(Have { generation: have.generation }))).await.unwrap();
        let updates = client.subscribe(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, updates, snapshot: have })
    }

    /// Takes the next update into the snapshot; the Delta as it came. Those that only say by what peers are believed are none.
    pub(crate) async fn next(&mut self) -> millrace_model::Delta {
        let update = loop {
            let update = tokio::time::timeout(PATIENCE, self.updates.message()).await.expect("an update in time");
            let update = update.unwrap().expect("the stream goes on");
            if update.from != update.to {
                break update;
            }
        };
        let delta = millrace_wire::convert::delta(update).unwrap();
        self.snapshot = self.snapshot.apply(&delta).unwrap();
        delta
    }

    /// Takes updates until the snapshot is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&millrace_model::Snapshot) -> bool) {
        while !wanted(&self.snapshot) {
            self.next().await;
        }
    }

    /// Each pod by its name and the node that it is on; another node makes another pod of it.
    pub(crate) async fn listening(&self, pods: &[(&millrace_model::ObjectName, &str)]) {
        let instance = |pod: &millrace_model::ObjectName, node: &str| {
            let path = format!("/run/netns/{}", pod.name);
            millrace_model::workload::instance(node, &pod.name, Some(&path), &[]).to_string()
        };
        let workloads = pods
            .iter()
            .map(|(pod, node)| Listener {
                name: Some(millrace_wire::convert::name(pod)),
                instance: instance(pod, node),
            })
            .collect();
        self.say.send(message(Kind::Listening(Listening { workloads }))).await.unwrap();
    }

    pub(crate) async fn applied(&self, generation: u64) {
        self.say.send(message(Kind::Applied(Applied { generation, failures: Vec::new() }))).await.unwrap();
    }
}

pub(crate) fn message(kind: Kind) -> NodeMessage {
    NodeMessage { kind: Some(kind) }
}

pub(crate) async fn issue(
    client: &mut ControlClient<Channel>,
    identity: &str,
    csr_der: Vec<u8>,
) -> Result<Certificate, Status> {
    client.issue(IssueRequest { identity: identity.to_owned(), csr_der }).await.map(tonic::Response::into_inner)
}

/// Two pods of one service on node a, one on node b.
pub(crate) const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {millrace.dev/mesh: enabled}}
---
{apiVersion: v1, kind: Node, metadata: {name: a}}
---
{apiVersion: v1, kind: Node, metadata: {name: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u-web, labels: {app: web}, annotations: {millrace.dev/netns: /run/netns/web}}
spec: {nodeName: a, serviceAccountName: web}
status: {podIPs: [{ip: 10.10.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, uid: u-db, labels: {app: db}, annotations: {millrace.dev/netns: /run/netns/db}}
spec: {nodeName: b, serviceAccountName: db}
status: {podIPs: [{ip: 10.10.2.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: shop, uid: u-plain, labels: {millrace.dev/mesh: disabled}}
spec: {nodeName: a, serviceAccountName: plain}
status: {podIPs: [{ip: 10.10.1.3}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIPs: [10.96.0.10], selector: {app: db}, ports: [{port: 5432}]}
";
