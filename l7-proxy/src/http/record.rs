//! Records each request once, when its answer has ended or nobody waits for it any more: in metrics, and in access logs and spans
//! where a TelemetryPolicy asks for them. What nobody asks for is neither kept nor computed.
//!
//! [`Recording`] is what is known of one request; it is begun with the request, told what becomes of it, and speaks when it is
//! dropped, so that a request that was given up is recorded too. `shard` and `series` count, `collect` prints; `line` and `log`
//! write; `trace` and `span` say what is a trace, `export` tells collectors; `tap` shows requests to who watches. A worker's counts and lines are its thread's own: no lock is taken for a request.

mod body;
mod collect;
mod export;
mod labels;
mod line;
mod log;
mod series;
mod shard;
mod span;
mod tap;
mod trace;

use std::{
    cell::RefCell,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, Request, Response, Version, header::HOST};
use http_body::Body as _;
use millrace_model::{
    Mesh, ObjectName, Protocol, Telemetry, Workload,
    telemetry::{AccessLog, Blame, Condition, Field, LogFormat, Piece, Switch},
};
use millrace_node::{clock, date::rfc3339};
use prometheus_client::registry::Registry;
use rand::Rng as _;
use tokio::{sync::Notify, task::JoinSet};

use self::{
    export::Finished,
    labels::{Answer as Ended, EdgeOf, Spoken},
    line::Known,
    log::{GATHERED, Gathered},
    shard::{Book, Shard},
    span::Traced,
    tap::Taps,
};
use super::{
    body::{Answer, Outgoing},
    fault::Fault,
    request::{Callers, is_grpc},
    retry::Withheld,
};
use crate::fault::Side;

pub(crate) use self::{
    body::{Counted, Recorded},
    log::{Log, sink as access_log},
    tap::route as tap_route,
};

/// How long a line may wait for others to be written with it.
const GATHERING: Duration = Duration::from_millis(100);

/// How long spans may wait for others to be sent with them.
const GATHERING_SPANS: Duration = Duration::from_millis(500);

/// How often edges without requests are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// What all workers record into.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    book: Arc<Book>,
    pub(crate) log: Arc<Log>,
    spans: Arc<export::Counts>,
    taps: Arc<Taps>,
}

impl Requests {
    /// Has these metrics printed with the others. Their names begin with `millrace_`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(collect::Printed(self.book.clone())));
        registry.register_collector(Box::new(self.log.printed()));
        registry.register_collector(Box::new(export::Printed(self.spans.clone())));
    }

    /// What a worker's thread does beside serving: writes lines and sends spans that were gathered, lets go of edges without
    /// requests. Never ends.
    pub(crate) async fn keep(&self) {
        let signals = own(|own| (own.waiting.clone(), own.finished.clone()));
        let (waiting, finished) = signals.unwrap_or_default();
        let mut sendings = JoinSet::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = waiting.notified() => {
                    tokio::time::sleep(GATHERING).await;
                    own(|own| self.log.give(&mut own.lines));
                }
                () = finished.notified() => {
                    tokio::time::sleep(GATHERING_SPANS).await;
                    let spans = own(|own| std::mem::take(&mut own.spans));
                    export::send(spans.unwrap_or_default(), &mut sendings, &self.spans);
                }
                _ = sweep.tick() => drop(own(|own| own.shard.as_mut().map(|shard| shard.sweep(clock::now())))),
            }
        }
    }

    /// Gives away this thread's lines, for the last time. Spans that nobody will send are counted.
    pub(crate) fn end(&self) {
        let spans = own(|own| {
            self.log.give(&mut own.lines);
            std::mem::take(&mut own.spans)
        });
        self.spans.dropped.fetch_add(spans.map_or(0, |spans| spans.len() as u64), Relaxed);
    }

    /// This thread's shard does something.
    fn count(&self, count: impl FnOnce(&mut Shard)) {
        own(|own| {
            let held = own.shard.take().filter(|shard| Arc::ptr_eq(&shard.book, &self.book));
            count(own.shard.insert(held.unwrap_or_else(|| self.book.shard())));
        });
    }

    /// Has a collector told of a span, sooner or later.
    fn span(&self, finished: Finished) {
        own(|own| {
            if own.spans.len() >= export::WAITING {
                self.spans.dropped.fetch_add(1, Relaxed);
                return;
            }
            own.spans.push(finished);
            if own.spans.len() == 1 {
                own.finished.notify_one();
            }
        });
    }

    /// Writes one line, sooner or later.
    fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        own(|own| {
            write(&mut own.lines.bytes);
            own.lines.n_lines += 1;
            if own.lines.bytes.len() >= GATHERED {
                self.log.give(&mut own.lines);
            } else if own.lines.n_lines == 1 {
                own.waiting.notify_one();
            }
        });
    }
}

