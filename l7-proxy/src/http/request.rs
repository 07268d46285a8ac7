//! Lives one request: its rule, its filters, an endpoint, the answer, the record of it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, COOKIE, HOST, TE},
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use http_body::Body as _;
use http_body_util::Full;
use millrace_model::{
    Mesh, ObjectName, Workload,
    balance::weighted,
    route::{Filter, HeaderEdit, PathMatch, RouteRule, Speaks, Target, Timeouts},
};
use millrace_node::clock;
use millrace_routes::{At, Found, Table, naming};
use rand::Rng as _;

use super::{
    body::{Answer, Outgoing, Streamed},
    counts,
    driven::Desk,
    endpoint::Endpoints,
    expect,
    fault::Fault,
    filter::{
        self,
        cors::{self, Judged},
        inject::{self, Injected},
    },
    flaw::Flaw,
    forwarded::{self, Asker, Said},
    heads::{Bad, two},
    mirror,
    reach::Caller,
    received::Received,
    record::Recording,
    retry::{self, Sent},
    session::{self, Kept},
    upgrade::{self, Switch},
    upstream::{Lease, Unsent},
};
use crate::{
    accept::Accepted,
    fault::Why,
    handshakes::Caller as Peer,
    home::Home,
    limits::{Account, Waits},
    outbound::{self, REASON},
    worker::Worker,
};

/// How often a request is sent when the connection kept for it turns out to be closed.
pub(super) const STALE: u32 = 3;

/// What the requests of one connection share.
pub(crate) struct Callers {
    pub(crate) worker: Arc<Worker>,
    pub(crate) home: Home,
    pub(crate) account: Arc<Account>,
    pub(crate) peer: SocketAddr,
    /// The service's address and port.
    pub(crate) asked: SocketAddr,
    pub(crate) switch: Switch,
    /// Whether its connection is to end with the request under way.
    pub(crate) is_closing: AtomicBool,
    pub(crate) flaw: Flaw,
    /// Where its task polls the connection to an endpoint, in HTTP/1.
    pub(crate) desk: Desk,
    said: Mutex<Option<Known>>,
}

/// What is said of a pod as the mesh knows it.
type Known = (Arc<Workload>, Arc<Said>);

/// What is known of a request so far.
#[derive(Default)]
pub(crate) struct Seen {
    way: Option<Way>,
    backend: Option<ObjectName>,
    endpoint: Option<SocketAddr>,
    pub(crate) recording: Recording,
    /// What is said of other origins on whatever it is answered.
    marks: Option<cors::Marks>,
}

/// What a request's filters leave to be done.
struct Done<'f> {
    /// When the request's time is over.
    deadline: Option<Instant>,
    /// On its answer.
    edits: Vec<&'f HeaderEdit>,
    /// Beside it.
    copies: Vec<mirror::Wanted<'f>>,
}

/// What a request goes by.
#[derive(Clone)]
enum Way {
    /// A match of a rule.
    Bound(Arc<Table>, At),
    /// The service itself.
    Direct(Arc<RouteRule>),
}

/// What every path begins with: the match of what has none.
static ANY: LazyLock<PathMatch> = LazyLock::new(PathMatch::default);

impl Callers {
    pub(crate) fn new(worker: Arc<Worker>, accepted: &Accepted, asked: SocketAddr) -> Self {
        Self {
            worker,
            home: accepted.home.clone(),
            account: accepted.account.clone(),
            peer: accepted.peer,
            asked,
            switch: Switch::default(),
            is_closing: AtomicBool::new(false),
            flaw: Flaw::default(),
            desk: Desk::default(),
            said: Mutex::default(),
        }
    }

    /// Whose buffers what waits for this client is in.
    pub(crate) fn waits(&self) -> Arc<Waits> {
        Arc::new(self.account.waits(Peer::at(&self.worker.proxy.current(), self.peer.ip())))
    }

