//! Routes and grants that are wrong in one way each: the message names field, fault and mend, and good ones are undisturbed.

#![cfg(test)]

mod backends;
mod filters;

use std::{collections::BTreeMap, sync::Arc};

use millrace_control::{
    diagnostic::Effect,
    source::{Sourced, manifest, shelf::Shelf},
    world::Settings,
};

const HTTP: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  hostnames: [web.example.com, "*.example.org"]
  rules:
  - name: canary
    matches:
    - path: {type: PathPrefix, value: /shop}
      method: GET
      headers: [{name: X-User, type: Exact, value: ann}]
      queryParams: [{name: v, type: RegularExpression, value: "[0-9]+"}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-a, value: "1"}], remove: [x-b]}
    - type: URLRewrite
      urlRewrite: {hostname: new.example.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    - type: RequestMirror
      requestMirror: {backendRef: {name: web, port: 80}, percent: 10}
    backendRefs: [{name: web, port: 80, weight: 90}, {name: canary, port: 80, weight: 10}]
    timeouts: {request: 10s, backendRequest: 2s}
  - matches: [{path: {type: Exact, value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /new}}
"#;

const GRPC: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: g, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 81}]
  rules:
  - matches: [{method: {service: shop.Cart, method: Add}, headers: [{name: x-a, value: b}]}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-c, value: d}]}}]
    backendRefs: [{name: web, port: 81}]
"#;

const GRANT: &str = r#"
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: front}]
  to: [{group: "", kind: Service}]
"#;

/// A good object, an edit of it, and the field, the fault and the mend that are told of it.
type Case = (&'static str, (&'static str, &'static str), [&'static str; 3]);

