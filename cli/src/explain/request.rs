//! Answers what happens to an HTTP request: the rule that has it, by the proxy's own index, what its filters do, and for each backend
//! what `explain` says of the connections that it is sent by. Pure: a snapshot in, sentences out.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use millrace_model::{
    Ejected, Mesh, ObjectName, Workload,
    explain::{Route, Step, Way, explain_without},
    resolve::{Backend as Chosen, Standing, survey},
    route::{Clients, Filter, RouteBackend, Speaks, Target, Timeouts},
};
use millrace_routes::{Found, Table};
use serde::Serialize;

use super::{
    filters::{self, Share},
    retries,
};
use crate::{Failure, asked::Asked, names, routes::words};

/// What happens to a request.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    /// The generation it was answered by.
    generation: u64,
    /// The service that it is sent to.
    service: ObjectName,
    /// At this port.
    port: u16,
    /// The rule, as logs and `millrace routes` call it; none where nothing is bound, or nothing fits.
    rule: Option<String>,
    /// Those among whom it is shared out.
    backends: Vec<Backend>,
    /// What it comes to.
    pub(crate) outcome: Outcome,
    /// The same in sentences; the last one is the outcome.
    pub(crate) steps: Vec<Step>,
    /// How many a fault of the rule's aborts.
    #[serde(skip)]
    aborted: Share,
    /// Whether its rule has a retry.
    #[serde(skip)]
    is_retried: bool,
}

#[derive(Debug, Serialize)]
struct Backend {
    /// The part of the rule's requests that it gets, from 0 to 1.
    share: f64,
    /// Whom.
    to: Target,
    /// The endpoints, where a caller was named.
    endpoints: Vec<Route>,
    /// How many of its requests its own filters answer in its place.
    #[serde(skip)]
    answered: Share,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Outcome {
    /// It is answered by an application, as far as routes and policies go.
    Sent,
    /// Some of such requests are, others not.
    Mixed,
    /// The mesh answers it with a redirect.
    Redirected,
    /// It is answered with a failure.
    Failed,
}

impl Outcome {
    pub(crate) fn is_good(self) -> bool {
        match self {
            Self::Sent | Self::Mixed | Self::Redirected => true,
            Self::Failed => false,
        }
    }
}

/// What happens to `asked`, sent by this caller; without one, what holds for pods of the service's own namespace.
pub(crate) fn explain(
    mesh: &Mesh,
    caller: Option<&Workload>,
    asked: &Asked,
    ejected: &Ejected,
) -> Result<Answer, Failure> {
    let (host, port) = (asked.host(), asked.port());
    let service = service(mesh, host, caller)?;
    let namespace = caller.map_or(&*service.namespace, |caller| &*caller.name.namespace);
    let mut answer = Answer {
        generation: mesh.snapshot.generation,
        service: service.clone(),
        port,
        rule: None,
        backends: vec![],
        outcome: Outcome::Failed,
        steps: vec![],
        aborted: Share::None,
        is_retried: false,
    };
    if let Some(Workload { name, identity, node, .. }) = caller {
        answer.say("caller", format!("{name} on node {node}, as {identity}."));
    }
    answer.say("service", format!("{host} is service {service}, port {port}."));
    let table = mesh.snapshot.routes.get(&service).map(|routes| Table::new(Arc::clone(routes)));
    let Some((table, view)) = table.as_ref().and_then(|table| Some((table, table.view(port, namespace)?))) else {
        answer.say(
            "rule",
            format!("None: no route is bound to this port for pods of namespace {namespace}. Nothing is parsed."),
        );
        answer.say("backend", format!("All go to service {service}, port {port}, as they are."));
        let endpoints = answer.endpoints(mesh, caller, (&service, port), ejected);
        let to = Target::Service { name: service, port, speaks: Speaks::Http1 };
        answer.backends.push(Backend { share: 1.0, to, endpoints, answered: Share::None });
        answer.conclude(false);
        return Ok(answer);
    };
    match table.choose(view, &asked.request()) {
        Some(found) => answer.ruled(mesh, caller, &found, ejected),
        None => {
            answer.say("rule", "None fits: 404, no_route.".to_owned());
            answer.conclude(false);
        }
    }
    Ok(answer)
}

/// The service that a host means: an address, `name.namespace`, or a name of the caller's namespace.
fn service(mesh: &Mesh, host: &str, caller: Option<&Workload>) -> Result<ObjectName, Failure> {
    let services = &mesh.snapshot.services;
    if let Ok(address) = host.parse::<IpAddr>() {
        let mut all = services.values();
        let found = all.find(|service| service.addresses.contains(&address.to_canonical()));
        return found
            .map(|service| service.name.clone())
            .ok_or_else(|| Failure::Usage(format!("{host} is no service's address")));
    }
    let named = match (names::object(host), caller) {
        (Some(name), _) => vec![name],
        (None, Some(caller)) => vec![ObjectName::new(&caller.name.namespace, host)],
        (None, None) => services.keys().filter(|name| *name.name == *host).cloned().collect(),
    };
    match &named[..] {
        [one] if services.contains_key(one) => Ok(one.clone()),
        [] | [_] => Err(Failure::Usage(format!("no service {host} in generation {}", mesh.snapshot.generation))),
        [first, second, ..] => Err(Failure::Usage(format!(
            "{host} is a service of several namespaces, {first} and {second}: say which, or who calls"
        ))),
    }
}

impl Answer {
    fn say(&mut self, topic: &str, text: String) {
        self.steps.push(Step { topic: topic.to_owned(), text });
    }