/// What a thread has for itself.
#[derive(Default)]
struct OfThread {
    shard: Option<Shard>,
    lines: Gathered,
    waiting: Arc<Notify>,
    spans: Vec<Finished>,
    finished: Arc<Notify>,
}

thread_local! {
    /// A worker is one thread: what it counts and writes waits for no other.
    static WORKER: RefCell<OfThread> = RefCell::default();
}

/// Does something with what this thread has for itself; nothing where the thread is ending, and has nothing any more.
fn own<T>(with: impl FnOnce(&mut OfThread) -> T) -> Option<T> {
    WORKER.try_with(|worker| Some(with(&mut *worker.try_borrow_mut().ok()?))).ok().flatten()
}

/// What is known of one request, as far as anybody wants to know.
#[derive(Default)]
pub(crate) struct Recording(Option<Box<Kept>>);

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has answered.
    Asked,
    /// An answer is on its way.
    Answering,
    /// The answer has ended.
    Ended,
}

struct Kept {
    callers: Arc<Callers>,
    mesh: Arc<Mesh>,
    source: Arc<Workload>,
    telemetry: Option<Arc<Telemetry>>,
    /// Whether it was drawn to be written.
    is_logged: bool,
    /// Whether somebody watched its workload when it came.
    is_tapped: bool,
    trace: Option<Traced>,
    began: Instant,
    spoken: Spoken,
    /// What was asked, where somebody wants to read it.
    head: Option<Head>,
    rule: Option<String>,
    service: Option<ObjectName>,
    endpoint: Option<SocketAddr>,
    n_attempts: u32,
    n_retries: u32,
    withheld: Option<Withheld>,
    head_after: Option<Duration>,
    request_bytes: Option<Arc<AtomicU64>>,
    response_bytes: u64,
    ended: Ended,
    stage: Stage,
}

/// A header's name, and what it said where it was there.
type Named = (Arc<str>, Option<String>);

/// What was asked.
struct Head {
    method: Method,
    host: String,
    path: String,
    headers: Vec<Named>,
}

impl Recording {
    /// Begins with a request.
    pub(crate) fn begin(
        callers: &Arc<Callers>,
        mesh: &Arc<Mesh>,
        request: &Request<impl Sized>,
        began: Instant,
    ) -> Self {
        let Ok(source) = callers.home.pod.workload(mesh) else { return Self(None) };
        let telemetry = source.telemetry.as_ref().and_then(|name| mesh.snapshot.telemetry.get(name));
        let log = telemetry.and_then(|telemetry| telemetry.logs.as_ref());
        let log = log.filter(|log| log.share.takes(rand::rng().random()));
        let tracing = telemetry.and_then(|telemetry| telemetry.tracing.as_ref());
        let trace = tracing.map(|tracing| Traced::of(request.headers(), tracing, &mut rand::rng()));
        let is_counted = telemetry.is_none_or(|telemetry| telemetry.metrics == Switch::On);
        let taps = &callers.worker.proxy.requests.taps;
        let may_be_tapped = taps.any() && telemetry.is_some_and(|telemetry| telemetry.tap == Switch::On);
        let is_tapped = may_be_tapped && taps.watches(&source.name);
        if log.is_none() && trace.is_none() && !is_counted && !is_tapped {
            return Self(None);
        }
        let is_read = log.is_some() || is_tapped || trace.as_ref().is_some_and(Traced::is_told);
        let spoken = match request.version() {
            Version::HTTP_2 if is_grpc(request.headers()) => Spoken::Grpc,
            Version::HTTP_2 => Spoken::Http2,
            _ => Spoken::Http1,
        };
        Self(Some(Box::new(Kept {
            callers: callers.clone(),
            mesh: mesh.clone(),
            source: source.clone(),
            telemetry: telemetry.cloned(),
            is_logged: log.is_some(),
            is_tapped,
            trace,
            began,
            spoken,
            head: is_read.then(|| Head::of(request, log)),
            rule: None,
            service: None,
            endpoint: None,
            n_attempts: 0,
            n_retries: 0,
            withheld: None,
            head_after: None,
            request_bytes: None,
            response_bytes: 0,
            ended: Ended { code: 0, flag: None, policy: None, grpc: None },
            stage: Stage::Asked,
        })))
    }