#[rustfmt::skip]
const REFUSED: &[Case] = &[
    (HTTP, ("name: web, port: 80}]\n  hostnames", "name: Web, port: 80}]\n  hostnames"), ["spec.parentRefs[0].name", "\"Web\" is no object's name", "the name alone"]),
    (HTTP, ("name: web, port: 80}]\n  hostnames", "name: web, port: 0}]\n  hostnames"), ["spec.parentRefs[0].port", "0 is no port number", "1 to 65535"]),
    (HTTP, ("name: web, port: 80}]\n  hostnames", "namespace: a.b, name: web}]\n  hostnames"), ["spec.parentRefs[0].namespace", "\"a.b\" is no namespace's name", "alone"]),
    (HTTP, ("port: 80}]\n  hostnames", "port: 80}, {group: \"\", kind: Service, name: web, port: 80}]\n  hostnames"), ["spec.parentRefs[1]", "it stands twice", "once"]),
    (HTTP, ("web.example.com,", "web.example.com:80,"), ["spec.hostnames[0]", "\"web.example.com:80\" is no host's name", "without port"]),
    (HTTP, ("web.example.com,", "10.0.0.1,"), ["spec.hostnames[0]", "\"10.0.0.1\" is no host's name", "a name such as"]),
    (HTTP, ("\"*.example.org\"", "\"a.*.org\""), ["spec.hostnames[1]", "\"a.*.org\" is no host's name", "*.example.com"]),
    (HTTP, ("name: canary\n", "name: Canary Rule\n"), ["spec.rules[0].name", "\"Canary Rule\" is no rule's name", "lower-case"]),
    (HTTP, ("  - matches: [{path: {type: Exact", "  - name: canary\n    matches: [{path: {type: Exact"), ["spec.rules[1].name", "two rules are named \"canary\"", "a name of its own"]),
    (HTTP, ("value: /shop}", "value: shop}"), ["spec.rules[0].matches[0].path.value", "does not begin with a slash", "/shop"]),
    (HTTP, ("value: /shop}", "value: /a//b}"), ["spec.rules[0].matches[0].path.value", "holds \"//\"", "as it is once"]),
    (HTTP, ("value: /shop}", "value: /a/../b}"), ["spec.rules[0].matches[0].path.value", "holds \"/../\"", "as it is once"]),
    (HTTP, ("value: /shop}", "value: /a%2Fb}"), ["spec.rules[0].matches[0].path.value", "holds \"%2f\"", "as it is once"]),
    (HTTP, ("value: /shop}", "value: /a b}"), ["spec.rules[0].matches[0].path.value", "holds ' '", "%-escapes"]),
    (HTTP, ("PathPrefix, value: /shop}", "Prefix, value: /shop}"), ["spec.rules[0].matches[0].path.type", "\"Prefix\" is not one of its values", "PathPrefix"]),
    (HTTP, ("Exact, value: /old}", "RegularExpression, value: \"/(a\"}"), ["spec.rules[1].matches[0].path.value", "no regular expression", "RE2"]),
    (HTTP, ("Exact, value: /old}", "RegularExpression, value: \"(?=a)/\"}"), ["spec.rules[1].matches[0].path.value", "no regular expression", "plainer"]),
    (HTTP, ("Exact, value: /old}", "RegularExpression, value: \"(a{100}){1000}\"}"), ["spec.rules[1].matches[0].path.value", "takes more than 256 KiB", "shorter"]),
    (HTTP, ("method: GET", "method: FETCH"), ["spec.rules[0].matches[0].method", "\"FETCH\" is not one of its values", "GET"]),
    (HTTP, ("method: GET", "verb: GET"), ["spec.rules[0].matches[0].verb", "there is no such field", "spelling"]),
    (HTTP, ("name: X-User,", "name: \":path\","), ["spec.rules[0].matches[0].headers[0].name", "\":path\" is no header", "their own fields"]),
    (HTTP, ("name: X-User,", "name: \"x user\","), ["spec.rules[0].matches[0].headers[0].name", "\"x user\" is no header's name", "letters"]),
    (HTTP, ("value: ann}", "value: \"\"}"), ["spec.rules[0].matches[0].headers[0].value", "it is empty", "from 1 to 4096"]),
    (HTTP, ("value: \"[0-9]+\"", "value: \"[0-9\""), ["spec.rules[0].matches[0].queryParams[0].value", "no regular expression", "RE2"]),
    (HTTP, ("type: RequestHeaderModifier", "type: HeaderModifier"), ["spec.rules[0].filters[0].type", "\"HeaderModifier\" is not one of its values", "RequestHeaderModifier"]),
    (HTTP, ("requestHeaderModifier: {set", "responseHeaderModifier: {set"), ["spec.rules[0].filters[0]", "what its type names is missing", "beside its type"]),
    (HTTP, ("name: x-a, value", "name: Content-Length, value"), ["spec.rules[0].filters[0].requestHeaderModifier.set[0].name", "belongs to the connection", "leave it out"]),
    (HTTP, ("name: x-a, value", "name: Host, value"), ["spec.rules[0].filters[0].requestHeaderModifier.set[0].name", "belongs to the connection", "URLRewrite"]),
    (HTTP, ("name: x-a, value: \"1\"", "name: x-a, value: \"1\\r\\nx-b: 2\""), ["spec.rules[0].filters[0].requestHeaderModifier.set[0].value", "is no header's value", "line breaks"]),
    (HTTP, ("hostname: new.example.com", "hostname: new_example"), ["spec.rules[0].filters[1].urlRewrite.hostname", "\"new_example\" is no host's name", "web.example.com"]),
    (HTTP, ("replacePrefixMatch: /new}", "replacePrefixMatch: new}"), ["spec.rules[0].filters[1].urlRewrite.path.replacePrefixMatch", "does not begin with a slash", "/shop"]),
    (HTTP, (", replacePrefixMatch: /new}", "}"), ["spec.rules[0].filters[1].urlRewrite.path", "it does not say one thing", "replaceFullPath or"]),
    (HTTP, ("type: PathPrefix, value: /shop", "type: Exact, value: /shop"), ["spec.rules[0].filters[1]", "needs a prefix that was matched", "PathPrefix"]),
    (HTTP, ("percent: 10", "percent: 101"), ["spec.rules[0].filters[2].requestMirror", "101 of 100 is no share", "from 0 to 100"]),
    (HTTP, ("percent: 10", "percent: 10, fraction: {numerator: 1}"), ["spec.rules[0].filters[2].requestMirror", "there are percent and fraction", "one of the two"]),
    (HTTP, ("percent: 10", "fraction: {numerator: 1, denominator: 0}"), ["spec.rules[0].filters[2].requestMirror", "1 of 0 is no share", "a fraction"]),
    (HTTP, ("{name: canary, port: 80, weight: 10}", "{name: canary, weight: 10}"), ["spec.rules[0].backendRefs[1].port", "it is missing", "the Service's port"]),
    (HTTP, ("weight: 10}", "weight: -1}"), ["spec.rules[0].backendRefs[1].weight", "-1 is out of bounds", "0 to 1000000"]),
    (HTTP, ("weight: 10}", "weight: ten}"), ["spec.rules[0].backendRefs[1].weight", "the string \"ten\" does not fit", "a whole number"]),
    (HTTP, ("request: 10s", "request: 10"), ["spec.rules[0].timeouts.request", "does not fit", "a string"]),
    (HTTP, ("request: 10s", "request: 1d"), ["spec.rules[0].timeouts.request", "\"1d\" is no span of time", "30s"]),
    (HTTP, ("request: 10s", "request: 1s"), ["spec.rules[0].timeouts.backendRequest", "longer than the time-out of the whole request", "shorter"]),
    (HTTP, ("    timeouts:", "    retry: {attempts: 0}\n    timeouts:"), ["spec.rules[0].retry.attempts", "0 is out of bounds", "from 1"]),
    (HTTP, ("    timeouts:", "    retry: {attempts: many}\n    timeouts:"), ["spec.rules[0].retry.attempts", "\"many\" does not fit", "a whole number"]),
    (HTTP, ("    timeouts:", "    retry: {codes: [503, 200]}\n    timeouts:"), ["spec.rules[0].retry.codes[1]", "200 is no failure", "from 400 to 599"]),
    (HTTP, ("    timeouts:", "    retry: {codes: [503, 503]}\n    timeouts:"), ["spec.rules[0].retry.codes[1]", "503 stands twice", "each status once"]),
    (HTTP, ("    timeouts:", "    retry: {backoff: soon}\n    timeouts:"), ["spec.rules[0].retry.backoff", "\"soon\" is no span of time", "30s"]),
    (HTTP, ("    timeouts:", "    sessionPersistence: {sessionName: a b}\n    timeouts:"), ["spec.rules[0].sessionPersistence.sessionName", "\"a b\" is no cookie's name", "letters, digits"]),
    (HTTP, ("    timeouts:", "    sessionPersistence: {sessionName: __Host-a}\n    timeouts:"), ["spec.rules[0].sessionPersistence.sessionName", "is for HTTPS alone", "prefix"]),
    (HTTP, ("    timeouts:", "    sessionPersistence: {type: Header, sessionName: te}\n    timeouts:"), ["spec.rules[0].sessionPersistence.sessionName", "belongs to the connection", "leave it out"]),
    (HTTP, ("    timeouts:", "    sessionPersistence: {type: Query}\n    timeouts:"), ["spec.rules[0].sessionPersistence.type", "\"Query\" is not one of its values", "Cookie"]),
    (HTTP, ("    timeouts:", "    sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}\n    timeouts:"), ["spec.rules[0].sessionPersistence.absoluteTimeout", "must end some day", "Session"]),
    (HTTP, ("    timeouts:", "    sessionPersistence: {type: Header, cookieConfig: {lifetimeType: Session}}\n    timeouts:"), ["spec.rules[0].sessionPersistence.cookieConfig", "a header is no cookie", "leave it out"]),
    (HTTP, ("    timeouts:", "    sessionPersistence: {absoluteTimeout: 0s}\n    timeouts:"), ["spec.rules[0].sessionPersistence.absoluteTimeout", "0s is out of bounds", "write a time from"]),
    (HTTP, ("    timeouts:", "    sessionPersistence: {idleTimeout: never}\n    timeouts:"), ["spec.rules[0].sessionPersistence.idleTimeout", "\"never\" is no span of time", "30s"]),
    (GRPC, ("    backendRefs:", "    sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}\n    backendRefs:"), ["spec.rules[0].sessionPersistence.absoluteTimeout", "must end some day", "Session"]),
    (HTTP, ("statusCode: 301", "statusCode: 304"), ["spec.rules[1].filters[0].requestRedirect.statusCode", "304 is not one of its values", "308"]),
    (HTTP, ("scheme: https", "scheme: ftp"), ["spec.rules[1].filters[0].requestRedirect.scheme", "\"ftp\" is not one of its values", "http"]),
    (HTTP, ("path: {type: ReplaceFullPath, replaceFullPath: /new}}\n", "port: 0}\n"), ["spec.rules[1].filters[0].requestRedirect.port", "0 is no port number", "1 to 65535"]),
    (HTTP, ("replaceFullPath: /new}}\n", "replaceFullPath: /new}}\n    backendRefs: [{name: web, port: 80}]\n"), ["spec.rules[1].backendRefs", "sends nothing to anybody", "leave out"]),
    (HTTP, ("    - type: RequestMirror\n", "    - {type: RequestRedirect, requestRedirect: {}}\n    - type: RequestMirror\n"), ["spec.rules[0].filters[2]", "can't stand together", "one of the two"]),
    (HTTP, ("    - type: RequestMirror\n", "    - {type: RequestHeaderModifier, requestHeaderModifier: {}}\n    - type: RequestMirror\n"), ["spec.rules[0].filters[2]", "stands twice", "both"]),
    (HTTP, ("apiVersion: gateway.networking.k8s.io/v1\n", "apiVersion: gateway.networking.k8s.io/v1alpha2\n"), ["apiVersion", "reads no HTTPRoute of", "write gateway.networking.k8s.io/v1"]),
    (GRPC, ("service: shop.Cart, method: Add", "service: \"\", method: \"\""), ["spec.rules[0].matches[0].method", "neither service nor method", "name one"]),
    (GRPC, ("service: shop.Cart", "service: shop/Cart"), ["spec.rules[0].matches[0].method.service", "\"shop/Cart\" is no name of gRPC", "proto file"]),
    (GRPC, ("service: shop.Cart", "type: RegularExpression, service: \"shop[.\""), ["spec.rules[0].matches[0].method.service", "no regular expression", "RE2"]),
    (GRPC, ("type: ResponseHeaderModifier", "type: URLRewrite"), ["spec.rules[0].filters[0].type", "\"URLRewrite\" is not one of its values", "ResponseHeaderModifier"]),
    (GRPC, ("name: x-c", "name: te"), ["spec.rules[0].filters[0].responseHeaderModifier.add[0].name", "belongs to the connection", "leave it out"]),
    (GRANT, ("from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: front}]", "from: []"), ["spec.from", "it names nobody", "at least one"]),
    (GRANT, (", namespace: front", ""), ["spec.from[0].namespace", "it is missing", "add the field namespace"]),
];

