//! Answers the nodes: Join, Subscribe, Issue. Who asks is what its certificate says; what it gets is decided elsewhere.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use millrace_model::Identity;
use millrace_wire::{
    control::{Certificate, IssueRequest, JoinRequest, NodeMessage, control_server::Control, node_message::Kind},
    convert,
    mesh::{self, Update},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    clock,
    generation::Generations,
    issue::{
        self, Issued, Issuer, Refusal,
        review::{self, Reviewer},
        roots::{Trusted, Trusting},
    },
    metrics::{CallLabel, Metrics, UpdateLabel},
    nodes::{Connected, MAX_FAILURES, Nodes},
    publish::{History, Report},
    scope::Edition,
    transport::Caller,
    world::Listener,
};

/// The agent knows what it has before it connects.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Kubernetes puts some hundred pods on a node.
const MAX_LISTENING: usize = 10_000;
/// Roots that are in use at one time: two, while one takes another's place.
const MAX_ISSUERS: usize = 16;
/// A pod's instance is 16 bytes.
const MAX_INSTANCE: usize = 253;

/// The gRPC service.
#[derive(Debug)]
pub struct Service {
    /// Certificates.
    pub issuer: Arc<Issuer>,
    /// Who knows the tokens of service accounts; None without an API server.
    pub reviewer: Option<Reviewer>,
    /// What is published.
    pub history: watch::Receiver<Arc<History>>,
    /// Where nodes' reports go.
    pub reports: mpsc::Sender<Report>,
    /// What is known of the nodes.
    pub nodes: Arc<Nodes>,
    /// Which generations are this process's.
    pub generations: Generations,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The roots, and the nodes that were taken out.
    pub trusted: watch::Receiver<Trusted>,
    /// Closed once the control plane is told to stop: streams would else outlast it.
    pub stopping: watch::Receiver<()>,
}

#[tonic::async_trait]
impl Control for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Certificate>, Status> {
        let from = caller(&request).map(|c| c.address.to_string()).unwrap_or_default();
        let JoinRequest { token, csr_der } = request.into_inner();
        let issuer = self.issuer.clone();
        let joined = match &self.reviewer {
            Some(reviewer) if review::may_be_token(&token) => match reviewer.node_of(&token).await {
                Ok(node) => issuer.join_as(&node, &csr_der, clock::unix_time()),
                Err(refusal) => Err(refusal),
            },
            // The token is spent on disk: not on the thread that serves others.
            Some(_) | None => blocking(move || issuer.join(&token, &csr_der, clock::unix_time())).await,
        };
        let Issued { identity, chain_der } = joined.map_err(|refusal| self.refuse("join", &from, &refusal))?;
        self.metrics.certificates.get_or_create(&CallLabel { call: "join" }).inc();
        tracing::info!(%identity, %from, "a node joined");
        Ok(Response::new(self.certificate(chain_der)))
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<Certificate>, Status> {
        let (node, _) = self.node(&request).map_err(|refusal| self.refuse("issue", &who(&request), &refusal))?;
        let IssueRequest { identity, csr_der } = request.into_inner();
        let edition = self.history.borrow().now().cloned();
        let issued = self.issuer.issue(&node, &identity, &csr_der, (edition.as_deref(), clock::unix_time()));
        let Issued { identity, chain_der } = issued.map_err(|refusal| self.refuse("issue", &node, &refusal))?;
        self.metrics.certificates.get_or_create(&CallLabel { call: "issue" }).inc();
        tracing::info!(%node, %identity, "issued a certificate");
        Ok(Response::new(self.certificate(chain_der)))
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Update, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let admitted = self.node(&request).map_err(|refusal| self.refuse("subscribe", &who(&request), &refusal))?;
        let (node, not_before_unix) = admitted;
        let mut messages = request.into_inner();
        let have = first(&mut messages).await.map_err(|refusal| self.refuse("subscribe", &node, &refusal))?;
        let Some(connected) = self.nodes.connect(&node, have) else {
            return Err(self.refuse("subscribe", &node, &Refusal::TooManyStreams(node.clone())));
        };
        tracing::info!(%node, have, "a node subscribed");
        let reader = Reader {
            node: node.clone(),
            reports: self.reports.clone(),
            nodes: self.nodes.clone(),
            generations: self.generations,
        };
        self.metrics.subscribers.inc();
        let subscriber = Subscriber {
            node,
            not_before_unix,
            have,
            told: None,
            trusted: self.trusted.clone(),
            last: self.history.borrow().at(have).cloned(),
            history: self.history.clone(),
            reading: Aborted(tokio::spawn(reader.read(messages))),
            nodes: self.nodes.clone(),
            metrics: self.metrics.clone(),
            stopping: self.stopping.clone(),
            _connected: connected,
        };
        Ok(Response::new(Box::pin(stream::unfold(subscriber, Subscriber::next))))
    }
}

