//! The scene about traces: one request to the shop, and what each service on its way was told of its trace.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Demo, shop::VISITOR};
use crate::{
    clock,
    lab::Lab,
    mesh::Part,
    shop::{Hop, Role},
};

/// How long routes and policy may take to be in force, and spans to be told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who takes spans: the visitor, by a server that takes whatever is posted.
const COLLECTOR: &str = "[::]:9411";

pub(super) fn one_trace(demo: &mut Demo) -> Result<()> {
    let Demo { stage, lab, .. } = demo;
    let program = lab.binaries().path("probe-http")?.display().to_string();
    let mut collector = lab.pod(VISITOR)?.start("collector", &[&program, "serve", COLLECTOR, "--name", VISITOR])?;
    collector.says("listening", PATIENCE)?;
    lab.adopt(collector);
    for role in [Role::Web, Role::Catalogue, Role::Cart, Role::Orders, Role::Database] {
        lab.apply(&json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"namespace": "shop", "name": format!("traced-{role}")},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": role.to_string(), "port": 80}],
                     "rules": [{"backendRefs": [{"name": role.to_string(), "port": 80}]}]},
        }))?;
    }
    let policy = lab.apply(&json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "TelemetryPolicy", "metadata": {"namespace": "shop", "name": "traced"},
        "spec": {"tracing": {"sampling": {"percent": 100}, "collector": {"service": "visitor", "protocol": "Zipkin"}}},
    }))?;
    stage.say(format!("{}: every request of the shop's pods is traced", policy.display()));
    let (hop, _) = clock::until(PATIENCE, "every hop is told of a trace", || {
        let hop = order(lab)?;
        ensure!(told(&hop).iter().all(|(_, ids)| ids.is_some()), "some hops are not told: {:?}", told(&hop));
        Ok(hop)
    })?;
    let told = told(&hop);
    let mut traces = BTreeSet::new();
    let mut spans = BTreeSet::new();
    for (pod, ids) in &told {
        let (trace, span) = ids.as_ref().context("it was told")?;
        stage.say(format!("{pod:<22} trace {trace}  span {span}"));
        traces.insert(trace);
        spans.insert(span);
    }
    stage.check(traces.len() == 1, format!("{} hops, one trace", told.len()));
    stage.check(spans.len() == told.len(), "each hop a span of its own");
    let (n_told, _) = clock::until(PATIENCE, "the spans are told", || {
        let n = ["a", "b"].iter().try_fold(0.0, |sum, node| {
            let metrics = lab.admin(Part::Proxy(node)).metrics()?;
            Ok::<_, anyhow::Error>(sum + metrics.sum("millrace_proxy_spans_total", &[("outcome", "told")]))
        })?;
        // A caller's and a called one's for each hop.
        ensure!(n >= 2.0 * f64::from(u32::try_from(told.len())?), "{n} spans are told");
        Ok(n)
    })?;
    stage.check(true, format!("{n_told} spans told to {VISITOR}, each from the pod that it is of"));
    Ok(())
}

/// Orders something, and how that went.
fn order(lab: &Lab) -> Result<Hop> {
    let answer = lab.pod(VISITOR)?.get("http://web/order")?;
    serde_json::from_str(&answer).with_context(|| format!("the shop answered {answer:?}"))
}

/// A trace's id, and a span's.
type Ids = (String, String);

/// By hop, in order, the pod, and the ids of the trace and the span that it was told of.
fn told(hop: &Hop) -> Vec<(String, Option<Ids>)> {
    let ids = hop.traceparent.as_ref().and_then(|text| {
        let mut parts = text.split('-').skip(1);
        Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
    });
    let mut all = vec![(hop.pod.clone(), ids)];
    hop.calls.iter().filter_map(|call| call.result.as_ref().ok()).for_each(|called| all.extend(told(called)));
    all
}
