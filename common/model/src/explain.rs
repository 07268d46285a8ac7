//! Says what will happen to a connection and why, by the same `resolve` and `authorize` that the data plane asks.
//!
//! Decides nothing of its own: where it and the data plane differ, that is a bug in one of them.

mod datagram;
mod words;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Destination, Ejected, Facts, Ground, Identity, Membership, Mesh, ObjectName, Protocol, Verdict, Workload,
    authorize_by, port,
    resolve::{self, Hop, Standing, hears_plaintext, resolve_by, survey_by},
};

pub use datagram::explain_datagram;

/// What will happen to a connection, or to datagrams, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The generation it was answered by.
    pub generation: u64,
    /// By what it calls.
    pub protocol: Protocol,
    /// Who calls.
    pub caller: Party,
    /// What it asks for.
    pub asked: SocketAddr,
    /// The service behind that address, if it is a service's.
    pub service: Option<ObjectName>,
    /// Every way the connection can go; more than one only for a service.
    pub routes: Vec<Route>,
    /// The service's endpoints that take none of it.
    pub left_out: Vec<LeftOut>,
    /// What it comes to.
    pub outcome: Outcome,
    /// The same in sentences, in the order in which it happens; the last one is the outcome.
    pub steps: Vec<Step>,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The workload.
    pub name: ObjectName,
    /// Who it is.
    pub identity: Identity,
    /// Where it runs.
    pub node: Arc<str>,
    /// Whether it is in the mesh.
    pub membership: Membership,
}

/// One way the connection can go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The application's address and port.
    pub address: SocketAddr,
    /// The part of the connections that goes here, from 0 to 1.
    pub share: f64,
    /// The workload there, where the mesh knows one.
    pub workload: Option<Party>,
    /// What lies between.
    pub way: Way,
    /// Whether it is let through.
    pub answer: Answer,
}

/// What lies between caller and callee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// The caller's own address: not even looked at.
    Own,
    /// On one node: straight from socket to socket.
    Direct,
    /// Through a tunnel to this address, whose certificate must name the callee.
    Tunnel(SocketAddr),
    /// As without a mesh.
    Plain,
    /// Datagrams, to another node: as without a mesh, but judged.
    Clear,
}

/// Whether a connection is let through, and on what ground.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nobody asks the mesh.
    Unasked,
    /// It is.
    Allowed(Ground),
    /// A policy refuses it.
    Denied(Ground),
    /// The callee's node has not opened its listeners yet.
    NotEnrolled,
    /// The port is the mesh's own.
    MeshPort,
    /// The callee takes no plain text, and the caller has nothing else.
    PlainTextRefused,
    /// The callee takes no datagrams from where nobody is attested.
    NoDatagrams,
    /// A policy refuses datagrams from there, where nobody has an identity.
    NoIdentity(Ground),
}

impl Answer {
    /// True where the connection goes on.
    pub fn lets_through(&self) -> bool {
        match self {
            Self::Unasked | Self::Allowed(_) => true,
            Self::Denied(_)
            | Self::NotEnrolled
            | Self::MeshPort
            | Self::PlainTextRefused
            | Self::NoDatagrams
            | Self::NoIdentity(_) => false,
        }
    }
}

/// An endpoint that takes no connection now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its address.
    pub address: IpAddr,
    /// The workload there.
    pub workload: Option<ObjectName>,
    /// Why.
    pub why: Absence,
}

/// Why an endpoint takes no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Absence {
    /// It is of the other address family.
    OtherFamily,
    /// It does not serve this port.
    NoSuchPort,
    /// It is not ready.
    Unready,
    /// Its weight is 0.
    NoWeight,
    /// Its node has not opened its listeners yet.
    NotEnrolled,
    /// It was told to go, and others are ready.
    Leaving,
    /// It runs on another node, and the service keeps to the caller's.
    OtherNode,
    /// Others are nearer to the caller.
    Farther,
    /// Connections to it fail: the caller's node leaves it out for a while.
    Ejected,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The mesh leaves it alone.
    Untouched,
    /// It is let through.
    Allowed,
    /// Some ways let it through, others do not.
    Mixed,
    /// It is refused.
    Refused,
    /// The service has nobody to take it.
    NoBackend,
}