    fn ruled(&mut self, mesh: &Mesh, caller: Option<&Workload>, found: &Found<'_>, ejected: &Ejected) {
        let Found { bound, index, rule, matched } = found;
        let name = millrace_routes::naming::rule(&bound.route, *index, rule);
        let whose = match &bound.clients {
            Clients::All => "for everybody's requests".to_owned(),
            Clients::Namespace(namespace) => format!("for those of pods of namespace {namespace} alone"),
        };
        self.say("rule", format!("{name}, {whose}, by {}.", words::matched(matched)));
        self.rule = Some(name);
        for filter in &rule.filters {
            self.say("filter", filters::sentence(filter));
        }
        let Timeouts { request, backend_request } = rule.timeouts;
        let times = [(request, "whole"), (backend_request, "time at one endpoint")];
        for (time, what) in times.into_iter().filter_map(|(time, what)| Some((time?, what))) {
            self.say("time-out", format!("The {what} takes {time:?} at most."));
        }
        if let Some(retry) = &rule.retry {
            self.is_retried = true;
            self.say("retry", retries::rule(retry));
        }
        let answering = rule.filters.iter().find(|filter| filters::answered(filter) == Share::All);
        let redirects = matches!(answering, Some(Filter::Redirect(_)));
        self.aborted = filters::all_answered(&rule.filters);
        if let Some(Filter::Fault(_)) = answering {
            self.say("fault", "Every such request is aborted: none is sent.".to_owned());
        }
        if answering.is_none() {
            let all: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
            if all == 0 {
                self.say("backend", "None takes requests: 500, backend_unresolved.".to_owned());
            }
            for backend in rule.backends.iter().filter(|backend| backend.weight > 0) {
                self.backend(mesh, caller, (backend, f64::from(backend.weight) / all as f64), ejected);
            }
        }
        self.conclude(redirects);
    }

    fn backend(
        &mut self,
        mesh: &Mesh,
        caller: Option<&Workload>,
        (backend, share): (&RouteBackend, f64),
        ejected: &Ejected,
    ) {
        let RouteBackend { weight: _, to, filters, session } = backend;
        let percent = format!("{:.4}", share * 100.0);
        let percent = percent.trim_end_matches('0').trim_end_matches('.');
        let mut endpoints = vec![];
        match to {
            Target::Invalid(_) => self.say("backend", format!("{percent} % get {}.", words::target(to))),
            Target::Service { name, port, speaks } => {
                let speaks = match speaks {
                    Speaks::Http1 => "HTTP/1.1",
                    Speaks::Http2 => "HTTP/2",
                };
                self.say("backend", format!("{percent} % go to service {name}, port {port}, in {speaks}."));
                if self.is_retried
                    && let Some(service) = mesh.snapshot.services.get(name)
                {
                    self.say("retry", retries::budget(&service.traffic.retries));
                }
                for filter in filters {
                    self.say("filter", filters::sentence(filter));
                }
                if let Some(session) = session {
                    self.say("session", retries::session(session));
                }
                endpoints = self.endpoints(mesh, caller, (name, *port), ejected);
            }
        }
        let answered = filters::all_answered(filters);
        self.backends.push(Backend { share, to: to.clone(), endpoints, answered });
    }

    /// Those that this caller is given.
    fn endpoints(
        &mut self,
        mesh: &Mesh,
        caller: Option<&Workload>,
        (name, port): (&ObjectName, u16),
        ejected: &Ejected,
    ) -> Vec<Route> {
        let Some(caller) = caller else {
            self.selected(mesh, name, port);
            return vec![];
        };
        let mut endpoints = vec![];
        for (route, policy) in given(mesh, caller, (name, port), ejected) {
            self.say("endpoint", endpoint(&route));
            self.say("policy", policy);
            endpoints.push(route);
        }
        if endpoints.is_empty() {
            self.say("endpoint", "None takes requests: 503, no_endpoint.".to_owned());
        }
        endpoints
    }

