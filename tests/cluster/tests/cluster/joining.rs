//! A node is known by its agent's token, and gets certificates for what runs on it and nothing else.

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Secret, ServiceAccount},
};
use kube::{Api, api::PostParams};
use millrace_agent::{
    config::ControlAddress,
    join::{self, Files},
    state_dir::StateDir,
};
use millrace_control::diagnostic::Kind;
use serde_json::json;
use tokio::sync::watch;

use crate::{
    mesh::{Mesh, PATIENCE, QUIET, kubernetes},
    node::Node,
    server::{Server, Writer, server},
    world::{account, pod},
};

/// A token as the kubelet projects it into a pod.
async fn token(server: &Server, place: (&str, &str), audience: &str, pod: Option<(&str, &str)>) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(server.client().await, place.0);
    let bound = pod.map(|(name, uid)| BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
    });
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            bound_object_ref: bound,
            expiration_seconds: Some(600),
        },
        ..TokenRequest::default()
    };
    let made = accounts.create_token_request(place.1, &PostParams::default(), &request).await.unwrap();
    made.status.unwrap().token
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_by_its_agents_token_and_gets_certificates_of_its_own_pods_alone() {
    let server = server();
    // An agent takes a control plane of this namespace and of no other.
    let root = "millrace-system";
    let shop = server.namespace("shop");
    let writer = Writer { client: server.client().await };
    writer.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "join-a"}})).await;
    server.apply(&account(root, "millrace-agent").to_string());
    server.apply(&account(root, "other").to_string());
    let agent = writer.create(&pod(root, "agent-a", "millrace-agent", ("join-a", "10.4.0.9"))).await;
    let uid = agent.metadata.uid.unwrap();
    writer.create(&pod(&shop, "web", "web", ("join-a", "10.4.0.1"))).await;
    writer.create(&pod(&shop, "db", "db", ("join-b", "10.4.0.2"))).await;
    let mut mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop, root])).await;
    mesh.until("all three pods are there", |snapshot| snapshot.workloads.len() >= 3).await;
    let bound = Some(("agent-a", &*uid));
    let agents = (root, "millrace-agent");

    for (what, token, reason) in [
        ("for another audience", token(server, agents, "elsewhere", bound).await, "token_not_authentic"),
        ("bound to no pod", token(server, agents, "millrace.dev/control", None).await, "token_of_no_node"),
        ("of another account", token(server, (root, "other"), "millrace.dev/control", None).await, "token_of_another"),
        ("made up", "a.b.c".to_owned(), "token_not_authentic"),
    ] {
        let refused = Node::join(&mesh, &token).await.err().unwrap_or_else(|| panic!("a token {what} was taken"));
        assert!(refused.message().starts_with(reason), "{what}: {refused}");
    }

    let good = token(server, agents, "millrace.dev/control", bound).await;
    let node = Node::join(&mesh, &good).await.unwrap();
    let identity = |account: &str| format!("spiffe://cluster.local/ns/{shop}/sa/{account}");
    node.issue(&mesh, &identity("web")).await.unwrap();
    let refused = node.issue(&mesh, &identity("db")).await.unwrap_err();
    assert!(refused.message().starts_with("identity_not_here"), "{refused}");
    // The pod is gone, and so is what its token says.
    writer.delete(Kind::Pod, root, "agent-a").await;
    // The API server remembers for 10 s what it said of a token.
    let began = millrace_control::clock::now();
    while Node::join(&mesh, &good).await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "the token of a pod that is gone is still taken");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    mesh.stop().await;
}

