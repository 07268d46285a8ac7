//! States whose endpoints have left, and which sockets that closes.

use std::{collections::BTreeMap, sync::Arc};

use millrace_abi::{Pod, PodKind};
use millrace_model::{
    Endpoints, Mesh, ObjectName, Service, Snapshot, Traffic,
    service::{Endpoint, Protocol, Readiness, ServicePort},
};

use super::{has_left, left};
use crate::{
    kernel::{Connected, State, plan::addr},
    revoke::{Connection, Revoked, Seen, Why},
};

const WEB: u64 = 1;
const SERVICE: &str = "10.96.0.1";

fn endpoint(address: &str, protocol: Protocol) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        workload: None,
        ports: [((53, protocol), 5353)].into(),
        weight: 1,
        readiness: Readiness::Ready,
        place: Default::default(),
    }
}

/// A service's port 53, and who stands behind it.
fn mesh(protocol: Protocol, endpoints: &[&str]) -> Mesh {
    let name = ObjectName::new("shop", "dns");
    let service = Service {
        name: name.clone(),
        addresses: vec![SERVICE.parse().unwrap()],
        ports: vec![ServicePort { port: 53, protocol, name: "".into() }],
        traffic: Traffic::default(),
    };
    let endpoints = endpoints.iter().map(|address| endpoint(address, protocol)).collect();
    let endpoints = Endpoints { service: name.clone(), endpoints };
    Mesh::new(Arc::new(Snapshot {
        generation: 1,
        services: [(name.clone(), Arc::new(service))].into(),
        endpoints: [(name, Arc::new(endpoints))].into(),
        ..Snapshot::default()
    }))
}

fn udp(endpoints: &[&str]) -> Mesh {
    mesh(Protocol::Udp, endpoints)
}

#[test]
fn an_endpoint_or_a_service_that_is_not_there_any_more_has_left_and_one_that_came_has_not() {
    let both = udp(&["10.0.0.2", "10.0.0.3"]);
    assert!(has_left(&Mesh::default(), &both), "what an agent has not seen is looked at once");
    assert!(!has_left(&both, &both) && !has_left(&udp(&["10.0.0.2"]), &both));
    assert!(has_left(&both, &udp(&["10.0.0.2"])));
    let mut none = (*both.snapshot).clone();
    none.services.clear();
    assert!(has_left(&both, &Mesh::new(Arc::new(none))), "the service is gone");
    let by_tcp = |endpoints: &[&str]| mesh(Protocol::Tcp, endpoints);
    assert!(!has_left(&by_tcp(&["10.0.0.2", "10.0.0.3"]), &by_tcp(&["10.0.0.2"])), "those are theirs to finish");
}

/// It may serve again, and what has begun with it goes on.
#[test]
fn an_endpoint_that_is_not_ready_or_has_no_weight_has_not_left() {
    let before = udp(&["10.0.0.2"]);
    let mut after = (*before.snapshot).clone();
    let name = after.endpoints.keys().next().unwrap().clone();
    let endpoints = Arc::make_mut(after.endpoints.get_mut(&name).unwrap());
    (endpoints.endpoints[0].readiness, endpoints.endpoints[0].weight) = (Readiness::Unready, 0);
    assert!(!has_left(&before, &Mesh::new(Arc::new(after))));
}

fn node() -> State {
    let pod =
        Pod { id: WEB, v4: addr("10.0.0.1".parse().unwrap()), v6: [0; 16], kind: PodKind::Mesh as u32, reserved: 0 };
    State { pods: [(WEB, pod)].into(), ..State::default() }
}

/// One socket of the pod's, number 7, to this remote; and what is said of how a socket was connected.
fn closed(remote: &str, by: (u64, &str, &str), mesh: &Mesh) -> Vec<Revoked> {
    let mut connection = Connection::between("10.0.0.1:40000", remote);
    connection.numbered(7);
    let (cookie, service, backend) = (by.0, by.1.parse().unwrap(), by.2.parse().unwrap());
    let seen = Seen {
        datagrams: vec![connection],
        by_service: [(cookie, Connected { service, backend })].into(),
        ..Seen::default()
    };
    left(&node(), &BTreeMap::from([(WEB, seen)]), mesh)
}

#[test]
fn what_was_connected_by_a_service_to_who_has_left_it_is_closed_and_nothing_else() {
    let by = (7, "10.96.0.1:53", "10.0.0.2:5353");
    let found = closed("10.0.0.2:5353", by, &udp(&["10.0.0.3"]));
    assert_eq!(found.iter().map(|one| (one.netns, one.why)).collect::<Vec<_>>(), [(WEB, Why::Left)]);
    assert_eq!(closed("10.0.0.2:5353", by, &udp(&["10.0.0.3", "10.0.0.2"])), [], "it stands behind it");
    assert_eq!(closed("10.0.0.2:5353", (8, by.1, by.2), &udp(&["10.0.0.3"])), [], "another socket");
    assert_eq!(closed("10.0.0.9:5353", by, &udp(&["10.0.0.3"])), [], "connected to another since");
    assert_eq!(
        closed("10.0.0.2:5353", by, &mesh(Protocol::Tcp, &["10.0.0.2"])).len(),
        1,
        "by UDP there is no such service"
    );
}
