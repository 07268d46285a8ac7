//! Makes the kernel do as the Snapshot says: writes its maps, lets go of pods that left, and closes live connections that
//! the maps would now refuse.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd as _,
};

use millrace_abi::DestKind;
use millrace_node::clock;

use super::{Node, moment};
use crate::{
    flows,
    kernel::{
        State,
        missing::{DESTROY, DESTROY_UDP},
        plan::{Aim, View},
        reconcile::{Outcome, reach},
    },
    pods::chain,
    revoke::{self, Revoked, Side, Why, left, may_revoke, revoked, udp},
};

/// Which sockets are judged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    All,
    /// What a policy or a pod of another node decides: connections there are the proxies'.
    Datagrams,
}

impl Node {
    /// Makes the kernel's maps hold what they should.
    pub(super) async fn enforce(&mut self) {
        self.due = None;
        self.tune();
        let began = clock::now();
        self.have.listeners.extend(self.pods.steered());
        let (namespaces, departed) = (self.pods.namespaces(), self.departed.names());
        let (ejected, node) = (self.outlying.ejected(), &*self.name);
        let view = View { mesh: &self.mesh, node, namespaces: &namespaces, ejected, departed: &departed };
        let mut aim = self.basis.aim(&self.have, &view);
        let (held, wanted) = aim.ends(&self.have);
        let before: BTreeSet<u64> = locals(held).collect();
        self.gone.extend(udp::gone(held, wanted));
        self.outcome = reach(&mut self.kernel, &mut self.have, &mut aim);
        if self.outcome.failures.is_empty() {
            self.basis.reached(&self.have, &aim, &view);
        } else {
            self.basis.lose();
        }
        let is_whole = matches!(aim, Aim::Whole(_));
        // A pod that is gone leaves those who talked to it talking to nobody.
        let is_gone = !locals(aim.ends(&self.have).0).collect::<BTreeSet<_>>().is_superset(&before);
        self.enforced = self.mesh.snapshot.generation;
        if let Err(why) = self.pods.detach(&mut self.kernel) {
            self.outcome.failures.insert(chain(&why), 1);
        }
        let took = clock::now().duration_since(began);
        self.outputs.metrics.planned(&self.outcome, took.as_secs_f64());
        let Outcome { n_written, n_judging, n_left_out, failures } = &self.outcome;
        let judges = *n_judging != 0 && may_revoke(&self.have) || is_gone;
        let judges_datagrams = *n_judging != 0 && udp::may_revoke(&self.have) || !self.gone.is_empty() || self.has_left;
        tracing::debug!(generation = self.enforced, n_written, is_whole, ?took, "the kernel's maps were written");
        for (why, count) in failures {
            tracing::error!(why, count, n_left_out, "the kernel does not hold what it should");
        }
        self.publish();
        match (judges, judges_datagrams) {
            (true, _) => self.revoke(Look::All).await,
            (false, true) => self.revoke(Look::Datagrams).await,
            (false, false) => {}
        }
    }

    /// Closes connections between pods of this node, and connected UDP sockets, that the maps would now refuse, or whose other end
    /// is gone.
    pub(super) async fn revoke(&mut self, look: Look) {
        self.judges_again = false;
        if self.kernel.lacks(DESTROY) {
            self.gone.clear();
            self.has_left = false;
            return;
        }
        let (ends, lists_datagrams) = (self.ends.clone(), !self.kernel.lacks(DESTROY_UDP));
        let by_service = if self.has_left { self.kernel.by_service() } else { None };
        let see = move || {
            let mut seen = match look {
                Look::All => revoke::see(Some(ends.as_fd()))?,
                Look::Datagrams => revoke::Seen::default(),
            };
            // First those that show whom they asked for: what is among the others is then connected.
            if let Some(by_service) = &by_service {
                seen.by_service = by_service.list()?;
            }
            if lists_datagrams {
                revoke::see_datagrams(&mut seen)?;
            }
            Ok(seen)
        };
        let (seen, n_failed) = self.pods.within_each(see).await;
        self.judges_again = n_failed != 0;
        let mut datagrams = udp::revoked(&self.have, &seen, &self.gone, |ask| self.kernel.was_asked(ask));
        let known: BTreeSet<u64> = datagrams.iter().map(|one| one.connection.cookie()).collect();
        let left = left::left(&self.have, &seen, &self.mesh).into_iter();
        datagrams.extend(left.filter(|one| !known.contains(&one.connection.cookie())));
        if n_failed == 0 {
            self.gone.clear();
            self.has_left = false;
        }
        let local = self.mesh.on(&self.name);
        let workloads = local.map(|w| w.id()).collect();
        let mut by_pod: BTreeMap<u64, Vec<Revoked>> = BTreeMap::new();
        for end in revoked(&self.have, &seen, &workloads).into_iter().chain(datagrams) {
            by_pod.entry(end.netns).or_default().push(end);
        }
        for (netns, ends) in by_pod {
            let connections: Vec<_> = ends.iter().map(|end| end.connection.clone()).collect();
            let close = move || Ok(connections.iter().map(revoke::close).collect::<Vec<_>>());
            match self.pods.within(netns, close).await {
                Ok(closed) => ends.iter().zip(closed).for_each(|(end, closed)| self.closed(end, closed)),
                Err(why) => {
                    self.judges_again = true;
                    let error = &why as &dyn std::error::Error;
                    tracing::error!(error, n = ends.len(), "connections that should be closed can't be");
                }
            }
        }
    }

    fn closed(&mut self, end: &Revoked, closed: io::Result<()>) {
        let Revoked { netns, connection, source, why, end } = end;
        let remote = connection.remote;
        match closed {
            // Of a connection's two ends the caller's is told, and the other where there is no caller any more.
            Ok(()) if (*why, *end) == (Why::Gone, Side::Callee) || *end == Side::Caller => {
                self.outputs.metrics.revoked.inc();
                let flow = flows::revoked((*netns, *source), remote, *why, &self.names, moment());
                self.outputs.flows.record(flow);
            }
            Ok(()) => {}
            Err(error) => {
                // A kernel that can't close any connection is not asked again: `check` names it.
                self.judges_again |= error.raw_os_error() != Some(libc::EOPNOTSUPP);
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, %remote, "a connection that should be closed can't be");
            }
        }
    }
}

/// The workloads of this node that have an address.
fn locals(have: &State) -> impl Iterator<Item = u64> {
    have.dests.values().filter(|dest| dest.kind != DestKind::Remote as u32).map(|dest| dest.id)
}
