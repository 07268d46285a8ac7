//! A table of bad manifests: each message names file, document, object, field and mend; the objects beside it are undisturbed; and
//! the last good version of the object itself stays in force, where there was one.
//!
//! Each case is one edit of a good manifest, as people make them. Long because it is one table.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use millrace_control::{
    diagnostic::{Diagnostic, Effect},
    source::{Sourced, manifest, shelf::Shelf},
    world::{Objects, Settings},
};
use millrace_model::ObjectName;

/// Good manifests, one of each kind; a case edits one of them.
const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels:
    millrace.dev/mesh: enabled
    team: storefront
";
const NODE: &str = "
apiVersion: v1
kind: Node
metadata:
  name: a
  labels:
    topology.kubernetes.io/zone: z1
";
const NETWORK: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: inward
  namespace: shop
spec:
  podSelector:
    matchExpressions:
    - {key: app, operator: In, values: [web]}
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: cart}}
    ports:
    - {protocol: TCP, port: 8080}
";
const MACHINE: &str = "
apiVersion: millrace.dev/v1alpha1
kind: ExternalWorkload
metadata:
  name: rack
  namespace: shop
  labels: {app: rack}
spec:
  addresses: [192.0.2.7]
  serviceAccount: rack
  ports:
  - {name: http, port: 8080}
  zone: z1
  weight: 2
";
const OUTSIDE: &str = "
apiVersion: millrace.dev/v1alpha1
kind: ExternalService
metadata:
  name: payments
  namespace: shop
spec:
  addresses: [192.0.2.100]
  ports:
  - {name: tls, port: 443, targetPort: 8443}
  - {name: dns, port: 53, protocol: UDP}
  endpoints:
  - {address: 198.51.100.1, zone: z1}
";
const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata:
  name: web
  namespace: shop
";
const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web-1
  namespace: shop
  labels:
    app: web
    millrace.dev/mesh: enabled
  annotations:
    millrace.dev/netns: /run/netns/web-1
    millrace.dev/weight: \"5\"
spec:
  nodeName: a
  serviceAccountName: web
  containers:
  - name: app
    ports:
    - name: http
      containerPort: 8080
      protocol: TCP
    - name: admin
      containerPort: 9090
status:
  phase: Running
  podIP: 10.10.1.2
  podIPs:
  - ip: 10.10.1.2
  - ip: fd10:1::2
  conditions:
  - type: Ready
    status: \"True\"
";
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs:
  - 10.96.0.10
  - fd96::10
  selector:
    app: web
  ports:
  - name: http
    port: 80
    targetPort: http
    protocol: TCP
  - name: admin
    port: 81
    targetPort: 9090
";
const SLICE: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: db-1
  namespace: shop
  labels:
    kubernetes.io/service-name: db
addressType: IPv4
endpoints:
- addresses:
  - 192.0.2.1
  conditions:
    ready: true
ports:
- name: sql
  port: 5432
  protocol: TCP
";
const DB: &str = "
apiVersion: v1
kind: Service
metadata:
  name: db
  namespace: shop
spec:
  clusterIPs: [10.96.0.11]
  ports:
  - name: sql
    port: 5432
";
const ACCESS: &str = "
apiVersion: millrace.dev/v1alpha1
kind: AccessPolicy
metadata:
  name: only-web
  namespace: shop
spec:
  selector:
    matchLabels:
      app: web
  action: Allow
  rules:
  - from:
    - identities:
      - shop/web
    - namespaces:
      - shop
    - ipBlocks:
      - 10.0.0.0/8
    to:
    - ports:
      - 8080
";
const ENCRYPTION: &str = "
apiVersion: millrace.dev/v1alpha1
kind: EncryptionPolicy
metadata:
  name: strict
  namespace: shop
spec:
  mode: Strict
  ports:
  - port: 8080
    mode: Permissive
";

const TRAFFIC: &str = "
apiVersion: millrace.dev/v1alpha1
kind: TrafficPolicy
metadata:
  name: patient
  namespace: shop
spec:
  targetRefs:
  - kind: Service
    name: web
  outlierEjection:
    consecutiveFailures: 3
    interval: 10s
    baseEjectionTime: 1m30s
    maxEjectionTime: 5m
    maxEjectedPercent: 40
";

const TELEMETRY: &str = "
apiVersion: millrace.dev/v1alpha1
kind: TelemetryPolicy
metadata:
  name: seen
  namespace: shop
spec:
  metrics: Enabled
  accessLogs:
    format: JSON
    fields: [time, method, header.x-tenant]
    sampling:
      percent: 5
    only:
    - minStatus: 500
      slowerThan: 1s
  tracing:
    sampling:
      fraction:
        numerator: 1
        denominator: 1000
    collector:
      service: db
      protocol: OTLPHTTP
      port: 5432
  tap: Disabled
";

const PROFILE: &str = "
apiVersion: millrace.dev/v1alpha1
kind: NodeProfile
metadata:
  name: edge
spec:
  nodeSelector:
    matchLabels:
      topology.kubernetes.io/zone: z1
    matchExpressions:
    - key: pool
      operator: NotIn
      values: [batch]
  proxy:
    workers: 2
    cpus: 0-1
    http2:
      streamWindowBytes: 2097152
      connectionWindowBytes: 536870912
      frameBytes: 1048576
    sendBufferBytes: 1048576
    congestionControl: cubic
  pods:
    initialWindowSegments: 20
  maps:
    DESTS: 262144
  workloadLimits:
    maxConnections: 5000
    cpu: 250m
  acceleration:
    sockmap: false
";

/// All of them, in the order in which they stand in the file.
const GOOD: [&str; 15] = [
    NAMESPACE, NODE, ACCOUNT, POD, SERVICE, SLICE, DB, ACCESS, ENCRYPTION, TRAFFIC, TELEMETRY, PROFILE, NETWORK,
    MACHINE, OUTSIDE,
];

/// One bad manifest: an edit of a good one, and what the message must say.
struct Case {
    good: &'static str,
    from: &'static str,
    to: &'static str,
    object: &'static str,
    field: &'static str,
    problem: &'static str,
    mend: &'static str,
}

