//! A tunnel's client that believes any server, and a tunnel's server that is not who it should be.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::{Method, Request};
use millrace_lab::Lab;
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme, Stream,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use tokio::{net::TcpStream, time::timeout};

use super::forge::Papers;

/// A proxy that neither answers nor closes within this hangs.
const PATIENCE: Duration = Duration::from_secs(8);

/// What became of a CONNECT.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The connection was closed or broken before an answer.
    Closed(#[expect(dead_code, reason = "shown when a test fails")] String),
    /// It was answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// `x-millrace-reason`, where there is one.
        #[expect(dead_code, reason = "shown when a test fails")]
        reason: Option<String>,
        /// The first bytes of the application.
        greeting: Option<String>,
    },
}

impl Outcome {
    /// What the application said first.
    pub(super) fn greeting(&self) -> Option<&str> {
        match self {
            Self::Answered { greeting, .. } => greeting.as_deref(),
            Self::Closed(_) => None,
        }
    }
}

/// Sends CONNECT `authority` to the tunnel at `target` from the wire between the nodes, with these papers.
pub(super) fn ask(
    lab: &Lab,
    target: SocketAddr,
    papers: Option<&Papers>,
    authority: &str,
    forwarded: Option<&str>,
) -> Result<Outcome> {
    let config = client_config(papers)?;
    lab.place("wire")?.inside(|| -> Result<Outcome> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let outcome = timeout(PATIENCE, Box::pin(connect(config, target, authority, forwarded))).await;
            Ok(outcome
                .context("neither an answer nor an end")?
                .unwrap_or_else(|error| Outcome::Closed(format!("{error:#}"))))
        })
    })?
}

async fn connect(
    config: ClientConfig,
    target: SocketAddr,
    authority: &str,
    forwarded: Option<&str>,
) -> Result<Outcome> {
    let stream = TcpStream::connect(target).await?;
    let name = ServerName::try_from("nobody.invalid")?;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut sender, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(Method::CONNECT).uri(authority);
    if let Some(forwarded) = forwarded {
        request = request.header("forwarded", forwarded);
    }
    let (response, mut body) = sender.send_request(request.body(())?, false)?;
    let response = response.await?;
    let reason =
        response.headers().get("x-millrace-reason").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let status = response.status().as_u16();
    let mut greeting = None;
    if status == 200 {
        let said = response.into_body().data().await.context("the application says nothing")??;
        greeting = Some(String::from_utf8_lossy(&said).into_owned());
        body.send_data("bye\n".into(), true)?;
    }
    Ok(Outcome::Answered { status, reason, greeting })
}

pub(super) fn client_config(papers: Option<&Papers>) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous(provider)));
    let mut config = match papers {
        Some(papers) => builder.with_client_auth_cert(papers.chain.clone(), papers.key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(config)
}

/// An impostor at a tunnel port: takes any client, and keeps what it is sent.
pub(super) struct Impostor {
    received: mpsc::Receiver<Vec<u8>>,
}

impl Impostor {
    /// Serves one connection.
    pub(super) fn start(listener: TcpListener, papers: &Papers) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
        let mut config =
            builder.with_no_client_auth().with_single_cert(papers.chain.clone(), papers.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        let (tell, received) = mpsc::sync_channel(1);
        thread::spawn(move || -> Result<()> {
            let (mut socket, _) = listener.accept()?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let mut tls = ServerConnection::new(config)?;
            let mut bytes = Vec::new();
            Stream::new(&mut tls, &mut socket).read_to_end(&mut bytes).ok(); // How it ends is the client's affair.
            tell.send(bytes)?;
            Ok(())
        });
        Ok(Self { received })
    }

    /// What came in, in plain.
    pub(super) fn received(&self) -> Result<Vec<u8>> {
        Ok(self.received.recv_timeout(PATIENCE)?)
    }
}

#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
