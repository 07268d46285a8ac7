//! What is recorded of HTTP/2 and gRPC: the same end in metric, log and span, an application's own as well as one of ours.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Plan, Pod, clock,
    collector::{Collector, Span},
    grpc::{Calls, Chat, Kinds},
    manifests,
    mesh::Part,
};
use serde_json::{Map, Value, json};

use crate::{
    protocols::{all_to, grpc, route, serves},
    scene,
};

/// How long a line, a count or a span may lag behind its request: spans wait half a second for others.
const LAG: Duration = Duration::from_secs(10);

/// How long a change may take to be in force.
const SOON: Duration = Duration::from_secs(10);

fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client")])
        .node("b", [Pod::new("shop/far").app("far"), Pod::new("watch/otel")])
        .service("shop/web", &[(80, 8080), (90, 9090)])
        .service("shop/far", &[(80, 8080), (90, 9090)])
        .service("shop/empty", &[(90, 9090)])
        .service("watch/otel", &[(4317, 4317), (4318, 4318), (9411, 9411)])
}

/// Counted, written and told of: all of the client's.
fn everything() -> Value {
    let fields = [
        "time",
        "protocol",
        "method",
        "path",
        "code",
        "grpc_status",
        "flags",
        "side",
        "policy",
        "request_bytes",
        "response_bytes",
        "service",
        "backend",
        "destination_workload",
        "rule",
    ];
    json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "TelemetryPolicy", "metadata": {"namespace": "shop", "name": "all"},
        "spec": {
            "selector": {"matchLabels": {"app": "client"}},
            "accessLogs": {"format": "JSON", "fields": fields},
            "tracing": {"sampling": {"percent": 100}, "collector": {"service": "otel", "namespace": "watch", "protocol": "OTLPGRPC"}},
        },
    })
}

/// Labels of a metric, and values of a line.
type Wanted<'a> = (&'a [(&'a str, &'a str)], &'a Value);

/// A scene in which all is recorded.
struct Recorded<'l> {
    lab: &'l Lab,
    collector: Collector,
}

impl Recorded<'_> {
    /// The lines of requests that fit these values.
    fn lines(&self, wanted: &Value) -> Result<Vec<Map<String, Value>>> {
        let text = fs::read_to_string(self.lab.directory().join("access.log")).context("the access log is there")?;
        let all = text.lines().map(|line| serde_json::from_str(line).context("a line is JSON"));
        let all: Vec<Map<String, Value>> = all.collect::<Result<_>>()?;
        let wanted = wanted.as_object().context("values by field")?;
        Ok(all.into_iter().filter(|line| wanted.iter().all(|(field, value)| line.get(field) == Some(value))).collect())
    }

    /// How many requests with these labels are counted.
    fn counted(&self, labels: &[(&str, &str)]) -> Result<f64> {
        let all = [[("source_workload", "client"), ("destination_service", "web")].as_slice(), labels].concat();
        let metrics = self.lab.admin(Part::Proxy("a")).metrics()?;
        let direct = metrics.sum("millrace_http_requests_total", &all);
        let all = [[("source_workload", "client"), ("destination_service", "far")].as_slice(), labels].concat();
        let empty = [[("source_workload", "client"), ("destination_service", "empty")].as_slice(), labels].concat();
        Ok(direct
            + metrics.sum("millrace_http_requests_total", &all)
            + metrics.sum("millrace_http_requests_total", &empty))
    }

    /// Does something, and waits until it is in the metrics with these labels and in the log with these values, so many times more
    /// than before; then each span of the path says the same.
    fn grows(
        &self,
        n: u32,
        (labels, line): Wanted<'_>,
        does: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<Map<String, Value>>> {
        let (counted, written) = (self.counted(labels)?, self.lines(line)?.len());
        does()?;
        let more = usize::try_from(n)?;
        clock::until(LAG, &format!("{n} more are counted with {labels:?} and written as {line}"), || {
            let now = self.counted(labels)?;
            ensure!(now == counted + f64::from(n), "{now} are counted, {counted} before");
            let now = self.lines(line)?.len();
            ensure!(now == written + more, "{now} are written, {written} before");
            Ok(())
        })?;
        Ok(self.lines(line)?.split_off(written))
    }

    /// The first span of a kind whose attributes have these values.
    fn span(&self, kind: &str, wanted: &[(&str, &str)]) -> Result<Span> {
        let is_it = |span: &Span| {
            span.kind == kind
                && wanted.iter().all(|(key, value)| span.attributes.get(*key).is_some_and(|own| text(own) == *value))
        };
        let (span, _) = clock::until(LAG, &format!("a {kind} span with {wanted:?}"), || {
            let all = self.collector.spans();
            all.iter().find(|span| is_it(span)).cloned().with_context(|| format!("{all:#?}"))
        })?;
        Ok(span)
    }
}