const fn case(
    good: &'static str,
    (from, to): (&'static str, &'static str),
    object: &'static str,
    (field, problem, mend): (&'static str, &'static str, &'static str),
) -> Case {
    Case { good, from, to, object, field, problem, mend }
}

const MACHINE_NAME: &str = "ExternalWorkload shop/rack";
const OUTSIDE_NAME: &str = "ExternalService shop/payments";
const NETWORK_NAME: &str = "NetworkPolicy shop/inward";
const POD_NAME: &str = "Pod shop/web-1";
const SERVICE_NAME: &str = "Service shop/web";
const SLICE_NAME: &str = "EndpointSlice shop/db-1";
const ACCESS_NAME: &str = "AccessPolicy shop/only-web";
const ENCRYPTION_NAME: &str = "EncryptionPolicy shop/strict";
const TRAFFIC_NAME: &str = "TrafficPolicy shop/patient";
const TELEMETRY_NAME: &str = "TelemetryPolicy shop/seen";
const PROFILE_NAME: &str = "NodeProfile edge";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // What every object has.
    case(NODE, ("apiVersion: v1\n", ""), "Node a", ("apiVersion", "it is missing", "write the apiVersion")),
    case(NODE, ("apiVersion: v1\n", "apiVersion: 1\n"), "Node a", ("apiVersion", "it is no string", "write the apiVersion")),
    case(NODE, ("apiVersion: v1\n", "apiVersion: v2\n"), "Node a", ("apiVersion", "reads no Node of \"v2\"", "write v1")),
    case(SLICE, ("discovery.k8s.io/v1\n", "discovery.k8s.io/v1beta1\n"), "EndpointSlice shop/db-1", ("apiVersion", "v1beta1", "write discovery.k8s.io/v1")),
    case(ACCESS, ("millrace.dev/v1alpha1", "millrace.io/v1alpha1"), "AccessPolicy shop/only-web", ("apiVersion", "millrace.io", "write millrace.dev/v1alpha1")),
    case(NODE, ("kind: Node\n", ""), "an object named a", ("kind", "it is missing", "write the kind")),
    case(NODE, ("kind: Node\n", "kind: [Node]\n"), "an object named a", ("kind", "it is no string", "write the kind")),
    case(ACCESS, ("kind: AccessPolicy", "kind: AcessPolicy"), "AcessPolicy shop/only-web", ("kind", "reads no \"AcessPolicy\"", "AccessPolicy, EncryptionPolicy")),
    case(ACCESS, ("kind: AccessPolicy", "kind: AuthorizationPolicy"), "AuthorizationPolicy shop/only-web", ("kind", "reads no \"AuthorizationPolicy\"", "another directory")),
    case(ACCOUNT, ("metadata:\n  name: web\n  namespace: shop\n", ""), "a ServiceAccount without a name", ("metadata", "it is missing", "add metadata with a name")),
    case(ACCOUNT, ("  name: web\n", ""), "a ServiceAccount without a name", ("metadata.name", "it is missing", "give the object a name")),
    case(ACCOUNT, ("  name: web\n", "  name: 5\n"), "a ServiceAccount without a name", ("metadata.name", "it is no string", "in quotes")),
    case(ACCOUNT, ("name: web", "name: Web"), "ServiceAccount shop/Web", ("metadata.name", "\"Web\" is no object's name", "lower-case")),
    case(SERVICE, ("name: web", "name: web.v1"), "Service shop/web.v1", ("metadata.name", "\"web.v1\" is no object's name", "lower-case")),
    case(ACCOUNT, ("namespace: shop", "namespace: my.shop"), "ServiceAccount my.shop/web", ("metadata.namespace", "\"my.shop\" is no namespace's name", "at most 63")),
    case(ACCOUNT, ("namespace: shop", "namespace: {name: shop}"), "ServiceAccount web", ("metadata.namespace", "it is no string", "in quotes")),
    case(POD, ("app: web", "app: web shop"), POD_NAME, ("metadata.labels.app", "\"web shop\" is no label value", "at most 63")),
    case(POD, ("app: web", "app: 5"), POD_NAME, ("metadata.labels.app", "the integer 5 does not fit", "write a string")),
    case(POD, ("app: web", "app!: web"), POD_NAME, ("metadata.labels.app!", "\"app!\" is no label name", "at most 63")),
    case(NAMESPACE, ("mesh: enabled", "mesh: \"true\""), "Namespace shop", ("metadata.labels.millrace.dev/mesh", "\"true\" is not one of its values", "write enabled or disabled")),
    case(POD, ("mesh: enabled", "mesh: disable"), POD_NAME, ("metadata.labels.millrace.dev/mesh", "\"disable\" is not", "write enabled or disabled")),
    case(POD, ("  name: web-1\n", "  name: web-1\n  creationTimestamp: yesterday\n"), POD_NAME, ("metadata.creationTimestamp", "it is no time", "write a time such as 2026-01-31T12:00:00Z")),
    // What is outside Kubernetes.
    case(MACHINE, ("[192.0.2.7]", "[]"), MACHINE_NAME, ("spec.addresses", "it has none", "write the machine's address")),
    case(MACHINE, ("[192.0.2.7]", "[192.0.2.7/32]"), MACHINE_NAME, ("spec.addresses[0]", "is no IP address", "without a prefix length")),
    case(MACHINE, ("[192.0.2.7]", "[192.0.2.7, 192.0.2.8]"), MACHINE_NAME, ("spec.addresses[1]", "is of the family of", "at most one IPv4")),
    case(MACHINE, ("serviceAccount: rack", "serviceAccount: Rack"), MACHINE_NAME, ("spec.serviceAccount", "is no object's name", "lower-case")),
    case(MACHINE, ("port: 8080", "port: 15008"), MACHINE_NAME, ("spec.ports[0].port", "one of the mesh's own", "another port")),
    case(MACHINE, ("name: http", "name: HTTP"), MACHINE_NAME, ("spec.ports[0].name", "is no port name", "lower-case")),
    case(MACHINE, ("zone: z1", "zone: z 1"), MACHINE_NAME, ("spec.zone.zone", "is no label value", "at most 63")),
    case(MACHINE, ("weight: 2", "weight: 65536"), MACHINE_NAME, ("spec.weight", "is no weight", "0 to 65535")),
    case(MACHINE, ("weight: 2", "tunnel: Maybe"), MACHINE_NAME, ("spec.tunnel", "\"Maybe\" is not one of its values", "write")),
    case(MACHINE, ("weight: 2", "wieght: 2"), MACHINE_NAME, ("spec.wieght", "no such field", "spelling")),
    case(OUTSIDE, ("[192.0.2.100]", "[]"), OUTSIDE_NAME, ("spec.addresses", "it has none", "address that pods call")),
    case(OUTSIDE, ("  endpoints:\n  - {address: 198.51.100.1, zone: z1}\n", "  endpoints: []\n"), OUTSIDE_NAME, ("spec.endpoints", "it has none", "the mesh resolves no name")),
    case(OUTSIDE, ("198.51.100.1", "pay.example"), OUTSIDE_NAME, ("spec.endpoints[0].address", "is no IP address", "write an IPv4 address")),
    case(OUTSIDE, ("198.51.100.1", "192.0.2.100"), OUTSIDE_NAME, ("spec.endpoints[0].address", "the service's own address", "another address")),
    case(OUTSIDE, ("name: dns, ", ""), OUTSIDE_NAME, ("spec.ports[1].name", "it is missing", "give each port a name")),
    case(OUTSIDE, ("name: dns", "name: tls"), OUTSIDE_NAME, ("spec.ports[1].name", "two ports", "of its own")),
    case(OUTSIDE, ("protocol: UDP", "protocol: SCTP"), OUTSIDE_NAME, ("spec.ports[1].protocol", "\"SCTP\" is not one of its values", "TCP")),
    case(OUTSIDE, ("port: 443", "port: 0"), OUTSIDE_NAME, ("spec.ports[0].port", "0 is no port number", "1 to 65535")),
    // NetworkPolicies: what is fatal leaves nobody to be bound by it; all else lets less through.
    case(NETWORK, ("spec:\n", "other:\n"), NETWORK_NAME, ("spec", "it is missing", "podSelector")),
    case(NETWORK, ("[Ingress]", "[Inbound]"), NETWORK_NAME, ("spec.policyTypes[0]", "\"Inbound\" is not one of its values", "write Ingress or Egress")),
    case(NETWORK, ("operator: In", "operator: Is"), NETWORK_NAME, ("spec.podSelector.matchExpressions[0].operator", "\"Is\" is not one of its values", "write In, NotIn")),
    case(NETWORK, ("key: app", "key: app!"), NETWORK_NAME, ("spec.podSelector.matchExpressions[0].key.app!", "\"app!\" is no label name", "at most 63")),
    case(NETWORK, ("[web]", "[\"web|shop;\"]"), NETWORK_NAME, ("spec.podSelector.matchExpressions[0].values.value", "is no label value", "at most 63")),
    case(NETWORK, ("values: [web]", "values: []"), NETWORK_NAME, ("spec.podSelector.matchExpressions[0].values", "there are none", "name at least one")),
    case(NETWORK, ("port: 8080", "port: [8080]"), NETWORK_NAME, ("spec.ingress[0].ports[0].port", "does not fit", "write")),
    // YAML itself.
    case(SERVICE, ("spec:\n", "spec: [\n"), "what seems to be Service shop/web", ("", "not YAML that can be read", "correct the text at that line")),
    case(SERVICE, ("    port: 80\n", "\t  port: 80\n"), "what seems to be Service shop/web", ("", "not YAML that can be read", "correct the text at that line")),
    case(SERVICE, ("    port: 80\n", "    port: 80\n    port: 8080\n"), "what seems to be Service shop/web", ("", "\"port\" stands twice", "correct the text at that line")),
    case(SERVICE, ("  selector:\n    app: web\n", "  selector: *nowhere\n"), "what seems to be Service shop/web", ("", "not YAML that can be read", "correct the text at that line")),
    case(NODE, (NODE, "\n- just\n- a list\n"), "a document that is no mapping", ("", "it is no Kubernetes object", "apiVersion, kind, metadata and spec")),
    case(NODE, (NODE, "\njust text\n"), "a document that is no mapping", ("", "it is no Kubernetes object", "apiVersion, kind, metadata and spec")),
    // Pods.
    case(POD, ("spec:\n  nodeName: a\n  serviceAccountName: web\n  containers:\n  - name: app\n    ports:\n    - name: http\n      containerPort: 8080\n      protocol: TCP\n    - name: admin\n      containerPort: 9090\n", ""), POD_NAME, ("spec", "it is missing", "nodeName")),
    case(POD, ("spec:\n", "spec: web\nspecs:\n"), POD_NAME, ("spec", "the string \"web\" does not fit", "write a mapping")),
    case(POD, ("nodeName: a", "nodeName: Node_A"), POD_NAME, ("spec.nodeName", "\"Node_A\" is no object's name", "lower-case")),
    case(POD, ("nodeName: a", "nodeName: 7"), POD_NAME, ("spec.nodeName", "the integer 7 does not fit", "write a string")),
    case(POD, ("serviceAccountName: web", "serviceAccountName: shop/web"), POD_NAME, ("spec.serviceAccountName", "\"shop/web\" is no object's name", "lower-case")),
    case(POD, ("containerPort: 8080", "containerPort: 80800"), POD_NAME, ("spec.containers[0].ports[0].containerPort", "80800 is no port number", "1 to 65535")),
    case(POD, ("containerPort: 8080", "containerPort: http"), POD_NAME, ("spec.containers[0].ports[0].containerPort", "the string \"http\" does not fit", "a whole number")),
    case(POD, ("protocol: TCP", "protocol: HTTP"), POD_NAME, ("spec.containers[0].ports[0].protocol", "\"HTTP\" is no protocol", "write TCP or UDP")),
    case(POD, ("name: admin", "name: http"), POD_NAME, ("spec.containers[0].ports[1].name", "two ports of the pod are named \"http\"", "a name of its own")),
    case(POD, ("name: admin", "name: admin_port"), POD_NAME, ("spec.containers[0].ports[1].name", "\"admin_port\" is no port name", "lower-case")),
    case(POD, ("  containers:\n  - name: app\n    ports:", "  containers:\n    name: app\n    ports:"), POD_NAME, ("spec.containers", "a mapping does not fit", "write a list")),
    case(POD, ("ip: fd10:1::2", "ip: fd10:1:2"), POD_NAME, ("status.podIPs[1].ip", "\"fd10:1:2\" is no IP address", "fd00::1")),
    case(POD, ("ip: fd10:1::2", "ip: 10.10.1.3/24"), POD_NAME, ("status.podIPs[1].ip", "\"10.10.1.3/24\" is no IP address", "without a prefix length")),
    case(POD, ("ip: fd10:1::2", "ip: \"::ffff:10.10.1.2\""), POD_NAME, ("status.podIPs[1].ip", "an IPv4-mapped IPv6 address", "in IPv4 form")),
    case(POD, ("ip: fd10:1::2", "ip: 127.0.0.1"), POD_NAME, ("status.podIPs[1].ip", "a loopback address", "the unicast address")),
    case(POD, ("ip: fd10:1::2", "ip: 0.0.0.0"), POD_NAME, ("status.podIPs[1].ip", "the unspecified address", "the unicast address")),
    case(POD, ("ip: fd10:1::2", "ip: 10.10.1.2"), POD_NAME, ("status.podIPs[1].ip", "10.10.1.2 stands twice", "each address once")),
    case(POD, ("ip: fd10:1::2", "ip: 10.10.1.3"), POD_NAME, ("status.podIPs[1].ip", "10.10.1.3 is of the family of 10.10.1.2", "one IPv4 and one IPv6")),
    case(POD, ("ip: fd10:1::2", "ip: fe80::2"), POD_NAME, ("status.podIPs[1].ip", "a link-local address", "the unicast address")),
    case(POD, ("podIP: 10.10.1.2", "podIP: 10.10.1.9"), POD_NAME, ("status.podIP", "10.10.1.9 is not the first of podIPs, 10.10.1.2", "the same address in both")),
    case(POD, ("phase: Running", "phase: running"), POD_NAME, ("status.phase", "\"running\" is no phase", "write Pending, Running")),
    case(POD, ("status: \"True\"", "status: \"yes\""), POD_NAME, ("status.conditions[0].status", "\"yes\" is no state", "in quotes")),
    case(POD, ("status: \"True\"", "status: true"), POD_NAME, ("status.conditions[0].status", "the boolean true does not fit", "write a string")),
    case(POD, ("/run/netns/web-1", "web-1"), POD_NAME, ("metadata.annotations.millrace.dev/netns", "\"web-1\" is no absolute path", "/run/netns/web")),
    case(POD, ("/run/netns/web-1", "/run/netns/../../proc/1/ns/net"), POD_NAME, ("metadata.annotations.millrace.dev/netns", "is no absolute path", "/run/netns/web")),
    case(POD, ("weight: \"5\"", "weight: \"-5\""), POD_NAME, ("metadata.annotations.millrace.dev/weight", "\"-5\" is no weight", "0 to 65535")),
    case(POD, ("weight: \"5\"", "weight: 5"), POD_NAME, ("metadata.annotations.millrace.dev/weight", "the integer 5 does not fit", "write a string")),
    // Services.
    case(SERVICE, ("port: 80\n", "port: 70000\n"), SERVICE_NAME, ("spec.ports[0].port", "70000 is no port number", "1 to 65535")),
    case(SERVICE, ("port: 80\n", "port: 0\n"), SERVICE_NAME, ("spec.ports[0].port", "0 is no port number", "1 to 65535")),
    case(SERVICE, ("port: 80\n", "port: -80\n"), SERVICE_NAME, ("spec.ports[0].port", "-80 is no port number", "1 to 65535")),
    case(SERVICE, ("port: 80\n", "port: \"80\"\n"), SERVICE_NAME, ("spec.ports[0].port", "the string \"80\" does not fit", "without quotes")),
    case(SERVICE, ("port: 80\n", "port: 80.5\n"), SERVICE_NAME, ("spec.ports[0].port", "80.5 does not fit", "a whole number")),
    case(SERVICE, ("port: 81\n", "port: 80\n"), SERVICE_NAME, ("spec.ports[1].port", "port 80 stands twice", "each pair of port and protocol once")),
    case(SERVICE, ("name: admin", "name: http"), SERVICE_NAME, ("spec.ports[1].name", "two ports of the service are named \"http\"", "a name of its own")),
    case(SERVICE, ("  - name: admin\n    port", "  - port"), SERVICE_NAME, ("spec.ports[1].name", "it is missing, and the service has several ports", "give each port a name")),
    case(SERVICE, ("name: admin", "name: Admin"), SERVICE_NAME, ("spec.ports[1].name", "\"Admin\" is no port name", "lower-case")),
    case(SERVICE, ("targetPort: 9090", "targetPort: 15008"), SERVICE_NAME, ("spec.ports[1].targetPort", "port 15008 is one of the mesh's own", "on another port")),
    case(SERVICE, ("targetPort: 9090", "targetPort: 90900"), SERVICE_NAME, ("spec.ports[1].targetPort", "90900 is no port number", "1 to 65535")),
    case(SERVICE, ("targetPort: 9090", "targetPort: \"9090\""), SERVICE_NAME, ("spec.ports[1].targetPort", "neither a port number nor a port's name", "without quotes")),
    case(SERVICE, ("protocol: TCP", "protocol: tcp"), SERVICE_NAME, ("spec.ports[0].protocol", "\"tcp\" is no protocol", "write TCP or UDP")),
    case(SERVICE, ("type: ClusterIP", "type: Clusterip"), SERVICE_NAME, ("spec.type", "\"Clusterip\" is no type of service", "write ClusterIP")),
    case(SERVICE, ("- fd96::10", "- fd96::zz"), SERVICE_NAME, ("spec.clusterIPs[1]", "\"fd96::zz\" is no IP address", "fd00::1")),
    case(SERVICE, ("- fd96::10", "- 224.0.0.1"), SERVICE_NAME, ("spec.clusterIPs[1]", "a multicast address", "the unicast address")),
    case(SERVICE, ("- fd96::10", "- 10.96.0.11"), SERVICE_NAME, ("spec.clusterIPs[1]", "10.96.0.11 is of the family of 10.96.0.10", "one IPv4 and one IPv6")),
    case(SERVICE, ("- fd96::10", "- None"), SERVICE_NAME, ("spec.clusterIPs", "a headless service has no address beside None", "write None alone")),
    case(SERVICE, ("clusterIP: 10.96.0.10", "clusterIP: 10.96.0.99"), SERVICE_NAME, ("spec.clusterIP", "10.96.0.99 is not the first of clusterIPs", "the same address in both")),
    case(SERVICE, ("    app: web", "    app: {web: true}"), SERVICE_NAME, ("spec.selector.app", "a mapping does not fit", "write a string")),
    case(DB, ("  ports:\n  - name: sql\n    port: 5432\n", ""), "Service shop/db", ("spec.ports", "at least one port", "add a port")),
    case(SERVICE, ("type: ClusterIP", "sessionAffinity: ClientIp"), SERVICE_NAME, ("spec.sessionAffinity", "\"ClientIp\" is not one of its values", "write ClientIP or None")),
    case(SERVICE, ("type: ClusterIP", "sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}"), SERVICE_NAME, ("spec.sessionAffinityConfig.clientIP.timeoutSeconds", "0 is out of bounds", "from 1 to 86400")),
    case(SERVICE, ("type: ClusterIP", "sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}"), SERVICE_NAME, ("spec.sessionAffinityConfig.clientIP.timeoutSeconds", "86401 is out of bounds", "from 1 to 86400")),
    case(SERVICE, ("type: ClusterIP", "internalTrafficPolicy: local"), SERVICE_NAME, ("spec.internalTrafficPolicy", "\"local\" is not one of its values", "write Cluster or Local")),
    // TelemetryPolicies.
    case(TELEMETRY, ("  metrics: Enabled", "  metrics: On"), TELEMETRY_NAME, ("spec.metrics", "is not one of its values", "write Enabled or Disabled")),
    case(TELEMETRY, ("  tap: Disabled", "  taps: Disabled"), TELEMETRY_NAME, ("spec.taps", "there is no such field", "correct its spelling")),
    case(TELEMETRY, ("format: JSON", "format: Json"), TELEMETRY_NAME, ("spec.accessLogs.format", "\"Json\" is not one of its values", "write JSON or Text")),
    case(TELEMETRY, ("format: JSON", "format: Text"), TELEMETRY_NAME, ("spec.accessLogs.template", "it is missing", "{time} {method}")),
    case(TELEMETRY, ("format: JSON", "template: '{code}'"), TELEMETRY_NAME, ("spec.accessLogs.template", "a JSON line has fields", "write format: Text")),
    case(TELEMETRY, ("format: JSON\n    fields: [time, method, header.x-tenant]", "format: Text\n    template: '{code} {colour}'"), TELEMETRY_NAME, ("spec.accessLogs.template", "there is no field \"colour\"", "write one of time, source_workload")),
    case(TELEMETRY, ("format: JSON\n    fields: [time, method, header.x-tenant]", "format: Text\n    template: '{code'"), TELEMETRY_NAME, ("spec.accessLogs.template", "a { is not closed", "write fields as {method}")),
    case(TELEMETRY, ("method, header", "methods, header"), TELEMETRY_NAME, ("spec.accessLogs.fields[1]", "there is no field \"methods\"", "or header.NAME")),
    case(TELEMETRY, ("header.x-tenant", "header.cookie"), TELEMETRY_NAME, ("spec.accessLogs.fields[2]", "the header \"cookie\" holds secrets", "leave it out")),
    case(TELEMETRY, ("header.x-tenant", "header.X-Tenant"), TELEMETRY_NAME, ("spec.accessLogs.fields[2]", "no header's name in lower case", "in lower case")),
    case(TELEMETRY, ("header.x-tenant", "time"), TELEMETRY_NAME, ("spec.accessLogs.fields[2]", "time stands twice", "write each field once")),
    case(TELEMETRY, ("percent: 5", "percent: 101"), TELEMETRY_NAME, ("spec.accessLogs.sampling", "101 of 100 is no part", "from 0 to all")),
    case(TELEMETRY, ("percent: 5", "percent: 5\n      fraction: {numerator: 1}"), TELEMETRY_NAME, ("spec.accessLogs.sampling", "it sets both percent and fraction", "keep one")),
    case(TELEMETRY, ("denominator: 1000", "denominator: 0"), TELEMETRY_NAME, ("spec.tracing.sampling", "1 of 0 is no part", "above 0")),
    case(TELEMETRY, ("minStatus: 500", "minStatus: 5"), TELEMETRY_NAME, ("spec.accessLogs.only[0].minStatus", "5 is no status", "from 100 to 599")),
    case(TELEMETRY, ("minStatus: 500", "minStatus: 500\n      maxStatus: 499"), TELEMETRY_NAME, ("spec.accessLogs.only[0].maxStatus", "499 is below minStatus", "a higher one")),
    case(TELEMETRY, ("minStatus: 500", "faults: []"), TELEMETRY_NAME, ("spec.accessLogs.only[0].faults", "the list is empty", "name Client, Mesh or Upstream")),
    case(TELEMETRY, ("minStatus: 500", "faults: [Server]"), TELEMETRY_NAME, ("spec.accessLogs.only[0].faults[0]", "\"Server\" is not one of its values", "Upstream")),
    case(TELEMETRY, ("- minStatus: 500\n      slowerThan: 1s", "- {}"), TELEMETRY_NAME, ("spec.accessLogs.only[0]", "it says nothing of a request", "leave `only` out")),
    case(TELEMETRY, ("slowerThan: 1s", "slowerThan: '1'"), TELEMETRY_NAME, ("spec.accessLogs.only[0].slowerThan", "\"1\" is no span of time", "such as 30s")),
    case(TELEMETRY, ("service: db", "service: Db"), TELEMETRY_NAME, ("spec.tracing.collector.service", "\"Db\" is no service's name", "in lower case")),
    case(TELEMETRY, ("protocol: OTLPHTTP", "protocol: OTLP"), TELEMETRY_NAME, ("spec.tracing.collector.protocol", "\"OTLP\" is not one of its values", "Zipkin")),
    case(TELEMETRY, ("port: 5432\n  tap", "port: 0\n  tap"), TELEMETRY_NAME, ("spec.tracing.collector.port", "0 is no port number", "from 1 to 65535")),
    // EndpointSlices.
    case(SLICE, ("  labels:\n    kubernetes.io/service-name: db\n", ""), SLICE_NAME, ("metadata.labels.kubernetes.io/service-name", "it is missing", "add the label")),
    case(SLICE, ("addressType: IPv4", "addressType: FQDN"), SLICE_NAME, ("addressType", "the mesh dials addresses, not names", "write IPv4 or IPv6")),
    case(SLICE, ("addressType: IPv4", "addressType: ipv4"), SLICE_NAME, ("addressType", "\"ipv4\" is not one of its values", "write IPv4 or IPv6")),
    case(SLICE, ("addressType: IPv4", "addressType: IPv6"), SLICE_NAME, ("endpoints[0].addresses[0]", "192.0.2.1 is not of the slice's addressType IPv6", "a slice of its own")),
    case(SLICE, ("  - 192.0.2.1\n", "  - db.example\n"), SLICE_NAME, ("endpoints[0].addresses[0]", "\"db.example\" is no IP address", "write an IPv4 address")),
    case(SLICE, ("- addresses:\n  - 192.0.2.1\n", "- addresses: []\n"), SLICE_NAME, ("endpoints[0].addresses", "at least one address", "add its address")),
    case(SLICE, ("  - 192.0.2.1\n", "  - 169.254.169.254\n"), SLICE_NAME, ("endpoints[0].addresses[0]", "a link-local address", "the unicast address")),
    case(SLICE, ("  port: 5432\n", ""), SLICE_NAME, ("ports[0].port", "it is missing", "the port the application listens on")),
    case(SLICE, ("ready: true", "ready: \"true\""), SLICE_NAME, ("endpoints[0].conditions.ready", "the string \"true\" does not fit", "write true or false")),
    // AccessPolicies.
    case(ACCESS, ("  - from:", "  - form:"), ACCESS_NAME, ("spec.rules[0].form", "there is no such field", "correct its spelling")),
    case(ACCESS, ("    matchLabels:\n      app: web", "    matchExpressions: []"), ACCESS_NAME, ("spec.selector.matchExpressions", "there is no such field", "correct its spelling")),
    case(ACCESS, ("  action: Allow", "  action: allow"), ACCESS_NAME, ("spec.action", "\"allow\" is not one of its values", "write Allow or Deny")),
    case(ACCESS, ("  action: Allow", "  action: ALLOW"), ACCESS_NAME, ("spec.action", "\"ALLOW\" is not one of its values", "write Allow or Deny")),
    case(ACCESS, ("      - shop/web\n", "      - web\n"), ACCESS_NAME, ("spec.rules[0].from[0].identities[0]", "\"web\" is no identity", "write namespace/service-account")),
    case(ACCESS, ("      - shop/web\n", "      - \"\"\n"), ACCESS_NAME, ("spec.rules[0].from[0].identities[0]", "the identity is empty", "write namespace/service-account")),
    case(ACCESS, ("      - shop/web\n", "      - shop/*\n"), ACCESS_NAME, ("spec.rules[0].from[0].identities[0]", "has a wildcard", "or use namespaces")),
    case(ACCESS, ("      - shop/web\n", "      - cluster.local/ns/shop/sa/web\n"), ACCESS_NAME, ("spec.rules[0].from[0].identities[0]", "is no identity", "write namespace/service-account")),
    case(ACCESS, ("      - shop/web\n", "      - spiffe://other.mesh/ns/shop/sa/web\n"), ACCESS_NAME, ("spec.rules[0].from[0].identities[0]", "its trust domain is other.mesh, the mesh's is cluster.local", "of the mesh's trust domain")),
    case(ACCESS, ("      - shop/web\n", "      - spiffe://cluster.local/sa/web\n"), ACCESS_NAME, ("spec.rules[0].from[0].identities[0]", "the path is not /ns/", "write namespace/service-account")),
    case(ACCESS, ("    - identities:\n      - shop/web\n", "    - identities: []\n"), ACCESS_NAME, ("spec.rules[0].from[0].identities", "the list is empty", "name at least one")),
    case(ACCESS, ("    - identities:\n      - shop/web\n", "    - identities:\n"), ACCESS_NAME, ("spec.rules[0].from[0].identities", "it has no value", "or leave the field out")),
    case(ACCESS, ("    - identities:\n      - shop/web\n", "    - {}\n"), ACCESS_NAME, ("spec.rules[0].from[0]", "it says nothing of the caller", "set one of identities")),
    case(ACCESS, ("    - namespaces:\n", "      namespaces:\n"), ACCESS_NAME, ("spec.rules[0].from[0]", "more than one of identities", "write one item of `from` for each")),
    case(ACCESS, ("      - shop\n", "      - shop*\n"), ACCESS_NAME, ("spec.rules[0].from[1].namespaces[0]", "\"shop*\" is no namespace's name", "write it whole")),
    case(ACCESS, ("10.0.0.0/8", "10.0.0.0/33"), ACCESS_NAME, ("spec.rules[0].from[2].ipBlocks[0]", "\"10.0.0.0/33\" is no block of addresses", "10.0.0.0/8")),
    case(ACCESS, ("10.0.0.0/8", "10.0.0.1"), ACCESS_NAME, ("spec.rules[0].from[2].ipBlocks[0]", "\"10.0.0.1\" is no block of addresses", "write 10.0.0.1/32")),
    case(ACCESS, ("10.0.0.0/8", "10.1.2.3/8"), ACCESS_NAME, ("spec.rules[0].from[2].ipBlocks[0]", "bits set behind its prefix", "write 10.0.0.0/8")),
    case(ACCESS, ("10.0.0.0/8", "::ffff:10.0.0.0/104"), ACCESS_NAME, ("spec.rules[0].from[2].ipBlocks[0]", "is IPv4-mapped", "in IPv4 form")),
    case(ACCESS, ("      - 8080\n", "      - 80800\n"), ACCESS_NAME, ("spec.rules[0].to[0].ports[0]", "the integer 80800 does not fit", "1 to 65535")),
    case(ACCESS, ("      - 8080\n", "      - 0\n"), ACCESS_NAME, ("spec.rules[0].to[0].ports[0]", "0 is no port number", "1 to 65535")),
    case(ACCESS, ("      - 8080\n", "      - http\n"), ACCESS_NAME, ("spec.rules[0].to[0].ports[0]", "the string \"http\" does not fit", "1 to 65535")),
    case(ACCESS, ("      - 8080\n", "      - 15008\n"), ACCESS_NAME, ("spec.rules[0].to[0].ports[0]", "one of the mesh's own", "on another port")),
    case(ACCESS, ("    - ports:\n      - 8080\n", "    - ports: []\n"), ACCESS_NAME, ("spec.rules[0].to[0].ports", "it names no port", "leave `to` out")),
    case(ACCESS, ("    to:\n    - ports:\n      - 8080\n", "    to: []\n"), ACCESS_NAME, ("spec.rules[0].to", "the list is empty", "leave the field out")),
    case(ACCESS, ("    to:\n    - ports:\n      - 8080\n", "    to:\n"), ACCESS_NAME, ("spec.rules[0].to", "it has no value", "or leave the field out")),
    case(ACCESS, ("  action: Allow\n  rules:\n  - from:\n    - identities:\n      - shop/web\n    - namespaces:\n      - shop\n    - ipBlocks:\n      - 10.0.0.0/8\n    to:\n    - ports:\n      - 8080\n", "  action: Deny\n"), ACCESS_NAME, ("spec.rules", "a Deny without rules denies nothing", "add the rule {}")),
    case(ACCESS, ("  selector:\n    matchLabels:\n      app: web\n", "  targetRefs:\n  - kind: Service\n    name: web\n"), ACCESS_NAME, ("spec.targetRefs[0].kind", "can't be attached to a Service yet", "select the service's pods")),
    case(ACCESS, ("  selector:\n    matchLabels:\n      app: web\n", "  targetRefs:\n  - group: apps\n    kind: Deployment\n    name: web\n"), ACCESS_NAME, ("spec.targetRefs[0].kind", "\"Deployment\" of group \"apps\"", "write kind ServiceAccount")),
    case(ACCESS, ("  selector:\n", "  targetRefs:\n  - kind: ServiceAccount\n    name: web\n  selector:\n"), ACCESS_NAME, ("spec.targetRefs", "there is a selector too", "keep one of")),
    case(ACCESS, ("      app: web", "      app: -web-"), ACCESS_NAME, ("spec.selector.matchLabels.app", "\"-web-\" is no label value", "at most 63")),
    case(ACCESS, ("spec:\n", "specs:\n"), ACCESS_NAME, ("spec", "it is missing", "add the field spec")),
    // EncryptionPolicies.
    case(ENCRYPTION, ("  mode: Strict\n", ""), ENCRYPTION_NAME, ("spec.mode", "it is missing", "add the field mode")),
    case(ENCRYPTION, ("mode: Strict", "mode: STRICT"), ENCRYPTION_NAME, ("spec.mode", "\"STRICT\" is not one of its values", "write Strict")),
    case(ENCRYPTION, ("mode: Permissive", "mode: Disable"), ENCRYPTION_NAME, ("spec.ports[0].mode", "\"Disable\" is not one of its values", "Permissive")),
    case(ENCRYPTION, ("- port: 8080", "- port: 65536"), ENCRYPTION_NAME, ("spec.ports[0].port", "the integer 65536 does not fit", "1 to 65535")),
    case(ENCRYPTION, ("    mode: Permissive\n", "    mode: Permissive\n  - port: 8080\n    mode: Strict\n"), ENCRYPTION_NAME, ("spec.ports[1].port", "port 8080 stands twice", "each port once")),
    case(ENCRYPTION, ("  ports:\n  - port: 8080\n    mode: Permissive\n", "  portLevelMtls:\n    8080: {mode: DISABLE}\n"), ENCRYPTION_NAME, ("spec.portLevelMtls", "there is no such field", "correct its spelling")),
    // TrafficPolicies.
    case(TRAFFIC, ("  targetRefs:\n  - kind: Service\n    name: web\n", "  targetRefs: []\n"), TRAFFIC_NAME, ("spec.targetRefs", "it names no Service", "name at least one")),
    case(TRAFFIC, ("  targetRefs:\n  - kind: Service\n    name: web\n", ""), TRAFFIC_NAME, ("spec.targetRefs", "it is missing", "add the field targetRefs")),
    case(TRAFFIC, ("kind: Service\n", "kind: Deployment\n    group: apps\n"), TRAFFIC_NAME, ("spec.targetRefs[0].kind", "\"Deployment\" of group \"apps\"", "write kind Service")),
    case(TRAFFIC, ("    name: web\n", "    name: shop/web\n"), TRAFFIC_NAME, ("spec.targetRefs[0].name", "\"shop/web\" is no Service's name", "the name alone")),
    case(TRAFFIC, ("consecutiveFailures: 3", "consecutiveFailures: 0"), TRAFFIC_NAME, ("spec.outlierEjection.consecutiveFailures", "0 is out of bounds", "or mode: Disabled")),
    case(TRAFFIC, ("consecutiveFailures: 3", "consecutive5xx: 3"), TRAFFIC_NAME, ("spec.outlierEjection.consecutive5xx", "there is no such field", "correct its spelling")),
    case(TRAFFIC, ("interval: 10s", "interval: 10"), TRAFFIC_NAME, ("spec.outlierEjection.interval", "the integer 10 does not fit", "write a string")),
    case(TRAFFIC, ("interval: 10s", "interval: 10 seconds"), TRAFFIC_NAME, ("spec.outlierEjection.interval", "\"10 seconds\" is no span of time", "such as 30s")),
    case(TRAFFIC, ("interval: 10s", "interval: 10ms"), TRAFFIC_NAME, ("spec.outlierEjection.interval", "10ms is out of bounds", "from 1s to 3600s")),
    case(TRAFFIC, ("baseEjectionTime: 1m30s", "baseEjectionTime: 25h"), TRAFFIC_NAME, ("spec.outlierEjection.baseEjectionTime", "25h is out of bounds", "from 1s to 86400s")),
    case(TRAFFIC, ("maxEjectionTime: 5m", "maxEjectionTime: 5s"), TRAFFIC_NAME, ("spec.outlierEjection.maxEjectionTime", "shorter than baseEjectionTime", "at least as long")),
    case(TRAFFIC, ("maxEjectedPercent: 40", "maxEjectedPercent: 101"), TRAFFIC_NAME, ("spec.outlierEjection.maxEjectedPercent", "101 is out of bounds", "from 0 to 100")),
    case(TRAFFIC, ("    maxEjectedPercent: 40\n", "    maxEjectedPercent: 40\n    mode: Sometimes\n"), TRAFFIC_NAME, ("spec.outlierEjection.mode", "\"Sometimes\" is not one of its values", "write Enabled or Disabled")),
    case(TRAFFIC, ("  outlierEjection:\n", "  timeouts: {connect: 1s}\n  outlierEjection:\n"), TRAFFIC_NAME, ("spec.timeouts", "there is no such field", "or leave it out")),
    case(TRAFFIC, ("  outlierEjection:\n", "  outlierEjections:\n"), TRAFFIC_NAME, ("spec.outlierEjection", "it is missing", "add the field outlierEjection")),
    // NodeProfiles.
    case(PROFILE, ("  nodeSelector:\n", "  selector:\n"), PROFILE_NAME, ("spec.selector", "there is no such field", "correct its spelling")),
    case(PROFILE, ("zone: z1", "zone: -z1"), PROFILE_NAME, ("spec.nodeSelector.matchLabels.topology.kubernetes.io/zone", "\"-z1\" is no label value", "at most 63")),
    case(PROFILE, ("key: pool", "key: pool!"), PROFILE_NAME, ("spec.nodeSelector.matchExpressions[0].key.pool!", "\"pool!\" is no label name", "at most 63")),
    case(PROFILE, ("operator: NotIn", "operator: Not"), PROFILE_NAME, ("spec.nodeSelector.matchExpressions[0].operator", "\"Not\" is not one of its values", "NotIn")),
    case(PROFILE, ("operator: NotIn", "operator: Exists"), PROFILE_NAME, ("spec.nodeSelector.matchExpressions[0].values", "compare with no values", "leave values out")),
    case(PROFILE, ("      values: [batch]\n", ""), PROFILE_NAME, ("spec.nodeSelector.matchExpressions[0].values", "there are none", "name at least one")),
    case(PROFILE, ("workers: 2", "workers: 0"), PROFILE_NAME, ("spec.proxy.workers", "0 is out of bounds", "from 1 to 256")),
    case(PROFILE, ("workers: 2", "workers: 257"), PROFILE_NAME, ("spec.proxy.workers", "257 is out of bounds", "from 1 to 256")),
    case(PROFILE, ("workers: 2", "workers: auto"), PROFILE_NAME, ("spec.proxy.workers", "the string \"auto\" does not fit", "a whole number")),
    case(PROFILE, ("cpus: 0-1", "cpus: 1-0"), PROFILE_NAME, ("spec.proxy.cpus", "\"1-0\" is no processor and no range", "such as 0-3,8")),
    case(PROFILE, ("cpus: 0-1", "cpus: all"), PROFILE_NAME, ("spec.proxy.cpus", "\"all\" is no processor", "such as 0-3,8")),
    case(PROFILE, ("streamWindowBytes: 2097152", "streamWindowBytes: 1024"), PROFILE_NAME, ("spec.proxy.http2.streamWindowBytes", "1024 is out of bounds", "from 65535 to 2147483647")),
    case(PROFILE, ("streamWindowBytes: 2097152", "streamWindowBytes: 3000000000"), PROFILE_NAME, ("spec.proxy.http2.streamWindowBytes", "3000000000 is out of bounds", "to 2147483647")),
    case(PROFILE, ("connectionWindowBytes: 536870912", "connectionWindowBytes: 1048576"), PROFILE_NAME, ("spec.proxy.http2.connectionWindowBytes", "less than one stream's window of 2097152", "at least streamWindowBytes")),
    case(PROFILE, ("frameBytes: 1048576", "frameBytes: 16777216"), PROFILE_NAME, ("spec.proxy.http2.frameBytes", "16777216 is out of bounds", "from 16384 to 16777215")),
    case(PROFILE, ("sendBufferBytes: 1048576", "sendBufferBytes: 1M"), PROFILE_NAME, ("spec.proxy.sendBufferBytes", "the string \"1M\" does not fit", "a whole number")),
    case(PROFILE, ("congestionControl: cubic", "congestionControl: CUBIC"), PROFILE_NAME, ("spec.proxy.congestionControl", "\"CUBIC\" is no congestion control's name", "such as bbr, cubic or dctcp")),
    case(PROFILE, ("initialWindowSegments: 20", "initialWindowSegments: 5000"), PROFILE_NAME, ("spec.pods.initialWindowSegments", "5000 is out of bounds", "from 1 to 1000")),
    case(PROFILE, ("DESTS: 262144", "DEST: 262144"), PROFILE_NAME, ("spec.maps.DEST", "\"DEST\" is no kernel map", "PODS, DESTS")),
    case(PROFILE, ("DESTS: 262144", "DESTS: 1"), PROFILE_NAME, ("spec.maps.DESTS", "1 is out of bounds", "from 64 to 16777216")),
    case(PROFILE, ("maxConnections: 5000", "maxConnections: 0"), PROFILE_NAME, ("spec.workloadLimits.maxConnections", "0 is out of bounds", "from 1")),
    case(PROFILE, ("cpu: 250m", "cpu: 5m"), PROFILE_NAME, ("spec.workloadLimits.cpu", "\"5m\" is no processor time", "from 10m to 256")),
    case(PROFILE, ("cpu: 250m", "cpu: 257"), PROFILE_NAME, ("spec.workloadLimits.cpu", "\"257\" is no processor time", "from 10m to 256")),
    case(PROFILE, ("cpu: 250m", "cpu: 0.5"), PROFILE_NAME, ("spec.workloadLimits.cpu", "does not fit", "a string in quotes")),
    case(PROFILE, ("cpu: 250m", "cpu: a quarter"), PROFILE_NAME, ("spec.workloadLimits.cpu", "\"a quarter\" is no processor time", "such as 250m")),
    case(PROFILE, ("sockmap: false", "sockmap: true"), PROFILE_NAME, ("spec.acceleration.sockmap", "it is not built", "write false")),
];