    /// What endpoints are told of this client.
    fn said(&self, caller: &Arc<Workload>) -> Arc<Said> {
        let mut known = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, said)) = &*known
            && Arc::ptr_eq(of, caller)
        {
            return said.clone();
        }
        let shown = outbound::client_of(caller, self.peer, self.asked).unwrap_or(self.peer);
        let asker = Asker { address: shown.ip().to_canonical(), identity: &caller.identity };
        let said = Arc::new(asker.said());
        *known = Some((caller.clone(), said.clone()));
        said
    }

    /// The life of a request.
    #[expect(clippy::large_futures, reason = "a request has one box, and whoever serves it makes that")]
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Received>) -> Result<Response<Answer>, Infallible> {
        let began = clock::now();
        let mesh = self.worker.proxy.current();
        let is_grpc = is_grpc(request.headers());
        let recording = Recording::begin(&self, &mesh, &request, began);
        let mut seen = Seen { recording, ..Seen::default() };
        let answered = self.routed(&mesh, request, (began, &mut seen)).await;
        let (mut response, fault) = match answered {
            Ok(response) => (response, None),
            Err(fault) => (refusal(&fault, is_grpc), Some(fault)),
        };
        let Seen { way, backend, endpoint, recording, marks } = seen;
        if let Some(marks) = marks {
            marks.mark(response.headers_mut());
        }
        self.worker
            .proxy
            .metrics
            .http
            .answered(response.status(), fault.as_ref().map_or(counts::ANSWERED, Fault::name));
        tracing::debug!(
            target: "request",
            source_workload = %self.home.pod.name,
            asked = %self.asked,
            rule = way.as_ref().and_then(Way::name),
            backend = backend.map(tracing::field::display),
            endpoint = endpoint.map(tracing::field::display),
            status = response.status().as_u16(),
            fault = fault.as_ref().map(Fault::name),
            side = fault.as_ref().map(|fault| fault.side().name()),
            duration_us = u64::try_from(clock::now().saturating_duration_since(began).as_micros()).unwrap_or(u64::MAX),
            "request answered"
        );
        Ok(recording.answered(response, fault.as_ref()))
    }

    /// Peer, route, filters, send, respond.
    #[expect(clippy::too_many_lines, reason = "one life, read top to bottom")]
    #[expect(clippy::large_futures, reason = "a request has one box, and whoever serves it makes that")]
    async fn routed(
        self: &Arc<Self>,
        mesh: &Arc<Mesh>,
        request: Request<Received>,
        (began, seen): (Instant, &mut Seen),
    ) -> Result<Response<Answer>, Fault> {
        let caller = self.home.pod.workload(mesh).map_err(Fault::Unreached)?.clone();
        let (mut head, body) = request.into_parts();
        if head.version == Version::HTTP_2 {
            two::check(&head).map_err(Fault::Bad)?;
        }
        let authority = authority(&head)?;
        let protocol = upgrade::asked(&head, !body.is_end_stream());
        filter::strip_hop_by_hop(&mut head.headers);
        let is_expected = expect::take(&mut head);
        // Before a rule is chosen: none shall be by an identity that was only claimed.
        forwarded::tell(&mut head.headers, &self.said(&caller), || rand::rng().random());
        let way = self.way(mesh, &head, &authority)?;
        seen.recording.rule(|| way.name());
        seen.way = Some(way.clone());
        let (rule, matched) = way.goes().ok_or(Fault::NoRoute)?;
        let Timeouts { request: whole, backend_request } = rule.timeouts;
        let deadline = whole.map(|whole| began + whole);
        let mut done = Done { deadline, edits: vec![], copies: vec![] };
        let asked = (&*authority, matched);
        if let Some(answer) = self.filters(&rule.filters, (&mut head, asked), &mut done, seen).await? {
            return Ok(answer);
        }
        let session = session::kept(self, mesh, (rule, &head.headers), &caller);
        let index = session.as_ref().map(|kept| kept.index).or_else(|| {
            let weights = rule.backends.iter().map(|backend| backend.weight);
            weighted(weights, rand::rng().random())
        });
        let backend = index.and_then(|index| rule.backends.get(index)).ok_or(Fault::Unresolved)?;
        if let Some(answer) = self.filters(&backend.filters, (&mut head, asked), &mut done, seen).await? {
            return Ok(answer);
        }
        let Target::Service { name, port, speaks } = &backend.to else { return Err(Fault::Unresolved) };
        seen.backend = Some(name.clone());
        seen.recording.backend(name);
        let (mut endpoints, token) = match session {
            Some(kept) => {
                let Kept { index: _, endpoints, token } = *kept;
                (endpoints, Some(token))
            }
            None => (Endpoints::of(self, mesh, (name, *port, *speaks), &caller)?, None),
        };
        seen.recording.pass_on(&mut head.headers);
        let protocol = protocol.filter(|_| *speaks == Speaks::Http1);
        if let Some(protocol) = &protocol {
            upgrade::set(&mut head.headers, protocol.clone());
        }
        let body = mirror::begin(self, std::mem::take(&mut done.copies), body);
        let Sent { response, mut lease, gate, part_ends } = if let Some(retry) = &rule.retry {
            let (service, speaks, part) = (name, *speaks, backend_request);
            let by = retry::By { retry, mesh, service, speaks, deadline, part, is_expected };
            Box::pin(retry::send(self, by, &mut endpoints, (head, body), seen)).await?
        } else {
            let (body, gate) = expect::hold(is_expected, &mut head, body);
            let part_ends = backend_request.map(|part| clock::now() + part);
            let sending = self.send(mesh, (&mut endpoints, *speaks), (head, body), seen);
            let (response, lease) = in_time(sending, deadline, backend_request).await?;
            Sent { response, lease, gate, part_ends }
        };
        if gate.is_some_and(|gate| gate.close()) {
            // Neither connection can be used on: at either a body was announced that nobody sends.
            lease.spend();
            self.is_closing.store(true, Relaxed);
        }
        let (mut parts, body) = response.into_parts();
        let is_switching = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        // One that was not asked for, or to another protocol, is no answer.
        let protocol = protocol.filter(|asked| upgrade::is_agreed(parts.status, &parts.headers, asked));
        if is_switching && protocol.is_none() {
            return Err(Fault::Broken);
        }
        filter::strip_hop_by_hop(&mut parts.headers);
        done.edits.iter().for_each(|edit| filter::edit(&mut parts.headers, edit));
        if let Some(session) = &backend.session {
            let id = endpoints.id(mesh, (name, *port));
            session::give(self, (session, token.as_ref()), (&mut parts.headers, matched), id);
        }
        parts.version = Version::HTTP_11;
        if let Some(protocol) = protocol {
            upgrade::set(&mut parts.headers, protocol);
            self.switch.agreed(lease);
            return Ok(Response::from_parts(parts, Answer::Own(Full::new(Bytes::new()))));
        }
        // Either time holds until the whole of the answer is here.
        let until = deadline.into_iter().chain(part_ends).min();
        let until = until.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        Ok(Response::from_parts(parts, Answer::Application(Box::new(Streamed::new(body, lease, until)))))
    }

    /// The rule that a request goes by; the service itself where nothing is bound to it any more.
    fn way(&self, mesh: &Mesh, head: &Parts, authority: &str) -> Result<Way, Fault> {
        let (address, port) = (self.asked.ip(), self.asked.port());
        let service = mesh.service_at(address, port, millrace_model::Protocol::Tcp);
        let service = service.ok_or(Fault::NoEndpoint)?;
        let table = self.worker.tables.of(mesh, &service.name);
        let view = table.as_ref().and_then(|table| Some((table, table.view(port, &self.home.pod.name.namespace)?)));
        let Some((table, view)) = view else { return Ok(Way::direct(&service.name, port, head.version)) };
        let request = millrace_routes::Request {
            authority,
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query(),
            headers: &head.headers,
        };
        let at = view.choose(&request).ok_or(Fault::NoRoute)?;
        Ok(Way::Bound(table.clone(), at))
    }

    /// Does filters, in order; Some where one answers.
    async fn filters<'f>(
        &self,
        filters: &'f [Filter],
        (head, asked): (&mut Parts, (&str, &PathMatch)),
        done: &mut Done<'f>,
        seen: &mut Seen,
    ) -> Result<Option<Response<Answer>>, Fault> {
        for filter in filters {
            if let Filter::Fault(fault) = filter {
                let Injected { delay, abort } = inject::injected(fault, rand::rng().random());
                if let Some(time) = delay {
                    let wait = async {
                        tokio::time::sleep(time).await;
                        Ok(())
                    };
                    in_time(wait, done.deadline, None).await?;
                }
                if let Some(status) = abort.and_then(|status| StatusCode::from_u16(status).ok()) {
                    return Err(Fault::Injected(status));
                }
            } else if let Some(answer) = self.filtered(filter, (head, asked), done, seen)? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// Does one filter that takes no time; Some where it answers.
    fn filtered<'f>(
        &self,
        filter: &'f Filter,
        (head, (authority, matched)): (&mut Parts, (&str, &PathMatch)),
        done: &mut Done<'f>,
        seen: &mut Seen,
    ) -> Result<Option<Response<Answer>>, Fault> {
        match filter {
            Filter::RequestHeaders(edit) => filter::edit(&mut head.headers, edit),
            Filter::ResponseHeaders(edit) => done.edits.push(edit),
            Filter::Rewrite(rewrite) => {
                if let Some(path) = filter::rewritten(rewrite, matched, &head.uri) {
                    head.uri = Uri::from(path);
                }
                if let Some(host) = &rewrite.host {
                    filter::set_host(&mut head.headers, host);
                }
            }
            Filter::Redirect(redirect) => {
                let to = filter::redirected(redirect, matched, (&head.uri, authority, self.asked.port()));
                let (status, location) = to.ok_or(Fault::Filter)?;
                let mut answer = own(status);
                answer.headers_mut().insert(http::header::LOCATION, location);
                done.edits.iter().for_each(|edit| filter::edit(answer.headers_mut(), edit));
                return Ok(Some(answer));
            }
            Filter::Mirror(mirror) => {
                if inject::falls(mirror.share, rand::rng().random()) {
                    done.copies.push(mirror::Wanted { mirror, head: head.clone() });
                }
            }
            Filter::Cors(cors) => match cors::judge(cors, &head.method, &head.headers) {
                Judged::Goes(marks) => seen.marks = Some(marks),
                Judged::Preflight(headers) => {
                    let mut answer = own(StatusCode::OK);
                    answer.headers_mut().extend(headers);
                    return Ok(Some(answer));
                }
                Judged::Unwelcome => return Err(Fault::Origin),
            },
            // What can't be done must not be skipped.
            Filter::Fault(_) | Filter::Refuse(_) => return Err(Fault::Filter),
        }
        Ok(None)
    }

    /// Why a request that was sent has no answer: its own body can be what broke it.
    fn broken(&self) -> Fault {
        self.flaw.bad().map_or(Fault::Broken, Fault::Bad)
    }

    /// Sends to one endpoint after another until one has answered: another only where the one before could not be reached.
    pub(crate) async fn send(
        &self,
        mesh: &Mesh,
        (endpoints, speaks): (&mut Endpoints<'_>, Speaks),
        (head, body): (Parts, Outgoing),
        seen: &mut Seen,
    ) -> Result<(Response<Received>, Lease), Fault> {
        let mut request = Request::from_parts(sent_as(head, speaks)?, seen.recording.counting(body));
        let mut n_stale = 0;
        loop {
            let mut lease = endpoints.lease(&self.worker, mesh).await?;
            lease.lend(&self.desk);
            seen.endpoint = endpoints.chosen();
            seen.recording.endpoint(seen.endpoint);
            match lease.send(request).await {
                Ok(response) => return Ok((response, lease)),
                Err(unsent) => {
                    let Unsent { request: again, error } = *unsent;
                    tracing::debug!(%error, is_reused = lease.is_reused, "an endpoint did not answer");
                    n_stale += 1;
                    request = again.filter(|_| n_stale <= STALE).ok_or_else(|| self.broken())?;
                    endpoints.again();
                }
            }
        }
    }
}

impl Caller {
    pub(crate) fn new(callers: &Callers, workload: &Arc<Workload>, shown: SocketAddr) -> Self {
        Self { home: callers.home.clone(), account: callers.account.clone(), workload: workload.clone(), shown }
    }
}

impl Way {
    /// To the service's own endpoints, in what the client speaks: without routes it speaks to them itself.
    fn direct(service: &ObjectName, port: u16, version: Version) -> Self {
        let speaks = if version == Version::HTTP_2 { Speaks::Http2 } else { Speaks::Http1 };
        let to = Target::Service { name: service.clone(), port, speaks };
        let rule = RouteRule {
            name: None,
            matches: vec![],
            filters: vec![],
            backends: vec![millrace_model::route::RouteBackend { weight: 1, to, filters: vec![], session: None }],
            timeouts: Timeouts::default(),
            retry: None,
        };
        Self::Direct(Arc::new(rule))
    }

    /// Its rule, and the match of the path.
    fn goes(&self) -> Option<(&RouteRule, &PathMatch)> {
        match self {
            Self::Bound(table, at) => table.found(*at).map(|found| (found.rule, &found.matched.path)),
            Self::Direct(rule) => Some((rule, &ANY)),
        }
    }

    /// What the rule is called; the service's own has no name.
    fn name(&self) -> Option<String> {
        match self {
            Self::Bound(table, at) => {
                table.found(*at).map(|Found { bound, index, rule, .. }| naming::rule(&bound.route, index, rule))
            }
            Self::Direct(_) => None,
        }
    }
}

/// Whom a request asks. Where it says so twice, both must say the same (RFC 9112, 3.2.2; RFC 9113, 8.3.1).
fn authority(head: &Parts) -> Result<String, Fault> {
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    match (head.uri.authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(Fault::Bad(Bad::OtherHost))
        }
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) => Ok(host.to_owned()),
        (None, None) => Ok(String::new()),
    }
}

