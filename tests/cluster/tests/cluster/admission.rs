//! Wrong policies by kubectl: each is refused with its field and its mend, or told on its status; good ones are not disturbed.

use millrace_control::config::Source;
use millrace_model::ObjectName;
use serde_json::{Value, json};

use crate::{
    mesh::{Mesh, PATIENCE, kubernetes},
    server::{Server, Writer, server},
    world::{access, pod},
};

/// A control plane with a webhook, and its registration, which knows its certificate when this returns.
async fn with_webhook(server: &Server, root: &str) -> Mesh {
    let Source::Kubernetes { kubeconfig, namespaces, .. } = kubernetes(server.kubeconfig(), &[root]) else {
        unreachable!("it is one")
    };
    let source = Source::Kubernetes { kubeconfig, namespaces, webhook: Some("127.0.0.1:0".parse().unwrap()) };
    // The registration is there first, as the manifests are: the control plane puts its certificate in.
    let register = |url: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "millrace-control"},
            "webhooks": [{
                "name": "policies.millrace.dev", "failurePolicy": "Fail", "sideEffects": "None",
                "admissionReviewVersions": ["v1"], "timeoutSeconds": 5, "clientConfig": {"url": url},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": root}},
                "rules": [{"apiGroups": ["millrace.dev"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
                    "resources": ["*"]}],
            }, {
                "name": "routes.millrace.dev", "failurePolicy": "Ignore", "sideEffects": "None",
                "admissionReviewVersions": ["v1"], "timeoutSeconds": 5, "clientConfig": {"url": url},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": root}},
                "matchConditions": conditions(),
                "rules": [{"apiGroups": ["gateway.networking.k8s.io"], "apiVersions": ["*"],
                    "operations": ["CREATE", "UPDATE"], "resources": ["httproutes", "grpcroutes"]}],
            }],
        })
        .to_string()
    };
    let mesh = Mesh::rooted(source, root).await;
    server.apply(&register(&format!("https://{}/validate", mesh.control.webhook.unwrap())));
    let began = millrace_control::clock::now();
    loop {
        let said = server.kubectl(
            &[
                "get",
                "validatingwebhookconfiguration",
                "millrace-control",
                "-o",
                "jsonpath={.webhooks[1].clientConfig.caBundle}",
            ],
            "",
        );
        if !said.stdout.is_empty() {
            return mesh;
        }
        assert!(began.elapsed() < PATIENCE, "the registration never got the webhook's certificate");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// Of which routes the manifest has the API server ask.
fn conditions() -> Value {
    let text = include_str!("../../../../deploy/control/webhook.yaml");
    let registration: Value = serde_yaml_ng::from_str(text.split("\n---\n").nth(1).unwrap()).unwrap();
    registration["webhooks"][1]["matchConditions"].clone()
}

/// A route whose second rule no proxy could follow, which the API server's own schema lets pass.
fn wrong_route(shop: &str, name: &str, parents: &Value) -> String {
    let wrong = json!([{"path": {"type": "RegularExpression", "value": "/("}}]);
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": shop}, "spec": {"parentRefs": parents, "rules": [{}, {"matches": wrong}]}})
    .to_string()
}

#[expect(clippy::too_many_lines, reason = "a list")]
/// Wrong specs, each with what its refusal must say of the field.
fn wrong() -> Vec<(&'static str, Value, &'static str)> {
    let mut all = Vec::new();
    let mut access = |spec: Value, field: &'static str| all.push(("AccessPolicy", spec, field));
    let rule = |source: Value| json!({"rules": [{"from": [source]}]});
    for action in ["deny", "ALLOW", "Maybe", "Audit", ""] {
        access(json!({"action": action}), "spec.action");
    }
    for block in [
        "10.0.0.0/33",
        "10.0.0.0/",
        "fd00::/129",
        "10.0.0",
        "everybody",
        "*",
        "10.0.0.1-10.0.0.9",
        "::ffff:10.0.0.0/104",
    ] {
        access(rule(json!({"ipBlocks": [block]})), "spec.rules[0].from[0].ipBlocks[0]");
    }
    for identity in [
        "",
        "web",
        "shop/",
        "/web",
        "shop/*",
        "*/*",
        "SHOP/web",
        "spiffe://",
        "spiffe://cluster.local",
        "spiffe://other/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop",
        "spiffe://cluster.local/ns//sa/web",
        "https://cluster.local/ns/shop/sa/web",
        "shop/web/more",
        "a b/c",
        "shop//web",
        "shop/we b",
        "shop/web_1",
        "Shop/web",
        "spiffe://cluster.local/sa/web",
    ] {
        access(rule(json!({"identities": [identity]})), "spec.rules[0].from[0].identities[0]");
    }
    for namespace in [
        "UPPER",
        "has space",
        "*",
        "dots.in.it",
        "-begins",
        "ends-",
        "slash/ed",
        "a_b",
        "\u{fc}ber",
        "a b",
        "tab\tbed",
        "",
    ] {
        access(rule(json!({"namespaces": [namespace]})), "spec.rules[0].from[0].namespaces[0]");
    }
    for port in [json!(0), json!(65_536), json!(-1), json!("http"), json!(80.5), json!("80"), json!(100_000)] {
        access(json!({"rules": [{"to": [{"ports": [port]}]}]}), "spec.rules[0].to[0].ports[0]");
    }
    for port in [15_008, 15_801, 15_806] {
        access(json!({"rules": [{"to": [{"ports": [port]}]}]}), "spec.rules[0].to[0].ports[0]");
    }
    access(json!({"rules": [{"from": []}]}), "spec.rules[0].from");
    access(json!({"rules": [{"to": []}]}), "spec.rules[0].to");
    access(json!({"rules": [{"to": [{}]}]}), "spec.rules[0].to[0].ports");
    access(json!({"rules": [{"to": [{"ports": []}]}]}), "spec.rules[0].to[0].ports");
    access(json!({"rules": [{"from": [{}]}]}), "spec.rules[0].from[0]");
    access(json!({"rules": [{"from": [{"namespaces": ["a"], "ipBlocks": ["10.0.0.0/8"]}]}]}), "spec.rules[0].from[0]");
    access(json!({"rules": [{"from": [{"namespaces": []}]}]}), "spec.rules[0].from[0].namespaces");
    access(json!({"rules": [{"from": [{"namespaces": "a"}]}]}), "spec.rules[0].from[0].namespaces");
    access(json!({"rules": {"from": []}}), "spec.rules");
    access(json!({"rules": "all"}), "spec.rules");
    access(json!({"rules": [3]}), "spec.rules[0]");
    access(json!({"action": "Deny"}), "spec.rules");
    access(json!({"action": "Deny", "rules": []}), "spec.rules");
    access(
        json!({"selector": {"matchLabels": {"a": "b"}}, "targetRefs": [{"kind": "ServiceAccount", "name": "web"}]}),
        "spec.targetRefs",
    );
    access(json!({"selector": {"matchLabels": {"-bad": "b"}}}), "spec.selector.matchLabels");
    access(json!({"selector": {"matchLabels": {"a": "b c"}}}), "spec.selector.matchLabels");
    access(json!({"selector": {"matchLabels": {"a": 3}}}), "spec.selector.matchLabels");
    access(json!({"selector": {"matchLabels": ["a"]}}), "spec.selector.matchLabels");
    access(json!({"selector": "app=web"}), "spec.selector");
    for (group, kind) in [
        ("", "Service"),
        ("apps", "Deployment"),
        ("", "Pod"),
        ("millrace.dev", "AccessPolicy"),
        ("x", "ServiceAccount"),
    ] {
        access(json!({"targetRefs": [{"group": group, "kind": kind, "name": "web"}]}), "spec.targetRefs[0]");
    }
    access(json!({"targetRefs": [{"kind": "ServiceAccount", "name": "Not A Name"}]}), "spec.targetRefs[0].name");
    access(json!({"targetRefs": [{"kind": "ServiceAccount"}]}), "spec.targetRefs[0].name");
    access(json!({"targetRefs": [{"name": "web"}]}), "spec.targetRefs[0].kind");
    let many: Vec<u16> = (1000..1101).collect();
    access(json!({"rules": [{"to": [{"ports": many}]}]}), "spec.rules");
    let namespaces: Vec<String> = (0..1001).map(|n| format!("n{n}")).collect();
    access(rule(json!({"namespaces": namespaces})), "spec.rules");
    access(json!({"rules": vec![json!({}); 1001]}), "spec.rules");
    let mut encryption = |spec: Value, field: &'static str| all.push(("EncryptionPolicy", spec, field));
    for mode in ["strict", "STRICT", "Off", "Disable", "Mutual", "Plain", ""] {
        encryption(json!({"mode": mode}), "spec.mode");
    }
    encryption(json!({}), "spec.mode");
    encryption(json!({"mode": 3}), "spec.mode");
    for port in [json!(0), json!(70_000), json!("http"), json!(15_008)] {
        encryption(json!({"mode": "Strict", "ports": [{"port": port, "mode": "Permissive"}]}), "spec.ports[0].port");
    }
    encryption(json!({"mode": "Strict", "ports": [{"port": 80}]}), "spec.ports[0].mode");
    encryption(json!({"mode": "Strict", "ports": [{"mode": "Strict"}]}), "spec.ports[0].port");
    encryption(json!({"mode": "Strict", "ports": [{"port": 80, "mode": "Off"}]}), "spec.ports[0].mode");
    let twice = json!([{"port": 80, "mode": "Strict"}, {"port": 80, "mode": "Permissive"}]);
    encryption(json!({"mode": "Strict", "ports": twice}), "spec.ports[1].port");
    encryption(json!({"mode": "Strict", "ports": 80}), "spec.ports");
    encryption(
        json!({"mode": "Strict", "selector": {"matchLabels": {"a": "b"}}, "targetRefs": [{"kind": "ServiceAccount", "name": "web"}]}),
        "spec.targetRefs",
    );
    encryption(json!({"mode": "Strict", "targetRefs": [{"kind": "Service", "name": "web"}]}), "spec.targetRefs[0]");
    encryption(json!({"mode": "Strict", "selector": {"matchLabels": {"a": "b c"}}}), "spec.selector.matchLabels");
    // Unknown fields: kubectl's own validation stops them, or the API server drops them with a warning.
    all.push(("AccessPolicy", json!({"rule": [{}]}), "spec.rule"));
    all.push(("AccessPolicy", json!({"rules": [{"form": []}]}), "spec.rules[0].form"));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_policies_are_refused_with_field_and_mend_and_good_ones_are_not_disturbed() {
    let server = server();
    let shop = server.namespace("wrong");
    let writer = Writer { client: server.client().await };
    writer.create(&pod(&shop, "web-1", "web", ("a", "10.5.0.1"))).await;
    let mut mesh = with_webhook(server, &shop).await;
    writer.create(&access(&shop, "good", "web", "Allow")).await;
    let good = ObjectName::new(&shop, "good");
    mesh.until("the good one is in force", |snapshot| snapshot.policies.contains_key(&good)).await;
    let generation = mesh.generation();
    let wrong = wrong();
    assert!(wrong.len() >= 100, "{}", wrong.len());
    let mut taken = Vec::new();
    // In one go, as kubectl goes on after a refusal: a hundred processes would take a minute.
    let manifests: Vec<String> = wrong
        .iter()
        .enumerate()
        .map(|(index, (kind, spec, _))| {
            json!({"apiVersion": "millrace.dev/v1alpha1", "kind": kind,
                "metadata": {"name": format!("wrong-{index:03}"), "namespace": shop}, "spec": spec})
            .to_string()
        })
        .collect();
    // Documents, not a List: kubectl itself would judge a List whole, and send nothing of it.
    let said = server.kubectl(&["create", "-f", "-", "--validate=strict"], &manifests.join("\n---\n"));
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    let stands = server.kubectl(&["get", "accesspolicies,encryptionpolicies", "-n", &shop, "-o", "name"], "");
    let stands = String::from_utf8_lossy(&stands.stdout).into_owned();
    assert!(!stands.contains("wrong-"), "taken, though wrong: {stands}\n{text}");
    // One refusal for each, in order: a webhook's does not name the object.
    let refusals: Vec<&str> = text.split("Error from server").skip(1).collect();
    assert_eq!(refusals.len(), wrong.len(), "{text}");
    for ((kind, spec, field), refusal) in wrong.iter().zip(refusals) {
        // What the schema refuses it names in the API server's words, which put an index elsewhere.
        let head = field.split('[').next().unwrap();
        if !refusal.contains(head) {
            taken.push(format!("{kind} {spec}: {field} is not in {refusal}"));
        }
    }
    assert!(taken.is_empty(), "refused without the field:\n{}", taken.join("\n"));
    // Those that only the webhook can refuse come with the very sentence of the source.
    for sentence in [
        "port 15008 is one of the mesh's own inside every pod; let the application listen on another port than 15008, 15801 and 15806",
        "\"shop/*\" has a wildcard, and an identity is matched whole; name each identity, or use namespaces",
        "a Deny without rules denies nothing; add the rule {} to deny every call, or say which",
    ] {
        let unescaped = text.replace("\\\"", "\"");
        assert!(unescaped.contains(sentence), "{sentence}\n{text}");
    }
    assert_eq!(mesh.generation(), generation, "the good policy was disturbed");

    // A route is the mesh's to refuse where all its parents are services; beside a gateway it is told; without a service nobody asks.
    let service = json!({"group": "", "kind": "Service", "name": "web"});
    let gateway = json!({"name": "front"});
    let said = server.kubectl(&["create", "-f", "-"], &wrong_route(&shop, "ours", &json!([service])));
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && text.contains("spec.rules[1].matches[0].path.value: "), "{text}");
    let said = server.kubectl(&["create", "-f", "-"], &wrong_route(&shop, "shared", &json!([service, gateway])));
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success() && text.contains("Warning: spec.rules[1].matches[0].path.value: "), "{text}");
    let said = server.kubectl(&["create", "-f", "-"], &wrong_route(&shop, "theirs", &json!([gateway])));
    assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    mesh.stop().await;
    let said = server.kubectl(&["delete", "validatingwebhookconfiguration", "millrace-control"], "");
    assert!(said.status.success());
}