fn settings() -> Settings {
    Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() }
}

fn settle(shelf: &Shelf, documents: &[String]) -> (Shelf, Sourced) {
    let file: Arc<str> = "shop.yaml".into();
    let reading = manifest::read(&file, documents.join("---").as_bytes(), &settings());
    shelf.settle(&BTreeMap::from([(file, Arc::new(reading))]))
}

fn good() -> Vec<String> {
    GOOD.map(ToOwned::to_owned).to_vec()
}

#[test]
fn the_good_manifests_are_good() {
    let (_, sourced) = settle(&Shelf::default(), &good());
    assert_eq!(sourced.diagnostics, []);
    assert_eq!(sourced.places.len(), GOOD.len());
    assert!(CASES.len() >= 60, "there are {} cases", CASES.len());
}

/// The objects without the one at `index`.
fn without(index: usize) -> Objects {
    let mut documents = good();
    documents.remove(index);
    settle(&Shelf::default(), &documents).1.objects
}

fn check(n: usize, case: &Case) -> Result<(), String> {
    let Case { good: manifest, from, to, object, field, problem, mend } = case;
    let mut documents = good();
    let (index, document) =
        documents.iter_mut().enumerate().find(|(_, good)| good == manifest).ok_or("no such manifest")?;
    if !manifest.contains(from) {
        return Err(format!("case {n}: {from:?} is not in the manifest"));
    }
    *document = manifest.replacen(from, to, 1);
    let place = format!("shop.yaml document {} (line ", index + 1);
    let says = |diagnostic: &&Diagnostic, effect: Effect| {
        let message = diagnostic.to_string();
        diagnostic.effect == effect
            && diagnostic.field == *field
            && message.starts_with(&place)
            && [object, problem, mend].iter().all(|part| message.contains(*part))
    };
    let look = |sourced: &Sourced, effect: Effect| {
        if sourced.diagnostics.iter().any(|d| says(&d, effect)) {
            return Ok(());
        }
        let told: Vec<String> = sourced.diagnostics.iter().map(|d| format!("[{}] {d}", d.field)).collect();
        Err(format!(
            "case {n}, {effect:?}: wanted {place}..): {object}: {field}: {problem}; {mend}\n   but told {told:#?}"
        ))
    };

    let (first, mut fresh) = settle(&Shelf::default(), &documents);
    // It is stood in for by one that lets nothing through, which is no version of it to keep.
    let effect = if *object == NETWORK_NAME { Effect::Closed } else { Effect::Refused };
    look(&fresh, effect)?;
    look(&settle(&first, &documents).1, effect)?;
    if *object == NETWORK_NAME {
        let instead = fresh.objects.network.remove(&ObjectName::new("shop", "inward")).ok_or("it is open")?;
        if instead.ingress != Some(Vec::new()) {
            return Err(format!("case {n}: {object}: it lets calls through: {instead:?}"));
        }
    }
    if fresh.objects != without(index) {
        return Err(format!("case {n}: {object}: the objects beside it are disturbed, or it is in force"));
    }
    let (shelf, before) = settle(&Shelf::default(), &good());
    let (shelf, after) = settle(&shelf, &documents);
    look(&after, Effect::Kept)?;
    if after.objects != before.objects {
        return Err(format!("case {n}: {object}: the version before does not stay, or those beside it are disturbed"));
    }
    let (_, mended) = settle(&shelf, &good());
    if !mended.diagnostics.is_empty() || mended.objects != before.objects {
        return Err(format!("case {n}: {object}: once mended, something remains"));
    }
    Ok(())
}

