//! Tells other replicas what this one's nodes have applied, in a Lease of its own, and reads theirs.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{lease, report::Report};

/// Marks the Leases that hold reports.
const LABEL: &str = "millrace.dev/replica";
/// Where the report stands.
const REPORT: &str = "millrace.dev/report";
/// A replica that has nothing new to say says so this often.
const REPEAT: Duration = Duration::from_secs(5);
/// New reports of one replica are this far apart at least.
const PACE: Duration = Duration::from_secs(1);
/// A replica that says nothing for this long is gone: its nodes have found another.
const GONE: Duration = Duration::from_secs(20);
/// How long others' reports are believed before they are asked for again.
const FRESH: Duration = Duration::from_secs(1);
/// An object holds a megabyte and some: a report beyond this is cut to what is known of the nodes.
const MAX_REPORT: usize = 900 * 1024;
/// A call that takes longer has failed.
const CALL: Duration = Duration::from_secs(3);

/// This replica's report, and the others'.
pub(super) struct Shared {
    leases: Api<Lease>,
    own: Arc<str>,
    told: Option<(Report, Instant)>,
    others: BTreeMap<Arc<str>, Other>,
    asked: Option<Instant>,
}

struct Other {
    report: Report,
    /// As its own clock says it; compared with nothing but itself.
    renewed: String,
    since: Instant,
}

impl Shared {
    pub(super) fn new(client: Client, namespace: &str, own: &Arc<str>) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, own: own.clone(), told: None, others: BTreeMap::new(), asked: None }
    }

    /// Tells the others, if there is something new or it is time.
    pub(super) async fn tell(&mut self, report: &Report, now: Instant) {
        let due = self.told.as_ref().is_none_or(|(told, at)| {
            let age = now.saturating_duration_since(*at);
            age >= REPEAT || age >= PACE && told != report
        });
        if !due {
            return;
        }
        self.told = Some((report.clone(), now));
        let mut text = serde_json::to_string(report).unwrap_or_default();
        if text.len() > MAX_REPORT {
            tracing::warn!(
                bytes = text.len(),
                "too many policies to report on: other replicas see their nodes as late"
            );
            let short = Report { versions: BTreeMap::new(), ..report.clone() };
            text = serde_json::to_string(&short).unwrap_or_default();
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.name(), "labels": {LABEL: "true"}, "annotations": {REPORT: text}},
            "spec": {"holderIdentity": &*self.own, "renewTime": lease::now()},
        });
        let params = PatchParams::apply("millrace-control").force();
        let name = self.name();
        let patch = Patch::Apply(&lease);
        let told = self.leases.patch(&name, &params, &patch);
        match tokio::time::timeout(CALL, told).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the report to other replicas is not taken");
            }
            Err(_) => tracing::debug!("the report to other replicas is not taken in time"),
        }
    }

    /// What the others said last, of those that live.
    pub(super) async fn others(&mut self, now: Instant) -> BTreeMap<Arc<str>, Report> {
        if self.asked.is_none_or(|at| now.saturating_duration_since(at) >= FRESH) {
            self.asked = Some(now);
            let params = ListParams::default().labels(&format!("{LABEL}=true"));
            if let Ok(Ok(list)) = tokio::time::timeout(CALL, self.leases.list(&params)).await {
                self.learn(list.items, now);
            }
        }
        self.forget(now).await;
        self.others.iter().map(|(name, other)| (name.clone(), other.report.clone())).collect()
    }

    fn learn(&mut self, leases: Vec<Lease>, now: Instant) {
        for lease in leases {
            let spec = lease.spec.unwrap_or_default();
            let Some(holder) = spec.holder_identity.filter(|holder| **holder != *self.own) else { continue };
            let renewed = spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default();
            let text = lease.metadata.annotations.unwrap_or_default().remove(REPORT).unwrap_or_default();
            let before = self.others.get(&*holder);
            if before.is_some_and(|before| before.renewed == renewed) {
                continue;
            }
            let report = serde_json::from_str(&text).unwrap_or_default();
            self.others.insert(holder.into(), Other { report, renewed, since: now });
        }
    }

    /// Drops replicas that are gone, and what they left.
    async fn forget(&mut self, now: Instant) {
        let gone: Vec<Arc<str>> = self
            .others
            .iter()
            .filter(|(_, other)| now.saturating_duration_since(other.since) >= GONE)
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.others.remove(&name);
            self.remove(&name).await;
        }
    }

    /// Takes this replica's report away: its nodes will be another's.
    pub(super) async fn leave(&self) {
        self.remove(&self.own).await;
    }

    async fn remove(&self, replica: &str) {
        let name = named(replica);
        let params = DeleteParams::default();
        let removed = self.leases.delete(&name, &params);
        if let Ok(Err(error)) = tokio::time::timeout(CALL, removed).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a replica's report is not removed");
        }
    }

    fn name(&self) -> String {
        named(&self.own)
    }
}

fn named(replica: &str) -> String {
    format!("millrace-control-{replica}")
}
