//! States that the part of the tables which a change may touch is planned as the whole is, write by write, through meshes that quarrel over
//! few names, addresses and groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use millrace_abi::DestKind;
use millrace_model::{
    Action, Affinity, Ejected, Encryption, Endpoint, Endpoints, Identity, Membership, Mesh, ObjectName, Place, Policy,
    Protocol, Reach, RouteKind, RouteName, Routes, Rule, Service, ServicePort, Snapshot, Source, Tier, Traffic,
    UdpMode, Workload,
    network::{Network, PREFIX},
    outlier::Pool,
    route::{Bound, Clients},
    service::Readiness,
};
use proptest::{prelude::*, sample::Index};

use super::{State, drawn, keeps_the_rules, without_tables};
use crate::kernel::{
    maps::MapError,
    plan::{Aim, Basis, Namespace, Namespaces, View, plan, plan_part, want_by},
    reconcile::{Maps, reach},
    state::Write,
};

const NODE: &str = "a";
const MEMBERSHIPS: [Membership; 4] = [Membership::Outside, Membership::Pending, Membership::Enrolled, Membership::Host];

fn name(kind: &str, n: usize) -> ObjectName {
    ObjectName::new("shop", &format!("{kind}{n}"))
}

/// Few of them, of both families, so that they are claimed twice.
fn address(n: usize) -> IpAddr {
    ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::1", "fd00::2"][n % 6].parse().unwrap()
}

fn virtual_address(n: usize) -> IpAddr {
    ["10.96.0.1", "10.96.0.2", "fd96::1"][n % 3].parse().unwrap()
}

/// Whether a policy denies; from whom, at which ports.
type Said = (bool, Vec<(usize, BTreeSet<u16>)>, bool);

/// An endpoint's address, weight and readiness.
type Behind = (usize, u32, usize);

/// One change of what a node is told, or of what it sees by itself.
#[derive(Clone, Debug)]
enum Step {
    Workload(usize, Option<Pod>),
    Policy(usize, Option<Said>),
    Service(usize, Option<Front>),
    Endpoints(usize, Option<Vec<Behind>>),
    Routes(usize, bool),
    Namespace(u64, Option<(usize, bool)>),
    Ejected(usize, Vec<usize>),
    Departed(BTreeSet<usize>),
}

#[derive(Clone, Debug)]
struct Pod {
    addresses: BTreeSet<usize>,
    membership: usize,
    is_local: bool,
    instance: bool,
    policies: BTreeSet<usize>,
    is_probed: bool,
    takes_datagrams: bool,
    has_zone: bool,
    network: Option<Named>,
}

/// What network policies make of a pod: whose policies bind its calls, which selectors select it, and whether it has its node's address.
type Named = (BTreeSet<usize>, BTreeSet<u64>, bool);

#[derive(Clone, Debug)]
struct Front {
    addresses: BTreeSet<usize>,
    has_udp: bool,
    affinity: bool,
    is_local: bool,
}

/// What a node goes by.
#[derive(Clone, Default)]
struct World {
    mesh: Mesh,
    snapshot: Snapshot,
    namespaces: Namespaces,
    ejected: Ejected,
    departed: BTreeSet<ObjectName>,
}