#[test]
fn every_bad_manifest_is_told_of_and_harms_nothing_else() {
    let failures: Vec<String> = CASES.iter().enumerate().filter_map(|(n, case)| check(n, case).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), CASES.len(), failures.join("\n"));
}

/// Each would fill a table that all share, on every node.
#[test]
fn one_object_can_not_be_larger_than_its_part_of_the_nodes_tables() {
    let list = |n: usize, item: &dyn Fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(", ");
    let service = |n| {
        let ports = list(n, &|i| format!("{{name: p{i}, port: {}}}", i + 20_000));
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{clusterIP: 10.96.9.9, ports: [{ports}]}}}}"
        )
    };
    let slice = |n, ports| {
        let endpoints = list(n, &|i| format!("{{addresses: [10.9.{}.{}]}}", i / 250, i % 250 + 1));
        let ports = list(ports, &|i| format!("{{name: p{i}, port: {}}}", i + 20_000));
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e, labels: {{kubernetes.io/service-name: s}}}}, \
             addressType: IPv4, endpoints: [{endpoints}], ports: [{ports}]}}"
        )
    };
    let access = |n| {
        let ports = list(n, &|i| (i + 20_000).to_string());
        format!(
            "{{apiVersion: millrace.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: a}}, spec: {{rules: [{{to: [{{ports: [{ports}]}}]}}]}}}}"
        )
    };
    let encryption = |n| {
        let ports = list(n, &|i| format!("{{port: {}, mode: Strict}}", i + 20_000));
        format!(
            "{{apiVersion: millrace.dev/v1alpha1, kind: EncryptionPolicy, metadata: {{name: e}}, spec: {{mode: Strict, ports: [{ports}]}}}}"
        )
    };
    // Over all of a policy's rules.
    let callers = |n: usize| {
        let rules = list(n / 100, &|r| {
            let callers = list(100 + usize::from(r == 0) * (n % 100), &|i| format!("shop/c{r}-{i}"));
            format!("{{from: [{{identities: [{callers}]}}]}}")
        });
        format!(
            "{{apiVersion: millrace.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: a}}, spec: {{rules: [{rules}]}}}}"
        )
    };
    for (fits, too_large) in [
        (callers(1_000), callers(1_001)),
        (service(250), service(251)),
        (slice(1_000, 100), slice(1_001, 100)),
        (slice(1_000, 100), slice(1_000, 101)),
        (access(100), access(101)),
        (encryption(100), encryption(101)),
    ] {
        let refused = |document: &str| {
            let (_, sourced) = settle(&Shelf::default(), &[document.to_owned()]);
            sourced.diagnostics.iter().any(|d| d.effect == Effect::Refused && d.mend.contains("at most"))
        };
        assert!(!refused(&fits), "{}", fits.get(..120).unwrap_or_default());
        assert!(refused(&too_large), "{}", too_large.get(..120).unwrap_or_default());
    }
}