/// What is told, and the object is in force all the same.
#[rustfmt::skip]
const APPLIED: &[Case] = &[
    (HTTP, ("    timeouts:", "    retry: {attempts: 50}\n    timeouts:"), ["spec.rules[0].retry.attempts", "50 are more than Millrace makes: a request is sent again 10 times", "at most 10"]),
    (HTTP, ("    timeouts:", "    retry: {tries: 3}\n    timeouts:"), ["spec.rules[0].retry.tries", "there is no such field", "spelling"]),
    (HTTP, ("    timeouts:", "    sessionPersistence: {colour: blue}\n    timeouts:"), ["spec.rules[0].sessionPersistence.colour", "there is no such field", "spelling"]),
    (HTTP, ("    timeouts:", "    colour: blue\n    timeouts:"), ["spec.rules[0].colour", "there is no such field", "spelling"]),
    (HTTP, ("headers: [", "headers: [{name: x-user, value: bob}, "), ["spec.rules[0].matches[0].headers[1]", "\"x-user\" stands twice; the first counts", "remove"]),
    (HTTP, ("    - type: RequestMirror\n", "    - {type: ExtensionRef, extensionRef: {group: example.org, kind: Magic, name: m}}\n    - type: RequestMirror\n"), ["spec.rules[0].filters[2].extensionRef", "is no filter that Millrace knows: requests that reach it get a 500", "leave the filter out, or name a HTTPFault"]),
    (GRPC, ("    backendRefs:", "    sessionPersistence: {colour: blue}\n    backendRefs:"), ["spec.rules[0].sessionPersistence.colour", "there is no such field", "spelling"]),
];

