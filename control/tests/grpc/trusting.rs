//! By what nodes believe one another: told on the stream, changed root by root; and a node that is taken out.

use std::time::Duration;

use millrace_control::issue::roots::{Nodes, bundle_sha256};
use millrace_model::{ObjectName, Snapshot};
use millrace_wire::{
    control::{Have, JoinRequest, Trusting, node_message::Kind},
    mesh::{Trust, Update},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::client::{Mesh, Own, PATIENCE, SHOP, csr, issue, key, message};

/// A node's stream, update by update.
struct Node {
    say: mpsc::Sender<millrace_wire::control::NodeMessage>,
    updates: Streaming<Update>,
}

impl Node {
    async fn subscribe(mesh: &Mesh, own: &Own) -> Result<Self, tonic::Status> {
        let (say, said) = mpsc::channel(16);
        say.send(message(Kind::Have(Have { generation: 0 }))).await.unwrap();
        let updates = mesh.client(own).await.subscribe(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { say, updates })
    }

    async fn next(&mut self) -> Option<Update> {
        tokio::time::timeout(PATIENCE, self.updates.message()).await.expect("in time").unwrap()
    }

    /// The next trust that is told.
    async fn trust(&mut self) -> Trust {
        loop {
            if let Some(trust) = self.next().await.expect("the stream goes on").trust {
                return trust;
            }
        }
    }

    /// Says that it believes these roots, and shows certificates under this one.
    async fn holds(&self, trust: &Trust) {
        let bundle: Vec<_> = trust.bundle_der.iter().map(|der| der.clone().into()).collect();
        let trusting = Trusting {
            bundle_sha256: bundle_sha256(&bundle).to_vec(),
            issuers_sha256: vec![trust.issuer_sha256.clone()],
        };
        self.say.send(message(Kind::Trusting(trusting))).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_is_told_of_every_step_from_one_root_to_the_next() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let own = mesh.node("a").await;
    let mut node = Node::subscribe(&mesh, &own).await.unwrap();
    let first = node.trust().await;
    assert_eq!((first.bundle_der.len(), first.revoked.len()), (1, 0));
    node.holds(&first).await;

    let roots = &mesh.control.issuer.roots;
    roots.add(millrace_control::clock::unix_time()).unwrap();
    let both = node.next().await.unwrap();
    assert_eq!(both.from, both.to, "nothing of the mesh has changed");
    let both = both.trust.unwrap();
    assert_eq!((both.bundle_der.len(), &both.issuer_sha256), (2, &first.issuer_sha256));

    roots.activate(&Nodes::Forced).unwrap();
    let second = node.trust().await;
    assert_ne!(second.issuer_sha256, first.issuer_sha256);
    let mut client = mesh.client(&own).await;
    let renewed = issue(&mut client, "", csr(&key())).await.unwrap();
    assert_eq!(renewed.bundle_der, second.bundle_der);

    roots.retire(&Nodes::Forced).unwrap();
    let last = node.trust().await;
    assert_eq!(last.bundle_der, [second.bundle_der[1].clone()]);
}

#[tokio::test]
async fn a_revoked_node_gets_nothing_more_until_it_joins_with_a_new_token() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let (a, b) = (mesh.node("a").await, mesh.node("b").await);
    let (mut of_a, mut of_b) = (Node::subscribe(&mesh, &a).await.unwrap(), Node::subscribe(&mesh, &b).await.unwrap());
    of_a.trust().await;
    of_b.trust().await;
    mesh.control.issuer.roots.revoke("b", millrace_control::clock::unix_time()).unwrap();
    while of_b.next().await.is_some() {}
    assert_eq!(of_a.trust().await.revoked.len(), 1);

    let refused = |status: tonic::Status| {
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().starts_with("node_revoked"), "{}", status.message());
    };
    refused(Node::subscribe(&mesh, &b).await.err().unwrap());
    refused(issue(&mut mesh.client(&b).await, "", csr(&key())).await.unwrap_err());
    Node::subscribe(&mesh, &a).await.unwrap();

    // In the very second of its revocation, as a rule: what it is given now is believed all the same.
    let own = key();
    let request = JoinRequest { token: mesh.token("b"), csr_der: csr(&own) };
    let certificate = mesh.stranger().await.join(request).await.unwrap().into_inner();
    Node::subscribe(&mesh, &Own::new(certificate, &own)).await.unwrap();
    refused(Node::subscribe(&mesh, &b).await.err().unwrap());
}

/// It may have lain on the node.
#[tokio::test]
async fn a_token_from_before_the_revocation_readmits_nobody() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    mesh.node("b").await;
    let (of_b, of_a) = (mesh.token("b"), mesh.token("a"));
    let answer = mesh.revokes("b").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let joins = async |token: String| {
        let request = JoinRequest { token, csr_der: csr(&key()) };
        mesh.stranger().await.join(request).await.map(drop).map_err(|status| status.message().to_owned())
    };
    assert!(joins(of_b).await.unwrap_err().starts_with("token_unknown"));
    assert!(mesh.control.issuer.roots.revoked().is_out("b"));
    joins(of_a).await.expect("another node's token is as good as it was");
}

/// It is given to whatever runs as the agent on that node, and is nobody's word that the node is to be trusted again.
#[tokio::test]
async fn a_service_accounts_token_readmits_nobody() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let (issuer, now) = (&mesh.control.issuer, millrace_control::clock::unix_time());
    issuer.join_as("b", &csr(&key()), now).unwrap();
    issuer.roots.revoke("b", now).unwrap();
    assert_eq!(issuer.join_as("b", &csr(&key()), now).unwrap_err().reason(), "node_revoked");
    issuer.roots.readmit("b").unwrap();
    issuer.join_as("b", &csr(&key()), now).unwrap();
}

/// A node may be away for longer than its workloads' certificates live.
#[tokio::test]
async fn a_nodes_own_certificate_has_a_life_of_its_own() {
    let mesh = Mesh::with_leaves_of(Duration::from_secs(10)).await;
    mesh.write("shop.yaml", SHOP);
    let own = mesh.node("a").await;
    let mut stream =
        crate::client::Subscription::open(&mut mesh.client(&own).await, Snapshot::default()).await.unwrap();
    stream.until(|snapshot| snapshot.workloads.contains_key(&ObjectName::new("shop", "web"))).await;
    let mut client = mesh.client(&own).await;
    let mut lives = async |identity: &str| {
        let certificate = issue(&mut client, identity, csr(&key())).await.unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&certificate.chain_der[0]).unwrap();
        leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp()
    };
    // A minute of it lies in the past, for clocks that are behind.
    assert_eq!(lives("spiffe://cluster.local/ns/shop/sa/web").await, 60 + 10);
    assert_eq!(lives("").await, 60 + 86_400);
}

#[tokio::test]
async fn nobody_is_sent_to_a_revoked_node_and_its_pods_stay_in_the_mesh() {
    let mesh = Mesh::with(&[("shop.yaml", SHOP)]).await;
    let own = mesh.node("a").await;
    let mut stream =
        crate::client::Subscription::open(&mut mesh.client(&own).await, Snapshot::default()).await.unwrap();
    let db = ObjectName::new("shop", "db");
    stream.until(|snapshot| snapshot.endpoints.get(&db).is_some_and(|e| e.endpoints.len() == 1)).await;
    mesh.control.issuer.roots.revoke("b", millrace_control::clock::unix_time()).unwrap();
    stream.until(|snapshot| snapshot.endpoints.get(&db).is_some_and(|e| e.endpoints.is_empty())).await;
    assert!(stream.snapshot.workloads.contains_key(&db));
}