#[test]
fn an_object_that_is_taken_out_is_gone_and_one_renamed_is_another() {
    let (shelf, _) = settle(&Shelf::default(), &good());
    let mut documents = good();
    documents.remove(7);
    let (_, sourced) = settle(&shelf, &documents);
    assert_eq!(sourced.objects, without(7));
    assert_eq!(sourced.diagnostics, []);
    documents.push(ACCESS.replace("only-web", "renamed"));
    let (_, sourced) = settle(&shelf, &documents);
    assert_eq!(sourced.objects.access.keys().map(ToString::to_string).collect::<Vec<_>>(), ["shop/renamed"]);
}

/// A text that can't be read may be the Deny that somebody is just editing: nothing of that file goes, meanwhile.
#[test]
fn while_a_document_can_not_be_read_nothing_that_it_may_be_is_taken_away() {
    let (shelf, before) = settle(&Shelf::default(), &good());
    let mut documents = good();
    documents[7] = "\nkind: AccessPolicy\nmetadata: {name: only-\n".to_owned();
    documents.remove(8);
    let (shelf, sourced) = settle(&shelf, &documents);
    assert_eq!(sourced.objects, before.objects);
    // Only what has that kind can be meant by one whose name alone is unreadable.
    documents[7] = ACCESS.replace("name: only-web", "name: Only_Web");
    let (_, sourced) = settle(&shelf, &documents);
    assert_eq!((sourced.objects.access.len(), sourced.objects.encryption.len()), (1, 0));
}

