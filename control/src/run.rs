//! Puts the control plane together: a list of its parts, each with its ends. Nothing is decided here.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use millrace_node::memory;
use millrace_wire::control::control_server::ControlServer;
use rustls::{ServerConfig, crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::{
    admin::{self, Admin},
    agreement::{self, Agreement},
    clock,
    config::{Config, Source},
    generation::Generations,
    issue::{
        self, Issuer,
        authority::{Lifetimes, Wanted},
        review::Reviewer,
        revocation::mark,
        roots::{Ask, Roots},
        token::Tokens,
    },
    listening,
    metrics::Metrics,
    nodes::Nodes,
    publish::{self, Ends, History, Publisher},
    serve::Service,
    source::kubernetes,
    status, store,
    telemetry::LogLevel,
    transport::{self, Acceptor, Shown},
    world::Listening,
};

mod begin;

use begin::{Begun, Cluster, begin, random};

/// What the nodes last said they listen on.
const LISTENING: &str = "listening.json";
/// The join tokens, hashed.
const TOKENS: &str = "tokens.json";
/// How often the wall clock is looked at: it may be set, and goes on while a suspended machine's timers stand still.
const LOOK: Duration = Duration::from_secs(30);
/// A node that says nothing for this long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What it may take to answer.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Of one node: its Subscribe, and an Issue for each identity that starts on it together.
const MAX_STREAMS: u32 = 128;
/// Headers of ours are some hundred bytes.
const MAX_HEADERS: u32 = 8 * 1024;

/// How long a replica that stops may take to give back its lease: the API server may be away.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// The control plane, once it listens.
#[derive(Debug)]
pub struct Control {
    /// Where nodes connect: the port that was chosen, if any was left to choose.
    pub address: std::net::SocketAddr,
    /// Where the API server asks for reviews, if it does.
    pub webhook: Option<std::net::SocketAddr>,
    /// Certificates and tokens.
    pub issuer: Arc<Issuer>,
    /// What is published.
    pub history: watch::Receiver<Arc<History>>,
    /// What is wrong with the objects.
    pub diagnostics: watch::Receiver<Arc<Vec<crate::diagnostic::Diagnostic>>>,
    /// What stands on the policies' status, where the source has one.
    pub standing: watch::Receiver<Arc<kubernetes::Standing>>,
    admin: PathBuf,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Control {
    /// Starts everything; it has read the directory and listens when this returns.
    #[expect(clippy::too_many_lines, reason = "a list of the parts")]
    pub async fn start(
        config: Config,
        log: Option<LogLevel>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::default());
        let nodes = Arc::new(Nodes::default());
        store::folder(&config.state_dir).with_context(|| format!("{}", config.state_dir.display()))?;
        let Begun { source_end, standing, health, cluster, task: source } = Box::pin(begin(&config, &metrics)).await?;
        let (asks, asked) = mpsc::channel(agreement::ASKS);
        let issuer = Arc::new(open_issuer(&config, cluster.as_ref(), asks)?);
        metrics.root_expires.set(i64::try_from(issuer.roots.authority().root_expires_unix()).unwrap_or(i64::MAX));

        let (reports, reports_end) = mpsc::channel(publish::REPORTS);
        let (reports, shared, first_listening) = match &cluster {
            Some(_) => {
                let (reports, ends, first) = listening::by_way_of(reports);
                (reports, Some(ends), Some(first))
            }
            None => (reports, None, None),
        };
        let generations = Generations::new(random()?, clock::unix_time);
        let (history, history_end) = watch::channel(Arc::new(History::default()));
        let (diagnostics, diagnostics_end) = watch::channel(Arc::default());
        let kept_in = config.state_dir.join(LISTENING);
        let mut publisher = Publisher {
            settings: config.mesh.clone(),
            listening: kept(&kept_in),
            struck: publish::Unconfirmed::default(),
            kept_in,
            is_kept: false,
            last: None,
            generations,
            nodes: nodes.clone(),
            metrics: metrics.clone(),
        };

        let shown = Arc::new(Shown::new(own_certificate(&issuer)?));
        let (tls, tls_seen) = watch::channel(server_config(&shown, &issuer)?);
        let listener = TcpListener::bind(config.listen).await.with_context(|| format!("--listen {}", config.listen))?;
        let address = listener.local_addr()?;
        let acceptor = Acceptor {
            listener,
            config: tls_seen,
            trust_domain: config.mesh.trust_domain.clone(),
            metrics: metrics.clone(),
        };
        let (running, stopping) = watch::channel(());
        let service = Service {
            issuer: issuer.clone(),
            reviewer: cluster.as_ref().map(|cluster| Reviewer::new(cluster.client.clone(), &config.mesh)),
            history: history_end.clone(),
            reports,
            nodes: nodes.clone(),
            generations,
            metrics: metrics.clone(),
            trusted: issuer.roots.watch(),
            stopping,
        };
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADERS)
            .add_service(ControlServer::new(service));
        let admin_socket = admin::bind(&config.admin).with_context(|| format!("--admin {}", config.admin.display()))?;
        let admin_path = config.admin.clone();
        let (mesh, reported, counted) = (config.mesh.clone(), nodes.clone(), metrics.clone());
        let is_directory = matches!(config.source, Source::Directory(_));
        let admin = Admin {
            config,
            issuer: issuer.clone(),
            history: history_end.clone(),
            diagnostics: diagnostics_end.clone(),
            nodes,
            metrics: metrics.clone(),
            log,
            health: health.clone(),
        };

        let (outcome, outcome_end) = watch::channel(Arc::default());
        let trusted = issuer.roots.watch();
        let ends = Ends { source: source_end, reports: reports_end, trusted, history, diagnostics, outcome };
        let mut tasks = JoinSet::new();
        tasks.spawn(source);
        tasks.spawn(async move {
            let mut first = ends.source.clone();
            let is_read = is_directory || first.changed().await.is_ok();
            // What the nodes of other replicas listen on: without it all pods there would count as not enrolled.
            if let Some(listening) = first_listening {
                publisher.listening = listening.await.context("what nodes listen on is watched no more")?;
            }
            if is_read {
                publisher.run(ends).await;
            }
            anyhow::bail!("no change is published any more")
        });
        tasks.spawn(Renewal { shown, issuer: issuer.clone(), tls, metrics }.run());
        tasks.spawn(async move {
            match admin.serve(admin_socket).await {
                Ok(never) => match never {},
                Err(error) => Err(error).context("the admin socket"),
            }
        });
        tasks.spawn({
            let history = history_end.clone();
            async move {
                memory::give_back_between(history).await;
                // The publisher has ended, and says so itself.
                std::future::pending().await
            }
        });
        let (halt, halted) = watch::channel(());
        let (done, status_ended) = oneshot::channel();
        let mut webhook = None;
        if let Some(cluster) = cluster {
            if let Some(ends) = shared {
                cluster.share(&mut tasks, (&mesh, counted.clone()), (reported.clone(), health.clone()), ends);
            }
            let agreement = Agreement {
                client: cluster.client.clone(),
                settings: mesh.clone(),
                issuer: issuer.clone(),
                nodes: reported.clone(),
                history: history_end.clone(),
                health,
            };
            cluster.agree(&mut tasks, agreement, asked);
            let standing = standing.clone();
            let inputs = status::Inputs { outcome: outcome_end, standing, nodes: reported, stopping: halted };
            webhook = Box::pin(cluster.spawn(&mut tasks, (mesh, counted), inputs, done)).await?;
        }
        let stop = async move {
            stop.await;
            tracing::info!("stopping");
            drop(halt);
            // Gone too, where there is none.
            drop(tokio::time::timeout(GIVE_BACK, status_ended).await);
            drop(running);
        };
        let incoming = ReceiverStream::new(acceptor.run());
        tasks.spawn(
            async move { server.serve_with_incoming_shutdown(incoming, stop).await.context("serving the nodes") },
        );
        let (history, diagnostics) = (history_end, diagnostics_end);
        Ok(Self { address, webhook, issuer, history, diagnostics, standing, admin: admin_path, tasks })
    }

    /// Stops every part now.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    /// Until it was told to stop, or a part of it ended.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        let ended = self.tasks.join_next().await;
        // It answers no more; the next to start would remove it too.
        if let Err(error) = std::fs::remove_file(&self.admin) {
            tracing::debug!(%error, "could not remove the admin socket");
        }
        match ended {
            Some(ended) => ended.context("a part of the control plane failed")?,
            None => Ok(()),
        }
    }
}

