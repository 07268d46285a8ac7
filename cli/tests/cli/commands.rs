//! Runs the built command against processes that answer as agent and control plane do, and holds it to its exit codes.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use crate::answers::answer;

use millrace_model::{
    Encryption, Endpoint, Endpoints, Identity, Map, Membership, ObjectName, Protocol, Service, ServicePort, Snapshot,
    Workload, service::Readiness,
};
use serde_json::{Value, json};

fn millrace(run_dir: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_millrace");
    Command::new(program).arg("--run-dir").arg(run_dir).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// web on this node may call reviews, whose one pod is on another.
fn snapshot() -> Value {
    let workload = |name: &str, node: &str, last: u8, netns: Option<&str>| Workload {
        name: ObjectName::new("shop", name),
        instance: name.into(),
        identity: Identity::new("td", "shop", name),
        addresses: vec![[10, 0, 0, last].into()],
        node: node.into(),
        zone: None,
        netns: netns.map(Into::into),
        membership: Membership::Enrolled,
        encryption: Encryption::default(),
        policies: [].into(),
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    };
    let name = ObjectName::new("shop", "reviews");
    let service = Service {
        name: name.clone(),
        addresses: vec![[10, 96, 0, 1].into()],
        ports: vec![ServicePort { port: 80, protocol: Protocol::Tcp, name: "".into() }],
        traffic: Default::default(),
    };
    let endpoint = Endpoint {
        address: [10, 0, 0, 2].into(),
        workload: Some(ObjectName::new("shop", "reviews-1")),
        ports: [((80, Protocol::Tcp), 8080)].into(),
        weight: 1,
        readiness: Readiness::Ready,
        place: Default::default(),
    };
    let pods = [workload("web", "a", 1, Some("/run/netns/web")), workload("reviews-1", "b", 2, None)];
    let snapshot = Snapshot {
        generation: 7,
        trust_domain: "td".into(),
        workloads: pods.into_iter().map(|w| (w.name.clone(), Arc::new(w))).collect(),
        services: [(name.clone(), Arc::new(service))].into(),
        endpoints: [(name.clone(), Arc::new(Endpoints { service: name, endpoints: vec![endpoint] }))].into(),
        policies: Map::new(),
        profiles: Map::new(),
        routes: Map::new(),
        telemetry: Map::new(),
    };
    json!({"node": "a", "snapshot": snapshot})
}

#[test]
fn a_node_that_is_not_there_is_exit_code_3_and_named() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["status"][..], &["metrics"], &["flows"], &["log-level", "proxy"], &["explain", "a/b", "c.d:1"]]
    {
        let (code, out, err) = said(&millrace(dir.path(), arguments));
        assert_eq!((code, out.as_str()), (Some(3), ""), "{arguments:?}: {err}");
        assert!(err.contains("-admin.sock: No such file"), "{err}");
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(millrace(dir.path(), &["explain", "one"]).status.code(), Some(2));
    assert_eq!(millrace(dir.path(), &["nonsense"]).status.code(), Some(2));
    answer(dir.path(), "agent", &[("GET /config", snapshot().to_string())]);
    let (code, _, err) = said(&millrace(dir.path(), &["explain", "shop/nobody", "reviews.shop:80"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("shop/web"), "{err}");
}

#[test]
fn a_connection_is_explained_from_the_agents_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    answer(dir.path(), "agent", &[("GET /config", snapshot().to_string())]);
    let (code, out, err) = said(&millrace(dir.path(), &["explain", "shop/web", "reviews.shop:80"]));
    assert_eq!(code, Some(0), "{err}");
    for text in
        ["10.96.0.1:80 is service shop/reviews", "tunnel to 10.0.0.2:15008 on node b", "may call", "generation 7"]
    {
        assert!(out.contains(text), "{text}\n{out}");
    }
    let (code, out, _) = said(&millrace(dir.path(), &["explain", "10.0.0.1", "10.0.0.2:15008", "-o", "json"]));
    assert_eq!(code, Some(1), "a refusal is a no");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["outcome"], "Refused");
}

