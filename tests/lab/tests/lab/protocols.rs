//! HTTP/2 and gRPC through the proxy, by real clients, over two nodes and on one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_lab::{
    Lab, Plan, Pod, clock,
    grpc::{Calls, Chat, Kinds},
    pod::BULK,
    process::Process,
    web::{Seen, socket::Socket},
};
use serde_json::{Value, json};

use crate::scene;

/// How long a change may take to be in force, and an end to be seen.
const SOON: Duration = Duration::from_secs(10);

/// A client; a server on its node and one on the other, each of a service of its own.
pub(crate) fn plan(name: &str) -> Plan {
    Plan::new(name)
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("near")])
        .node("b", [Pod::new("shop/far").app("far")])
        .service("shop/web", &[(80, 8080), (90, 9090), (70, 7070)])
        .service("shop/near", &[(80, 8080), (90, 9090), (70, 7070)])
        .service("shop/far", &[(80, 8080), (90, 9090), (70, 7070)])
        .service("shop/empty", &[(90, 9090)])
        .service("shop/timed", &[(90, 9090)])
}

/// Starts a program of the lab in a pod, and waits until it listens.
pub(crate) fn serves(lab: &Lab, pod: &str, program: &str, arguments: &[&str]) -> Result<Process> {
    let program = lab.binaries().path(program)?.display().to_string();
    let mut all = vec![program.as_str()];
    all.extend(arguments);
    let mut server = lab.pod(pod)?.start(arguments.first().copied().unwrap_or("server"), &all)?;
    server.says("listening", scene::CALL)?;
    Ok(server)
}

/// Runs a program of the lab in a pod to its end; what it said.
pub(crate) fn says(lab: &Lab, pod: &str, program: &str, arguments: &[&str]) -> Result<String> {
    let program = lab.binaries().path(program)?.display().to_string();
    let mut all = vec![program.as_str()];
    all.extend(arguments);
    lab.pod(pod)?.run_within(BULK, &all)?.ok()
}

pub(crate) fn grpc<T: serde::de::DeserializeOwned>(lab: &Lab, arguments: &[&str]) -> Result<T> {
    let said = says(lab, "shop/client", "probe-grpc", arguments)?;
    serde_json::from_str(&said).with_context(|| format!("it said {said:?}"))
}

/// A route of service web's port: HTTPRoute `http-<port>` or GRPCRoute `grpc-<port>`.
pub(crate) fn route(kind: &str, port: u16, rules: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"namespace": "shop", "name": format!("{}-{port}", kind.to_lowercase())},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": port}], "rules": rules},
    })
}

/// All of a port's requests to one service.
pub(crate) fn all_to(kind: &str, service: &str, port: u16) -> Value {
    route(kind, port, &json!([{"backendRefs": [{"name": service, "port": port}]}]))
}

/// What HTTP/2 by prior knowledge is answered with.
fn two(lab: &Lab, more: &[&str]) -> Result<String> {
    let mut all = vec!["curl", "--silent", "--show-error", "--max-time", "8", "--http2-prior-knowledge"];
    all.extend(more);
    lab.pod("shop/client")?.run(&all)?.ok()
}

fn seen(said: &str) -> Result<Seen> {
    serde_json::from_str(said).with_context(|| format!("it says what it saw, and not {said:?}"))
}

