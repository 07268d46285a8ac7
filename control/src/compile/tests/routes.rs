//! What routes compile to: who is attached to what, what references lead to, and what stands on each parent.

use std::collections::BTreeMap;

use millrace_model::{
    RouteKind, RouteName,
    route::{Bound, Clients, Filter, Speaks, Target, Unresolved},
};

use super::{BASE, compile, name, pod, snapshot, world};
use crate::{
    compile::{
        bound_nodes,
        route::{Standings, standings},
    },
    diagnostic::{Key, Kind},
    status::condition::Holds,
};

const SERVICES: &str = "
---
{apiVersion: v1, kind: Service, metadata: {name: store, namespace: shop}, spec: {clusterIPs: [10.96.0.1], selector: {app: store}, ports: [
  {name: http, port: 80}, {name: grpc-api, port: 81}, {name: https-web, port: 443}, {name: db, port: 3306},
  {name: said, port: 90, appProtocol: kubernetes.io/h2c}, {name: http-not, port: 91, appProtocol: mysql}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: plain, namespace: shop}, spec: {clusterIPs: [10.96.0.2], selector: {app: plain}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: headless, namespace: shop}, spec: {clusterIP: None, selector: {app: plain}, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: store, namespace: back}, spec: {clusterIPs: [10.96.0.3], selector: {app: store}, ports: [{name: http, port: 80}]}}
";

/// A route of namespace shop.
fn route(kind: &str, route: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {route}, namespace: shop}}, \
         spec: {{parentRefs: [{{group: \"\", kind: Service, {parent}}}], rules: [{rules}]}}}}\n"
    )
}

fn http(route: &str, parent: &str, rules: &str) -> String {
    self::route("HTTPRoute", route, parent, rules)
}

fn text(routes: &[String]) -> String {
    format!("{BASE}{SERVICES}{}", routes.concat())
}

fn bound(routes: &[String], service: &str) -> Vec<Bound> {
    snapshot(&text(routes)).routes.get(&name(service)).map(|routes| routes.bound.clone()).unwrap_or_default()
}

fn ports(bound: &Bound) -> Vec<u16> {
    bound.ports.iter().copied().collect()
}

fn told(routes: &[String]) -> Standings {
    let world = world(&text(routes));
    standings(&world, &compile(&world).0.services)
}

/// `Accepted` and `ResolvedRefs` of a route's first parent: whether, why, and in words.
fn conditions(routes: &[String], kind: RouteKind, route: &str) -> [(bool, &'static str, String); 2] {
    let of = told(routes)[&RouteName { kind, name: name(route) }][0].conditions.clone();
    let one = |index: usize| (of[index].holds == Holds::True, of[index].reason, of[index].message.clone());
    assert_eq!([of[0].name, of[1].name], ["Accepted", "ResolvedRefs"]);
    [one(0), one(1)]
}

fn accepted(routes: &[String], route: &str) -> (bool, &'static str, String) {
    let [accepted, _] = conditions(routes, RouteKind::Http, route);
    accepted
}

const ALL: &str = "{backendRefs: [{name: store, port: 80}]}";

#[test]
fn without_a_port_a_route_takes_those_that_say_they_are_http() {
    let routes = [http("r", "name: store", ALL)];
    assert_eq!(ports(&bound(&routes, "store")[0]), [80, 81, 90]);
    let (holds, reason, message) = accepted(&routes, "r");
    assert!(holds && reason == "Accepted", "{reason}");
    assert!(message.contains("443 (https-web), 3306 (db)") || message.contains("443"), "{message}");
    assert!(message.contains("3306 (db)") && message.contains("91 (http-not)"), "{message}");
}

#[test]
fn a_port_that_is_named_is_taken_whatever_it_says() {
    assert_eq!(ports(&bound(&[http("r", "name: store, port: 3306", ALL)], "store")[0]), [3306]);
    assert_eq!(ports(&bound(&[http("r", "name: store, sectionName: db", ALL)], "store")[0]), [3306]);
    assert_eq!(bound(&[http("r", "name: store, sectionName: db, port: 80", ALL)], "store"), [], "both must fit");
}

#[test]
fn what_can_not_be_attached_to_says_why() {
    for (parent, problem) in [
        ("name: nobody", "there is no Service shop/nobody"),
        ("name: headless", "is headless"),
        ("name: plain", "no port of Service shop/plain says that it is HTTP: 80"),
        ("name: store, port: 8080", "has no such TCP port"),
    ] {
        let (holds, reason, message) = accepted(&[http("r", parent, ALL)], "r");
        assert!(!holds && reason == "NoMatchingParent" && message.contains(problem), "{parent}: {reason} {message}");
    }
}

#[test]
fn a_gateway_as_a_parent_is_somebody_elses() {
    let text = text(&[])
        + "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop}, \
        spec: {parentRefs: [{name: front}], rules: [{backendRefs: [{name: gone, port: 80}]}]}}\n";
    let world = world(&text);
    let (snapshot, notes) = compile(&world);
    assert!(snapshot.routes.is_empty() && notes.is_empty() && standings(&world, &snapshot.services).is_empty());
}

#[test]
fn a_route_of_another_namespace_is_for_the_requests_of_its_own() {
    let routes =
        [http("mine", "name: store, namespace: back", "{backendRefs: [{name: store, namespace: back, port: 80}]}")];
    let all = snapshot(&text(&routes)).routes;
    let bound = &all[&millrace_model::ObjectName::new("back", "store")].bound[0];
    assert_eq!(bound.clients, Clients::Namespace("shop".into()));
    // Its own parent it may name without a grant: its pods can call it anyway.
    assert!(matches!(bound.rules[0].backends[0].to, Target::Service { .. }));
}

#[test]
fn another_namespaces_service_needs_a_grant_there() {
    let foreign = "{backendRefs: [{name: store, namespace: back, port: 80}]}";
    let grant = |kind: &str, from: &str, to: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {{name: g, namespace: back}}, \
             spec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {from}}}], to: [{{group: \"\", kind: Service{to}}}]}}}}\n"
        )
    };
    let target = |more: &str| {
        bound(&[http("r", "name: store, port: 80", foreign), more.to_owned()], "store")[0].rules[0].backends[0]
            .to
            .clone()
    };
    assert_eq!(target(""), Target::Invalid(Unresolved::Ungranted));
    for (grant, allowed) in [
        (grant("HTTPRoute", "shop", ""), true),
        (grant("HTTPRoute", "shop", ", name: store"), true),
        (grant("HTTPRoute", "shop", ", name: other"), false),
        (grant("HTTPRoute", "other", ""), false),
        (grant("GRPCRoute", "shop", ""), false),
    ] {
        assert_eq!(matches!(target(&grant), Target::Service { .. }), allowed, "{grant}");
    }
    let [_, (holds, reason, message)] =
        conditions(&[http("r", "name: store, port: 80", foreign)], RouteKind::Http, "r");
    assert!(
        !holds && reason == "RefNotPermitted" && message.contains("spec.rules[0].backendRefs[0]: no ReferenceGrant"),
        "{message}"
    );
}

#[test]
fn a_reference_that_leads_nowhere_keeps_its_share() {
    let rules = "{backendRefs: [{name: store, port: 80, weight: 90}, {name: gone, port: 80, weight: 5}, {name: store, port: 8080, weight: 3}, \
                 {kind: Bucket, group: example.org, name: b, weight: 2}, {name: store, port: 91, weight: 1}]}";
    let routes = [http("r", "name: store, port: 80", rules)];
    let backends = &bound(&routes, "store")[0].rules[0].backends;
    let found: Vec<(u32, Option<Unresolved>)> = backends
        .iter()
        .map(|backend| match &backend.to {
            Target::Service { .. } => (backend.weight, None),
            Target::Invalid(why) => (backend.weight, Some(*why)),
        })
        .collect();
    use Unresolved::{Kind, Missing, Protocol};
    assert_eq!(found, [(90, None), (5, Some(Missing)), (3, Some(Missing)), (2, Some(Kind)), (1, Some(Protocol))]);
    let [(accepted, ..), (holds, reason, message)] = conditions(&routes, RouteKind::Http, "r");
    assert!(accepted && !holds && reason == "BackendNotFound" && message.contains("answered with 500"), "{message}");
    let notes = super::notes(&text(&routes));
    assert_eq!(
        notes.iter().filter(|note| note.starts_with("HTTPRoute shop/r: spec.rules[0].backendRefs[")).count(),
        4,
        "{notes:?}"
    );
}

#[test]
fn what_a_backend_speaks_is_its_ports_word_and_else_the_routes() {
    let speaks = |kind: &str, port: u16| {
        let rule = format!("{{backendRefs: [{{name: store, port: {port}}}]}}");
        match &bound(&[route(kind, "r", "name: store, port: 80", &rule)], "store")[0].rules[0].backends[0].to {
            Target::Service { speaks, .. } => *speaks,
            Target::Invalid(why) => panic!("{why:?}"),
        }
    };
    assert_eq!(speaks("HTTPRoute", 80), Speaks::Http1);
    assert_eq!(speaks("HTTPRoute", 81), Speaks::Http2, "its name says grpc");
    assert_eq!(speaks("HTTPRoute", 90), Speaks::Http2, "its appProtocol says h2c");
    assert_eq!(speaks("GRPCRoute", 80), Speaks::Http2);
}

#[test]
fn the_older_route_comes_first_then_the_first_by_place_then_by_name() {
    let aged = |name: &str, more: &str| {
        http(name, "name: store, port: 80", ALL).replace(&format!("name: {name},"), &format!("name: {name}{more},"))
    };
    let routes = [
        aged("z", ""),
        aged("a", ""),
        aged("young", ", creationTimestamp: \"2026-02-01T00:00:00Z\""),
        aged("old", ", creationTimestamp: \"2026-01-01T00:00:00Z\""),
    ];
    let names: Vec<String> = bound(&routes, "store").iter().map(|bound| bound.route.name.name.to_string()).collect();
    assert_eq!(names, ["old", "young", "z", "a"], "without a time: by file and document");
}

#[test]
fn a_grpc_route_has_its_port_alone() {
    let both = [
        http("h", "name: store", ALL),
        route("GRPCRoute", "g", "name: store, port: 81", "{backendRefs: [{name: store, port: 81}]}"),
    ];
    let of: BTreeMap<RouteKind, Vec<u16>> =
        bound(&both, "store").iter().map(|bound| (bound.route.kind, ports(bound))).collect();
    assert_eq!(of, BTreeMap::from([(RouteKind::Grpc, vec![81]), (RouteKind::Http, vec![80, 90])]));
    assert!(accepted(&both, "h").2.contains("a GRPCRoute has"));
    let same = [
        http("h", "name: store, port: 81", ALL),
        route("GRPCRoute", "g", "name: store, port: 81", "{backendRefs: [{name: store, port: 81}]}"),
    ];
    let (holds, reason, _) = accepted(&same, "h");
    assert!(!holds && reason == "Conflicted");
    assert_eq!(bound(&same, "store").len(), 1);
}

#[test]
fn a_mirror_is_followed_too() {
    let rule = "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}}], backendRefs: [{name: store, port: 80}]}";
    let routes = [http("r", "name: store, port: 80", rule)];
    let filters = &bound(&routes, "store")[0].rules[0].filters;
    assert!(matches!(&filters[..], [Filter::Mirror(mirror)] if mirror.to == Target::Invalid(Unresolved::Missing)));
    let [_, (_, _, message)] = conditions(&routes, RouteKind::Http, "r");
    assert!(
        message.contains("spec.rules[0].filters[0].requestMirror.backendRef: there is no Service shop/gone"),
        "{message}"
    );
}

const FAULT: &str = "---
{apiVersion: millrace.dev/v1alpha1, kind: HTTPFault, metadata: {name: slow, namespace: shop}, spec: {abort: {status: 503, percent: 5}}}
";

#[test]
fn a_fault_that_a_route_names_is_in_its_filters_and_one_that_is_not_there_is_never_skipped() {
    let rule = "{filters: [{type: ExtensionRef, extensionRef: {group: millrace.dev, kind: HTTPFault, name: slow}}], backendRefs: [{name: store, port: 80}]}";
    let routes = [http("r", "name: store, port: 80", rule)];
    let missing = bound(&routes, "store");
    assert!(matches!(&missing[0].rules[0].filters[..], [Filter::Refuse(_)]), "{missing:?}");
    let [_, (holds, reason, message)] = conditions(&routes, RouteKind::Http, "r");
    assert!(!holds && reason == "BackendNotFound", "{reason}");
    assert!(message.contains("spec.rules[0].filters[0].extensionRef: there is no HTTPFault shop/slow"), "{message}");

    let with = [FAULT.to_owned(), routes[0].clone()];
    let there = bound(&with, "store");
    let [Filter::Fault(fault)] = &there[0].rules[0].filters[..] else { panic!("{there:?}") };
    assert_eq!((fault.delay, fault.abort.map(|(status, share)| (status, share.numerator))), (None, Some((503, 5))));
    let [_, (holds, _, message)] = conditions(&with, RouteKind::Http, "r");
    assert!(holds, "{message}");
}

#[test]
fn a_fault_is_in_force_where_pods_may_call_what_names_it() {
    let rule = "{filters: [{type: ExtensionRef, extensionRef: {group: millrace.dev, kind: HTTPFault, name: slow}}], backendRefs: [{name: store, port: 80}]}";
    let nodes = |routes: &[String]| {
        let world = world(&format!("{}{FAULT}{}", text(routes), pod("client", "10.0.0.9", "")));
        let (snapshot, _) = compile(&world);
        let key = Key { kind: Kind::HttpFault, name: name("slow") };
        bound_nodes(&world.objects, &snapshot, &world.settings).remove(&key).unwrap_or_default().len()
    };
    assert_eq!(nodes(&[http("r", "name: store, port: 80", rule)]), 1);
    assert_eq!(nodes(&[http("r", "name: nobody", rule)]), 0, "a route that is bound to nothing");
    assert_eq!(nodes(&[http("r", "name: store, port: 80", ALL)]), 0, "nobody names it");
}
