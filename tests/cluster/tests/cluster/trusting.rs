//! Whom the mesh believes, where the root is given in a Secret and several replicas have to agree: what cert-manager writes takes
//! effect with no restart and no failed handshake, and a node that is revoked at one replica is revoked at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use millrace_control::{clock, issue::revocation::Revocations};
use millrace_model::Identity;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    agent::{Agent, shake_hands},
    mesh::{Mesh, PATIENCE, kubernetes},
    node::Node,
    server::{Server, Writer, server},
    world::pod,
};

/// An agent takes a control plane of this namespace and of no other.
const ROOT: &str = "millrace-system";
/// Bounded looks at what replicas hold: some of it has no event.
const LOOK: Duration = Duration::from_millis(20);

/// A root of a company, as cert-manager's issuer has one.
struct Company {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Company {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params("company root").self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params("company root"), key) }
    }

    /// Writes a new intermediate of this root into the Secret, as cert-manager does when one is due.
    fn gives(&self, server: &Server, namespace: &str) {
        let key = KeyPair::generate().unwrap();
        let between = params("mesh").signed_by(&key, &self.issuer).unwrap().pem();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "millrace-root", "namespace": namespace},
            "stringData": {"tls.crt": between, "tls.key": key.serialize_pem(), "ca.crt": self.pem}});
        server.apply(&secret.to_string());
    }
}

/// What an earlier test left of roots and of words of its nodes is no part of this one.
async fn anew(server: &Server) {
    let client = server.client().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), ROOT);
    for name in ["millrace-root", "millrace-trust"] {
        drop(secrets.delete(name, &DeleteParams::default()).await);
    }
    let leases: Api<Lease> = Api::namespaced(client, ROOT);
    let words = ListParams::default().labels("millrace.dev/trusting=true");
    drop(leases.delete_collection(&DeleteParams::default(), &words).await.unwrap());
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = clock::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE * 2, "{what}: not within {:?}", PATIENCE * 2);
        tokio::time::sleep(LOOK).await;
    }
    began.elapsed()
}

/// Handshakes of two agents' workloads, both ways, until it is told to stop; how many there were.
fn handshakes(a: Arc<(Agent, Identity)>, b: Arc<(Agent, Identity)>, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            for (client, server) in [(&a, &b), (&b, &a)] {
                let shaken = shake_hands((&client.0, &client.1), (&server.0, &server.1)).await;
                shaken.unwrap_or_else(|error| panic!("{} calls {}: {error}", client.1, server.1));
                n += 1;
            }
            tokio::task::yield_now().await;
        }
        n
    })
}