impl Outcome {
    /// True where some connection goes on.
    pub fn lets_through(self) -> bool {
        match self {
            Self::Untouched | Self::Allowed | Self::Mixed => true,
            Self::Refused | Self::NoBackend => false,
        }
    }
}

/// One sentence of an explanation, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `caller`, `address`, `backend`, `way`, `encryption`, `policy` or `outcome`.
    pub topic: String,
    /// The sentence.
    pub text: String,
}

/// What happens to a TCP connection that `from` makes to `to`, and why.
pub fn explain(mesh: &Mesh, from: &Workload, to: SocketAddr) -> Explanation {
    explain_without(mesh, from, to, &Ejected::default())
}

/// The same, while these endpoints are left out by the caller's node.
pub fn explain_without(mesh: &Mesh, from: &Workload, to: SocketAddr, ejected: &Ejected) -> Explanation {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let asked = (to, Protocol::Tcp);
    // A caller outside the mesh asks nobody for a backend: what stands behind the address is not ours to say.
    let is_opaque = from.membership == Membership::Outside;
    let found = followed(mesh, from, (asked, ejected), is_opaque, route);
    let outcome = outcome(from, found.0.as_ref(), &found.1);
    told(mesh, from, asked, found, outcome)
}

/// The service at an address, how each of its endpoints is reached, and which are left out.
type Found = (Option<ObjectName>, Vec<Route>, Vec<LeftOut>);

/// Where what `from` sends goes; of a service that `is_opaque` only its name.
fn followed(
    mesh: &Mesh,
    from: &Workload,
    (asked, ejected): ((SocketAddr, Protocol), &Ejected),
    is_opaque: bool,
    route: impl Fn(&Mesh, &Workload, SocketAddr, Hop, f64) -> Route,
) -> Found {
    let route = |address, hop, share| route(mesh, from, address, hop, share);
    match resolve_by(mesh, &from.node, asked, ejected) {
        Destination::Service { name, .. } if is_opaque => (Some(name), vec![], vec![]),
        Destination::Service { name, backends } => {
            let total: f64 = backends.iter().map(|b| f64::from(b.weight)).sum();
            let left_out = left_out(mesh, from, asked, ejected);
            let share = |weight| f64::from(weight) / total.max(1.0);
            (Some(name), backends.into_iter().map(|b| route(b.address, b.hop, share(b.weight))).collect(), left_out)
        }
        Destination::Workload(hop) => (None, vec![route(asked.0, hop, 1.0)], vec![]),
        Destination::Untouched => (None, vec![route(asked.0, Hop::Plain, 1.0)], vec![]),
    }
}

/// What was found, with the sentences that say it.
fn told(
    mesh: &Mesh,
    from: &Workload,
    (asked, protocol): (SocketAddr, Protocol),
    (service, routes, left_out): Found,
    outcome: Outcome,
) -> Explanation {
    let mut explanation = Explanation {
        generation: mesh.snapshot.generation,
        protocol,
        caller: party(from),
        asked,
        service,
        routes,
        left_out,
        outcome,
        steps: vec![],
    };
    explanation.steps = words::steps(&explanation);
    explanation
}

fn party(workload: &Workload) -> Party {
    Party {
        name: workload.name.clone(),
        identity: workload.identity.clone(),
        node: workload.node.clone(),
        membership: workload.membership,
    }
}

