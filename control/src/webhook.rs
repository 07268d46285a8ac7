//! Answers the API server when a policy is about to be written: what the source could not read is refused there, in its words.
//!
//! Its certificate is its own: an authority that the replicas share in a Secret, a leaf that each makes for itself, and the
//! authority put into the webhook's registration. `review` decides and is pure.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::{ByteString, api::admissionregistration::v1::ValidatingWebhookConfiguration};
use kube::{Api, Client, api::PostParams};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::{metrics::Metrics, world::Settings};

mod certificate;
mod review;

pub use review::{Answer, review};

/// Where the API server asks.
pub const PATH: &str = "/validate";
/// The registration's name.
pub const CONFIGURATION: &str = "millrace-control";
/// etcd takes objects of 1.5 MiB; a review holds one, and the one before it.
const MAX_BODY: usize = 4 << 20;
/// API servers are few, and keep their connections.
const MAX_CONNECTIONS: usize = 64;
/// How long a caller may take to say what it wants.
const OPENING: Duration = Duration::from_secs(5);
/// How often the registration is looked at: somebody may have applied it anew, without the authority.
const LOOK: Duration = Duration::from_secs(10);
/// A leaf is made anew after this time; it lives twice as long.
const RENEW: Duration = Duration::from_secs(12 * 60 * 60);

/// The webhook, once it listens.
pub struct Webhook {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
    client: Client,
    settings: Settings,
    metrics: Arc<Metrics>,
    authority: certificate::Authority,
}

impl Webhook {
    /// Listens, once there is an authority: the one that the replicas share, made if there is none.
    pub async fn bind(
        address: SocketAddr,
        client: Client,
        settings: &Settings,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("--webhook {address}"))?;
        let authority = certificate::Authority::shared(&client, settings).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, listener, client, settings: settings.clone(), metrics, authority })
    }

    /// Answers until the process ends.
    pub async fn serve(self) -> anyhow::Result<Infallible> {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tls = self.acceptor()?;
        let mut renew = tokio::time::interval(RENEW);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let (stream, _) = accepted?;
                    // Beyond these the API server waits in the backlog, and has its own time-out.
                    let permit = connections.clone().acquire_owned().await?;
                    let (tls, settings, metrics) = (tls.clone(), self.settings.clone(), self.metrics.clone());
                    tokio::spawn(async move {
                        if let Ok(Ok(stream)) = timeout(OPENING, tls.accept(stream)).await {
                            answer_all(stream, settings, metrics).await;
                        }
                        drop(permit);
                    });
                }
                _ = renew.tick() => tls = self.acceptor()?,
                _ = look.tick() => {
                    if let Err(error) = self.register().await {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the webhook's registration can't be kept up");
                    }
                }
            }
        }
    }

    fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        Ok(TlsAcceptor::from(Arc::new(self.authority.server(&self.settings, self.address.ip())?)))
    }

    /// Puts the authority into the registration, where there is one and it is not there.
    async fn register(&self) -> kube::Result<()> {
        let registrations: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let Some(mut registration) = registrations.get_opt(CONFIGURATION).await? else { return Ok(()) };
        let bundle = ByteString(self.authority.pem().as_bytes().to_vec());
        let mut differs = false;
        for webhook in registration.webhooks.iter_mut().flatten() {
            let known = &mut webhook.client_config.ca_bundle;
            if known.as_ref() != Some(&bundle) {
                *known = Some(bundle.clone());
                differs = true;
            }
        }
        if differs {
            registrations.replace(CONFIGURATION, &PostParams::default(), &registration).await?;
            tracing::info!("the webhook's registration knows its certificate now");
        }
        Ok(())
    }
}

async fn answer_all(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    settings: Settings,
    metrics: Arc<Metrics>,
) {
    let service = service_fn(move |request| {
        let (settings, metrics) = (settings.clone(), metrics.clone());
        async move { Ok::<_, Infallible>(answer(request, &settings, &metrics).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(OPENING)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the API server's broke");
    }
}

async fn answer(request: Request<Incoming>, settings: &Settings, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST || parts.uri.path() != PATH {
        return plain(StatusCode::NOT_FOUND, "reviews are asked for by POST /validate\n");
    }
    let Ok(Ok(body)) = timeout(OPENING, Limited::new(body, MAX_BODY).collect()).await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or broke off\n");
    };
    let Some(Answer { body, result }) = review(&body.to_bytes(), settings) else {
        metrics.reviewed("unreadable");
        return plain(StatusCode::BAD_REQUEST, "the body is no AdmissionReview of admission.k8s.io/v1\n");
    };
    metrics.reviewed(result);
    let mut response = Response::new(Full::new(body.to_string().into()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