/// A value as a person reads it.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn recorded(name: &str, test: impl FnOnce(&Lab, &Recorded<'_>) -> Result<()>) {
    let plan = plan(name);
    scene::plain(&plan, |lab| {
        let path = lab.directory().join("access.log").display().to_string();
        lab.proxy_flags(&["--access-log", &path]);
        lab.start_mesh()?;
        let collector = Collector::start(lab, "watch/otel")?;
        lab.apply(&everything())?;
        let scene = Recorded { lab, collector };
        test(lab, &scene)
    });
}

fn say(lab: &Lab, method: &str, count: u32, code: i32) -> Result<Calls> {
    let (count, code) = (count.to_string(), code.to_string());
    grpc(lab, &["say", "web:90", "--count", &count, "--at-once", "1", "--method", method, "--code", &code])
}

/// UNAUTHENTICATED, which nothing else in these tests says.
const LAST: i32 = 16;

/// Waits until calls are written: the policy is in force then, and the route.
fn in_force(lab: &Lab, scene: &Recorded<'_>, method: &str) -> Result<()> {
    // By a status that nothing here counts: each worker writes its own lines, and one of these may come after others' that were called later.
    clock::until(SOON, "route and policy are in force", || {
        let before = scene.lines(&json!({"grpc_status": LAST}))?.len();
        let calls = say(lab, method, 1, LAST)?;
        ensure!(calls.n_failed() == 1, "{calls:?}");
        clock::until(Duration::from_millis(500), "a line is written", || {
            ensure!(scene.lines(&json!({"grpc_status": LAST}))?.len() > before);
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_grpc_call_is_recorded_with_its_own_status_and_with_the_bytes_of_its_streams() {
    recorded("grpc-told", |lab, scene| {
        let _far = serves(lab, "shop/far", "probe-grpc", &["serve", "[::]:9090", "--name", "shop/far"])?;
        lab.apply(&all_to("GRPCRoute", "far", 90))?;
        in_force(lab, scene, "Say")?;
        // What applications say themselves is nobody's fault.
        for (status, count) in [("0", 3), ("9", 2), ("14", 1)] {
            let labels = [
                ("request_protocol", "grpc"),
                ("response_code", "200"),
                ("grpc_response_status", status),
                ("response_flags", "-"),
                ("fault_side", "-"),
                ("destination_workload", "far"),
            ];
            let line = json!({
                "protocol": "grpc", "method": "POST", "path": "/probe.Probe/Say", "code": 200, "flags": "-", "side": null,
                "grpc_status": status.parse::<u32>()?, "service": "shop/web", "backend": "shop/far",
                "destination_workload": "shop/far", "rule": "GRPCRoute shop/grpcroute-90 rule 0",
            });
            scene.grows(count, (&labels, &line), || say(lab, "Say", count, status.parse()?).map(drop))?;
        }
        let span = scene.span("Server", &[("url.path", "/probe.Probe/Say"), ("rpc.grpc.status_code", "9")])?;
        ensure!(
            span.resource["service.name"] == "far.shop" && text(&span.attributes["millrace.protocol"]) == "grpc",
            "{span:?}"
        );

        // Streams: bytes of messages and their five bytes of frame, both ways.
        const MESSAGES: u64 = 50;
        const SIZE: u64 = 10_000;
        let kinds: Kinds =
            grpc(lab, &["kinds", "web:90", "--number", &MESSAGES.to_string(), "--size", &SIZE.to_string()])?;
        ensure!(kinds.server.0 == 50 && kinds.client.0 == 50 && kinds.both == 50, "{kinds:?}");
        let one = |method: &str, status: u32| {
            let wanted = json!({"path": format!("/probe.Probe/{method}"), "grpc_status": status, "flags": "-"});
            let (line, _) = clock::until(LAG, &format!("{method} is written"), || {
                scene.lines(&wanted)?.pop().with_context(|| format!("no line of {wanted}"))
            })?;
            let bytes = |field: &str| line[field].as_u64().context("a number");
            Ok::<_, anyhow::Error>((bytes("request_bytes")?, bytes("response_bytes")?))
        };
        let whole = MESSAGES * SIZE;
        let (there, back) = one("Count", 15)?;
        ensure!((SIZE..whole).contains(&there) && (whole..whole * 11 / 10).contains(&back), "Count: {there}, {back}");
        let (there, back) = one("Gather", 0)?;
        ensure!((whole..whole * 11 / 10).contains(&there) && back < SIZE, "Gather: {there}, {back}");
        let (there, back) = one("Chat", 0)?;
        ensure!(there >= MESSAGES * 5 && back >= MESSAGES * 5, "Chat: {there}, {back}");
        let of_far = [("destination_workload", "far"), ("request_protocol", "grpc")];
        let metrics = lab.admin(Part::Proxy("a")).metrics()?;
        for name in ["millrace_http_request_size_bytes_sum", "millrace_http_response_size_bytes_sum"] {
            let sum = metrics.sum(name, &of_far);
            ensure!(sum >= f64::from(u32::try_from(whole)?), "{name} has the streams' bytes: {sum}");
        }
        // Who goes away in the middle of a stream: the endpoint is told, and the log says who it was.
        let gone = [("request_protocol", "grpc"), ("response_flags", "client_reset"), ("fault_side", "client")];
        let line = json!({"path": "/probe.Probe/Chat", "flags": "client_reset", "side": "client"});
        scene.grows(1, (&gone, &line), || grpc::<Value>(lab, &["leave", "web:90"]).map(drop))?;
        Ok(())
    });
}

#[test]
fn a_refusal_of_a_grpc_call_is_recorded_with_the_status_that_its_client_got_and_whose_fault_it_was() {
    recorded("grpc-refused", |lab, scene| {
        let _far = serves(lab, "shop/far", "probe-grpc", &["serve", "[::]:9090", "--name", "shop/far"])?;
        let to = |service: &str| json!([{"name": service, "port": 90}]);
        let matches = |method: &str| json!([{"method": {"service": "probe.Probe", "method": method}}]);
        let rules = json!([
            {"matches": matches("Say"), "backendRefs": to("far")},
            {"matches": matches("Lost"), "backendRefs": to("nobody")},
            {"matches": matches("Gone"), "backendRefs": to("empty")},
        ]);
        lab.apply(&route("GRPCRoute", 90, &rules))?;
        in_force(lab, scene, "Say")?;
        let refused = [
            ("Lost", "Unavailable: backend_unresolved", ("14", "backend_unresolved", "mesh")),
            ("Gone", "Unavailable: no_endpoint", ("14", "no_endpoint", "upstream")),
            ("Else", "Unimplemented: no_route", ("12", "no_route", "mesh")),
        ];
        for (method, told, (status, flag, side)) in refused {
            let labels = [
                ("request_protocol", "grpc"),
                ("response_code", "200"),
                ("grpc_response_status", status),
                ("response_flags", flag),
                ("fault_side", side),
                ("destination_workload", "unknown"),
            ];
            let path = format!("/probe.Probe/{method}");
            let line = json!({
                "protocol": "grpc", "path": path, "code": 200, "grpc_status": status.parse::<u32>()?, "flags": flag,
                "side": side, "destination_workload": null, "response_bytes": 0,
            });
            scene.grows(2, (&labels, &line), || {
                let calls = say(lab, method, 2, 0)?;
                ensure!(calls.by_status.get(told) == Some(&2), "{calls:?}");
                Ok(())
            })?;
            let span = scene.span("Client", &[("url.path", &path), ("rpc.grpc.status_code", status)])?;
            let said = (text(&span.attributes["millrace.flags"]), text(&span.attributes["millrace.side"]));
            ensure!(span.status == "Error" && said == (flag.to_owned(), side.to_owned()), "{span:?}");
        }
        let deny = manifests::access_policy("shop/guard", "Allow", "far", &[manifests::Rule::namespace("nobody")])?;
        lab.apply(&deny)?;
        clock::until(SOON, "the policy is in force", || {
            let calls = say(lab, "Say", 1, 0)?;
            ensure!(calls.by_status.keys().any(|status| status.starts_with("PermissionDenied")), "{calls:?}");
            Ok(())
        })?;
        let (denied, _) = clock::until(LAG, "a denial is written", || {
            scene.lines(&json!({"grpc_status": 7}))?.pop().context("no line says so")
        })?;
        ensure!(
            denied["code"] == 200 && denied["side"] == "client" && text(&denied["flags"]).ends_with("denied"),
            "{denied:?}"
        );
        let counted =
            scene.counted(&[("grpc_response_status", "7"), ("request_protocol", "grpc"), ("fault_side", "client")])?;
        ensure!(counted >= 1.0, "{counted} denials are counted");
        lab.remove(&deny)?;

        a_stream_that_takes_too_long(lab, scene)
    });
}

/// A stream whose time is over while it runs: its client got a status in trailers, and so has the record.
fn a_stream_that_takes_too_long(lab: &Lab, scene: &Recorded<'_>) -> Result<()> {
    lab.remove(&route("GRPCRoute", 90, &json!([])))?;
    let mut far = lab
        .topology()
        .services
        .iter()
        .find(|service| &*service.name.name == "far")
        .map(manifests::service)
        .context("planned")?;
    far["spec"]["ports"].as_array_mut().context("ports")?.iter_mut().for_each(|port| {
        if port["port"] == 90 {
            port["appProtocol"] = json!("kubernetes.io/h2c");
        }
    });
    lab.apply(&far)?;
    lab.apply(&route(
        "HTTPRoute",
        90,
        &json!([{"backendRefs": [{"name": "far", "port": 90}], "timeouts": {"request": "700ms"}}]),
    ))?;
    let late = json!({"path": "/probe.Probe/Chat", "flags": "request_timeout", "side": "upstream", "grpc_status": 4, "code": 200});
    clock::until(SOON, "a stream that takes too long is recorded so", || {
        let chat: Chat = grpc(lab, &["chat", "web:90", "--pause-ms", "20"])?;
        ensure!(chat.cut.as_deref() == Some("DeadlineExceeded: request_timeout"), "{chat:?}");
        clock::until(Duration::from_millis(500), "a line of it", || {
            ensure!(!scene.lines(&late)?.is_empty(), "{:#?}", scene.lines(&json!({"path": "/probe.Probe/Chat"}))?);
            Ok(())
        })
        .map(drop)
    })?;
    let labels = [("grpc_response_status", "4"), ("response_flags", "request_timeout"), ("response_code", "200")];
    ensure!(scene.counted(&labels)? >= 1.0, "it is counted so");
    Ok(())
}

#[test]
fn requests_of_http2_are_recorded_as_such() {
    recorded("two-told", |lab, scene| {
        let _far = serves(lab, "shop/far", "probe-http", &["serve", "[::]:8080", "--name", "far"])?;
        lab.apply(&all_to("HTTPRoute", "far", 80))?;
        let two = |more: &[&str]| {
            let all = ["curl", "--silent", "--output", "/dev/null", "--max-time", "1", "--http2-prior-knowledge"];
            lab.pod("shop/client")?.run(&[&all, more].concat()).map(drop)
        };
        clock::until(SOON, "route and policy are in force", || {
            two(&["http://web/probe"])?;
            clock::until(Duration::from_millis(500), "a line is written", || {
                ensure!(!scene.lines(&json!({"protocol": "http2", "code": 200, "path": "/probe"}))?.is_empty());
                Ok(())
            })
            .map(drop)
        })?;
        let labels = [
            ("request_protocol", "http2"),
            ("response_code", "200"),
            ("grpc_response_status", ""),
            ("response_flags", "-"),
        ];
        let line = json!({"protocol": "http2", "path": "/sizes", "code": 200, "request_bytes": 12, "flags": "-", "grpc_status": null});
        scene.grows(1, (&labels, &line), || two(&["--data", "twelve bytes", "http://web/sizes"]))?;
        let line = json!({"protocol": "http2", "path": "/bytes/70000", "response_bytes": 70_000, "code": 200});
        scene.grows(1, (&labels, &line), || two(&["http://web/bytes/70000"]))?;
        // A stream that its client resets before the answer: nobody waited for a status.
        let labels = [("request_protocol", "http2"), ("response_code", "0"), ("response_flags", "client_reset")];
        let line =
            json!({"protocol": "http2", "path": "/wait/60000", "code": 0, "flags": "client_reset", "side": "client"});
        scene.grows(1, (&labels, &line), || two(&["http://web/wait/60000"]))?;
        Ok(())
    });
}