#[test]
fn of_two_with_one_name_the_first_holds_by_file_then_by_position() {
    let read = |file: &str, text: &str| {
        let file: Arc<str> = file.into();
        (file.clone(), Arc::new(manifest::read(&file, text.as_bytes(), &settings())))
    };
    let allow = ACCESS.to_owned();
    let deny = ACCESS.replace("action: Allow", "action: Deny");
    let files = BTreeMap::from([read("b.yaml", &deny), read("a.yaml", &format!("{allow}---{deny}"))]);
    let (_, sourced) = Shelf::default().settle(&files);
    let policy = sourced.objects.access.values().next().unwrap();
    assert_eq!(policy.action, millrace_model::Action::Allow);
    let told: Vec<String> = sourced.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("a.yaml document 2 (line "), "{told:?}");
    assert!(told[1].starts_with("b.yaml document 1 (line "), "{told:?}");
    assert!(
        told.iter().all(|t| t.contains("the object stands in a.yaml document 1 (line 2) already, which holds")),
        "{told:?}"
    );
}

#[test]
fn a_list_is_its_items() {
    let items: String = ["ServiceAccount", "Gadget"]
        .map(|kind| format!("- apiVersion: v1\n  kind: {kind}\n  metadata: {{name: x, namespace: shop}}\n"))
        .concat();
    let documents = vec![format!("\napiVersion: v1\nkind: List\nitems:\n{items}")];
    let (_, sourced) = settle(&Shelf::default(), &documents);
    assert_eq!(sourced.objects.service_accounts.len(), 1);
    assert_eq!(sourced.diagnostics.len(), 1);
    assert_eq!(sourced.diagnostics[0].field, "items[1].kind");
}