impl Service {
    /// Which node asks, and from when its certificate holds.
    fn node<T>(&self, request: &Request<T>) -> Result<(Arc<str>, u64), Refusal> {
        let caller = caller(request).ok_or(Refusal::NoCertificate)?;
        let identity = caller.identity.as_ref().ok_or(Refusal::NoCertificate)?;
        let node = issue::node_of(&self.issuer.settings, identity);
        let node = node.ok_or_else(|| Refusal::NotANode(Identity::clone(identity)))?;
        if self.trusted.borrow().revoked.refuse(&node, caller.not_before_unix) {
            return Err(Refusal::NodeRevoked(node));
        }
        Ok((node, caller.not_before_unix))
    }

    fn certificate(&self, chain_der: Vec<Vec<u8>>) -> Certificate {
        let authority = self.issuer.roots.authority();
        Certificate { chain_der, bundle_der: authority.bundle().iter().map(|der| der.to_vec()).collect() }
    }

    fn refuse(&self, call: &'static str, from: &str, refusal: &Refusal) -> Status {
        self.metrics.refused(call, refusal);
        tracing::warn!(call, from, reason = refusal.reason(), "refused: {refusal}");
        let code = match refusal {
            Refusal::NoCertificate
            | Refusal::TokenNotAuthentic
            | Refusal::TokenOfAnother(_)
            | Refusal::TokenOfNoNode
            | Refusal::TokenMalformed
            | Refusal::TokenOtherRoot
            | Refusal::TokenUnknown
            | Refusal::TokenOtherNode(_)
            | Refusal::TokenUsed
            | Refusal::TokenExpired => Code::Unauthenticated,
            Refusal::NodeRevoked(_)
            | Refusal::NotANode(_)
            | Refusal::Reserved(_)
            | Refusal::NotHere { .. }
            | Refusal::OutsideTheMesh { .. } => Code::PermissionDenied,
            Refusal::Request(_) | Refusal::IdentityMalformed(_) | Refusal::Stream(_) => Code::InvalidArgument,
            Refusal::TooManyStreams(_) => Code::ResourceExhausted,
            Refusal::Internal(_) => Code::Internal,
        };
        Status::new(code, format!("{}: {refusal}", refusal.reason()))
    }
}

fn caller<T>(request: &Request<T>) -> Option<&Caller> {
    request.extensions().get::<Caller>()
}

fn who<T>(request: &Request<T>) -> String {
    caller(request).map(ToString::to_string).unwrap_or_default()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Refusal::Internal(error.to_string())),
    }
}

async fn first(messages: &mut Streaming<NodeMessage>) -> Result<u64, Refusal> {
    match timeout(FIRST_MESSAGE, messages.message()).await {
        Ok(Ok(Some(NodeMessage { kind: Some(Kind::Have(have)) }))) => Ok(have.generation),
        Ok(Ok(_)) => Err(Refusal::Stream("its first message is not `have`")),
        Ok(Err(_)) => Err(Refusal::Stream("it broke before its first message")),
        Err(_) => Err(Refusal::Stream("its first message did not come")),
    }
}

/// One node's stream. Its queue is one edition long: a node that is slow gets the newest, and what lies between in one update.
struct Subscriber {
    node: Arc<str>,
    /// From when its certificate holds.
    not_before_unix: u64,
    /// The generation that it has, or is sent.
    have: u64,
    /// The trust that it was sent last.
    told: Option<mesh::Trust>,
    trusted: watch::Receiver<Trusted>,
    last: Option<Arc<Edition>>,
    history: watch::Receiver<Arc<History>>,
    reading: Aborted,
    nodes: Arc<Nodes>,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<()>,
    _connected: Connected,
}

