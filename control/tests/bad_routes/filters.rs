//! Filters that are wrong in one way each: those that answer other origins, mirror, and inject faults; and HTTPFaults themselves.

use super::Case;

pub(crate) const FILTERED: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: f, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - name: all
    filters:
    - type: CORS
      cors:
        allowOrigins: [https://shop.example.com, "https://*.example.org:8443", "http://*"]
        allowMethods: [GET, PUT]
        allowHeaders: [x-a, Content-Type]
        exposeHeaders: ["*"]
        allowCredentials: true
        maxAge: 600
    - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, fraction: {numerator: 1, denominator: 1000}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: other, namespace: back, port: 81}}}
    - {type: ExtensionRef, extensionRef: {group: millrace.dev, kind: HTTPFault, name: slow}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: "1"}]}}
    backendRefs:
    - name: web
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-backend, value: web}]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}}
"#;

pub(crate) const FAULT: &str = r#"
apiVersion: millrace.dev/v1alpha1
kind: HTTPFault
metadata: {name: slow, namespace: shop}
spec:
  delay: {duration: 250ms, percent: 10}
  abort: {status: 503, fraction: {numerator: 5, denominator: 1000}}
"#;

#[rustfmt::skip]
pub(crate) const REFUSED: &[Case] = &[
    (FILTERED, ("[https://shop.example.com,", "[shop.example.com,"), ["spec.rules[0].filters[0].cors.allowOrigins[0]", "\"shop.example.com\" is no origin", "https://shop.example.com"]),
    (FILTERED, ("[https://shop.example.com,", "[https://shop.example.com/,"), ["spec.rules[0].filters[0].cors.allowOrigins[0]", "is no origin", "alone"]),
    (FILTERED, ("[https://shop.example.com,", "[ftp://shop.example.com,"), ["spec.rules[0].filters[0].cors.allowOrigins[0]", "is no origin", "scheme"]),
    (FILTERED, ("[https://shop.example.com,", "[\"https://shop.example.com:0\","), ["spec.rules[0].filters[0].cors.allowOrigins[0]", "is no origin", "port"]),
    (FILTERED, ("[https://shop.example.com,", "[\"https://sh*p.example.com\","), ["spec.rules[0].filters[0].cors.allowOrigins[0]", "is no origin", "*.example.com"]),
    (FILTERED, ("[https://shop.example.com,", "[\"https://*.*\","), ["spec.rules[0].filters[0].cors.allowOrigins[0]", "is no origin", "*.example.com"]),
    (FILTERED, ("[https://shop.example.com,", "[\"*\","), ["spec.rules[0].filters[0].cors.allowOrigins", "\"*\" stands beside others", "alone"]),
    (FILTERED, ("[https://shop.example.com,", "[\"http://*\","), ["spec.rules[0].filters[0].cors.allowOrigins[2]", "\"http://*\" stands twice", "remove one"]),
    (FILTERED, ("allowOrigins: [https://shop.example.com,", "allowOrigins: [5,"), ["spec.rules[0].filters[0].cors.allowOrigins[0]", "does not fit", "a string"]),
    (FILTERED, ("[GET, PUT]", "[get, PUT]"), ["spec.rules[0].filters[0].cors.allowMethods[0]", "\"get\" is not one of its values", "GET"]),
    (FILTERED, ("[GET, PUT]", "[GET, \"*\"]"), ["spec.rules[0].filters[0].cors.allowMethods", "stands beside others", "alone"]),
    (FILTERED, ("[GET, PUT]", "[GET, GET]"), ["spec.rules[0].filters[0].cors.allowMethods[1]", "\"GET\" stands twice", "remove one"]),
    (FILTERED, ("[GET, PUT]", "GET"), ["spec.rules[0].filters[0].cors.allowMethods", "does not fit", "a list"]),
    (FILTERED, ("[x-a, Content-Type]", "[\"x a\"]"), ["spec.rules[0].filters[0].cors.allowHeaders[0]", "\"x a\" is no header's name", "letters"]),
    (FILTERED, ("[x-a, Content-Type]", "[\"*\", x-a]"), ["spec.rules[0].filters[0].cors.allowHeaders", "stands beside others", "alone"]),
    (FILTERED, ("exposeHeaders: [\"*\"]", "exposeHeaders: [\"\"]"), ["spec.rules[0].filters[0].cors.exposeHeaders[0]", "is no header's name", "letters"]),
    (FILTERED, ("maxAge: 600", "maxAge: 0"), ["spec.rules[0].filters[0].cors.maxAge", "0 is no age", "from 1 on"]),
    (FILTERED, ("maxAge: 600", "maxAge: 10m"), ["spec.rules[0].filters[0].cors.maxAge", "does not fit", "a whole number"]),
    (FILTERED, ("allowCredentials: true", "allowCredentials: \"yes\""), ["spec.rules[0].filters[0].cors.allowCredentials", "does not fit", "true or false"]),
    (FILTERED, ("type: CORS\n", "type: Cors\n"), ["spec.rules[0].filters[0].type", "\"Cors\" is not one of its values", "CORS"]),
    (FILTERED, ("      cors:\n", "      cores:\n"), ["spec.rules[0].filters[0]", "what its type names is missing", "beside its type"]),
    (FILTERED, ("    - {type: ExtensionRef", "    - {type: CORS, cors: {}}\n    - {type: ExtensionRef"), ["spec.rules[0].filters[3]", "a filter of this type stands twice", "does both"]),
    (FILTERED, ("{name: shadow, port: 80}", "{name: Shadow, port: 80}"), ["spec.rules[0].filters[1].requestMirror.backendRef.name", "\"Shadow\" is no object's name", "the name alone"]),
    (FILTERED, ("{name: shadow, port: 80}", "{name: shadow}"), ["spec.rules[0].filters[1].requestMirror.backendRef.port", "it is missing", "the Service's port"]),
    (FILTERED, ("{name: shadow, port: 80}", "{name: shadow, port: 70000}"), ["spec.rules[0].filters[1].requestMirror.backendRef.port", "70000 is no port number", "1 to 65535"]),
    (FILTERED, ("{numerator: 1, denominator: 1000}", "{numerator: 1001, denominator: 1000}"), ["spec.rules[0].filters[1].requestMirror", "1001 of 1000 is no share", "at most 1"]),
    (FILTERED, ("{numerator: 1, denominator: 1000}", "{numerator: -1}"), ["spec.rules[0].filters[1].requestMirror", "-1 of 100 is no share", "from 0 to 100"]),
    (FILTERED, ("{numerator: 1, denominator: 1000}", "{denominator: 1000}"), ["spec.rules[0].filters[1].requestMirror.fraction.numerator", "it is missing", "add the field numerator"]),
    (FILTERED, (", namespace: back, port: 81", ", namespace: back.end, port: 81"), ["spec.rules[0].filters[2].requestMirror.backendRef.namespace", "is no namespace's name", "alone"]),
    (FILTERED, ("requestMirror: {backendRef: {name: other, namespace: back, port: 81}}", "requestMirror: {}"), ["spec.rules[0].filters[2].requestMirror.backendRef", "it is missing", "add the field backendRef"]),
    (FILTERED, ("kind: HTTPFault, name: slow}", "kind: HTTPFault, name: Slow One}"), ["spec.rules[0].filters[3].extensionRef.name", "is no object's name", "the name alone"]),
    (FILTERED, ("kind: HTTPFault, name: slow}", "kind: HTTPFault}"), ["spec.rules[0].filters[3].extensionRef.name", "it is missing", "add the field name"]),
    (FILTERED, ("extensionRef: {group: millrace.dev, kind: HTTPFault, name: slow}", "requestMirror: {backendRef: {name: web, port: 80}}"), ["spec.rules[0].filters[3]", "what its type names is missing", "beside its type"]),
    (FILTERED, ("{add: [{name: x-backend, value: web}]}", "{add: [{name: Transfer-Encoding, value: chunked}]}"), ["spec.rules[0].backendRefs[0].filters[0].requestHeaderModifier.add[0].name", "belongs to the connection", "leave it out"]),
    (FILTERED, ("{add: [{name: x-backend, value: web}]}", "{add: [{name: x-backend}]}"), ["spec.rules[0].backendRefs[0].filters[0].requestHeaderModifier.add[0].value", "it is missing", "add the field value"]),
    (FILTERED, ("{remove: [server]}", "{remove: [Connection]}"), ["spec.rules[0].backendRefs[0].filters[1].responseHeaderModifier.remove[0]", "belongs to the connection", "leave it out"]),
    (FILTERED, ("      - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}}", "      - {type: RequestHeaderModifier, requestHeaderModifier: {remove: [server]}}"), ["spec.rules[0].backendRefs[0].filters[1]", "a filter of this type stands twice", "does both"]),
    (FILTERED, ("      - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}}", "      - {type: URLRewrite, urlRewrite: {hostname: \"a:80\"}}"), ["spec.rules[0].backendRefs[0].filters[1].urlRewrite.hostname", "\"a:80\" is no host's name", "without port"]),
    (FAULT, ("  delay: {duration: 250ms, percent: 10}\n  abort: {status: 503, fraction: {numerator: 5, denominator: 1000}}\n", "  {}\n"), ["spec", "it does nothing", "delay, abort or both"]),
    (FAULT, ("duration: 250ms", "duration: 250"), ["spec.delay.duration", "does not fit", "a string"]),
    (FAULT, ("duration: 250ms", "duration: soon"), ["spec.delay.duration", "\"soon\" is no span of time", "30s"]),
    (FAULT, ("duration: 250ms", "duration: 0s"), ["spec.delay.duration", "it is no time at all", "leave the delay out"]),
    (FAULT, ("duration: 250ms", "duration: 2h"), ["spec.delay.duration", "2h is out of bounds", "0s to 3600s"]),
    (FAULT, ("duration: 250ms, ", ""), ["spec.delay.duration", "it is missing", "add the field duration"]),
    (FAULT, ("250ms, percent: 10", "250ms"), ["spec.delay", "does not say of how many requests", "percent, or fraction"]),
    (FAULT, ("percent: 10", "percent: 101"), ["spec.delay", "101 of 100 is no share", "from 0 to 100"]),
    (FAULT, ("percent: 10", "percent: -1"), ["spec.delay.percent", "the integer -1 does not fit", "a whole number"]),
    (FAULT, ("percent: 10", "percent: 0.5"), ["spec.delay.percent", "does not fit", "a whole number"]),
    (FAULT, ("percent: 10", "percentage: 10"), ["spec.delay.percentage", "there is no such field", "spelling"]),
    (FAULT, ("percent: 10", "percent: 10, fraction: {numerator: 1}"), ["spec.delay", "there are percent and fraction", "one of the two"]),
    (FAULT, ("percent: 10", "percent: null"), ["spec.delay.percent", "it has no value", "leave the field out"]),
    (FAULT, ("status: 503", "status: 200"), ["spec.abort.status", "200 is no failure", "from 400 to 599"]),
    (FAULT, ("status: 503", "status: 600"), ["spec.abort.status", "600 is no failure", "from 400 to 599"]),
    (FAULT, ("status: 503, ", ""), ["spec.abort.status", "it is missing", "add the field status"]),
    (FAULT, ("numerator: 5,", "numerator: 5000,"), ["spec.abort", "5000 of 1000 is no share", "at most 1"]),
    (FAULT, ("denominator: 1000", "denominator: 0"), ["spec.abort", "5 of 0 is no share", "at most 1"]),
    (FAULT, ("numerator: 5, ", ""), ["spec.abort.fraction.numerator", "it is missing", "add the field numerator"]),
    (FAULT, ("millrace.dev/v1alpha1", "millrace.dev/v1"), ["apiVersion", "reads no HTTPFault of", "write millrace.dev/v1alpha1"]),
];
