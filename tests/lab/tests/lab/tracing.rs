//! Traces: what applications are told of them, and what a real collector takes: the OpenTelemetry collector's own receivers.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Plan, Pod, clock,
    collector::{Collector, Span},
    mesh::Part,
    web::Seen,
};
use serde_json::{Value, json};

use crate::{
    routes::{apply, route, serves},
    scene,
};

/// How long a span may take to its collector: it waits half a second for others, and a tunnel is opened.
const TOLD: Duration = Duration::from_secs(10);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// As 64 bits: the trace's second half.
const SHORT: &str = "a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("v1")])
        .node("b", [Pod::new("shop/far").app("v2"), Pod::new("watch/otel")])
        .service("shop/web", &[(80, 8080)])
        .service("shop/v2", &[(80, 8080)])
        .service("watch/otel", &[(4317, 4317), (4318, 4318), (9411, 9411)])
}

/// The client's requests are traced so.
fn policy(tracing: &Value) -> Value {
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "TelemetryPolicy", "metadata": {"namespace": "shop", "name": "traced"},
        "spec": {"selector": {"matchLabels": {"app": "client"}}, "tracing": tracing},
    })
}

fn to(protocol: &str, percent: u32) -> Value {
    json!({"sampling": {"percent": percent}, "collector": {"service": "otel", "namespace": "watch", "protocol": protocol}})
}

/// What the application is sent of a request for `path` with these headers.
fn asked(lab: &Lab, path: &str, headers: &[String]) -> Result<Seen> {
    let url = format!("http://web{path}");
    let mut all = vec!["curl", "--silent", "--max-time", "8", url.as_str()];
    headers.iter().for_each(|header| all.extend(["-H", header.as_str()]));
    let said = lab.pod("shop/client")?.run(&all)?.ok()?;
    serde_json::from_str(&said).with_context(|| format!("it said {said:?}"))
}

/// Applies a policy, and waits until `holds` of what the application is sent.
fn in_force(lab: &Lab, tracing: &Value, holds: impl Fn(&Seen) -> bool) -> Result<()> {
    apply(lab, &policy(tracing), || {
        let seen = asked(lab, "/probe", &[])?;
        ensure!(holds(&seen), "{seen:?}");
        Ok(())
    })
    .map(drop)
}

/// The client's and the server's span of a request for this path, once the collector has both.
fn both(collector: &Collector, path: &str) -> Result<[Span; 2]> {
    let of = |kind: &str| {
        let is_it = |span: &Span| span.kind == kind && span.attributes.get("url.path").is_some_and(|own| own == path);
        collector.spans().into_iter().find(is_it).with_context(|| format!("a {kind} span of {path}"))
    };
    let (spans, _) =
        clock::until(TOLD, &format!("the collector has both spans of {path}"), || Ok([of("Client")?, of("Server")?]))?;
    Ok(spans)
}

fn traceparent(seen: &Seen) -> Option<[&str; 3]> {
    let mut parts = seen.headers.get("traceparent")?.split('-').skip(1);
    Some([parts.next()?, parts.next()?, parts.next()?])
}

/// A request that reaches nobody has a caller's span that says so, and no called one's.
fn failed(lab: &Lab, collector: &Collector, path: &str) -> Result<()> {
    lab.pod("shop/client")?.run(&["curl", "--silent", &format!("http://web{path}")])?.ok()?;
    let (span, _) = clock::until(TOLD, "a failed request is told of", || {
        let all = collector.spans();
        let found = all.iter().find(|span| span.attributes.get("url.path").is_some_and(|own| own == path));
        found.cloned().with_context(|| format!("{path} is none of {} spans", all.len()))
    })?;
    ensure!(span.kind == "Client" && span.status == "Error" && span.parent.is_empty(), "{span:?}");
    let says = [("millrace.flags", "backend_unresolved"), ("millrace.side", "mesh")];
    ensure!(says.iter().all(|(key, value)| span.attributes[*key] == *value), "{span:?}");
    Ok(())
}