#[test]
fn http2_by_prior_knowledge_goes_by_routes_and_a_live_connection_by_new_ones() {
    scene::mesh(&plan("two"), |lab| {
        let _serving = ["shop/near", "shop/far"]
            .map(|pod| serves(lab, pod, "probe-http", &["serve", "[::]:8080", "--name", pod]))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        lab.apply(&all_to("HTTPRoute", "far", 80))?;
        clock::until(SOON, "the route is in force", || {
            ensure!(seen(&two(lab, &["http://web/a?b"])?)?.pod == "shop/far");
            Ok(())
        })?;
        let sent = two(lab, &["--data", "0123456789", "-H", "cookie: a=1", "-H", "te: trailers", "http://web/a?b"])?;
        let Seen { version, method, target, n_body, headers, .. } = seen(&sent)?;
        ensure!((&*version, &*method, &*target, n_body) == ("HTTP/1.1", "POST", "/a?b", 10), "{sent}");
        ensure!(headers["host"] == "web" && headers["cookie"] == "a=1" && headers["te"] == "trailers", "{sent}");
        let trailers = two(lab, &["--dump-header", "-", "-H", "te: trailers", "http://web/trailers"])?;
        ensure!(trailers.contains("with trailers") && trailers.contains("x-sum: 42"), "{trailers}");
        let head = two(lab, &["--head", "http://web/"])?;
        ensure!(head.starts_with("HTTP/2 200"), "{head}");

        let load = lab.pod("shop/client")?.run_within(
            BULK,
            &["h2load", "--requests", "20000", "--clients", "4", "--max-concurrent-streams", "50", "http://web:80/"],
        )?;
        let said = load.ok()?;
        ensure!(said.contains("20000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        println!(
            "{}",
            said.lines()
                .filter(|line| line.contains("req/s") || line.contains("succeeded"))
                .collect::<Vec<_>>()
                .join("; ")
        );

        Ok(())
    });
}

#[test]
fn grpc_of_every_kind_passes_with_its_trailers_and_a_live_connection_goes_by_new_routes() {
    scene::mesh(&plan("grpc"), |lab| {
        let _serving = ["shop/near", "shop/far"]
            .map(|pod| serves(lab, pod, "probe-grpc", &["serve", "[::]:9090", "--name", pod]))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        for (service, pod) in [("far", "shop/far"), ("near", "shop/near")] {
            lab.apply(&all_to("GRPCRoute", service, 90))?;
            clock::until(SOON, "the route is in force", || {
                let calls: Calls = grpc(lab, &["say", "web:90", "--count", "1"])?;
                ensure!(calls.by_pod.contains_key(pod), "{calls:?}");
                Ok(())
            })?;
            let kinds: Kinds = grpc(lab, &["kinds", "web:90", "--number", "200", "--size", "20000"])?;
            let server = (200, "DataLoss: as asked".to_owned(), "as asked".to_owned());
            let wanted = Kinds { unary: pod.to_owned(), server, client: (200, 4_000_000), both: 200 };
            ensure!(kinds == wanted, "{kinds:?}");
            let calls: Calls = grpc(lab, &["say", "web:90", "--count", "5000", "--at-once", "50"])?;
            ensure!(calls.by_pod.get(pod) == Some(&5000) && calls.n_failed() == 0, "{calls:?}");
        }
        // What the application says itself passes as it is.
        let asked: Calls = grpc(lab, &["say", "web:90", "--count", "3", "--code", "9"])?;
        ensure!(asked.by_status.get("FailedPrecondition: as asked") == Some(&3), "{asked:?}");

        // A connection that is open goes by new routes with its next call.
        let until = lab.directory().join("stop");
        let path = until.display().to_string();
        let program = lab.binaries().path("probe-grpc")?.display().to_string();
        let mut steady = lab
            .pod("shop/client")?
            .start("steady", &[&program, "say", "web:90", "--until", &path, "--at-once", "4"])?;
        lab.apply(&all_to("GRPCRoute", "far", 90))?;
        clock::until(SOON, "the change is in force", || {
            let calls: Calls = grpc(lab, &["say", "web:90", "--count", "50"])?;
            ensure!(calls.by_pod.get("shop/far") == Some(&50), "{calls:?}");
            Ok(())
        })?;
        std::fs::write(&until, "")?;
        steady.wait(BULK)?;
        let steady: Calls = serde_json::from_str(&steady.output())?;
        ensure!(steady.n_failed() == 0, "no call fails: {steady:?}");
        ensure!(
            steady.by_pod.contains_key("shop/far"),
            "the connection that was open goes by the new route: {steady:?}"
        );
        Ok(())
    });
}

#[test]
fn a_refusal_of_a_grpc_call_is_a_status_of_grpc() {
    scene::mesh(&plan("statuses"), |lab| {
        let _far = serves(lab, "shop/far", "probe-grpc", &["serve", "[::]:9090", "--name", "shop/far"])?;
        let to = |service: &str| json!([{"name": service, "port": 90}]);
        let rules = json!([
            {"matches": [{"method": {"service": "probe.Probe", "method": "Say"}}], "backendRefs": to("nobody")},
            {"matches": [{"method": {"service": "probe.Probe", "method": "Gone"}}], "backendRefs": to("empty")},
        ]);
        lab.apply(&route("GRPCRoute", 90, &rules))?;
        let refused = |method: &str, status: &str| {
            clock::until(SOON, "the call has its status", || {
                let calls: Calls = grpc(lab, &["say", "web:90", "--count", "2", "--method", method])?;
                ensure!(calls.by_status.get(status) == Some(&2), "{method} ends with {status}: {calls:?}");
                Ok(())
            })
        };
        refused("Say", "Unavailable: backend_unresolved")?;
        refused("Gone", "Unavailable: no_endpoint")?;
        refused("Else", "Unimplemented: no_route")?;
        // A stream that has begun ends with a status too: HTTPRoutes have time-outs.
        lab.remove(&route("GRPCRoute", 90, &json!([])))?;
        let timed = lab.topology().services.iter().find(|service| &*service.name.name == "timed");
        let mut timed = millrace_lab::manifests::service(timed.context("it is planned")?);
        timed["spec"]["selector"] = json!({"app": "far"});
        timed["spec"]["ports"][0]["appProtocol"] = json!("kubernetes.io/h2c");
        lab.apply(&timed)?;
        let rules = json!([{"backendRefs": [{"name": "timed", "port": 90}], "timeouts": {"request": "700ms"}}]);
        lab.apply(&route("HTTPRoute", 90, &rules))?;
        clock::until(SOON, "a stream that takes too long is DEADLINE_EXCEEDED", || {
            let chat: Chat = grpc(lab, &["chat", "web:90", "--pause-ms", "20"])?;
            ensure!(chat.rounds > 5 && chat.cut.as_deref() == Some("DeadlineExceeded: request_timeout"), "{chat:?}");
            Ok(())
        })?;
        lab.remove(&route("HTTPRoute", 90, &json!([])))?;
        let deny = millrace_lab::manifests::access_policy(
            "shop/guard",
            "Allow",
            "far",
            &[millrace_lab::manifests::Rule::namespace("nobody")],
        )?;
        lab.apply(&deny)?;
        lab.apply(&all_to("GRPCRoute", "far", 90))?;
        clock::until(SOON, "a denial is PERMISSION_DENIED", || {
            let calls: Calls = grpc(lab, &["say", "web:90", "--count", "1"])?;
            ensure!(calls.by_status.keys().any(|status| status.starts_with("PermissionDenied")), "{calls:?}");
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn a_client_that_goes_away_ends_its_request_at_the_endpoint_at_once() {
    scene::mesh(&plan("leaves"), |lab| {
        let mut grpc_server = serves(lab, "shop/far", "probe-grpc", &["serve", "[::]:9090", "--name", "far"])?;
        let mut http_server = serves(lab, "shop/far", "probe-http", &["serve", "[::]:8080", "--name", "far"])?;
        lab.apply(&all_to("GRPCRoute", "far", 90))?;
        lab.apply(&all_to("HTTPRoute", "far", 80))?;
        clock::until(SOON, "the routes are in force", || {
            grpc::<Value>(lab, &["leave", "web:90"])?;
            lab.pod("shop/client")?.get("http://web/")?;
            Ok(())
        })?;
        grpc_server.says("gone Chat", SOON)?;
        // The request would be answered in a minute.
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let client = lab.pod("shop/client")?;
            client.run(&["curl", "--silent", version, "--max-time", "1", "http://web/wait/60000"])?;
            http_server.says("gone", Duration::from_secs(2))?;
        }
        Ok(())
    });
}

#[test]
fn a_websocket_passes_and_nothing_else_is_spoken_before_both_agree() {
    scene::mesh(&plan("socket"), |lab| {
        let mut servers = Vec::new();
        for pod in ["shop/near", "shop/far"] {
            servers.push(serves(lab, pod, "probe-http", &["sockets", "[::]:7070"])?);
            servers.push(serves(lab, pod, "probe-http", &["serve", "[::]:8080", "--name", pod])?);
        }
        for service in ["far", "near"] {
            lab.apply(&all_to("HTTPRoute", service, 70))?;
            lab.apply(&all_to("HTTPRoute", service, 80))?;
            clock::until(SOON, "the routes are in force", || {
                ensure!(seen(&lab.pod("shop/client")?.get("http://web/")?)?.pod == format!("shop/{service}"));
                Ok(())
            })?;
            for size in ["10", "300000"] {
                let said =
                    says(lab, "shop/client", "probe-http", &["socket", "web:70", "--rounds", "50", "--size", size])?;
                let socket: Socket = serde_json::from_str(&said)?;
                ensure!(socket == Socket { rounds: 50, cut: None }, "{socket:?}");
            }
        }
        let raw = |send: &str| says(lab, "shop/client", "probe-http", &["raw", "web:80", send]);
        let ask = "GET /upgrade HTTP/1.1\\r\\nhost: web\\r\\nconnection: upgrade\\r\\nupgrade: ";
        let said = raw(&format!("{ask}echo\\r\\n\\r\\n"))?;
        ensure!(said.starts_with("HTTP/1.1 101") && said.to_lowercase().contains("upgrade: echo"), "{said}");
        // HTTP/2 is not to be had so: the endpoint is not asked for it.
        let said = raw(&format!("{ask}h2c\\r\\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\\r\\n\\r\\n"))?;
        ensure!(said.starts_with("HTTP/1.1 426"), "{said}");
        // What comes early waits until both agree; where they do not, it is HTTP.
        let said = raw(&format!("{ask}echo\\r\\n\\r\\nearly bytes\\r\\n\\r\\n"))?;
        ensure!(said.starts_with("HTTP/1.1 101") && said.ends_with("\r\n\r\nearly bytes\r\n\r\n\n"), "{said:?}");
        let said = raw(&format!("{}echo\\r\\n\\r\\nearly bytes\\r\\n\\r\\n", ask.replace("/upgrade", "/")))?;
        ensure!(said.starts_with("HTTP/1.1 200") && said.contains("bad_request_line"), "{said:?}");
        Ok(())
    });
}

#[test]
fn trailers_informational_answers_and_early_ones_pass_over_http1() {
    scene::mesh(&plan("one"), |lab| {
        let _serving = serves(lab, "shop/far", "probe-http", &["serve", "[::]:8080", "--name", "far"])?;
        lab.apply(&all_to("HTTPRoute", "far", 80))?;
        let raw = |send: &str| says(lab, "shop/client", "probe-http", &["raw", "web:80", send]);
        clock::until(SOON, "the route is in force", || lab.pod("shop/client")?.get("http://web/").map(drop))?;
        let said = raw(
            "POST / HTTP/1.1\\r\\nhost: web\\r\\ntransfer-encoding: chunked\\r\\ntrailer: x-sum\\r\\nx-forwarded-client-cert: URI=spiffe://forged\\r\\n\
             connection: x-forwarded-client-cert, x-private, te\\r\\nx-private: 1\\r\\nte: trailers\\r\\nkeep-alive: 5\\r\\n\\r\\n3\\r\\nabc\\r\\n0\\r\\nx-sum: 42\\r\\n\\r\\n",
        )?;
        let (_, body) = said.split_once("\r\n\r\n").context("an answer has a head")?;
        let Seen { headers, n_body, trailers, .. } = seen(body)?;
        ensure!(n_body == 3 && trailers.get("x-sum").is_some_and(|sum| sum == "42"), "{said}");
        ensure!(!headers.contains_key("x-private") && !headers.contains_key("keep-alive"), "{said}");
        ensure!(headers["te"] == "trailers" && headers["connection"] == "te", "{said}");
        ensure!(headers["x-forwarded-client-cert"].ends_with("/ns/shop/sa/client"), "who asks is not forged: {said}");
        let client = lab.pod("shop/client")?.addresses();
        ensure!(client.both().iter().any(|address| headers["x-forwarded-for"] == address.to_string()), "{said}");
        ensure!(headers["x-forwarded-proto"] == "http" && headers["x-request-id"].len() == 36, "{said}");

        let said = raw("GET /trailers HTTP/1.1\\r\\nhost: web\\r\\nte: trailers\\r\\nconnection: te\\r\\n\\r\\n")?;
        ensure!(said.contains("x-sum: 42\r\n\r\n"), "trailers come back: {said}");

        let said = raw("POST / HTTP/1.1\\r\\nhost: web\\r\\nexpect: 100-continue\\r\\ncontent-length: 3\\r\\n\\r\\n")?;
        ensure!(said.starts_with("HTTP/1.1 100 Continue\r\n\r\n"), "the body is asked for: {said}");
        let said =
            raw("POST / HTTP/1.1\\r\\nhost: web\\r\\nexpect: 100-continue\\r\\ncontent-length: 3\\r\\n\\r\\nabc")?;
        ensure!(said.contains("HTTP/1.1 200"), "and answered: {said}");
        let said = raw(
            "POST /status/413 HTTP/1.1\\r\\nhost: web\\r\\nexpect: 100-continue\\r\\ncontent-length: 3000000\\r\\n\\r\\n",
        )?;
        ensure!(said.contains("HTTP/1.1 413"), "an early answer needs no body: {said}");

        // Requests in one go are answered in order, and what is bad after them does not take their answers.
        let said = raw(
            "GET /wait/300 HTTP/1.1\\r\\nhost: web\\r\\n\\r\\nGET /b HTTP/1.1\\r\\nhost: web\\r\\n\\r\\nGET /c HTTP/1.1\\nhost: web\\r\\n\\r\\n",
        )?;
        let at = |text: &str| said.find(text).with_context(|| format!("{text} is in {said}"));
        ensure!(at("/wait/300")? < at("\"/b\"")? && at("\"/b\"")? < at("bare_line_end")?, "{said}");
        Ok(())
    });
}

/// Waits until a call is answered by this pod.
fn comes_to(lab: &Lab, pod: &str) -> Result<()> {
    clock::until(SOON, &format!("calls come to {pod}"), || {
        let calls: Calls = grpc(lab, &["say", "web:90", "--count", "1"])?;
        ensure!(calls.by_pod.contains_key(pod), "{calls:?}");
        Ok(())
    })
    .map(drop)
}

/// A stream stays open while routes change about it.
#[test]
fn a_stream_both_ways_outlives_a_change_of_its_route() {
    scene::mesh(&plan("chat"), |lab| {
        let _far = serves(lab, "shop/far", "probe-grpc", &["serve", "[::]:9090", "--name", "shop/far"])?;
        let _near = serves(lab, "shop/near", "probe-grpc", &["serve", "[::]:9090", "--name", "shop/near"])?;
        lab.apply(&all_to("GRPCRoute", "far", 90))?;
        comes_to(lab, "shop/far")?;
        let until = lab.directory().join("stop");
        let path = until.display().to_string();
        let program = lab.binaries().path("probe-grpc")?.display().to_string();
        let mut chat = lab
            .pod("shop/client")?
            .start("chat", &[&program, "chat", "web:90", "--until", &path, "--pause-ms", "5"])?;
        lab.apply(&all_to("GRPCRoute", "near", 90))?;
        comes_to(lab, "shop/near")?;
        let later = clock::now() + Duration::from_millis(500);
        clock::until(SOON, "it goes on after the change", || {
            chat.still_runs()?;
            ensure!(clock::now() >= later);
            Ok(())
        })?;
        std::fs::write(&until, "")?;
        chat.wait(BULK)?;
        let chat: Chat = serde_json::from_str(&chat.output())?;
        ensure!(chat.cut.is_none() && chat.rounds > 10, "{chat:?}");
        Ok(())
    });
}

/// What a client of HTTP/2 has open is not cut when the routes go: its next calls reach the service's own endpoints, which speak that
/// alone, on its node and on the other.
#[test]
fn a_connection_of_http2_whose_routes_go_calls_the_services_own_endpoints() {
    let plan = Plan::new("unrouted")
        .node("a", [Pod::new("shop/client"), Pod::new("shop/near").app("web")])
        .node("b", [Pod::new("shop/far").app("web"), Pod::new("shop/other").app("other")])
        .service("shop/web", &[(90, 9090)])
        .service("shop/other", &[(90, 9090)]);
    scene::mesh(&plan, |lab| {
        let _serving = ["shop/near", "shop/far", "shop/other"]
            .map(|pod| serves(lab, pod, "probe-grpc", &["serve", "[::]:9090", "--name", pod]))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        lab.apply(&all_to("GRPCRoute", "other", 90))?;
        comes_to(lab, "shop/other")?;
        let until = lab.directory().join("stop");
        let path = until.display().to_string();
        let program = lab.binaries().path("probe-grpc")?.display().to_string();
        let steady = ["say", "web:90", "--until", &path, "--at-once", "4"];
        let mut steady =
            lab.pod("shop/client")?.start("steady", &[std::slice::from_ref(&&*program), &steady].concat())?;
        let asked = || {
            let metrics = lab.admin(millrace_lab::Part::Proxy("a")).metrics()?;
            let by = |pod: &str| metrics.sum("millrace_http_requests_total", &[("destination_workload", pod)]);
            Ok::<_, anyhow::Error>([by("near"), by("far"), by("other")])
        };
        clock::until(SOON, "calls go by the route", || {
            ensure!(asked()?[2] > 100.0);
            Ok(())
        })?;
        lab.remove(&all_to("GRPCRoute", "other", 90))?;
        clock::until(SOON, "calls go to the service itself", || {
            let [near, far, _] = asked()?;
            ensure!(near > 100.0 && far > 100.0, "near {near}, far {far}");
            Ok(())
        })?;
        std::fs::write(&until, "")?;
        steady.wait(BULK)?;
        let steady: Calls = serde_json::from_str(&steady.output())?;
        ensure!(steady.n_failed() == 0, "no call fails: {steady:?}");
        Ok(())
    });
}