    /// It goes by this rule.
    pub(crate) fn rule(&mut self, rule: impl FnOnce() -> Option<String>) {
        if let Some(kept) = self.0.as_mut().filter(|kept| kept.head.is_some()) {
            kept.rule = rule();
        }
    }

    /// It goes to this service.
    pub(crate) fn backend(&mut self, service: &ObjectName) {
        if let Some(kept) = &mut self.0 {
            kept.service = Some(service.clone());
        }
    }

    /// It is sent to this endpoint.
    pub(crate) fn endpoint(&mut self, endpoint: Option<SocketAddr>) {
        if let Some(kept) = &mut self.0 {
            kept.endpoint = endpoint;
            kept.n_attempts += 1;
        }
    }

    /// It is sent again.
    pub(crate) fn retried(&mut self) {
        if let Some(kept) = &mut self.0 {
            kept.n_retries += 1;
        }
    }

    /// It failed, and is not sent again.
    pub(crate) fn withheld(&mut self, withheld: Withheld) {
        if let Some(kept) = &mut self.0 {
            kept.withheld = Some(withheld);
        }
    }

    /// Its headers, as the endpoint gets them, say which trace it is part of.
    pub(crate) fn pass_on(&mut self, headers: &mut HeaderMap) {
        if let Some(kept) = &mut self.0
            && let Some(trace) = &mut kept.trace
        {
            trace.pass_on(headers, kept.began);
        }
    }

    /// Its body, with its bytes counted.
    pub(crate) fn counting(&mut self, body: Outgoing) -> Outgoing {
        match &mut self.0 {
            Some(kept) if !body.is_end_stream() => {
                let count = kept.request_bytes.insert(Arc::default());
                Outgoing::Counted(Box::new(Counted::new(body, count.clone())))
            }
            Some(_) | None => body,
        }
    }

    /// It is answered; what is left to be seen is the answer's end.
    pub(crate) fn answered(self, response: Response<Answer>, fault: Option<&Fault>) -> Response<Answer> {
        let Self(Some(mut kept)) = self else { return response };
        kept.stage = Stage::Answering;
        kept.head_after = Some(clock::now().saturating_duration_since(kept.began));
        kept.ended = Ended::good(response.status());
        kept.note_grpc(response.headers());
        if let Some(fault) = fault {
            kept.fault(fault.name(), fault.side());
            kept.ended.policy = fault.policy().map(Into::into);
        } else if let Some(withheld) = kept.withheld {
            kept.fault(withheld.flag(), Side::Upstream);
        }
        response.map(|answer| Answer::Recorded(Box::new(Recorded::new(answer, kept))))
    }
}

impl Kept {
    fn fault(&mut self, name: &'static str, side: Side) {
        self.ended.flag = Some((name, side.name()));
    }

    /// What gRPC says of the end, in head or trailers.
    fn note_grpc(&mut self, headers: &HeaderMap) {
        let status = || headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        if self.spoken == Spoken::Grpc
            && let Some(status) = status()
        {
            self.ended.grpc = Some(status);
        }
    }

