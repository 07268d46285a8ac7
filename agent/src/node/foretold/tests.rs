//! States what a node takes for told, and what not.

use std::{net::IpAddr, sync::Arc};

use millrace_model::{Encryption, Identity, Membership, Mesh, ObjectName, Snapshot, Workload, workload::instance};

use super::{foretold, is_told};
use crate::{
    kubelet::{Company, Sandboxes},
    pods::Pod,
};

const OWN: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 7))];

fn workload(name: &str, membership: Membership, addresses: &[IpAddr]) -> Workload {
    Workload {
        name: ObjectName::new("shop", name),
        instance: instance("a", name, None, addresses),
        identity: Identity::new("td", "shop", name),
        addresses: addresses.to_vec(),
        node: "a".into(),
        zone: None,
        netns: None,
        membership,
        encryption: Encryption::default(),
        policies: [].into(),
        probe_ports: [].into(),
        telemetry: None,
        network: None,
    }
}

fn mesh(workloads: &[Workload]) -> Arc<Mesh> {
    let workloads = workloads.iter().map(|w| (w.name.clone(), Arc::new(w.clone()))).collect();
    Arc::new(Mesh::new(Arc::new(Snapshot { generation: 1, workloads, ..Snapshot::default() })))
}

fn of(membership: Membership, company: Company, others: &[Workload]) -> (Arc<Mesh>, Arc<Mesh>) {
    let web = workload("web", membership, &[]);
    let heard = mesh(&[std::slice::from_ref(&web), others].concat());
    let seen = foretold(&heard, "a", &Sandboxes::of(&web.name, &OWN, company));
    (heard, seen)
}

/// So that nothing is made anew when the control plane tells.
#[test]
fn what_is_seen_is_to_the_letter_what_the_control_plane_will_tell() {
    let (heard, seen) = of(Membership::Pending, Company::Nobody, &[]);
    let told = workload("web", Membership::Pending, &OWN);
    assert_eq!(**seen.snapshot.workloads.get(&told.name).unwrap(), told);
    assert_eq!(seen.workload_at(OWN[0]).map(|w| &w.name), Some(&told.name));
    let pod = Pod::new(Arc::new(told.clone()));
    assert!(!is_told(&heard, &pod), "no proxy is told before");
    assert!(is_told(&mesh(&[told]), &pod));
}

#[test]
fn an_address_that_may_be_the_pods_own_doing_or_is_anothers_is_not_taken_from_it() {
    let is_seen = |membership, company, others: &[Workload]| {
        let (heard, seen) = of(membership, company, others);
        !Arc::ptr_eq(&heard, &seen)
    };
    assert!(is_seen(Membership::Pending, Company::Nobody, &[]));
    assert!(!is_seen(Membership::Pending, Company::Others, &[]));
    assert!(is_seen(Membership::Outside, Company::Others, &[]), "nobody goes by the address of one outside the mesh");
    let other = workload("other", Membership::Enrolled, &OWN);
    assert!(!is_seen(Membership::Pending, Company::Nobody, &[other]));
    assert!(!is_seen(Membership::Host, Company::Nobody, &[]));
}
