//! States that nothing is lost or changed on the wire, and that what this version does not know is refused, never defaulted.

#![cfg(test)]

#[path = "round_trip/routes.rs"]
mod routes;
#[path = "round_trip/telemetry.rs"]
mod telemetry;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use millrace_model::{
    Action, Affinity, Change, Delta, Encryption, EncryptionMode, Endpoint, Endpoints, Identity, Map, Membership,
    NodeProfile, ObjectName, Outliers, Place, Policy, Protocol, Reach, RetryBudget, Rule, Service, ServicePort,
    Snapshot, Source, Tier, Traffic, UdpMode, Workload,
    network::Network,
    outlier::Bounds,
    profile::{PodSettings, ProxySettings, WorkloadLimits},
    retry::Origin,
    service::Readiness,
};
use millrace_wire::{Undecodable, convert, mesh as pb};
use proptest::prelude::*;
use prost::Message as _;

/// A name as Kubernetes has them.
fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?".prop_map(Into::into)
}

fn name() -> impl Strategy<Value = ObjectName> {
    (text(), text()).prop_map(|(namespace, name)| ObjectName { namespace, name })
}

fn identity() -> impl Strategy<Value = Identity> {
    ("[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,2}", text(), text())
        .prop_map(|(trust_domain, namespace, account)| Identity::new(&trust_domain, &namespace, &account))
}

/// Any port but 0, which is none.
fn port() -> impl Strategy<Value = u16> {
    1..=u16::MAX
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn mode() -> impl Strategy<Value = EncryptionMode> {
    prop_oneof![Just(EncryptionMode::Strict), Just(EncryptionMode::Permissive)]
}

fn membership() -> impl Strategy<Value = Membership> {
    prop_oneof![Just(Membership::Outside), Just(Membership::Pending), Just(Membership::Enrolled)]
}

fn few<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(one, 0..4)
}

fn workload() -> impl Strategy<Value = Workload> {
    let whom = (name(), "\\PC{0,20}", identity(), few(any::<IpAddr>()), text());
    let rest = (
        prop::option::of(text()),
        prop::option::of("/[a-z/]{0,20}"),
        membership(),
        (
            mode(),
            prop::collection::btree_map(port(), mode(), 0..4),
            prop_oneof![Just(UdpMode::Allow), Just(UdpMode::Deny)],
        ),
        (
            prop::collection::btree_set(name(), 0..4),
            prop::collection::btree_set(port(), 0..4),
            prop::option::of(name()),
            prop::option::of(network()),
        ),
    );
    (whom, rest).prop_map(
        |(
            (name, instance, identity, addresses, node),
            (zone, netns, membership, (default, ports, udp), (policies, probe_ports, telemetry, network)),
        )| Workload {
            name,
            instance: instance.into(),
            identity,
            addresses,
            node,
            zone,
            netns: netns.map(Into::into),
            membership,
            encryption: Encryption { default, ports, udp },
            policies,
            probe_ports,
            telemetry,
            network: network.map(Into::into),
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let one = (port(), protocol(), text()).prop_map(|(port, protocol, name)| ServicePort { port, protocol, name });
    (name(), few(any::<IpAddr>()), few(one), traffic()).prop_map(|(name, addresses, ports, traffic)| Service {
        name,
        addresses,
        ports,
        traffic,
    })
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let seconds = (1..=u32::MAX).prop_map(|seconds| Duration::from_secs(seconds.into()));
    let affinity = prop::option::of(seconds)
        .prop_map(|timeout| timeout.map_or(Affinity::None, |timeout| Affinity::ClientIp { timeout }));
    let reach = prop_oneof![Just(Reach::Cluster), Just(Reach::Local)];
    let ms = || any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()));
    let bounds = (1..=u32::MAX, ms(), ms(), ms(), any::<u32>());
    let outliers = prop::option::of(bounds).prop_map(|bounds| match bounds {
        None => Outliers::Kept,
        Some((failures, interval, base, longest, percent)) => {
            Outliers::Ejected(Bounds { failures, interval, base, longest, percent })
        }
    });
    let origin = prop_oneof![Just(Origin::Default), Just(Origin::Policy)];
    let retries = (0..=100u32, 1..=u32::MAX, any::<u32>(), 1..=u32::MAX, origin).prop_map(
        |(percent, interval, min_count, min_interval, origin)| {
            let [interval, min_interval] = [interval, min_interval].map(|ms| Duration::from_millis(ms.into()));
            RetryBudget { percent, interval, min_count, min_interval, origin }
        },
    );
    (affinity, reach, outliers, retries).prop_map(|(affinity, reach, outliers, retries)| Traffic {
        affinity,
        reach,
        outliers,
        retries,
    })
}