/// Kubernetes' own kinds may be newer than this program; its own kinds are not.
#[test]
fn an_unknown_field_of_a_kubernetes_kind_is_told_and_the_object_is_in_force() {
    let documents = vec![SERVICE.replace("type: ClusterIP", "type: ClusterIP\n  trafficColour: blue")];
    let (_, sourced) = settle(&Shelf::default(), &documents);
    assert_eq!(sourced.objects.services.len(), 1);
    let [told] = sourced.diagnostics.as_slice() else { panic!("{:?}", sourced.diagnostics) };
    assert_eq!((told.field.as_str(), told.effect), ("spec.trafficColour", Effect::Applied));
}

#[test]
fn a_preference_that_is_not_known_is_told_and_the_service_is_in_force() {
    for (more, field) in [
        ("  trafficDistribution: PreferFar", "spec.trafficDistribution: \"PreferFar\" is not a preference"),
        (
            "  sessionAffinityConfig: {clientIP: {timeoutSeconds: 9}}",
            "spec.sessionAffinityConfig: sessionAffinity is None",
        ),
    ] {
        let mut documents = good();
        documents[4] = format!("{}{more}\n", documents[4].trim_end_matches("\n").to_owned() + "\n");
        let (_, sourced) = settle(&Shelf::default(), &documents);
        let told: Vec<String> = sourced.diagnostics.iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains(field) && told[0].ends_with("is in force."), "{told:?}");
        assert_eq!(sourced.objects.services.len(), 3);
    }
}