#[test]
fn a_real_collector_takes_both_sides_of_a_request_by_each_protocol() {
    scene::mesh(&plan("traced"), |lab| {
        let _serving = serves(lab, "shop/far")?;
        let collector = Collector::start(lab, "watch/otel")?;
        let rules = json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/gone"}}], "backendRefs": [{"name": "nobody", "port": 80}]},
            {"backendRefs": [{"name": "v2", "port": 80}]},
        ]);
        apply(lab, &route("traced", &rules), || asked(lab, "/probe", &[]).map(drop))?;
        let untouched = asked(lab, "/x", &[format!("traceparent: 00-{TRACE}-{SPAN}-01")])?;
        ensure!(traceparent(&untouched) == Some([TRACE, SPAN, "01"]), "nobody asked for traces: {untouched:?}");

        // Each has headers of its own for what begins here: by them it is seen which policy is in force.
        let protocols = [
            ("OTLPHTTP", "otlp", ("W3C", "traceparent")),
            ("OTLPGRPC", "otlp", ("B3", "b3")),
            ("Zipkin", "zipkin", ("B3Multi", "x-b3-traceid")),
        ];
        for (protocol, receiver, (begins, header)) in protocols {
            let path = format!("/by/{protocol}");
            let mut tracing = to(protocol, 100);
            tracing["begins"] = begins.into();
            in_force(lab, &tracing, |seen| seen.headers.contains_key(header))?;
            let seen = asked(
                lab,
                &path,
                &[format!("traceparent: 00-{TRACE}-{SPAN}-01"), "tracestate: a=1".into(), "baggage: k=v".into()],
            )?;
            let [trace, span, flags] = traceparent(&seen).context("it is told on")?;
            ensure!(trace == TRACE && span != SPAN && flags == "01", "{seen:?}");
            ensure!(
                seen.headers["tracestate"] == "a=1" && seen.headers["baggage"] == "k=v",
                "they pass as they are: {seen:?}"
            );
            let [client, server] = both(&collector, &path)?;
            ensure!(client.receiver == receiver, "{client:?}");
            ensure!(
                client.trace == TRACE && client.parent == SPAN,
                "the caller's span is below the one that came: {client:?}"
            );
            ensure!(
                server.trace == TRACE && server.parent == client.span,
                "the called one's is below the caller's: {server:?}"
            );
            ensure!(server.span == span, "and it is what the application was told: {server:?} {seen:?}");
            ensure!(client.resource["service.name"] == "client.shop", "{client:?}");
            ensure!(server.resource["service.name"] == "v2.shop", "{server:?}");
            ensure!(
                client.name == "GET" && client.status != "Error" && server.status != "Error",
                "{client:?} {server:?}"
            );
            ensure!(client.micros >= server.micros && server.micros > 0, "{client:?} {server:?}");
            for (key, value) in [("millrace.service", "shop/v2"), ("server.address", "web")] {
                ensure!(client.attributes[key] == value, "{key}: {client:?}");
            }
            ensure!(client.attributes["http.request.method"] == "GET", "{client:?}");

            failed(lab, &collector, &format!("/gone/{protocol}"))?;
        }
        let told = lab.admin(Part::Proxy("a")).metrics()?.sum("millrace_proxy_spans_total", &[("outcome", "told")]);
        ensure!(told >= 12.0, "{told} spans are counted");
        Ok(())
    });
}

#[test]
fn who_asks_decides_first_then_the_policy_and_a_collector_that_is_gone_harms_no_request() {
    scene::mesh(&plan("sampled"), |lab| {
        let _serving = serves(lab, "shop/far")?;
        let collector = Collector::start(lab, "watch/otel")?;
        apply(lab, &route("sampled", &json!([{"backendRefs": [{"name": "v2", "port": 80}]}])), || {
            asked(lab, "/probe", &[]).map(drop)
        })?;
        let mut tracing = to("OTLPHTTP", 0);
        tracing["begins"] = "B3Multi".into();
        in_force(lab, &tracing, |seen| seen.headers.get("x-b3-sampled").is_some_and(|sampled| sampled == "0"))?;
        // Without a word from who asks nothing is recorded; with one, what it says.
        let silent = asked(lab, "/silent", &[])?;
        ensure!(
            silent.headers["x-b3-traceid"].len() == 32 && !silent.headers.contains_key("traceparent"),
            "{silent:?}"
        );
        let no = format!("b3: {TRACE}-{SPAN}-0");
        let refused = asked(lab, "/refused", std::slice::from_ref(&no))?;
        ensure!(
            refused.headers["b3"] == no.trim_start_matches("b3: "),
            "a decision against it passes as it is: {refused:?}"
        );
        let yes = asked(lab, "/wanted", &[format!("b3: {SHORT}-{SPAN}-1")])?;
        let [client, server] = both(&collector, "/wanted")?;
        ensure!(yes.headers["b3"] == format!("{SHORT}-{}-1", server.span), "{yes:?} {server:?}");
        ensure!(client.trace == format!("{}{SHORT}", "0".repeat(16)) && client.parent == SPAN, "{client:?}");
        let multi = ["x-b3-traceid", "x-b3-spanid"].iter().zip([TRACE, SPAN]).map(|(name, id)| format!("{name}: {id}"));
        asked(lab, "/debug", &multi.chain(["x-b3-flags: 1".to_owned()]).collect::<Vec<_>>())?;
        both(&collector, "/debug")?;
        let paths: Vec<_> =
            collector.spans().iter().filter_map(|span| span.attributes.get("url.path").cloned()).collect();
        ensure!(
            paths.iter().all(|path| path == "/wanted" || path == "/debug"),
            "only what was wanted is recorded: {paths:?}"
        );

        in_force(lab, &to("OTLPHTTP", 100), |seen| {
            seen.headers.get("traceparent").is_some_and(|own| own.ends_with("-01"))
        })?;
        collector.kill()?;
        for n in 0..20 {
            let begun = clock::now();
            asked(lab, &format!("/alone/{n}"), &[])?;
            ensure!(begun.elapsed() < Duration::from_secs(2), "no request waits for its spans");
        }
        clock::until(Duration::from_secs(30), "spans that nobody takes are counted", || {
            let failed =
                lab.admin(Part::Proxy("a")).metrics()?.sum("millrace_proxy_spans_total", &[("outcome", "failed")]);
            ensure!(failed >= 40.0, "{failed} of 40");
            Ok(())
        })?;
        Ok(())
    });
}