    /// Who may call depends on the caller: without one, which policies will be asked.
    fn selected(&mut self, mesh: &Mesh, name: &ObjectName, port: u16) {
        let ready = mesh.endpoints_of(name).into_iter().flat_map(|all| &all.endpoints);
        let mut n_endpoints = 0;
        let mut policies = std::collections::BTreeSet::new();
        for endpoint in ready {
            n_endpoints += 1;
            let workload = endpoint.workload.as_ref().and_then(|name| mesh.snapshot.workloads.get(name));
            policies
                .extend(workload.into_iter().flat_map(|workload| workload.policies.iter().map(ToString::to_string)));
        }
        self.say(
            "endpoint",
            format!("{n_endpoints} of port {port} are known here; name a caller to see which it is given."),
        );
        let policies: Vec<String> = policies.into_iter().collect();
        let text = match &policies[..] {
            [] => "No AccessPolicy selects them: everybody may call.".to_owned(),
            all => format!("AccessPolicy {} will be asked; name a caller to see what they say.", all.join(", ")),
        };
        self.say("policy", text);
    }

    fn conclude(&mut self, redirects: bool) {
        let goes = |backend: &Backend| {
            let is_open = |route: &Route| route.answer.lets_through();
            match &backend.to {
                Target::Invalid(_) => [false, true],
                Target::Service { .. } if backend.answered == Share::All => [false, true],
                // Nobody was asked for an endpoint, where no caller was named.
                Target::Service { .. } if backend.endpoints.is_empty() => [!self.has_caller(), self.has_caller()],
                Target::Service { .. } => {
                    [backend.endpoints.iter().any(is_open), !backend.endpoints.iter().all(is_open)]
                }
            }
        };
        let found: Vec<[bool; 2]> = self.backends.iter().map(goes).collect();
        let is_partly_answered =
            self.aborted == Share::Some || self.backends.iter().any(|backend| backend.answered == Share::Some);
        let some_go = found.iter().any(|one| one[0]);
        let some_do_not = is_partly_answered || found.iter().any(|one| one[1]);
        self.outcome = match (redirects, some_go, some_do_not) {
            (true, ..) => Outcome::Redirected,
            (false, true, false) => Outcome::Sent,
            (false, true, true) => Outcome::Mixed,
            (false, false, _) => Outcome::Failed,
        };
        let text = match self.outcome {
            Outcome::Sent => "It is sent, as far as routes and policies go.",
            Outcome::Mixed => "Some of such requests are sent, the others fail.",
            Outcome::Redirected => "It is answered with a redirect, and sent to nobody.",
            Outcome::Failed => "It fails.",
        };
        self.say("outcome", text.to_owned());
    }

    fn has_caller(&self) -> bool {
        self.steps.iter().any(|step| step.topic == "caller")
    }
}

/// The endpoints that a caller is given, each with its share of the backend's requests and what policies say. As the proxy does:
/// by the service's own address, or, where it has none, by those of its pods.
fn given(mesh: &Mesh, caller: &Workload, (name, port): (&ObjectName, u16), ejected: &Ejected) -> Vec<(Route, String)> {
    let Some(service) = mesh.snapshot.services.get(name) else { return vec![] };
    let own = service.addresses.first().or(caller.addresses.first());
    let Some(asked) = own.map(|address| SocketAddr::new(*address, port)) else { return vec![] };
    let chosen: Vec<Chosen> = survey(mesh, &caller.node, service, asked, ejected)
        .into_iter()
        .filter_map(|(_, standing)| match standing {
            Standing::Chosen(backend) => Some(backend),
            Standing::Spare(_) | Standing::LeftOut(_) => None,
        })
        .collect();
    let total: f64 = chosen.iter().map(|one| f64::from(one.weight)).sum();
    let one = |backend: &Chosen| {
        let said = explain_without(mesh, caller, backend.address, ejected);
        let policy = said.steps.iter().find(|step| step.topic == "policy")?.text.clone();
        let route = said.routes.into_iter().next()?;
        Some((Route { share: f64::from(backend.weight) / total.max(1.0), ..route }, policy))
    };
    chosen.iter().filter_map(one).collect()
}

fn endpoint(route: &Route) -> String {
    let Route { address, share, workload, way, answer: _ } = route;
    let who = workload.as_ref().map_or_else(|| "no workload of the mesh".to_owned(), |party| party.name.to_string());
    let how = match way {
        Way::Own | Way::Direct => "on the same node".to_owned(),
        Way::Tunnel(to) => format!("through a tunnel to {to}"),
        Way::Plain | Way::Clear => "plainly".to_owned(),
    };
    format!("{:.1} % of those to {who} at {address}, {how}.", share * 100.0)
}