/// Each agent is another replica's, so that neither replica hears both.
#[tokio::test(flavor = "multi_thread")]
async fn what_cert_manager_rotates_takes_effect_with_no_restart_and_no_failed_handshake() {
    let server = server();
    let shop = server.namespace("rotated");
    anew(server).await;
    let (old, new) = (Company::new(), Company::new());
    old.gives(server, ROOT);
    let writer = Writer { client: server.client().await };
    let nodes = ["a", "b"].map(|node| format!("{shop}-{node}"));
    for (index, node) in nodes.iter().enumerate() {
        writer.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})).await;
        writer
            .create(&pod(&shop, &format!("web-{index}"), &format!("web-{index}"), (node, &format!("10.9.0.{index}"))))
            .await;
    }
    let source = || kubernetes(server.kubeconfig(), &[&shop]);
    let replicas = [Mesh::over(source()).await, Mesh::over(source()).await];
    let agent = |index: usize| {
        let identity = Identity::new("cluster.local", &shop, &format!("web-{index}"));
        Arc::new((Agent::start(&replicas[index], &nodes[index]), identity))
    };
    let (a, b) = (agent(0), agent(1));
    let stop = Arc::new(AtomicBool::new(false));
    let shaking = handshakes(a.clone(), b.clone(), stop.clone());
    let signers = || replicas.each_ref().map(|mesh| mesh.control.issuer.roots.authority().intermediates().to_vec());
    let before = signers();
    assert_eq!(before[0], before[1], "one signs for both");

    let began = clock::now();
    old.gives(server, ROOT);
    until("another intermediate signs", || signers().iter().all(|now| *now != before[0])).await;
    println!("another intermediate under the same root signs after {:?}, its writing included", began.elapsed());
    assert_eq!(signers()[0], signers()[1]);

    let root_of = |pem: &str| {
        <rustls_pki_types::CertificateDer<'static> as rustls_pki_types::pem::PemObject>::from_pem_slice(pem.as_bytes())
            .unwrap()
    };
    let (former, next) = (root_of(&old.pem), root_of(&new.pem));
    new.gives(server, ROOT);
    let authorities = || replicas.each_ref().map(|mesh| mesh.control.issuer.roots.authority());
    let believed = until("both roots are believed", || {
        authorities().iter().all(|now| now.bundle() == [former.clone(), next.clone()])
    })
    .await;
    let signs = until("the next one signs", || authorities().iter().all(|now| *now.root() == next)).await;
    let retired = until("the former is gone", || authorities().iter().all(|now| now.bundle() == [next.clone()])).await;
    println!(
        "another root: believed after {believed:?}, signs {signs:?} later, the former retired {retired:?} after that"
    );
    for agent in [&a, &b] {
        let material = agent.0.material(&agent.1).await;
        assert_eq!(
            millrace_node::credentials::issuer_sha256(&material.chain, std::slice::from_ref(&former)),
            None,
            "it was renewed"
        );
    }
    stop.store(true, Ordering::Relaxed);
    println!("{} handshakes meanwhile, none failed", shaking.await.expect("no handshake fails"));

    let published = ["get", "configmap", "millrace-roots", "-n", ROOT, "-o", "jsonpath={.data.ca\\.crt}"];
    until("pods can mount the next root", || {
        let text = String::from_utf8_lossy(&server.kubectl(&published, "").stdout).into_owned();
        text.contains("BEGIN") && root_of(&text) == next
    })
    .await;
    for mesh in replicas {
        mesh.stop().await;
    }
}

/// What is in force outlives every replica: the Secret that is given has the next root alone, and no node believes it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_was_replaced_while_no_replica_ran_is_not_forced_on_nodes_that_do_not_know_it() {
    let server = server();
    let shop = server.namespace("away");
    anew(server).await;
    let (old, new) = (Company::new(), Company::new());
    old.gives(server, ROOT);
    let node = format!("{shop}-a");
    let writer = Writer { client: server.client().await };
    writer.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})).await;
    writer.create(&pod(&shop, "web", "web", (&node, "10.9.1.1"))).await;
    let source = || kubernetes(server.kubeconfig(), &[&shop]);
    let first = Mesh::over(source()).await;
    let agent = Agent::start(&first, &node);
    let web = Identity::new("cluster.local", &shop, "web");
    agent.material(&web).await;
    let signs = first.control.issuer.roots.authority();
    // What it believes is known beyond this replica.
    let word = ["get", "lease", &format!("trust.{node}"), "-n", ROOT];
    until("its word is written", || server.kubectl(&word, "").status.success()).await;
    first.stop().await;
    new.gives(server, ROOT);
    let second = Mesh::over(source()).await;
    until("the next root is believed beside the former", || {
        second.control.issuer.roots.authority().bundle().len() == 2
    })
    .await;
    assert!(second.control.issuer.roots.authority().signs_as(&signs), "the node that is away does not know the next");
    drop(agent);
    second.stop().await;
}