/// The kubelet puts a new token in the file's place before the old one expires; the agent asks nobody but the file.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_by_its_projected_token_and_reads_it_anew_as_it_rotates() {
    let server = server();
    let root = "millrace-system";
    let shop = server.namespace("agents");
    let writer = Writer { client: server.client().await };
    let name = format!("{shop}-node");
    writer.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).await;
    server.apply(&account(root, "millrace-agent").to_string());
    let agent = writer.create(&pod(root, &format!("agent-{shop}"), "millrace-agent", (&name, "10.4.1.9"))).await;
    let bound = Some((agent.metadata.name.as_deref().unwrap(), agent.metadata.uid.as_deref().unwrap()));
    let mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop, root])).await;
    let folder = tempfile::tempdir().unwrap();
    let (token_file, roots_file) = (folder.path().join("token"), folder.path().join("ca.crt"));
    let project = |token: &str| {
        std::fs::write(folder.path().join("next"), token).unwrap();
        std::fs::rename(folder.path().join("next"), &token_file).unwrap();
    };
    // The roots as pods mount them.
    let roots = ["get", "configmap", "millrace-roots", "-n", root, "-o", "jsonpath={.data.ca\\.crt}"];
    let began = millrace_control::clock::now();
    while std::fs::metadata(&roots_file).map_or(0, |file| file.len()) == 0 {
        assert!(began.elapsed() < PATIENCE, "no roots are published");
        std::fs::write(&roots_file, server.kubectl(&roots, "").stdout).unwrap();
    }
    let agents = (root, "millrace-agent");
    project(&token(server, agents, "elsewhere", bound).await);
    let address = mesh.control.address;
    let control = ControlAddress { host: address.ip().to_string().into(), port: address.port() };
    let files = Files { token: Some(&token_file), roots: Some(&roots_file) };
    let (own, other) = (folder.path().join("own"), folder.path().join("other"));
    let (own, other) = (StateDir::open(&own).unwrap(), StateDir::open(&other).unwrap());
    let (held, mut joined): (join::Held, _) = watch::channel(None);
    let (held_by_other, joined_other): (join::Held, _) = watch::channel(None);
    let (_refuse, revoked) = watch::channel(None);
    let test = async {
        let began = millrace_control::clock::now();
        while mesh.counter("millrace_control_refusals").await == 0 {
            assert!(began.elapsed() < PATIENCE, "a token for another audience was not refused");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(joined.borrow().is_none());
        project(&token(server, agents, "millrace.dev/control", bound).await);
        let credentials = joined.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert_eq!(credentials.identity.service_account.strip_prefix("node."), Some(&*name));
        // The same token, shown by who says that it is another node: what it is given is not its own.
        tokio::time::sleep(QUIET).await;
        assert!(joined_other.borrow().is_none(), "a node took another's certificate");
    };
    tokio::select! {
        never = join::keep(&name, &control, files, &own, (held, revoked.clone())) => match never {},
        never = join::keep("elsewhere", &control, files, &other, (held_by_other, revoked)) => match never {},
        done = tokio::time::timeout(PATIENCE * 2, test) => done.unwrap(),
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_one_root_and_pods_can_mount_it() {
    let server = server();
    let root = server.namespace("mesh");
    let source = || kubernetes(server.kubeconfig(), &[&root]);
    let (first, second) = (Mesh::rooted(source(), &root).await, Mesh::rooted(source(), &root).await);
    let own = |mesh: &Mesh| mesh.control.issuer.roots.authority().root_sha256();
    assert_eq!(own(&first), own(&second));
    let secrets: Api<Secret> = Api::namespaced(server.client().await, &root);
    let secret = secrets.get("millrace-root").await.unwrap();
    let pem = String::from_utf8(secret.data.unwrap().remove("ca.crt").unwrap().0).unwrap();
    for args in [
        vec!["get", "configmap", "millrace-roots", "-n", &root, "-o", "jsonpath={.data.ca\\.crt}"],
        vec!["get", "clustertrustbundle", "millrace.dev:identity:roots", "-o", "jsonpath={.spec.trustBundle}"],
    ] {
        for attempt in 0.. {
            let said = server.kubectl(&args, "");
            if String::from_utf8_lossy(&said.stdout).trim() == pem.trim() {
                break;
            }
            assert!(attempt < 50, "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
    first.stop().await;
    second.stop().await;
}

/// As cert-manager writes it: the certificate that signs is not the root that peers know.
#[tokio::test(flavor = "multi_thread")]
async fn an_intermediate_that_is_given_signs_and_peers_know_its_root_alone() {
    let server = server();
    let root = server.namespace("mesh");
    let (top, chain, key) = intermediate();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "millrace-root", "namespace": root},
        "stringData": {"tls.crt": chain, "tls.key": key, "ca.crt": top}});
    server.apply(&secret.to_string());
    let mesh = Mesh::rooted(kubernetes(server.kubeconfig(), &[&root]), &root).await;
    let issuer = &mesh.control.issuer;
    let csr = millrace_node::credentials::csr(&millrace_node::credentials::new_key().unwrap()).unwrap();
    let issued = issuer.join_as("a", &csr, millrace_control::clock::unix_time()).unwrap();
    assert_eq!(
        (issued.chain_der.len(), issuer.roots.authority().bundle().len()),
        (2, 1),
        "leaf and intermediate; the root alone"
    );
    let chain: Vec<_> = issued.chain_der.into_iter().map(rustls_pki_types::CertificateDer::from).collect();
    assert_ne!(chain[1], issuer.roots.authority().bundle()[0]);
    let named = millrace_node::credentials::peer_identity(&chain).unwrap();
    assert_eq!(&*named.service_account, "node.a");
    mesh.stop().await;
}

fn intermediate() -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let (top_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let top = authority("company root");
    let top_pem = top.self_signed(&top_key).unwrap().pem();
    let issuer = Issuer::new(top, top_key);
    let between = authority("mesh").signed_by(&key, &issuer).unwrap().pem();
    (top_pem, between, key.serialize_pem())
}