    /// The pod that it was sent to last.
    fn target(&self) -> Option<&Workload> {
        self.endpoint.and_then(|endpoint| self.mesh.workload_at(endpoint.ip())).map(|target| &**target)
    }

    /// Where it came from: the pod's own address, of the family in which it asked. What it connected from is of the hand-over.
    fn source_address(&self) -> SocketAddr {
        let (peer, asked) = (self.callers.peer, self.callers.asked.ip().to_canonical());
        let own = self.source.addresses.iter().find(|own| own.is_ipv4() == asked.is_ipv4());
        SocketAddr::new(own.copied().unwrap_or(peer.ip()), peer.port())
    }

    /// The service that it went to, or was for.
    fn service(&self) -> Option<&ObjectName> {
        let asked = || {
            let asked = self.callers.asked;
            self.mesh.service_at(asked.ip(), asked.port(), Protocol::Tcp).map(|service| &service.name)
        };
        self.service.as_ref().or_else(asked)
    }

    fn request_bytes(&self) -> u64 {
        self.request_bytes.as_ref().map_or(0, |count| count.load(Relaxed))
    }

    /// What a line says in one field.
    fn known(&self, field: &Field, took: Duration) -> Known {
        let head = self.head.as_ref();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        match field {
            Field::Time => Known::Text(rfc3339(clock::unix_time().saturating_sub(took))),
            Field::SourceWorkload => Known::Text(self.source.name.to_string()),
            Field::SourceServiceAccount => Known::Text(self.source.identity.service_account.to_string()),
            Field::SourceAddress => Known::Text(self.source_address().to_string()),
            Field::Service => {
                let asked = self.callers.asked;
                let service = self.mesh.service_at(asked.ip(), asked.port(), Protocol::Tcp);
                Known::text(service.map(|service| &service.name))
            }
            Field::Asked => Known::Text(self.callers.asked.to_string()),
            Field::Rule => Known::text(self.rule.as_ref()),
            Field::Backend => Known::text(self.service.as_ref()),
            Field::DestinationWorkload => Known::text(self.target().map(|target| &target.name)),
            Field::DestinationAddress => Known::text(self.endpoint),
            Field::Protocol => Known::text(Some(self.spoken.name())),
            Field::Method => Known::text(head.map(|head| &head.method)),
            Field::Host => Known::text(head.map(|head| &head.host)),
            Field::Path => Known::text(head.map(|head| &head.path)),
            Field::Code => Known::Number(self.ended.code.into()),
            Field::GrpcStatus => self.ended.grpc.map_or(Known::Nothing, |status| Known::Number(status.into())),
            Field::Flags => Known::text(Some(self.ended.flag.map_or("-", |(flag, _)| flag))),
            Field::Side => Known::text(self.ended.flag.map(|(_, side)| side)),
            Field::Policy => Known::text(self.ended.policy.as_ref()),
            Field::DurationUs => Known::Number(micros(took)),
            Field::HeadUs => self.head_after.map_or(Known::Nothing, |time| Known::Number(micros(time))),
            Field::RequestBytes => Known::Number(self.request_bytes()),
            Field::ResponseBytes => Known::Number(self.response_bytes),
            Field::Attempts => Known::Number(self.n_attempts.into()),
            Field::Retries => Known::Number(self.n_retries.into()),
            Field::TraceId => Known::text(self.trace.as_ref().and_then(Traced::id)),
            Field::Telemetry => Known::text(self.telemetry.as_ref().map(|telemetry| &telemetry.name)),
            Field::RequestHeader(name) => {
                let found = head.and_then(|head| head.headers.iter().find(|(own, _)| own == name));
                Known::text(found.and_then(|(_, value)| value.as_ref()))
            }
        }
    }

    /// Whether it is one of those that are written.
    fn fits(&self, log: &AccessLog, took: Duration) -> bool {
        log.only.is_empty() || log.only.iter().any(|condition| self.fits_one(condition, took))
    }