async fn post(mesh: &Mesh, path: &str, body: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::UnixStream::connect(mesh.state.path().join("admin.sock")).await.unwrap();
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_revoked_at_one_replica_is_revoked_at_all_and_after_they_restart() {
    let server = server();
    let shop = server.namespace("revoked");
    anew(server).await;
    let source = || kubernetes(server.kubeconfig(), &[&shop]);
    let (first, second) = (Mesh::over(source()).await, Mesh::over(source()).await);
    let node = Node::named(&second, "b").await;
    let issuer = &second.control.issuer;
    let (lifetime, now) = (millrace_control::issue::token::MAX_LIFETIME, clock::unix_time());
    let waits = issuer.tokens.make("b", issuer.roots.authority().root_sha256(), lifetime, now).unwrap();

    let began = clock::now();
    let answer = post(&first, "/revoked", "{\"revoke\":\"b\"}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(first.control.issuer.roots.revoked().is_out("b"), "at once, where it was said");
    until("the other replica knows", || issuer.roots.revoked().is_out("b")).await;
    println!("a revocation is at the other replica after {:?}", began.elapsed());
    let refused = node.issue(&second, "").await.unwrap_err();
    assert!(refused.message().starts_with("node_revoked"), "{refused}");
    let began = clock::now();
    loop {
        let refused = Node::join(&second, &waits).await.err().expect("a token from before readmits nobody");
        if refused.message().starts_with("token_unknown") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{refused}");
    }

    // Two at once, at two replicas: neither is lost.
    let (c, d) =
        tokio::join!(post(&first, "/revoked", "{\"revoke\":\"c\"}"), post(&second, "/revoked", "{\"revoke\":\"d\"}"));
    assert!(c.starts_with("HTTP/1.1 200") && d.starts_with("HTTP/1.1 200"), "{c}\n{d}");
    let all = |revoked: &Revocations| ["b", "c", "d"].iter().all(|node| revoked.is_out(node));
    until("both know of all", || [&first, &second].iter().all(|mesh| all(&mesh.control.issuer.roots.revoked()))).await;
    first.stop().await;
    second.kill().await;

    let third = Mesh::over(source()).await;
    assert!(all(&third.control.issuer.roots.revoked()), "before it serves anybody");
    // A new token is a person's word.
    Node::named(&third, "b").await;
    let answer = post(&third, "/revoked", "{\"readmit\":\"c\"}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let revoked = third.control.issuer.roots.revoked();
    assert_eq!((revoked.is_out("b"), revoked.is_out("c"), revoked.is_out("d")), (false, false, true));
    let again = post(&third, "/revoked", "{\"readmit\":\"c\"}").await;
    assert!(again.starts_with("HTTP/1.1 409"), "{again}");
    third.stop().await;
}

/// By somebody's hand, or by a tool that restores what it once saved of the namespace.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_force_is_written_again_where_somebody_spoils_it() {
    let server = server();
    let shop = server.namespace("spoiled");
    anew(server).await;
    let mesh = Mesh::over(kubernetes(server.kubeconfig(), &[&shop])).await;
    let answer = post(&mesh, "/revoked", "{\"revoke\":\"b\"}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let signs = mesh.control.issuer.roots.authority();
    let secrets: Api<Secret> = Api::namespaced(server.client().await, ROOT);
    let looks = AtomicU64::new(0);
    let stands = async || {
        looks.fetch_add(1, Ordering::Relaxed);
        let secret = secrets.get_opt("millrace-trust").await.unwrap()?;
        let data = secret.data?;
        (data.get("tls.key")?.0.starts_with(b"-----BEGIN") && data.get("revoked.json")?.0.starts_with(b"{\"b\":"))
            .then_some(())
    };
    for spoil in ["deleted", "no key", "no JSON"] {
        match spoil {
            "deleted" => drop(secrets.delete("millrace-trust", &DeleteParams::default()).await.unwrap()),
            what => {
                let field = if what == "no key" { "tls.key" } else { "revoked.json" };
                let patch = json!({"data": {field: "eA=="}}).to_string();
                let said = server
                    .kubectl(&["patch", "secret", "millrace-trust", "-n", ROOT, "--type=merge", "-p", &patch], "");
                assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            }
        }
        let began = clock::now();
        while stands().await.is_none() {
            assert!(began.elapsed() < PATIENCE, "{spoil}: it is not written again");
            tokio::time::sleep(LOOK).await;
        }
        assert!(mesh.control.issuer.roots.authority().is_same(&signs), "{spoil}");
        assert!(mesh.control.issuer.roots.revoked().is_out("b"), "{spoil}");
    }
    mesh.stop().await;
}