/// A head as an endpoint is sent it.
pub(crate) fn sent_as(head: Parts, speaks: Speaks) -> Result<Parts, Fault> {
    let mut head = head;
    let authority = match head.headers.get(HOST) {
        Some(host) => host.clone(),
        None => {
            let authority = head.uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
            HeaderValue::from_str(authority).map_err(|_odd| Fault::Bad(Bad::Host))?
        }
    };
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    match speaks {
        Speaks::Http1 => {
            head.headers.insert(HOST, authority);
            one_cookie(&mut head.headers);
            if head.headers.contains_key(TE) {
                // RFC 9110, 10.1.4.
                head.headers.append(CONNECTION, HeaderValue::from_static("te"));
            }
            head.uri = Uri::from(path);
            head.version = Version::HTTP_11;
        }
        Speaks::Http2 => {
            head.headers.remove(HOST);
            let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority.as_bytes()).path_and_query(path).build();
            head.uri = uri.map_err(|_odd| Fault::Bad(Bad::Host))?;
            head.version = Version::HTTP_2;
        }
    }
    Ok(head)
}

/// HTTP/2 may have cut the cookies into crumbs; HTTP/1 knows one field of them (RFC 9113, 8.2.3).
fn one_cookie(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// Waits no longer than either time allows.
pub(crate) async fn in_time<T>(
    sending: impl Future<Output = Result<T, Fault>>,
    deadline: Option<Instant>,
    backend: Option<Duration>,
) -> Result<T, Fault> {
    let whole = async {
        match deadline {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    let part = async {
        match backend {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        sent = sending => sent,
        () = whole => Err(Fault::RequestTimeout),
        () = part => Err(Fault::BackendTimeout),
    }
}

/// Whether a head is of gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn own(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer::Own(Full::new(Bytes::new())));
    *response.status_mut() = status;
    response
}

/// The answer to a request that failed here: a status, or what stands for one in gRPC.
fn refusal(fault: &Fault, is_grpc: bool) -> Response<Answer> {
    let mut response = own(if is_grpc { StatusCode::OK } else { fault.status() });
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(fault.name()));
    if is_grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.extend(fault.grpc_trailers());
    }
    response
}

impl From<Why> for Fault {
    fn from(why: Why) -> Self {
        Self::Unreached(why)
    }
}
