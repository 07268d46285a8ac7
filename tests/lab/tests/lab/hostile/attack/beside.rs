//! The same attackers aimed at the mesh and beside it: what a neighbour notices of the one and of the other.
//!
//! Beside it stands a server on the attacked node that asks for certificates as the mesh does, and takes all that comes. Each attacker
//! begins anew at fixed moments, so that as many attacks begin at the one as at the other: who is cut off at once is not to attack more.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use millrace_lab::{Lab, peer::latency::Latency};
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier, version::TLS13};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use super::{
    Applications, attacked, in_lab,
    kinds::{Kind, Pace},
    neighbour, runtime,
};
use crate::hostile::{TUNNEL, forge::Forge};

/// Where the sink listens, in the node's own namespace.
const SINK: u16 = 15444;

/// Turns at each, an odd number: the middle one counts.
const ROUNDS: usize = 5;

/// What a neighbour's p99 may be, over that beside the same load outside the mesh.
const MOST: f64 = 1.5;

/// A server outside the mesh on the attacked node that takes all of it: what the same load costs its neighbours by itself.
fn sink(lab: &Lab) -> Result<Applications> {
    let papers = Forge::of_mesh(lab)?.papers(&["spiffe://cluster.local/ns/shop/sa/far"])?;
    let mut roots = RootCertStore::empty();
    roots.add(Forge::root(lab)?)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(papers.chain, papers.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = lab.place("b")?.inside(|| std::net::TcpListener::bind(("0.0.0.0", SINK)))??;
    listener.set_nonblocking(true)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    thread::spawn(move || {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        runtime().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                let accepted = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
                let Ok(Ok((stream, _))) = accepted else { continue };
                let acceptor = acceptor.clone();
                drop(tokio::spawn(async move {
                    let Ok(mut tls) = acceptor.accept(stream).await else { return };
                    let mut buffer = vec![0; 64 * 1024];
                    while matches!(tls.read(&mut buffer).await, Ok(1..)) {}
                }));
            }
        });
    });
    Ok(Applications(stop))
}

/// What a neighbour noticed while the mesh was attacked and while what is beside it was; and how much the attackers did.
type Pair = [(Latency, u64); 2];

/// One kind of attack, at the mesh and beside it in turns; who begins changes each time, so that what drifts meets both.
fn pairs(lab: &Lab, (kind, many, each): (Kind, usize, Duration)) -> Result<Vec<Pair>> {
    let node = lab.topology().node("b")?.number;
    let outside = SocketAddr::new(millrace_lab::plan::node_addresses(node).v4.into(), SINK);
    let inside = lab.pod("shop/far")?.at(TUNNEL);
    let turn = |tunnel| -> Result<(Latency, u64)> {
        let work = || neighbour(lab, 300, Duration::from_millis(5));
        let (done, called) = attacked(lab, (kind, many, Pace::Each(each)), tunnel, work)?;
        let called = called?;
        ensure!(called.failed == 0, "{kind:?} at {tunnel}: {called:?}");
        Ok((called, done))
    };
    (0..ROUNDS)
        .map(|round| {
            if round % 2 == 0 {
                let mesh = turn(inside)?;
                Ok([mesh, turn(outside)?])
            } else {
                let beside = turn(outside)?;
                Ok([turn(inside)?, beside])
            }
        })
        .collect()
}

/// A line of the table: how much longer a neighbour's p99 is, the middle of the pairs' ratios.
fn ratio(kind: Kind, pairs: &[Pair]) -> f64 {
    let each = |of: fn(&Pair) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let middle = |of| each(of).get(pairs.len() / 2).copied().unwrap_or(f64::NAN);
    let ratio: fn(&Pair) -> f64 = |[mesh, beside]| mesh.0.p99_us as f64 / beside.0.p99_us as f64;
    let all = each(ratio);
    println!(
        "| {kind:?} | {:.0} / {:.0} | {:.0} / {:.0} | {:.2} ({:.2} to {:.2}) | {:.0}, {:.0} |",
        middle(|[mesh, _]| mesh.0.p50_us as f64),
        middle(|[mesh, _]| mesh.0.p99_us as f64),
        middle(|[_, beside]| beside.0.p50_us as f64),
        middle(|[_, beside]| beside.0.p99_us as f64),
        middle(ratio),
        all.first().copied().unwrap_or(f64::NAN),
        all.last().copied().unwrap_or(f64::NAN),
        middle(|[mesh, _]| mesh.1 as f64),
        middle(|[_, beside]| beside.1 as f64),
    );
    middle(ratio)
}

fn beside(name: &str, kinds: &[(Kind, usize, Duration)]) {
    in_lab(name, |lab| {
        let _sink = sink(lab)?;
        let quiet = neighbour(lab, 300, Duration::from_millis(5))?;
        println!("without an attack: p50 {} us, p99 {} us", quiet.p50_us, quiet.p99_us);
        println!(
            "| attack | at the mesh, p50 / p99 us | beside it | p99, the one over the other | begun |\n|---|---|---|---|---|"
        );
        let mut wrong = Vec::new();
        for load in kinds {
            let ratio = ratio(load.0, &pairs(lab, *load)?);
            if ratio.is_nan() || ratio > MOST {
                wrong.push(format!(
                    "{:?}: a neighbour's p99 is {ratio:.2} times that beside the same load outside the mesh",
                    load.0
                ));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}

#[test]
#[ignore = "long: strangers' attacks at the mesh and beside it in turns, two minutes, for the neighbours' p99; it wants a quiet machine"]
fn a_neighbour_of_the_attacked_by_strangers_feels_little_more_than_of_the_same_load_outside_the_mesh() {
    beside(
        "beside-strangers",
        &[
            (Kind::Handshakes, 8, Duration::from_millis(50)),
            (Kind::Garbage, 8, Duration::from_millis(10)),
            (Kind::Idle, 2_000, Duration::from_secs(2)),
            (Kind::HalfClosed, 200, Duration::from_millis(500)),
        ],
    );
}

#[test]
#[ignore = "long: floods of frames at the mesh and beside it in turns, two minutes, for the neighbours' p99; it wants a quiet machine"]
fn a_neighbour_of_the_attacked_by_floods_feels_little_more_than_of_the_same_load_outside_the_mesh() {
    let each = Duration::from_millis(100);
    let kinds = [Kind::RapidReset, Kind::Continuations, Kind::Settings, Kind::Pings, Kind::Windows];
    beside("beside-floods", &kinds.map(|kind| (kind, 4, each)));
}