fn settle(text: &str) -> Sourced {
    let settings = Settings { trust_domain: "td".into(), root_namespace: "root".into() };
    let file: Arc<str> = "routes.yaml".into();
    let reading = manifest::read(&file, text.as_bytes(), &settings);
    Shelf::default().settle(&BTreeMap::from([(file, Arc::new(reading))])).1
}

fn edited((good, (from, to), _): &Case) -> String {
    assert_eq!(good.matches(from).count(), 1, "{from:?} stands once in {good}");
    good.replace(from, to)
}

fn fits(told: &str, wanted: &[&str; 3]) -> bool {
    let field = format!(": {}: ", wanted[0]);
    told.contains(&field) && told.contains(wanted[1]) && told.contains(wanted[2])
}

#[test]
fn good_routes_are_good() {
    let sourced = settle(&[HTTP, GRPC, GRANT, filters::FILTERED, filters::FAULT, backends::POLICY].join("---"));
    assert_eq!(sourced.diagnostics, []);
    assert_eq!(counts(&sourced), [3, 1, 1, 1]);
    let v1 = GRANT.replace("v1beta1", "v1");
    assert_eq!(settle(&v1).diagnostics, [], "a grant may say v1 too");
}

#[test]
fn a_bad_route_is_refused_by_field_and_mend_and_good_ones_stand() {
    for case in all() {
        let good = HTTP.replace("name: r,", "name: good,");
        let sourced = settle(&[good.as_str(), &edited(case)].join("---"));
        let told: Vec<String> = sourced.diagnostics.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|told| fits(told, &case.2)), "{:?}: {told:#?}", case.2);
        assert!(sourced.diagnostics.iter().all(|told| told.effect == Effect::Refused), "{told:#?}");
        assert_eq!(counts(&sourced), [1, 0, 0, 0], "{:?}", case.2);
    }
}