impl World {
    fn view(&self) -> View<'_> {
        let Self { mesh, snapshot: _, namespaces, ejected, departed } = self;
        View { mesh, node: NODE, namespaces, ejected, departed }
    }

    fn turn(&mut self, steps: &[Step]) {
        steps.iter().for_each(|step| self.take(step.clone()));
        self.mesh = self.mesh.turned(Arc::new(self.snapshot.clone()));
    }

    fn take(&mut self, step: Step) {
        let now = &mut self.snapshot;
        match step {
            Step::Workload(n, None) => drop(now.workloads.remove(&name("w", n))),
            Step::Workload(n, Some(pod)) => drop(now.workloads.insert(name("w", n), Arc::new(workload(n, &pod)))),
            Step::Policy(n, None) => {
                now.policies.remove(&policy(n, false));
                now.policies.remove(&policy(n, true));
            }
            Step::Policy(n, Some((is_deny, rules, is_network))) => {
                let protocol = is_network.then_some(if n == 1 { Protocol::Udp } else { Protocol::Tcp });
                let rules: Vec<Rule> =
                    rules.into_iter().map(|(from, ports)| Rule { from: vec![source(from)], ports, protocol }).collect();
                now.policies.remove(&policy(n, !is_network));
                let tier = if is_network { Tier::Network { egress: rules.clone() } } else { Tier::Access };
                let action = if is_deny && !is_network { Action::Deny } else { Action::Allow };
                let made = Policy { name: policy(n, is_network), action, rules, tier };
                now.policies.insert(made.name.clone(), Arc::new(made));
            }
            Step::Service(n, None) => drop(now.services.remove(&name("s", n))),
            Step::Service(n, Some(front)) => drop(now.services.insert(name("s", n), Arc::new(service(n, &front)))),
            Step::Endpoints(n, None) => drop(now.endpoints.remove(&name("s", n))),
            Step::Endpoints(n, Some(all)) => {
                let endpoints = all.iter().map(|one| endpoint(*one)).collect();
                let endpoints = Endpoints { service: name("s", n), endpoints };
                now.endpoints.insert(name("s", n), Arc::new(endpoints));
            }
            Step::Routes(n, false) => drop(now.routes.remove(&name("s", n))),
            Step::Routes(n, true) => {
                let route = RouteName { kind: RouteKind::Http, name: name("r", n) };
                let clients = Clients::All;
                let bound = Bound { route, clients, ports: [80].into(), hosts: vec![], rules: vec![] };
                now.routes.insert(name("s", n), Arc::new(Routes { service: name("s", n), bound: vec![bound] }));
            }
            Step::Namespace(cookie, None) => drop(self.namespaces.remove(&cookie)),
            Step::Namespace(cookie, Some((n, is_mesh))) => {
                let whose = if is_mesh { Namespace::Mesh(name("w", n)) } else { Namespace::HostMesh(name("w", n)) };
                self.namespaces.insert(cookie, whose);
            }
            Step::Ejected(n, endpoints) => {
                self.ejected = Ejected::default();
                for one in endpoints {
                    let at = (virtual_address(n), 80).into();
                    self.ejected.insert(Pool::at(&name("s", n), at), (address(one), 8080).into());
                }
            }
            Step::Departed(all) => self.departed = all.into_iter().map(|n| name("w", n)).collect(),
        }
    }
}

fn workload(n: usize, pod: &Pod) -> Workload {
    let Pod { addresses, membership, is_local, instance, policies, is_probed, takes_datagrams, has_zone, network } =
        pod;
    let udp = if *takes_datagrams { UdpMode::Allow } else { UdpMode::Deny };
    Workload {
        name: name("w", n),
        instance: format!("{instance}").into(),
        identity: Identity::new("td", "shop", &format!("w{n}")),
        addresses: addresses.iter().map(|n| address(*n)).collect(),
        node: if *is_local { NODE } else { "b" }.into(),
        zone: has_zone.then(|| "z".into()),
        netns: None,
        membership: MEMBERSHIPS[*membership],
        encryption: Encryption { udp, ..Encryption::default() },
        policies: policies.iter().map(|n| policy(n % 3, *n >= 3)).collect(),
        probe_ports: if *is_probed { [80, 443].into() } else { BTreeSet::new() },
        telemetry: None,
        network: network.as_ref().map(|(egress, peers, is_host)| {
            let class = peers.iter().fold(1, |class, id| class * 10 + id);
            let egress = egress.iter().map(|n| policy(*n, true)).collect();
            Arc::new(Network { egress, peers: peers.clone(), class, is_host: *is_host })
        }),
    }
}

fn policy(n: usize, is_network: bool) -> ObjectName {
    if is_network { name(&format!("{PREFIX}p"), n) } else { name("p", n) }
}