/// Without it all pods wait until their nodes report again: worth a warning, not worth to stay away.
fn kept(path: &Path) -> Listening {
    store::read(path)
        .unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "what the nodes listen on is forgotten");
            None
        })
        .unwrap_or_default()
}

fn open_issuer(config: &Config, cluster: Option<&Cluster>, asks: mpsc::Sender<Ask>) -> anyhow::Result<Issuer> {
    let lifetimes = Lifetimes { leaf: config.leaf_lifetime, node: config.node_lifetime };
    let (state, now) = (&config.state_dir, clock::unix_time());
    let roots = match cluster {
        Some(Cluster { kept, .. }) => Roots::given((&kept.pair, kept.revoked.at(now)), &config.mesh, lifetimes, asks),
        None => Roots::open(state, &config.mesh, lifetimes, now),
    };
    let roots = roots.context("the certificate authority")?;
    let tokens = config.state_dir.join(TOKENS);
    let kept_in = tokens.display().to_string();
    let tokens = Tokens::open(&tokens).with_context(|| kept_in.clone())?;
    // A node may have been taken out at another replica while this one was away; a token from before readmits nobody.
    for node in roots.revoked().out() {
        tokens.forget(&node).with_context(|| kept_in.clone())?;
    }
    Ok(Issuer { settings: config.mesh.clone(), roots, tokens })
}