#[test]
fn files_that_are_no_text_or_too_large_are_told_and_take_nothing_away() {
    let file: Arc<str> = "shop.yaml".into();
    let (shelf, before) = settle(&Shelf::default(), &good());
    let large = vec![b'#'; 9 << 20];
    for (bytes, wanted) in [(&b"a: \xff\n"[..], "line 1 is not UTF-8"), (&large, "it is larger than 8 MiB")] {
        let reading = manifest::read(&file, bytes, &settings());
        let (_, sourced) = shelf.settle(&BTreeMap::from([(file.clone(), Arc::new(reading))]));
        assert_eq!(sourced.objects, before.objects);
        let told = sourced.diagnostics[0].to_string();
        assert!(told.starts_with("shop.yaml: the file as a whole: ") && told.contains(wanted), "{told}");
    }
}

proptest! {
    /// Bytes come from anybody: whatever is broken, something is read of the rest and nothing panics.
    #[test]
    fn no_edit_makes_the_reader_panic(
        at in any::<prop::sample::Index>(),
        n_gone in 0..40usize,
        new in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"{}[]:-*&!|>'\"#%@` \n\t,0"[..])], 0..12),
    ) {
        let mut bytes = good().join("---").into_bytes();
        let from = at.index(bytes.len());
        let to = (from + n_gone).min(bytes.len());
        bytes.splice(from..to, new);
        let file: Arc<str> = "shop.yaml".into();
        let reading = manifest::read(&file, &bytes, &settings());
        let (shelf, before) = settle(&Shelf::default(), &good());
        let (_, sourced) = shelf.settle(&BTreeMap::from([(file, Arc::new(reading))]));
        // An edit within one document can rename or hide that object, and split or join it with its neighbours; no more.
        prop_assert!(sourced.places.len() + 3 >= before.places.len());
        for diagnostic in &sourced.diagnostics {
            prop_assert!(!diagnostic.problem.is_empty() && !diagnostic.mend.is_empty());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(manifest::read(&"x.yaml".into(), &bytes, &settings()));
    }
}

/// An object without a namespace is of the namespace "default", as kubectl has it.
#[test]
fn a_namespace_left_out_is_default() {
    let (_, sourced) = settle(&Shelf::default(), &[ACCOUNT.replace("  namespace: shop\n", "")]);
    assert_eq!(sourced.objects.service_accounts.keys().next().unwrap().to_string(), "default/web");
}