/// One way, in the order in which the kernel asks: the mesh's ports, the caller itself, policy, enrolment.
fn route(mesh: &Mesh, from: &Workload, address: SocketAddr, hop: Hop, share: f64) -> Route {
    let (workload, way, answer) = match hop {
        Hop::Plain => (mesh.workload_at(address.ip()).cloned(), Way::Plain, Answer::Unasked),
        Hop::Local(to) | Hop::Pending(to) | Hop::Tunnel(resolve::Peer { workload: to, .. })
            if from.membership == Membership::Outside =>
        {
            let answer = plain_text(mesh, from, &to, address);
            (Some(to), Way::Plain, answer)
        }
        // From its node's network there is no tunnel: elsewhere it is plain text from nobody.
        Hop::Tunnel(resolve::Peer { workload: to, .. }) if from.membership == Membership::Host => {
            let answer = plain_text(mesh, from, &to, address);
            (Some(to), Way::Plain, answer)
        }
        Hop::Local(to) | Hop::Pending(to) if to.name == from.name && !port::is_mesh(address.port()) => {
            (Some(to), Way::Own, Answer::Unasked)
        }
        Hop::Local(to) => {
            let answer = authorized(mesh, from, &to, address);
            (Some(to), Way::Direct, answer)
        }
        Hop::Tunnel(resolve::Peer { workload: to, identity: _, tunnel }) => {
            let answer = authorized(mesh, from, &to, address);
            (Some(to), Way::Tunnel(tunnel), answer)
        }
        Hop::Pending(to) => {
            let answer = match authorized(mesh, from, &to, address) {
                Answer::Allowed(_) => Answer::NotEnrolled,
                refused @ (Answer::Unasked
                | Answer::Denied(_)
                | Answer::NotEnrolled
                | Answer::MeshPort
                | Answer::PlainTextRefused
                | Answer::NoDatagrams
                | Answer::NoIdentity(_)) => refused,
            };
            let way = match to.node == from.node {
                true => Way::Direct,
                false => Way::Tunnel(SocketAddr::new(address.ip(), port::TUNNEL)),
            };
            (Some(to), way, answer)
        }
    };
    Route { address, share, workload: workload.as_deref().map(party), way, answer }
}

fn authorized(mesh: &Mesh, from: &Workload, to: &Workload, address: SocketAddr) -> Answer {
    if port::is_mesh(address.port()) {
        return Answer::MeshPort;
    }
    verdict(mesh, from, Some(from.identity.clone()), to, (address, Protocol::Tcp))
}

/// What the callee's node says of a caller from outside the mesh: an address never yields an identity.
fn plain_text(mesh: &Mesh, from: &Workload, to: &Workload, address: SocketAddr) -> Answer {
    match to.membership {
        _ if port::is_mesh(address.port()) => Answer::MeshPort,
        Membership::Outside | Membership::Host => Answer::Unasked,
        Membership::Pending => Answer::NotEnrolled,
        Membership::Enrolled if !hears_plaintext(to, address.port()) => Answer::PlainTextRefused,
        Membership::Enrolled => verdict(mesh, from, None, to, (address, Protocol::Tcp)),
    }
}

fn verdict(
    mesh: &Mesh,
    from: &Workload,
    identity: Option<Identity>,
    to: &Workload,
    (address, protocol): (SocketAddr, Protocol),
) -> Answer {
    let own = from.addresses.iter().find(|own| own.is_ipv4() == address.is_ipv4());
    // A pod without an address of this family can't call at all; its first address serves to answer by identity.
    let Some(own) = own.or(from.addresses.first()) else { return Answer::NotEnrolled };
    match authorize_by(mesh, to, &Facts { identity, address: *own, port: address.port() }, protocol) {
        Verdict::Allow(ground) => Answer::Allowed(ground),
        Verdict::Deny(ground) => Answer::Denied(ground),
    }
}

/// Those that clients of the caller's node are not given, and why.
fn left_out(mesh: &Mesh, from: &Workload, asked: (SocketAddr, Protocol), ejected: &Ejected) -> Vec<LeftOut> {
    let service = mesh.service_at(asked.0.ip(), asked.0.port(), asked.1);
    let surveyed = service.into_iter().flat_map(|service| survey_by(mesh, &from.node, service, asked, ejected));
    surveyed
        .filter_map(|(endpoint, standing)| {
            let why = match standing {
                Standing::Chosen(_) => return None,
                Standing::Spare(_) => Absence::Farther,
                Standing::LeftOut(why) => why,
            };
            Some(LeftOut { address: endpoint.address, workload: endpoint.workload.clone(), why })
        })
        .collect()
}

fn outcome(from: &Workload, service: Option<&ObjectName>, routes: &[Route]) -> Outcome {
    let n_let_through = routes.iter().filter(|r| r.answer.lets_through()).count();
    match routes.len() {
        0 if service.is_some() && from.membership == Membership::Outside => Outcome::Untouched,
        0 => Outcome::NoBackend,
        _ if service.is_none() && routes.iter().all(|r| r.answer == Answer::Unasked) => Outcome::Untouched,
        _ if n_let_through == 0 => Outcome::Refused,
        n if n_let_through < n => Outcome::Mixed,
        _ => Outcome::Allowed,
    }
}

#[cfg(test)]
mod tests;