    fn fits_one(&self, condition: &Condition, took: Duration) -> bool {
        let Condition { min_status, max_status, faults, slower_than } = condition;
        let side = self.ended.flag.map(|(_, side)| side);
        let is_meant = |sides: &Vec<Blame>| side.is_some_and(|side| sides.iter().any(|blame| name(*blame) == side));
        min_status.is_none_or(|min| self.ended.code >= min)
            && max_status.is_none_or(|max| self.ended.code <= max)
            && faults.as_ref().is_none_or(is_meant)
            && slower_than.is_none_or(|time| took >= time)
    }
}

fn name(blame: Blame) -> &'static str {
    match blame {
        Blame::Client => Side::Client,
        Blame::Mesh => Side::Mesh,
        Blame::Upstream => Side::Upstream,
    }
    .name()
}

impl Head {
    fn of(request: &Request<impl Sized>, log: Option<&AccessLog>) -> Self {
        let header = |name: &str| {
            let values = request.headers().get_all(name).iter();
            let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            (!values.is_empty()).then(|| values.join(","))
        };
        let named = |field: &Field| {
            if let Field::RequestHeader(name) = field { Some((name.clone(), header(name))) } else { None }
        };
        let headers = match log.map(|log| &log.format) {
            None => vec![],
            Some(LogFormat::Json(fields)) => fields.iter().filter_map(named).collect(),
            Some(LogFormat::Text(pieces)) => {
                let fields = pieces.iter().filter_map(|piece| match piece {
                    Piece::Text(_) => None,
                    Piece::Field(field) => Some(field),
                });
                fields.filter_map(named).collect()
            }
        };
        let authority = request.uri().authority().map(ToString::to_string);
        Self {
            method: request.method().clone(),
            host: authority.or_else(|| header(HOST.as_str())).unwrap_or_default(),
            path: request.uri().path().to_owned(),
            headers,
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.stage != Stage::Ended && self.ended.flag.is_none() {
            // Whoever asked has gone, or its connection broke: nobody took the rest.
            self.fault("client_reset", Side::Client);
        }
        let took = clock::now().saturating_duration_since(self.began);
        let requests = &self.callers.worker.proxy.requests;
        if let Some(telemetry) = &self.telemetry
            && let Some(log) = telemetry.logs.as_ref().filter(|log| self.is_logged && self.fits(log, took))
        {
            requests.line(|line| line::write(line, &log.format, |field| self.known(field, took)));
        }
        if self.is_tapped {
            let mut line = Vec::new();
            line::write(&mut line, &LogFormat::Json(Field::all()), |field| self.known(field, took));
            requests.taps.tell(&self.source.name, &line.into());
        }
        self.spans(took).into_iter().flatten().for_each(|finished| requests.span(finished));
        if self.telemetry.as_ref().is_none_or(|telemetry| telemetry.metrics == Switch::On) {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let edge = EdgeOf {
                source: &self.source.name,
                account: &self.source.identity.service_account,
                target: self.target(),
                service: self.service(),
                spoken: self.spoken,
            };
            let sizes = (self.request_bytes(), self.response_bytes);
            requests.count(|shard| shard.add(&edge, self.ended.clone(), micros, sizes));
        }
    }
}

/// Records bytes that were no request: their sender was told so and its connection closed.
pub(crate) fn unreadable(callers: &Callers, bad: super::heads::Bad) {
    let mesh = callers.worker.proxy.current();
    let Ok(source) = callers.home.pod.workload(&mesh) else { return };
    let telemetry = source.telemetry.as_ref().and_then(|name| mesh.snapshot.telemetry.get(name));
    if telemetry.is_some_and(|telemetry| telemetry.metrics == Switch::Off) {
        return;
    }
    let service = mesh.service_at(callers.asked.ip(), callers.asked.port(), Protocol::Tcp);
    let edge = EdgeOf {
        source: &source.name,
        account: &source.identity.service_account,
        target: None,
        service: service.map(|service| &service.name),
        spoken: Spoken::Http1,
    };
    let flag = Some((bad.name(), Side::Client.name()));
    let ended = Ended { code: bad.status(), flag, policy: None, grpc: None };
    callers.worker.proxy.requests.count(|shard| shard.add(&edge, ended, 0, (0, 0)));
}