fn source(n: usize) -> Source {
    match n {
        3 => Source::Block("10.0.0.0/31".parse().unwrap()),
        4 => Source::Block("fd00::1/128".parse().unwrap()),
        n if n > 4 => Source::Peers(u64::try_from(n).unwrap()),
        n => Source::Identity(Identity::new("td", "shop", &format!("w{n}"))),
    }
}

fn service(n: usize, front: &Front) -> Service {
    let Front { addresses, has_udp, affinity, is_local } = front;
    let port = |port, protocol| ServicePort { port, protocol, name: "".into() };
    let udp = has_udp.then(|| port(53, Protocol::Udp));
    Service {
        name: name("s", n),
        addresses: addresses.iter().map(|n| virtual_address(*n)).collect(),
        ports: [port(80, Protocol::Tcp)].into_iter().chain(udp).collect(),
        traffic: Traffic {
            affinity: match affinity {
                true => Affinity::ClientIp { timeout: std::time::Duration::from_secs(9) },
                false => Affinity::None,
            },
            reach: if *is_local { Reach::Local } else { Reach::Cluster },
            ..Traffic::default()
        },
    }
}

fn endpoint((at, weight, readiness): Behind) -> Endpoint {
    let near: BTreeSet<Arc<str>> = [["z", "y"][at % 2].into()].into();
    Endpoint {
        address: address(at),
        workload: None,
        ports: [((80, Protocol::Tcp), 8080), ((53, Protocol::Udp), 5353)].into(),
        weight,
        readiness: [Readiness::Ready, Readiness::Leaving, Readiness::Unready][readiness],
        place: Place { node: Some(NODE.into()), for_zones: near, ..Place::default() },
    }
}