#[test]
fn status_shows_node_services_and_what_is_amiss() {
    let dir = tempfile::tempdir().unwrap();
    let agent = json!({"node": "a", "generation": 7, "control": {"connected": true, "since_s": 5}, "proxy": null,
        "workloads": [], "maps": [], "failures": ["DESTS is full"]});
    answer(dir.path(), "agent", &[("GET /status", agent.to_string()), ("GET /config", snapshot().to_string())]);
    let (code, out, err) = said(&millrace(dir.path(), &["status"]));
    assert_eq!(code, Some(0), "{err}");
    for text in ["connected for 5 s", "shop/reviews  10.96.0.1  80     1 of 1", "Amiss:", "no proxy", "DESTS is full"] {
        assert!(out.contains(text), "{text}\n{out}");
    }
    let (_, out, _) = said(&millrace(dir.path(), &["status", "-o", "json"]));
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["agent"], agent);
    assert_eq!(value["control"], Value::Null);
    assert_eq!(value["services"][0]["name"], "shop/reviews");
}

#[test]
fn flows_are_those_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let flow = |verdict: &str, asked: &str| {
        json!({"at": "2026-01-02T03:04:05.678Z", "verdict": verdict, "source": "shop/web", "netns": 1,
            "asked": asked, "target": asked, "policy": ""})
        .to_string()
    };
    let (one, two, three) =
        (flow("direct", "10.96.0.1:80"), flow("denied", "10.0.0.2:80"), flow("proxied", "10.96.0.1:80"));
    let flows = [
        ("GET /flows?follow=false", format!("{one}\n{two}\n")),
        ("GET /flows?follow=true", format!("{one}\n{two}\n{three}\n")),
        ("GET /config", snapshot().to_string()),
    ];
    answer(dir.path(), "agent", &flows);
    let (code, out, err) = said(&millrace(dir.path(), &["flows", "--no-follow", "--verdict", "denied"]));
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(out.contains("denied             shop/web                  shop/reviews-1:80"), "{out}");
    let (_, out, _) = said(&millrace(dir.path(), &["flows", "-o", "json", "--to", "shop/reviews", "--last", "1"]));
    assert_eq!(out, format!("{one}\n{three}\n"), "the last one kept, then the new one, and none twice");
}

#[test]
fn a_reader_who_leaves_early_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let many: String =
        (0..20_000).map(|n| json!({"at": n.to_string(), "verdict": "direct"}).to_string() + "\n").collect();
    answer(dir.path(), "agent", &[("GET /flows?follow=false", many), ("GET /config", snapshot().to_string())]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .arg("--run-dir")
        .arg(dir.path())
        .args(["flows", "--no-follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_log_level_is_shown_and_set() {
    let dir = tempfile::tempdir().unwrap();
    let answers = [("GET /log-level", "info\n".to_owned()), ("PUT /log-level debug", "debug\n".to_owned())];
    answer(dir.path(), "proxy", &answers);
    assert_eq!(said(&millrace(dir.path(), &["log-level", "proxy"])).1, "info\n");
    assert_eq!(said(&millrace(dir.path(), &["log-level", "proxy", "debug"])).1, "debug\n");
    let (code, _, err) = said(&millrace(dir.path(), &["log-level", "proxy", "nonsense"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("proxy says 404: nothing there"), "{err}");
}

#[test]
fn definitions_and_completions_need_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, _) = said(&millrace(dir.path(), &["crds"]));
    assert_eq!(code, Some(0));
    assert!(out.starts_with("---\n") && out.contains("kind: CustomResourceDefinition"), "{out}");
    let (_, out, _) = said(&millrace(dir.path(), &["crds", "-o", "json"]));
    assert!(serde_json::from_str::<Vec<Value>>(&out).unwrap().len() >= 2);
    assert!(said(&millrace(dir.path(), &["completions", "bash"])).1.contains("explain"));
}

#[test]
fn help_says_what_exit_codes_mean() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["explain", "--help"], &["status", "--help"]] {
        assert!(said(&millrace(dir.path(), arguments)).1.contains("3  the process asked can't be reached"));
    }
}
