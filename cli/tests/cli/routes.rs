//! What `millrace routes` shows, and what it exits with.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::{path::Path, process::Command, sync::Arc};

use millrace_model::{
    ObjectName, RouteKind, RouteName, Routes, Service, ServicePort, Snapshot,
    route::{Bound, Clients, PathMatch, RequestMatch, RouteBackend, RouteRule, Speaks, Target, Timeouts, Unresolved},
};
use serde_json::{Value, json};

use crate::answers::answer;

pub(crate) fn snapshot() -> Value {
    let name = ObjectName::new("shop", "reviews");
    let port = ServicePort { port: 80, protocol: millrace_model::Protocol::Tcp, name: "http".into() };
    let service = Service {
        name: name.clone(),
        addresses: vec![[10, 96, 0, 1].into()],
        ports: vec![port],
        traffic: Default::default(),
    };
    let to = |name: &str| Target::Service { name: ObjectName::new("shop", name), port: 80, speaks: Speaks::Http1 };
    let backend = |weight, to| RouteBackend { weight, to, filters: vec![], session: None };
    let rule = |name: &str, path: &str, backends| RouteRule {
        name: Some(name.into()),
        matches: vec![RequestMatch { path: PathMatch::Prefix(path.into()), ..RequestMatch::default() }],
        filters: vec![],
        backends,
        timeouts: Timeouts::default(),
        retry: None,
    };
    let rules = vec![
        rule("all", "", vec![backend(95, to("v1")), backend(5, to("v2"))]),
        rule("beta", "/beta", vec![backend(1, Target::Invalid(Unresolved::Missing))]),
    ];
    let route = RouteName { kind: RouteKind::Http, name: ObjectName::new("shop", "canary") };
    let bound = Bound { route, clients: Clients::All, ports: [80].into(), hosts: vec![], rules };
    let snapshot = Snapshot {
        generation: 7,
        services: [(name.clone(), Arc::new(service))].into(),
        routes: [(name.clone(), Arc::new(Routes { service: name, bound: vec![bound] }))].into(),
        ..Snapshot::default()
    };
    json!({"node": "a", "snapshot": snapshot})
}

fn routes(run_dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_millrace");
    let output = Command::new(program).arg("--run-dir").arg(run_dir).arg("routes").args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn routes_are_shown_in_the_order_in_which_they_are_asked() {
    let dir = tempfile::tempdir().unwrap();
    answer(dir.path(), "agent", &[("GET /config", snapshot().to_string())]);
    for arguments in [&[][..], &["reviews.shop"], &["shop/reviews", "--from", "other"]] {
        let (code, out) = routes(dir.path(), arguments);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((code, lines.len()), (Some(0), 3), "{out}");
        assert!(lines[1].contains("/beta/*") && lines[1].contains("100% 500 (not there)"), "{out}");
        assert!(lines[1].ends_with("HTTPRoute shop/canary rule 1 \"beta\""), "{out}");
        assert!(lines[2].contains("95% shop/v1:80, 5% shop/v2:80"), "{out}");
    }
    assert_eq!(routes(dir.path(), &["nobody.shop"]).0, Some(2));
}

#[test]
fn a_request_is_answered_with_the_rule_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    answer(dir.path(), "agent", &[("GET /config", snapshot().to_string())]);
    let ask = |request: &str| routes(dir.path(), &["reviews.shop", "--http", request]);
    let (code, out) = ask("GET http://reviews/beta/x");
    assert!(code == Some(0) && out.contains("rule 1 \"beta\"") && out.lines().count() == 2, "{out}");
    assert!(ask("GET http://reviews/betax").1.contains("rule 0 \"all\""));
    assert_eq!(ask("GET http://reviews:81/"), (Some(1), "No rule.\n".to_owned()), "the port has no routes");
    assert_eq!(ask("nonsense").0, Some(2));
}
