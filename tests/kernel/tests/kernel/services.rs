//! Many services and many backends: what a flip costs, which shares backends get, and what connects meet while services come
//! and go.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use millrace_abi::{Addr, Dest, DestKind, Reason, ServiceValue, SlotKey, SlotValue};
use millrace_agent::kernel::{State, reconcile::reconcile};
use millrace_lab::clock;
use millrace_model::balance::alias_table;

use crate::node::{Family, Node, Proxy, bytes, ip, service_key};

/// A service that stays.
const VIP: &str = "10.96.0.10:80";

/// The first of the backends on other nodes.
const BACKENDS: u32 = 0x0a58_0000;

/// Their ids begin above those of the node's own pods: a pod's connect to its own id stays within it.
const IDS: u64 = 1 << 32;

fn backend(n: usize) -> Addr {
    bytes(Ipv4Addr::from(BACKENDS + u32::try_from(n).unwrap()).into())
}

fn value(table: u32, n_slots: u32) -> ServiceValue {
    ServiceValue { table, n_slots, affinity_s: 0, flags: 0 }
}

/// One service with the backends of these numbers, whose weights are 1 to 4 in turn.
fn weighted(node: &Node, all: &[usize]) -> State {
    let mut state = node.kernel().state().unwrap();
    let weights: Vec<u32> = all.iter().map(|n| 1 + u32::try_from(n % 4).unwrap()).collect();
    let port = 8080u16.to_be_bytes();
    let slots = (0..).zip(alias_table(&weights)).map(|(slot, drawn)| {
        let (addr, alias_addr) = (backend(all[drawn.own]), backend(all[drawn.alias]));
        (SlotKey { table: 1, slot }, SlotValue { addr, alias_addr, port, alias_port: port, threshold: drawn.threshold })
    });
    state.slots = slots.collect();
    state.services = [(service_key(VIP), value(1, u32::try_from(all.len()).unwrap()))].into();
    for n in all {
        let dest = Dest { id: IDS + *n as u64, group: 0, kind: DestKind::Remote as u32, udp: 0 };
        state.dests.insert(backend(*n), dest);
    }
    state
}

/// They are one alias table; each weight's group gets its part of the connections, and a flip changes all at once.
#[test]
fn a_thousand_backends_have_their_shares_and_are_changed_at_once() {
    const CONNECTS: u32 = 8_000;
    // Fewer than a pod may have under way.
    const AT_ONCE: u32 = 200;
    let node = Node::new();
    let (client, proxy) = node.pod_with_proxy();
    let mut have = node.kernel().state().unwrap();
    let to: SocketAddr = VIP.parse().unwrap();
    for first in [1, 301] {
        let want = weighted(&node, &(first..first + 1000).collect::<Vec<_>>());
        let began = clock::now();
        let outcome = reconcile(&mut *node.kernel(), &mut have, &want);
        println!("1,000 backends from {first}: {} writes in {:?}", outcome.n_written, began.elapsed());
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    }
    let mut taken = [0u32; 4];
    for _ in 0..CONNECTS / AT_ONCE {
        client.run(|| (0..AT_ONCE).for_each(|_| drop(TcpStream::connect(to).unwrap())));
        for _ in 0..AT_ONCE {
            let asked = proxy.asked(&Proxy::of(&proxy.outbound, Family::V4).accept().unwrap().0).unwrap();
            let SocketAddr::V4(v4) = asked.backend else { panic!("{asked:?}") };
            let n = usize::try_from(u32::from(*v4.ip()) - BACKENDS).unwrap();
            assert!((301..1301).contains(&n), "one of the old table");
            taken[n % 4] += 1;
        }
    }
    for (weight, taken) in (1..).zip(taken) {
        let (share, wanted) = (f64::from(taken) / f64::from(CONNECTS), f64::from(weight) / 10.0);
        // Five standard deviations of the largest share, and then some.
        assert!((share - wanted).abs() < 0.03, "weight {weight} has {share}, not {wanted}");
    }
    assert_eq!(node.count(Reason::TornTable), 0);
}

/// The services of a moment, from this number on, and one that stays: each leads to the port of its kind.
fn churned(empty: &State, server: Addr, from: u32) -> State {
    let mut state = empty.clone();
    let coming_and_going = (from..from + LIVE).map(|n| (vip(n), port(n)));
    for (table, (vip, port)) in (1..).zip(coming_and_going.chain([(VIP.parse().unwrap(), STAYS)])) {
        for slot in 0..3 {
            let port = port.to_be_bytes();
            let slot_value =
                SlotValue { addr: server, alias_addr: server, port, alias_port: port, threshold: u32::MAX };
            state.slots.insert(SlotKey { table, slot }, slot_value);
        }
        state.services.insert(service_key(&vip.to_string()), value(table, 3));
    }
    state
}