#[test]
fn a_hundred_bad_objects_at_once_are_each_told_and_good_ones_stand() {
    let bad: Vec<String> = all()
        .enumerate()
        .map(|(index, case)| edited(case).replacen("metadata: {name: ", &format!("metadata: {{name: bad{index}-"), 1))
        .collect();
    assert!(bad.len() >= 100, "{}", bad.len());
    let good = [HTTP, GRPC, GRANT, filters::FILTERED, filters::FAULT, backends::POLICY].join("---");
    let sourced = settle(&format!("{}---{good}", bad.join("---")));
    let told: Vec<String> = sourced.diagnostics.iter().map(ToString::to_string).collect();
    for (index, case) in all().enumerate() {
        let name = format!("/bad{index}-");
        let of: Vec<&String> = told.iter().filter(|told| told.contains(&name)).collect();
        assert!(of.iter().any(|told| fits(told, &case.2)), "{:?}: {of:#?}", case.2);
    }
    assert_eq!(counts(&sourced), [3, 1, 1, 1], "the good ones");
}

/// Every object that is refused.
fn all() -> impl Iterator<Item = &'static Case> {
    REFUSED.iter().chain(filters::REFUSED).chain(backends::REFUSED)
}

/// Routes, grants, faults and backends' policies in force.
fn counts(sourced: &Sourced) -> [usize; 4] {
    let objects = &sourced.objects;
    [objects.routes.len(), objects.grants.len(), objects.faults.len(), objects.backends.len()]
}

#[test]
fn what_is_not_done_is_told_and_the_route_is_in_force() {
    for case in APPLIED.iter().chain(backends::APPLIED) {
        let sourced = settle(&edited(case));
        let told: Vec<String> = sourced.diagnostics.iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && fits(&told[0], &case.2), "{:?}: {told:#?}", case.2);
        assert_eq!((sourced.diagnostics[0].effect, counts(&sourced).iter().sum::<usize>()), (Effect::Applied, 1));
    }
}

#[test]
fn what_others_wrote_on_a_status_is_not_read() {
    let text = format!("{HTTP}status: {{parents: 5, colour: blue}}\n");
    assert_eq!(settle(&text).diagnostics, []);
}
