//! What `millrace explain --http` says of a request, and what it exits with.
#![expect(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::{path::Path, process::Command, time::Duration};

use millrace_model::{
    Retry, Session,
    route::{Filter, InjectedFault, Share},
    session::{Carrier, CookiePath, Lifetime},
};
use serde_json::Value;

use crate::{answers::answer, routes::snapshot};

fn explain(run_dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_millrace");
    let output = Command::new(program).arg("--run-dir").arg(run_dir).arg("explain").args(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

#[test]
fn a_request_is_explained_by_rule_and_backends() {
    let dir = tempfile::tempdir().unwrap();
    answer(dir.path(), "agent", &[("GET /config", snapshot().to_string())]);
    let (code, said) = explain(dir.path(), &["--http", "GET http://reviews/x"]);
    for wanted in [
        "service   reviews is service shop/reviews, port 80.",
        "rule      HTTPRoute shop/canary rule 0 \"all\", for everybody's requests, by /*.",
        "backend   95 % go to service shop/v1, port 80, in HTTP/1.1.",
        "backend   5 % go to service shop/v2, port 80, in HTTP/1.1.",
        "outcome   It is sent",
        "by generation 7",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert_eq!(code, Some(0));
    let (code, said) = explain(dir.path(), &["--http", "GET http://reviews.shop/beta", "-o", "json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, json["outcome"].as_str()), (Some(1), Some("Failed")), "its only backend is not there: {said}");
    assert_eq!(json["rule"], "HTTPRoute shop/canary rule 1 \"beta\"");
}

/// The first `filters` of a backend in a value, wherever it stands.
fn filters(value: &mut Value) -> Option<&mut Value> {
    match value {
        Value::Object(all) => match all.contains_key("weight") {
            true => all.get_mut("filters"),
            false => all.values_mut().find_map(filters),
        },
        Value::Array(all) => all.iter_mut().find_map(filters),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[test]
fn a_backend_whose_filter_can_not_be_carried_out_fails_its_share() {
    let dir = tempfile::tempdir().unwrap();
    let mut snapshot = snapshot();
    let refuse = serde_json::to_value([Filter::Refuse("it is none".into())]).unwrap();
    *filters(snapshot.pointer_mut("/snapshot/routes").unwrap()).unwrap() = refuse;
    answer(dir.path(), "agent", &[("GET /config", snapshot.to_string())]);
    let (code, said) = explain(dir.path(), &["--http", "GET http://reviews/x"]);
    assert!(said.contains("filter    It can't be carried out, as it is none: 500, filter_not_done."), "{said}");
    assert!(code == Some(0) && said.contains("Some of such requests are sent, the others fail."), "{said}");
}

/// The first value of a field in a value, wherever it stands.
fn first<'v>(value: &'v mut Value, name: &str) -> Option<&'v mut Value> {
    match value {
        Value::Object(all) => match all.contains_key(name) {
            true => all.get_mut(name),
            false => all.values_mut().find_map(|one| first(one, name)),
        },
        Value::Array(all) => all.iter_mut().find_map(|one| first(one, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[test]
fn retries_and_sessions_are_told_by_rule_and_backend() {
    let dir = tempfile::tempdir().unwrap();
    let mut snapshot = snapshot();
    let routes = snapshot.pointer_mut("/snapshot/routes").unwrap();
    let retry = Retry { codes: [503].into(), attempts: 2, backoff: Duration::from_millis(25) };
    *first(routes, "retry").unwrap() = serde_json::to_value(retry).unwrap();
    let carrier = Carrier::Cookie { lifetime: Lifetime::Session, path: CookiePath::Matched };
    let session = Session { name: "cart".into(), carrier, absolute: None, idle: None, tag: 1 };
    *first(routes, "session").unwrap() = serde_json::to_value(session).unwrap();
    answer(dir.path(), "agent", &[("GET /config", snapshot.to_string())]);
    let (code, said) = explain(dir.path(), &["--http", "GET http://reviews/x"]);
    for wanted in [
        "retry     It is sent again up to 2 times, where an endpoint does not answer, or answers 503; after 25ms at least",
        "session   A client's requests stay with one endpoint, whatever the shares, by cookie cart, while the endpoint is there.",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_fault_that_aborts_all_is_said_to_send_none_and_one_that_aborts_some_to_send_some() {
    for (numerator, outcome, code) in
        [(100, "It fails.", 1), (40, "Some of such requests are sent, the others fail.", 0)]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut snapshot = snapshot();
        let routes = snapshot.pointer_mut("/snapshot/routes").unwrap();
        let abort = Some((503, Share { numerator, denominator: 100 }));
        let fault = Filter::Fault(InjectedFault { delay: None, abort });
        *first(routes, "filters").unwrap() = serde_json::to_value([fault]).unwrap();
        answer(dir.path(), "agent", &[("GET /config", snapshot.to_string())]);
        let (ended, said) = explain(dir.path(), &["--http", "GET http://reviews/x"]);
        assert!(said.contains(outcome) && ended == Some(code), "{said}");
        assert_eq!(said.contains("Every such request is aborted: none is sent."), numerator == 100, "{said}");
    }
}

#[test]
fn a_port_without_routes_is_said_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    answer(dir.path(), "agent", &[("GET /config", snapshot().to_string())]);
    let (_, said) = explain(dir.path(), &["--http", "GET http://10.96.0.1:81/"]);
    assert!(said.contains("no route is bound to this port"), "{said}");
    assert!(said.contains("All go to service shop/reviews, port 81, as they are."), "nobody parses them: {said}");
}

#[test]
fn what_is_no_request_or_names_nobody_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    answer(dir.path(), "agent", &[("GET /config", snapshot().to_string())]);
    for arguments in [
        &["--http", "nonsense"][..],
        &["--http", "GET /path/alone"],
        &["--http", "GET https://reviews/"],
        &["--http", "GET http://nobody/"],
        &["--http", "GET http://10.96.0.9/"],
        &["--http", "GET http://reviews/", "-H", "no header"],
        &["shop/nobody", "--http", "GET http://reviews/"],
        &["shop/client", "reviews.shop:80", "--http", "GET http://reviews/"],
        &["-H", "a: b"],
        &[],
    ] {
        let (code, said) = explain(dir.path(), arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }
}
