//! Loads every manifest under `examples/` as the control plane does: nothing is wrong with any, and each policy does what it says.

#![cfg(test)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use millrace_control::{
    compile::compile,
    source::{Sourced, directory::Directory},
    world::{Listening, Settings, World},
};
use millrace_model::{EncryptionMode, Facts, Mesh, ObjectName, authorize};
use tempfile::TempDir;

/// Beside this crate's folder.
fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("examples")
}

/// Every manifest in the folder and in those below.
fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(manifests(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Where a policy's own comment says that it is to be put: `cp examples/policies/it.yaml "$DIR"/it.yaml`.
fn place(policy: &Path) -> String {
    let text = fs::read_to_string(policy).unwrap();
    let source = format!("examples/policies/{}", policy.file_name().unwrap().to_str().unwrap());
    let line = text.lines().find_map(|line| line.strip_prefix("#   cp ")?.strip_prefix(&source));
    let to = line.unwrap_or_else(|| panic!("{source} says where it is put")).trim();
    to.strip_prefix("\"$DIR\"/").unwrap_or_else(|| panic!("{source} is put into $DIR")).to_owned()
}

/// A copy of the shop's directory, with these policies put where they say.
fn shop_with(policies: &[PathBuf]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in manifests(&examples().join("shop")) {
        fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    for policy in policies {
        fs::copy(policy, folder.path().join(place(policy))).unwrap();
    }
    folder
}

/// The mesh of a directory that must be good, to its last document.
fn mesh_of(folder: &Path) -> Mesh {
    let settings = Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() };
    let copies = tempfile::tempdir().unwrap();
    let (_, sourced) = Directory::open(folder, copies.path(), settings.clone()).unwrap();
    let Sourced { objects, places: _, diagnostics, revisions: _, uids: _, asked: _ } = sourced;
    let told: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(told, [] as [String; 0], "the source finds nothing wrong");
    let (snapshot, notes) =
        compile(&World { settings, objects, listening: Listening::new(), revoked: Default::default() });
    let told: Vec<String> = notes.iter().map(ToString::to_string).collect();
    assert_eq!(told, [] as [String; 0], "nor does the compiler");
    Mesh::new(Arc::new(snapshot))
}

fn policy(name: &str) -> PathBuf {
    examples().join("policies").join(name)
}

/// Whether a pod may call another, at the shop's port.
fn may_call(mesh: &Mesh, (caller_namespace, caller): (&str, &str), callee: &str) -> bool {
    let caller = &mesh.snapshot.workloads[&ObjectName::new(caller_namespace, caller)];
    let callee = &mesh.snapshot.workloads[&ObjectName::new("shop", callee)];
    let facts = Facts { identity: Some(caller.identity.clone()), address: caller.addresses[0], port: 80 };
    authorize(mesh, callee, &facts).allows()
}

#[tokio::test]
async fn every_example_is_accepted_alone_and_with_all_others() {
    let policies = manifests(&examples().join("policies"));
    let shop = manifests(&examples().join("shop"));
    let tried: BTreeSet<_> = shop.iter().chain(&policies).cloned().collect();
    assert_eq!(manifests(&examples()), tried.into_iter().collect::<Vec<_>>(), "no manifest is left out here");
    assert!(!shop.is_empty() && !policies.is_empty());
    mesh_of(&examples().join("shop"));
    for policy in &policies {
        mesh_of(shop_with(std::slice::from_ref(policy)).path());
    }
    mesh_of(shop_with(&policies).path());
}

#[tokio::test]
async fn every_pod_of_the_shop_is_in_the_mesh_and_every_service_has_somebody_behind_it() {
    let mesh = mesh_of(&examples().join("shop"));
    assert_eq!(mesh.snapshot.workloads.len(), 7);
    for workload in mesh.snapshot.workloads.values() {
        assert!(workload.netns.is_some() && workload.addresses.len() == 2 && *workload.node == *"mill", "{workload:?}");
        assert_eq!(workload.membership, millrace_model::Membership::Pending, "until its node says that it listens");
    }
    for (name, service) in &mesh.snapshot.services {
        let endpoints = &mesh.snapshot.endpoints[name].endpoints;
        assert!(service.addresses.len() == 2 && endpoints.iter().any(|e| e.weight > 0), "{name}");
    }
}

#[tokio::test]
async fn only_cart_and_orders_may_call_the_database() {
    let mesh = mesh_of(shop_with(&[policy("allow-by-identity.yaml")]).path());
    let callers = [("shop", "web"), ("shop", "cart"), ("shop", "orders"), ("guests", "visitor")];
    assert_eq!(callers.map(|caller| may_call(&mesh, caller, "database")), [false, true, true, false]);
    assert!(may_call(&mesh, ("guests", "visitor"), "cart"));
}

#[tokio::test]
async fn guests_see_the_page_and_nothing_behind_it() {
    let mesh = mesh_of(shop_with(&[policy("deny-by-namespace.yaml")]).path());
    let callees = ["web", "catalogue-v1", "catalogue-v2", "cart", "orders", "database"];
    assert_eq!(
        callees.map(|callee| may_call(&mesh, ("guests", "visitor"), callee)),
        [true, false, false, false, false, false]
    );
    assert!(callees.iter().all(|callee| may_call(&mesh, ("shop", "cart"), callee)));
}

#[tokio::test]
async fn plain_text_gets_to_the_page_alone() {
    let mesh = mesh_of(shop_with(&[policy("strict-encryption.yaml")]).path());
    let mode = |name: &str, port| mesh.snapshot.workloads[&ObjectName::new("shop", name)].encryption.mode(port);
    assert_eq!(mode("web", 80), EncryptionMode::Permissive);
    assert_eq!([mode("web", 81), mode("cart", 80), mode("database", 80)], [EncryptionMode::Strict; 3]);
    let visitor = &mesh.snapshot.workloads[&ObjectName::new("guests", "visitor")];
    assert_eq!(visitor.encryption.mode(80), EncryptionMode::Permissive, "another namespace is not its to close");
}

#[tokio::test]
async fn one_call_in_twenty_goes_to_the_new_catalogue() {
    let mesh = mesh_of(shop_with(&[policy("canary-weights.yaml")]).path());
    let endpoints = &mesh.snapshot.endpoints[&ObjectName::new("shop", "catalogue")].endpoints;
    let weight = |version: &str| -> u32 {
        let is_it = |e: &&millrace_model::Endpoint| e.workload == Some(ObjectName::new("shop", version));
        endpoints.iter().filter(is_it).filter(|e| e.address.is_ipv4()).map(|e| e.weight).sum()
    };
    assert_eq!((weight("catalogue-v1"), weight("catalogue-v2")), (95, 5));
}

#[tokio::test]
async fn requests_for_the_catalogue_are_sent_again_twice_and_never_many() {
    let mesh = mesh_of(shop_with(&[policy("patient-requests.yaml")]).path());
    let name = ObjectName::new("shop", "catalogue");
    let rule = &mesh.snapshot.routes[&name].bound[0].rules[0];
    let retry = rule.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, retry.codes.clone()), (2, [502, 503].into()));
    assert_eq!(&*rule.backends[0].session.as_ref().unwrap().name, "catalogue");
    let budget = mesh.snapshot.services[&name].traffic.retries;
    assert_eq!((budget.percent, budget.min_count), (10, 3));
}

#[tokio::test]
async fn a_machine_outside_stands_behind_orders_beside_its_pod() {
    let mesh = mesh_of(shop_with(&[policy("external.yaml")]).path());
    let endpoints = &mesh.snapshot.endpoints[&ObjectName::new("shop", "orders")].endpoints;
    let machine: Vec<_> = endpoints.iter().filter(|one| one.address.to_string() == "192.0.2.7").collect();
    assert!(machine.len() == 1 && machine[0].weight == 1 && endpoints.len() > 1, "{endpoints:?}");
    let callee = mesh.workload_at(machine[0].address).unwrap();
    assert_eq!(callee.membership, millrace_model::Membership::Outside);
    let payments = &mesh.snapshot.endpoints[&ObjectName::new("shop", "externalservice:payments")].endpoints;
    assert_eq!(payments.len(), 2);
}