/// How many are there at a moment, and how many come, and go, in a step.
const LIVE: u32 = 400;
const STEP: u32 = 100;
/// Where the service that stays leads.
const STAYS: u16 = 8081;

fn vip(n: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0a61_0000 + n % 8_000).into(), 80)
}

/// Of one kind or the other.
fn port(n: u32) -> u16 {
    8082 + u16::try_from(n % 2).unwrap()
}

/// Says its port to whoever comes; who comes once it is over is the last.
fn serve(listener: &TcpListener, is_over: &AtomicBool) {
    let name = listener.local_addr().unwrap().port().to_be_bytes();
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        drop(stream.write_all(&name));
    }
}

/// Whether a connect reached the port that it should have; it may reach nobody, but never another.
fn reached(to: SocketAddr, expected: u16) -> bool {
    match TcpStream::connect(to) {
        Ok(mut stream) => {
            let mut name = [0; 2];
            stream.read_exact(&mut name).unwrap();
            assert_eq!(u16::from_be_bytes(name), expected, "{to} led to another's backend");
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            true
        }
        Err(error) => {
            assert_ne!(error.raw_os_error(), Some(libc::EPERM), "{to}: {error}");
            false
        }
    }
}

/// Services come and go for so long, as fast as they are written. Whoever asks for the one that stays gets it each time; whoever
/// asks for another reaches its backend, or nobody where it is gone. Says how it went.
fn churn(seconds: u64) -> String {
    let node = Node::new();
    let (client, server) = (node.pod(), node.pod());
    ip(&format!("-n {} route add unreachable 10.97.0.0/16", client.name()));
    let listeners: Vec<TcpListener> = (STAYS..STAYS + 3).map(|port| server.listens("0.0.0.0", port)).collect();
    let empty = node.kernel().state().unwrap();
    let mut have = empty.clone();
    reconcile(&mut *node.kernel(), &mut have, &churned(&empty, server.v4, 0));
    let (is_over, is_closed, from) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU32::new(0));
    let (changed, n_calls, n_reached) = std::thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| serve(listener, &is_closed));
        }
        let caller = scope.spawn(|| {
            client.run(|| {
                let (mut n_calls, mut n_reached) = (0u32, 0u32);
                while !is_over.load(Ordering::Relaxed) {
                    assert!(reached(VIP.parse().unwrap(), STAYS), "the one that stays was not reached");
                    let n = from.load(Ordering::Relaxed) + n_calls % LIVE;
                    n_reached += u32::from(reached(vip(n), port(n)));
                    n_calls += 1;
                }
                (n_calls, n_reached)
            })
        });
        let (began, mut n_changed, mut slowest) = (clock::now(), 0, Duration::ZERO);
        let mut failures = Vec::new();
        while began.elapsed() < Duration::from_secs(seconds) && !caller.is_finished() && failures.is_empty() {
            let next = from.load(Ordering::Relaxed) + STEP;
            let (step, want) = (clock::now(), churned(&empty, server.v4, next));
            let outcome = reconcile(&mut *node.kernel(), &mut have, &want);
            slowest = slowest.max(step.elapsed());
            failures.extend(outcome.failures);
            from.store(next, Ordering::Relaxed);
            n_changed += 2 * STEP;
        }
        let rate = f64::from(n_changed) / began.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        let changed = format!(
            "{n_changed} services came or went, {rate:.0} a second; the slowest step of {STEP} each: {slowest:?}"
        );
        let called = caller.join();
        is_closed.store(true, Ordering::Relaxed); // The last call was answered.
        let last = |port| TcpStream::connect(server.address(Family::V4, port)).unwrap();
        client.run(|| (STAYS..STAYS + 3).for_each(|port| drop(last(port))));
        assert!(failures.is_empty(), "{failures:?}");
        assert!(rate > 2_000.0, "a thousand come and a thousand go each second, not {rate:.0} together");
        let (n_calls, n_reached) = called.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (changed, n_calls, n_reached)
    });
    assert!(n_calls > 250 && n_reached > n_calls / 4, "{n_calls} calls, {n_reached} reached");
    assert_eq!(node.count(Reason::TornTable), 0);
    reconcile(&mut *node.kernel(), &mut have, &empty);
    let left = node.kernel().state().unwrap();
    assert_eq!((left.services.len(), left.slots.len()), (0, 0), "something is left behind");
    format!(
        "{changed}; beside it {n_calls} connects to the one that stays, and as many to others: {n_reached} were there"
    )
}

#[test]
fn services_come_and_go_by_the_thousand_and_lead_nobody_astray() {
    println!("{}", churn(3));
}

#[test]
#[ignore = "long: a minute of churn"]
fn services_come_and_go_by_the_thousand_for_a_minute() {
    println!("{}", churn(60));
}