fn pod() -> impl Strategy<Value = Pod> {
    let few = prop::collection::btree_set(0usize..6, 0..3);
    let names = prop::collection::btree_set(0usize..3, 0..2);
    let network = (names, prop::collection::btree_set(5u64..7, 0..2), prop::bool::weighted(0.2));
    let network = prop::option::weighted(0.7, network);
    let flags = (any::<bool>(), prop::bool::weighted(0.2), any::<bool>(), any::<bool>(), any::<bool>());
    (prop::collection::btree_set(0usize..6, 0..3), 0usize..4, few, flags, network).prop_map(
        |(addresses, membership, policies, (is_local, instance, is_probed, takes_datagrams, has_zone), network)| Pod {
            addresses,
            membership,
            is_local,
            instance,
            policies,
            is_probed,
            takes_datagrams,
            has_zone,
            network,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let few = |most: usize| prop::collection::btree_set(0..most, 0..3);
    let ports = prop::collection::btree_set(prop::sample::select(vec![80u16, 443]), 0..2);
    let rules = prop::collection::vec((0usize..7, ports), 0..3);
    let front = (few(3), any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    let front =
        front.prop_map(|(addresses, has_udp, affinity, is_local)| Front { addresses, has_udp, affinity, is_local });
    let backends = prop::collection::vec((0usize..6, 0u32..3, 0usize..3), 0..4);
    prop_oneof![
        5 => (0usize..6, prop::option::weighted(0.85, pod())).prop_map(|(n, pod)| Step::Workload(n, pod)),
        1 => (0usize..3, prop::option::weighted(0.8, (any::<bool>(), rules, any::<bool>()))).prop_map(|(n, p)| Step::Policy(n, p)),
        3 => (0usize..4, prop::option::weighted(0.8, front)).prop_map(|(n, front)| Step::Service(n, front)),
        5 => (0usize..4, prop::option::weighted(0.8, backends)).prop_map(|(n, all)| Step::Endpoints(n, all)),
        1 => (0usize..4, any::<bool>()).prop_map(|(n, is_routed)| Step::Routes(n, is_routed)),
        1 => (1u64..4, prop::option::weighted(0.8, (0usize..3, any::<bool>())))
            .prop_map(|(cookie, whose)| Step::Namespace(cookie, whose)),
        1 => (0usize..4, prop::collection::vec(0usize..6, 0..3)).prop_map(|(n, all)| Step::Ejected(n, all)),
        1 => few(6).prop_map(Step::Departed),
    ]
}

/// What a mesh begins with, and what becomes of it: some changes at a time.
fn changes() -> impl Strategy<Value = (Vec<Step>, Vec<Vec<Step>>)> {
    (prop::collection::vec(step(), 10..60), prop::collection::vec(prop::collection::vec(step(), 1..4), 1..12))
}

/// Writes all.
struct Memory;

impl Maps for Memory {
    fn write(&mut self, _: &Write) -> Result<(), MapError> {
        Ok(())
    }
}

/// Refuses some writes: as many as are named, by their places among all.
struct Failing {
    state: State,
    n_writes: usize,
    refused: BTreeSet<usize>,
}

impl Maps for Failing {
    fn write(&mut self, write: &Write) -> Result<(), MapError> {
        self.n_writes += 1;
        if self.refused.contains(&self.n_writes) {
            return Err(MapError::Full { map: "of this test", capacity: 0 });
        }
        self.state.apply(write);
        Ok(())
    }
}

/// Has the tables follow the world, by the least that says what they should be.
fn follow(maps: &mut dyn Maps, (have, basis): (&mut State, &mut Basis), world: &World) -> bool {
    let view = world.view();
    let mut aim = basis.aim(have, &view);
    let outcome = reach(maps, have, &mut aim);
    let is_whole = matches!(aim, Aim::Whole(_));
    if outcome.failures.is_empty() {
        basis.reached(have, &aim, &view);
    } else {
        basis.lose();
    }
    is_whole
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Of all that a mesh may become, whatever it was: nothing is forgotten, nothing comes in another order, no table gets another number.
    #[test]
    fn a_part_is_planned_as_the_whole_is((begun, turns) in changes()) {
        let (mut world, mut have, mut basis) = (World::default(), State::default(), Basis::default());
        world.turn(&begun);
        prop_assert!(follow(&mut Memory, (&mut have, &mut basis), &world), "there was nothing to compare with");
        for steps in turns {
            world.turn(&steps);
            let wanted = want_by(&world.view());
            if let Aim::Part(part) = basis.aim(&have, &world.view()) {
                let planned = plan_part(&have, &part);
                prop_assert_eq!(&planned, &plan(&have, &wanted));
                keeps_the_rules((&have, &wanted), &planned)?;
            }
            follow(&mut Memory, (&mut have, &mut basis), &world);
            prop_assert_eq!(without_tables(&have), without_tables(&wanted));
            prop_assert_eq!(drawn(&have), drawn(&wanted));
            prop_assert!(plan(&have, &wanted).is_empty(), "the whole finds nothing left to do");
        }
    }

    /// Writes that fail, at any places: no service draws from half a table meanwhile, and the next whole makes it good.
    #[test]
    fn what_a_part_could_not_write_is_whole_again_next(
        (begun, turns) in changes(), refused in prop::collection::vec(any::<Index>(), 1..4),
    ) {
        let (mut world, mut have, mut basis) = (World::default(), State::default(), Basis::default());
        world.turn(&begun);
        follow(&mut Memory, (&mut have, &mut basis), &world);
        for steps in turns {
            let held = have.clone();
            world.turn(&steps);
            let refused = refused.iter().map(|place| place.index(12)).collect();
            let mut maps = Failing { state: have.clone(), n_writes: 0, refused };
            follow(&mut maps, (&mut have, &mut basis), &world);
            prop_assert_eq!(&maps.state, &have, "what is held is what was written");
            let wanted = want_by(&world.view());
            for (key, slots) in drawn(&have) {
                let is_known = drawn(&held).get(&key) == Some(&slots) || drawn(&wanted).get(&key) == Some(&slots);
                prop_assert!(is_known, "{:?} draws from half a table: {:?}", key, slots);
            }
            let had_all = plan(&have, &wanted).is_empty();
            let is_whole = follow(&mut Memory, (&mut have, &mut basis), &world);
            prop_assert!(had_all || is_whole, "what failed is not gone on from");
            prop_assert!(plan(&have, &wanted).is_empty());
        }
    }
}

fn enrolled(n: usize) -> Step {
    let pod = Pod {
        addresses: [n].into(),
        membership: 2,
        is_local: false,
        instance: false,
        policies: BTreeSet::new(),
        is_probed: false,
        takes_datagrams: true,
        has_zone: false,
        network: None,
    };
    Step::Workload(n, Some(pod))
}

/// A caller whose address another has is bound by its own policies all the same: found by the property, once in some thousand cases.
#[test]
fn what_binds_the_calls_of_one_whose_address_another_has_is_seen_to_change() {
    let (mut world, mut have, mut basis) = (World::default(), State::default(), Basis::default());
    let claims = |n: usize, membership, egress: Option<usize>| {
        let Step::Workload(_, Some(pod)) = enrolled(n) else { unreachable!() };
        let network = egress.map(|policy| ([policy].into(), BTreeSet::new(), false));
        Step::Workload(n, Some(Pod { addresses: [0].into(), membership, network, ..pod }))
    };
    let Step::Workload(_, Some(called)) = enrolled(1) else { unreachable!() };
    world.turn(&[
        Step::Namespace(1, Some((1, false))),
        claims(0, 0, None),
        claims(1, 0, Some(1)),
        Step::Workload(2, Some(Pod { membership: 1, policies: [0].into(), ..called })),
    ]);
    follow(&mut Memory, (&mut have, &mut basis), &world);
    world.turn(&[Step::Policy(1, Some((false, vec![(0, [80].into())], true)))]);
    follow(&mut Memory, (&mut have, &mut basis), &world);
    let left = plan(&have, &want_by(&world.view()));
    assert!(left.is_empty(), "{left:?}");
}

/// What is common is told by a part, and a part holds what is touched alone.
#[test]
fn a_change_of_one_service_or_one_pod_of_another_node_is_a_part() {
    let (mut world, mut have, mut basis) = (World::default(), State::default(), Basis::default());
    let front = |n| Front { addresses: [n].into(), has_udp: false, affinity: false, is_local: false };
    world.turn(&[
        enrolled(0),
        enrolled(1),
        Step::Namespace(1, Some((0, true))),
        Step::Service(0, Some(front(0))),
        Step::Service(1, Some(front(1))),
        Step::Endpoints(0, Some(vec![(0, 1, 0), (1, 1, 0)])),
        Step::Endpoints(1, Some(vec![(1, 1, 0)])),
    ]);
    follow(&mut Memory, (&mut have, &mut basis), &world);
    let mut sizes = |steps: &[Step]| {
        world.turn(steps);
        let Aim::Part(part) = basis.aim(&have, &world.view()) else { panic!("{steps:?} took the whole") };
        follow(&mut Memory, (&mut have, &mut basis), &world);
        (part.want.dests.len(), part.want.services.len())
    };
    assert_eq!(sizes(&[]), (0, 0), "nothing");
    assert_eq!(sizes(&[Step::Endpoints(1, Some(vec![(0, 1, 0), (1, 1, 0)]))]), (0, 1), "endpoints of one");
    assert_eq!(sizes(&[Step::Service(2, Some(front(2)))]), (0, 1), "a service more");
    assert_eq!(sizes(&[Step::Service(2, None)]), (0, 0), "and gone");
    assert_eq!(sizes(&[enrolled(2)]), (1, 0), "a pod more, that no service has");
    assert_eq!(sizes(&[Step::Workload(1, None)]), (0, 2), "one gone that two have");
    let kinds: BTreeMap<_, _> = have.dests.iter().map(|(at, dest)| (at[15], dest.kind)).collect();
    assert_eq!(kinds, [(1, DestKind::Remote as u32), (3, DestKind::Remote as u32)].into());
}
