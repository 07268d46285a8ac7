//! Connects to the control plane: TCP, TLS by our own rules, then gRPC.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::config::ControlAddress;

/// For TCP and TLS together: a control plane farther than this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an idle connection is tried, and how long the answer may take: a control plane that vanished without a
/// FIN is missed within 20 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A first Update of some megabytes comes without waiting for window updates.
const WINDOW: u32 = 4 * 1024 * 1024;

/// Connects to one address with one TLS configuration.
#[derive(Clone, Debug)]
pub struct Dial {
    address: ControlAddress,
    tls: Arc<ClientConfig>,
}

impl Dial {
    /// A dial of `address`; whom it must find there stands in `tls`.
    pub fn new(address: ControlAddress, tls: ClientConfig) -> Self {
        Self { address, tls: Arc::new(tls) }
    }

    async fn dial(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let ControlAddress { host, port } = &self.address;
        let tcp = TcpStream::connect((&**host, *port)).await?;
        tcp.set_nodelay(true)?;
        // The verifier looks at the SPIFFE id alone, and no server name is sent: this one is a formality of rustls.
        let name = ServerName::try_from("millrace-control").map_err(io::Error::other)?;
        Ok(TokioIo::new(TlsConnector::from(self.tls).connect(name, tcp).await?))
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

/// A gRPC channel over `dial`, connected.
pub async fn channel(dial: Dial) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_static("https://millrace-control")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(dial)
        .await
}