/// A certificate for the control plane itself; its chain ends in the root that signs, whose hash a joining node knows.
fn own_certificate(issuer: &Issuer) -> anyhow::Result<CertifiedKey> {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let identity = issue::control_identity(&issuer.settings);
    let authority = issuer.roots.authority();
    // No node has the empty name, so no revocation says anything of it.
    let (mark, lifetime, now) = (mark(""), authority.lifetimes().leaf, clock::unix_time());
    let leaf = authority.leaf(&Wanted { identity: &identity, mark, lifetime, not_before_unix: 0, now }, &pair)?;
    let key = aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::Pkcs8(pair.serialize_der().into()))?;
    let mut chain = vec![leaf];
    chain.extend(authority.intermediates().iter().cloned());
    chain.push(authority.root().clone());
    Ok(CertifiedKey::new(chain, key))
}

fn server_config(shown: &Arc<Shown>, issuer: &Issuer) -> anyhow::Result<Arc<ServerConfig>> {
    Ok(Arc::new(transport::server_config(shown.clone(), issuer.roots.authority().bundle())?))
}

/// Keeps what the control plane shows, and whom it believes, by the clock and by the roots.
struct Renewal {
    shown: Arc<Shown>,
    issuer: Arc<Issuer>,
    tls: watch::Sender<Arc<ServerConfig>>,
    metrics: Arc<Metrics>,
}

impl Renewal {
    async fn run(self) -> anyhow::Result<()> {
        let roots = &self.issuer.roots;
        let mut trusted = roots.watch();
        let mut made = clock::unix_time();
        loop {
            let lifetime = roots.authority().lifetimes().leaf;
            let other_roots = tokio::select! {
                () = tokio::time::sleep(LOOK.min(lifetime / 4)) => {
                    // Files that a person has edited.
                    if let Err(error) = roots.reload() {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the roots are as before: their files can't be used");
                    }
                    trusted.has_changed().unwrap_or_default()
                }
                changed = trusted.changed() => { changed.context("the roots are gone")?; true }
            };
            trusted.mark_unchanged();
            let now = clock::unix_time();
            if other_roots || is_due(made, now, lifetime) {
                self.shown.show(own_certificate(&self.issuer).context("renewing the control plane's certificate")?);
                made = now;
            }
            if other_roots {
                let authority = roots.authority();
                self.tls.send_replace(server_config(&self.shown, &self.issuer)?);
                self.metrics.root_expires.set(i64::try_from(authority.root_expires_unix()).unwrap_or(i64::MAX));
                tracing::info!(n_roots = authority.bundle().len(), "roots or revoked nodes changed");
            }
        }
    }
}

/// By the wall clock, as peers judge it: half its life is over, or the clock was set back to before it was made.
fn is_due(made: Duration, now: Duration, lifetime: Duration) -> bool {
    now.checked_sub(made).is_none_or(|age| age >= lifetime / 2)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::is_due;

    #[test]
    fn a_certificate_is_renewed_when_the_wall_clock_says_so_whichever_way_it_was_set() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(!is_due(day, day, day));
        assert!(!is_due(day, day + day / 3, day));
        assert!(is_due(day, day + day / 2, day));
        assert!(is_due(day, day * 400, day), "the clock was set, or the machine slept");
        assert!(is_due(day, day - Duration::from_secs(1), day), "it would not be valid yet");
    }
}