fn place() -> impl Strategy<Value = Place> {
    let some = || prop::collection::btree_set(text(), 0..3);
    (prop::option::of(text()), some(), some()).prop_map(|(node, for_nodes, for_zones)| Place {
        node,
        for_nodes,
        for_zones,
    })
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let ready = prop_oneof![Just(Readiness::Ready), Just(Readiness::Leaving), Just(Readiness::Unready)];
    let ports = prop::collection::btree_map((port(), protocol()), port(), 0..4);
    let one = (any::<IpAddr>(), prop::option::of(name()), ports, any::<u32>(), ready, place()).prop_map(
        |(address, workload, ports, weight, readiness, place)| Endpoint {
            address,
            workload,
            ports,
            weight,
            readiness,
            place,
        },
    );
    (name(), few(one)).prop_map(|(service, endpoints)| Endpoints { service, endpoints })
}

fn block() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), 0..=128u8)
        .prop_filter_map("a prefix no longer than the address", |(address, length)| IpNet::new(address, length).ok())
}

fn network() -> impl Strategy<Value = Network> {
    let names = prop::collection::btree_set(name(), 0..3);
    let ids = prop::collection::btree_set(any::<u64>(), 0..3);
    (names, ids, any::<u64>(), any::<bool>()).prop_map(|(egress, peers, class, is_host)| Network {
        egress,
        peers,
        class,
        is_host,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let source = prop_oneof![
        identity().prop_map(Source::Identity),
        text().prop_map(Source::Namespace),
        block().prop_map(Source::Block),
        any::<u64>().prop_map(Source::Peers),
    ];
    let rule = (few(source), prop::collection::btree_set(port(), 0..4), prop::option::of(protocol()))
        .prop_map(|(from, ports, protocol)| Rule { from, ports, protocol })
        .boxed();
    let tier = prop_oneof![Just(Tier::Access), few(rule.clone()).prop_map(|egress| Tier::Network { egress })];
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    (name(), action, few(rule), tier).prop_map(|(name, action, rules, tier)| Policy { name, action, rules, tier })
}

fn profile() -> impl Strategy<Value = (Arc<str>, NodeProfile)> {
    let some = || prop::option::of(any::<u32>());
    let cpus = prop::collection::btree_set(any::<u16>(), 0..4);
    let proxy =
        (prop::option::of(any::<u16>()), cpus, [some(), some(), some(), some(), some()], prop::option::of(text()));
    let proxy =
        proxy.prop_map(|(workers, cpus, [stream, tunnel, frame, send, receive], congestion_control)| ProxySettings {
            workers,
            cpus,
            stream_window: stream,
            connection_window: tunnel,
            frame_size: frame,
            send_buffer: send,
            receive_buffer: receive,
            congestion_control,
        });
    let pods = (prop::option::of(text()), some())
        .prop_map(|(congestion_control, initial_window)| PodSettings { congestion_control, initial_window });
    let limits = (some(), some(), prop::option::of(any::<u64>()), some(), some()).prop_map(
        |(max_connections, max_pending_connections, max_buffered_bytes, share_weight, cpu_millis)| WorkloadLimits {
            max_connections,
            max_pending_connections,
            max_buffered_bytes,
            share_weight,
            cpu_millis,
        },
    );
    let maps = prop::collection::btree_map(text(), any::<u32>(), 0..4);
    (text(), text(), proxy, pods, maps, limits)
        .prop_map(|(node, name, proxy, pods, maps, limits)| (node, NodeProfile { name, proxy, pods, maps, limits }))
}

fn change<T: std::fmt::Debug>(
    one: impl Strategy<Value = T>,
    named: fn(&T) -> ObjectName,
) -> impl Strategy<Value = Change<T>> {
    (few(one), few(name())).prop_map(move |(set, gone)| Change {
        set: set.into_iter().map(|item| (named(&item), Arc::new(item))).collect(),
        gone,
    })
}

fn delta() -> impl Strategy<Value = Delta> {
    (
        any::<u64>(),
        any::<u64>(),
        text(),
        change(workload(), |w| w.name.clone()),
        change(service(), |s| s.name.clone()),
        change(endpoints(), |e| e.service.clone()),
        change(policy(), |p| p.name.clone()),
        (few(profile()), few(text())),
        (change(routes::routes(), |r| r.service.clone()), change(telemetry::telemetry(), |t| t.name.clone())),
    )
        .prop_map(
            |(from, to, trust_domain, workloads, services, endpoints, policies, (set, gone), (routes, telemetry))| {
                Delta {
                    from,
                    to,
                    trust_domain,
                    workloads,
                    services,
                    endpoints,
                    policies,
                    profiles: Change { set: set.into_iter().map(|(node, p)| (node, Arc::new(p))).collect(), gone },
                    routes,
                    telemetry,
                }
            },
        )
}

fn by_name<T>(items: Vec<T>, named: fn(&T) -> ObjectName) -> Map<ObjectName, Arc<T>> {
    items.into_iter().map(|item| (named(&item), Arc::new(item))).collect()
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let requests = (few(routes::routes()), few(telemetry::telemetry()));
    let named = (few(workload()), few(service()), few(endpoints()), few(policy()), few(profile()), requests);
    (any::<u64>(), text(), named).prop_map(
        |(generation, trust_domain, (workloads, services, endpoints, policies, profiles, (routes, telemetry)))| {
            Snapshot {
                generation,
                trust_domain,
                workloads: by_name(workloads, |w| w.name.clone()),
                services: by_name(services, |s| s.name.clone()),
                endpoints: by_name(endpoints, |e| e.service.clone()),
                policies: by_name(policies, |p| p.name.clone()),
                profiles: profiles.into_iter().map(|(node, p)| (node, Arc::new(p))).collect(),
                routes: by_name(routes, |r| r.service.clone()),
                telemetry: by_name(telemetry, |t| t.name.clone()),
            }
        },
    )
}

proptest! {
    #[test]
    fn an_update_is_the_delta_it_was_made_of(delta in delta()) {
        let bytes = convert::update(&delta).encode_to_vec();
        let update = pb::Update::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(convert::delta(update).unwrap(), delta);
    }

    #[test]
    fn a_snapshot_is_what_its_bytes_say(snapshot in snapshot()) {
        let bytes = millrace_wire::encode_snapshot(&snapshot);
        prop_assert_eq!(millrace_wire::decode_snapshot(bytes.into()).unwrap(), snapshot);
    }

    /// The way of every change: what one side has, and the difference, make what the other has.
    #[test]
    fn a_difference_sent_makes_the_snapshot_it_was_made_from(have in snapshot(), now in snapshot()) {
        let (have, now) = (Snapshot { generation: 7, ..have }, Snapshot { generation: 8, ..now });
        let sent = convert::update(&Delta::between(&have, &now)).encode_to_vec();
        let delta = convert::delta(pb::Update::decode(sent.as_slice()).unwrap()).unwrap();
        prop_assert_eq!(have.apply(&delta).unwrap(), now);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let length = bytes.len();
        if let Ok(snapshot) = millrace_wire::decode_snapshot(bytes.into()) {
            prop_assert!(snapshot.workloads.len() <= length);
        }
    }
}

/// One of everything, for the edits below.
fn update() -> pb::Update {
    let object = ObjectName::new("shop", "web");
    let workload = Workload {
        name: object.clone(),
        instance: "u".into(),
        identity: Identity::new("td", "shop", "web"),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        node: "a".into(),
        zone: None,
        netns: None,
        membership: Membership::Enrolled,
        encryption: Encryption {
            default: EncryptionMode::Strict,
            ports: [(80, EncryptionMode::Permissive)].into(),
            udp: UdpMode::Deny,
        },
        policies: BTreeSet::from([object.clone()]),
        probe_ports: [8080].into(),
        telemetry: None,
        network: None,
    };
    let service = Service {
        name: object.clone(),
        addresses: vec!["fd00::1".parse().unwrap()],
        ports: vec![ServicePort { port: 80, protocol: Protocol::Tcp, name: "".into() }],
        traffic: Traffic::default(),
    };
    let endpoint = Endpoint {
        address: "10.0.0.1".parse().unwrap(),
        workload: Some(object.clone()),
        ports: [((80, Protocol::Tcp), 8080)].into(),
        weight: 1,
        readiness: Readiness::Ready,
        place: Place::default(),
    };
    let policy = Policy {
        name: object.clone(),
        action: Action::Allow,
        rules: vec![Rule {
            from: vec![Source::Identity(Identity::new("td", "shop", "web"))],
            ports: [8080].into(),
            protocol: None,
        }],
        tier: Tier::Access,
    };
    convert::update(&Delta {
        from: 0,
        to: 1,
        trust_domain: "td".into(),
        workloads: Change { set: vec![(object.clone(), workload.into())], gone: vec![object.clone()] },
        services: Change { set: vec![(object.clone(), service.into())], gone: Vec::new() },
        endpoints: Change {
            set: vec![(object.clone(), Endpoints { service: object.clone(), endpoints: vec![endpoint] }.into())],
            gone: Vec::new(),
        },
        policies: Change { set: vec![(object, policy.into())], gone: Vec::new() },
        profiles: Change::default(),
        routes: Change::default(),
        telemetry: Change::default(),
    })
}

/// Edits a message that another holds as bytes.
fn within<M: prost::Message + Default>(bytes: &mut bytes::Bytes, edit: impl FnOnce(&mut M)) {
    let mut message = M::decode(bytes.clone()).unwrap();
    edit(&mut message);
    *bytes = message.encode_to_vec().into();
}

fn workload_of(update: &mut pb::Update, edit: impl FnOnce(&mut pb::Workload)) {
    within(&mut update.workloads[0], edit);
}

fn service_of(update: &mut pb::Update, edit: impl FnOnce(&mut pb::Service)) {
    within(&mut update.services[0], edit);
}

fn endpoints_of(update: &mut pb::Update, edit: impl FnOnce(&mut pb::Endpoints)) {
    within(&mut update.endpoints[0], edit);
}

fn policy_of(update: &mut pb::Update, edit: impl FnOnce(&mut pb::Policy)) {
    within(&mut update.policies[0], edit);
}

fn set_mode(update: &mut pb::Update, port: u32, mode: i32) {
    workload_of(update, |w| {
        w.encryption.get_or_insert_default().ports.insert(port, mode);
    });
}

/// A newer control plane may say what this version can't read; taken for something else, it could open what it means to close.
#[test]
fn what_is_unknown_missing_or_out_of_range_is_refused_by_the_name_of_its_field() {
    type Edit = fn(&mut pb::Update);
    let edits: [(&str, Edit); 36] = [
        ("workload.name", |u| workload_of(u, |w| w.name = None)),
        ("workload.name", |u| workload_of(u, |w| w.name = Some(pb::ObjectName::default()))),
        ("workload.identity", |u| workload_of(u, |w| w.identity = "spiffe://td/web".to_owned())),
        ("workload.addresses", |u| workload_of(u, |w| w.addresses[0] = vec![0; 5])),
        ("workload.membership", |u| workload_of(u, |w| w.membership = 0)),
        ("workload.membership", |u| workload_of(u, |w| w.membership = 99)),
        ("workload.encryption", |u| workload_of(u, |w| w.encryption = None)),
        ("encryption.mode", |u| workload_of(u, |w| w.encryption.as_mut().unwrap().default = 0)),
        ("encryption.mode", |u| set_mode(u, 80, 99)),
        ("workload.encryption.ports", |u| set_mode(u, 0, 1)),
        ("workload.encryption.ports", |u| set_mode(u, 65_536, 1)),
        ("workload.policies", |u| workload_of(u, |w| w.policies[0].name.clear())),
        ("gone.name", |u| u.workloads_gone[0].namespace.clear()),
        ("service.name", |u| service_of(u, |s| s.name = None)),
        ("service.addresses", |u| service_of(u, |s| s.addresses[0] = Vec::new())),
        ("service.ports.port", |u| service_of(u, |s| s.ports[0].port = 0)),
        ("service.ports.protocol", |u| service_of(u, |s| s.ports[0].protocol = 3)),
        ("service.traffic", |u| service_of(u, |s| s.traffic = None)),
        ("service.traffic.client_ip_affinity_s", |u| {
            service_of(u, |s| s.traffic.as_mut().unwrap().client_ip_affinity_s = Some(0));
        }),
        ("service.traffic.reach", |u| service_of(u, |s| s.traffic.as_mut().unwrap().reach = 9)),
        ("service.traffic.outliers", |u| service_of(u, |s| s.traffic.as_mut().unwrap().outliers = None)),
        ("service.traffic.outliers", |u| {
            let none = pb::outliers::Kind::Ejected(pb::Bounds::default());
            let none = Some(pb::Outliers { kind: Some(none) });
            service_of(u, |s| s.traffic.as_mut().unwrap().outliers = none);
        }),
        ("service.traffic.retries.percent", |u| {
            let many = Some(pb::RetryBudget { percent: 101, interval_ms: 1, min_interval_ms: 1, ..Default::default() });
            service_of(u, |s| s.traffic.as_mut().unwrap().retries = many);
        }),
        ("service.traffic.retries.interval_ms", |u| {
            service_of(u, |s| s.traffic.as_mut().unwrap().retries = Some(pb::RetryBudget::default()));
        }),
        ("endpoint.readiness", |u| endpoints_of(u, |e| e.endpoints[0].readiness = 0)),
        ("endpoint.place", |u| endpoints_of(u, |e| e.endpoints[0].place = None)),
        ("endpoints.service", |u| endpoints_of(u, |e| e.service = None)),
        ("endpoint.address", |u| endpoints_of(u, |e| e.endpoints[0].address = vec![0; 17])),
        ("endpoint.workload", |u| endpoints_of(u, |e| e.endpoints[0].workload = Some(pb::ObjectName::default()))),
        ("endpoint.ports.target", |u| endpoints_of(u, |e| e.endpoints[0].ports[0].target = 70_000)),
        ("endpoint.ports.protocol", |u| endpoints_of(u, |e| e.endpoints[0].ports[0].protocol = 0)),
        ("policy.name", |u| policy_of(u, |p| p.name = None)),
        ("policy.action", |u| policy_of(u, |p| p.action = 0)),
        ("policy.rules.ports", |u| policy_of(u, |p| p.rules[0].ports[0] = 0)),
        ("policy.rules.from", |u| policy_of(u, |p| p.rules[0].from[0].kind = None)),
        ("policy.rules.from.block", |u| {
            let block = pb::source::Kind::Block("10.0.0.0/99".to_owned());
            policy_of(u, |p| p.rules[0].from[0].kind = Some(block));
        }),
    ];
    convert::delta(update()).expect("without an edit it is read");
    for (n, (wanted, edit)) in edits.into_iter().enumerate() {
        let mut update = update();
        edit(&mut update);
        match convert::delta(update) {
            Err(Undecodable::Field { field, .. }) => assert_eq!(field, wanted, "edit {n}"),
            other => panic!("edit {n} of {wanted} was read as {other:?}"),
        }
    }
}

#[test]
fn a_difference_is_no_snapshot() {
    let bytes = pb::Update { from: 5, ..update() }.encode_to_vec();
    assert!(matches!(millrace_wire::decode_snapshot(bytes.into()), Err(Undecodable::NotWhole(5))));
}