impl Subscriber {
    /// The next update, once there is one; the end, once the node's own side has ended.
    async fn next(mut self) -> Option<(Result<Update, Status>, Self)> {
        loop {
            let trusted = self.trusted.borrow_and_update().clone();
            if trusted.revoked.refuse(&self.node, self.not_before_unix) {
                tracing::warn!(node = %self.node, reason = "node_revoked", "a node's stream is ended: it is revoked");
                return None;
            }
            let trust = Some(trusted.trust()).filter(|trust| self.told.as_ref() != Some(trust));
            if trust.is_some() {
                self.told.clone_from(&trust);
            }
            let now = self.history.borrow_and_update().now().cloned();
            if let Some(edition) = now
                && self.last.as_ref().is_none_or(|last| last.generation() != edition.generation())
            {
                let delta = edition.since(self.last.as_deref(), &self.node);
                let from = if delta.from == 0 { "empty" } else { "resumed" };
                self.metrics.updates.get_or_create(&UpdateLabel { from }).inc();
                self.nodes.note(&self.node, |node| node.sent = delta.to);
                self.last = Some(edition);
                self.have = delta.to;
                return Some((Ok(Update { trust, ..convert::update(&delta) }), self));
            }
            if trust.is_some() {
                let (from, to) = (self.have, self.have);
                return Some((Ok(Update { from, to, trust, ..Update::default() }), self));
            }
            tokio::select! {
                changed = self.history.changed() => changed.ok()?,
                changed = self.trusted.changed() => changed.ok()?,
                _ = self.stopping.changed() => return None,
                end = &mut self.reading.0 => {
                    tracing::info!(node = %self.node, end = end.unwrap_or("its reader failed"), "a node's stream ended");
                    return None;
                }
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.metrics.subscribers.dec();
    }
}

/// A task that ends with whoever holds this.
struct Aborted(JoinHandle<&'static str>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads what a node says.
struct Reader {
    node: Arc<str>,
    reports: mpsc::Sender<Report>,
    nodes: Arc<Nodes>,
    generations: Generations,
}

impl Reader {
    /// Until the node ends its side or says what may not be said; the result is why.
    async fn read(self, mut messages: Streaming<NodeMessage>) -> &'static str {
        loop {
            let kind = match messages.message().await {
                Ok(Some(NodeMessage { kind })) => kind,
                Ok(None) => return "the node closed it",
                Err(_) => return "the connection broke",
            };
            match kind {
                Some(Kind::Applied(applied)) => {
                    for failure in applied.failures.iter().take(MAX_FAILURES) {
                        tracing::warn!(node = %self.node, generation = applied.generation, failure, "a node can't enforce");
                    }
                    // From another replica it brings what that one published: it is no more than "not yet" here.
                    let own = if self.generations.is_own(applied.generation) { applied.generation } else { 0 };
                    self.nodes.applied(&self.node, own, applied.failures);
                }
                Some(Kind::Listening(listening)) => {
                    let Some(listening) = read_listening(listening) else {
                        return "the node said of its listeners what may not be said";
                    };
                    self.nodes.note(&self.node, |node| node.n_listening = listening.len());
                    // Waits where the publisher is behind: the node's own stream is its queue.
                    if self.reports.send(Report { node: self.node.clone(), listening }).await.is_err() {
                        return "the control plane ends";
                    }
                }
                Some(Kind::Trusting(trusting)) => {
                    let Some(trusting) = read_trusting(trusting) else {
                        return "the node said of its roots what may not be said";
                    };
                    self.nodes.note(&self.node, |node| node.trusting = Some(trusting));
                }
                Some(Kind::Have(_)) | None => return "the node said what this version does not know",
            }
        }
    }
}

fn read_trusting(trusting: millrace_wire::control::Trusting) -> Option<Trusting> {
    let millrace_wire::control::Trusting { bundle_sha256, issuers_sha256 } = trusting;
    let fits = issuers_sha256.len() <= MAX_ISSUERS
        && issuers_sha256.iter().chain([&bundle_sha256]).all(|hash| hash.len() == 32);
    fits.then_some(Trusting { bundle_sha256, issuers_sha256 })
}

fn read_listening(listening: millrace_wire::control::Listening) -> Option<BTreeSet<Listener>> {
    if listening.workloads.len() > MAX_LISTENING {
        return None;
    }
    listening
        .workloads
        .into_iter()
        .map(|millrace_wire::control::Listener { name, instance }| {
            let name = convert::name_from(name, "listening.workloads.name").ok()?;
            (instance.len() <= MAX_INSTANCE).then(|| Listener { name, instance: instance.into() })
        })
        .collect()
}
