//! Attacks at the tunnel port, by strangers and by one with a valid certificate of another workload: each is bounded and
//! counted by name, the proxy's memory too, and the node's other workloads are served.

mod beside;
mod frames;
mod full;
mod held;
mod kinds;
mod resident;
mod share;
mod sockets;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use kinds::{Kind, Pace, Target};
use millrace_lab::{Lab, Part, clock, mesh::CONTROL_PORT, peer::latency::Latency};
use resident::{Held, descriptors, watch};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::{TUNNEL, forge::Forge, proxy_of_b, tunnel::client_config};
use crate::scene::{self, CALL};

/// Where the applications of the attacked pod listen.
const FIRE_HOSE: u16 = 8081;
const DEAF: u16 = 8082;

/// What the attacked proxy may come to hold above what it held, in any attack: the budget of buffers, and as much again as
/// handshakes and idle connections cost at their limits.
const MOST: u64 = 768 << 20;

/// Applications of a pod that send without end, and that read nothing; they end with this.
struct Applications(Arc<AtomicBool>);

impl Drop for Applications {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn applications(lab: &Lab, pod: &str) -> Result<Applications> {
    let stop = Arc::new(AtomicBool::new(false));
    let listen = |port| lab.place(lab.pod(pod)?.name())?.inside(move || std::net::TcpListener::bind(("0.0.0.0", port)));
    let (fire_hose, deaf) = (listen(FIRE_HOSE)??, listen(DEAF)??);
    let stopped = stop.clone();
    thread::spawn(move || {
        runtime().block_on(async {
            fire_hose.set_nonblocking(true).unwrap();
            deaf.set_nonblocking(true).unwrap();
            let (fire_hose, deaf) = (TcpListener::from_std(fire_hose).unwrap(), TcpListener::from_std(deaf).unwrap());
            let mut kept = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                tokio::select! {
                    Ok((mut stream, _)) = fire_hose.accept() => drop(tokio::spawn(async move {
                        let bytes = vec![7; 64 * 1024];
                        while stream.write_all(&bytes).await.is_ok() {}
                    })),
                    Ok((stream, _)) = deaf.accept() => kept.push(stream),
                    () = tokio::time::sleep(Duration::from_millis(100)) => {
                        // What the other end closed is let go: a deaf application is not a leaking one.
                        kept.retain(|stream| !matches!(stream.try_read(&mut []), Err(error) if error.kind() != std::io::ErrorKind::WouldBlock));
                    }
                }
            }
        });
    });
    Ok(Applications(stop))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Attacks for as long as `work` takes, from the wire between the nodes; how often, and what `work` gave.
fn attacked<T: Send>(
    lab: &Lab,
    (kind, many, pace): (Kind, usize, Pace),
    tunnel: SocketAddr,
    work: impl FnOnce() -> T + Send,
) -> Result<(u64, T)> {
    // At the control plane they are all strangers.
    let has_papers = kind.has_papers() && tunnel.port() != CONTROL_PORT;
    let own = ["spiffe://cluster.local/ns/other/sa/stranger"];
    let papers = has_papers.then(|| Forge::of_mesh(lab)?.papers(&own));
    let papers = papers.transpose()?.map(|mut papers| {
        if kind == Kind::LongChain {
            // As many as one message of TLS takes.
            papers.chain = papers.chain.iter().cycle().take(100).cloned().collect();
        }
        papers
    });
    let (fire_hose, deaf) = (lab.pod("shop/far")?.at(FIRE_HOSE), lab.pod("shop/far")?.at(DEAF));
    let target = Target {
        tunnel,
        fire_hose,
        deaf,
        tls: Arc::new(client_config(papers.as_ref())?),
        many,
        pace,
        stop: Arc::default(),
        done: Arc::default(),
    };
    let (stop, done): (Arc<AtomicBool>, Arc<AtomicU64>) = (target.stop.clone(), target.done.clone());
    let place = lab.place("wire")?;
    let given = thread::scope(|scope| {
        let attacker = scope.spawn(|| place.inside(|| runtime().block_on(kinds::run(kind, target))));
        let given = work();
        stop.store(true, Ordering::Relaxed);
        attacker.join().map(|ended| (ended, given))
    });
    let Ok((ended, given)) = given else { anyhow::bail!("the attacker panicked") };
    ended?;
    Ok((done.load(Ordering::Relaxed), given))
}

/// How long calls of another workload of the attacked node take: `shop/client` calls `shop/caller`.
fn neighbour(lab: &Lab, count: u32, pace: Duration) -> Result<Latency> {
    let target = lab.pod("shop/caller")?.at(8080).to_string();
    let (count, pace) = (count.to_string(), pace.as_micros().to_string());
    lab.pod("shop/client")?.peer(CALL * 6, &["latency", &target, "--count", &count, "--pace-us", &pace])
}

fn pids(lab: &Lab) -> Result<[u32; 4]> {
    Ok([lab.pid(Part::Proxy("b"))?, lab.pid(Part::Proxy("a"))?, lab.pid(Part::Agent("b"))?, lab.pid(Part::Control)?])
}

/// Runs one attack for a while, checks that it was counted and that the neighbour was served; what was held.
fn survives(lab: &Lab, (kind, many, pace): (Kind, usize, Pace), time: Duration) -> Result<(u64, Vec<Held>)> {
    let counted = |lab: &Lab| -> Result<f64> {
        let Some((metric, reason)) = kind.counted() else { return Ok(0.0) };
        Ok(proxy_of_b(lab)?.sum(metric, &[("reason", reason)]))
    };
    let before = counted(lab)?;
    let tunnel = lab.pod("shop/far")?.at(TUNNEL);
    let each = Duration::from_millis(20);
    let count = u32::try_from(time.as_millis() / each.as_millis())?;
    let work = || -> Result<Latency> {
        let called = neighbour(lab, count, each)?;
        if kind.counted().is_some() {
            let patience = if kind.is_slow() { Duration::from_secs(14) } else { Duration::from_secs(4) };
            clock::until(patience, &format!("{kind:?} is counted"), || {
                let (now, all) = (counted(lab)?, proxy_of_b(lab)?);
                let all: Vec<_> = all.select("millrace_proxy_tunnels_broken_total", &[]).collect();
                ensure!(now > before, "{:?} stays at {before}; {all:?}", kind.counted());
                Ok(())
            })?;
        }
        Ok(called)
    };
    let (attack, held) = watch(&pids(lab)?, || attacked(lab, (kind, many, pace), tunnel, work))?;
    let (done, called) = attack?;
    let called = called.with_context(|| format!("{kind:?}"))?;
    ensure!(called.failed == 0, "{kind:?}: a neighbour's calls fail: {called:?}");
    let proxy = held.first().copied().unwrap_or_default();
    ensure!(proxy.peak < proxy.before + MOST, "{kind:?}: the proxy came to hold {proxy:?}");
    Ok((done, held))
}

fn in_lab(name: &str, test: impl FnOnce(&mut Lab) -> Result<()>) {
    scene::mesh(&scene::two_nodes(name), |lab| {
        let _serving = lab.pod("shop/caller")?.serves("[::]:8080", &[])?;
        let _applications = applications(lab, "shop/far")?;
        neighbour(lab, 20, Duration::from_millis(5))?;
        test(lab)
    });
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Runs them all and prints what the attacked node's proxy held.
fn table(
    lab: &Lab,
    kinds: impl IntoIterator<Item = Kind>,
    many: impl Fn(Kind) -> (usize, Pace),
    time: Duration,
) -> Result<()> {
    let proxy = lab.pid(Part::Proxy("b"))?;
    // But those in stock: the stock follows the busiest second of the last minute, by design, and has bounds of its own.
    let open = |lab: &Lab| -> Result<f64> {
        let in_stock = proxy_of_b(lab)?.sum("millrace_proxy_stock_sockets", &[]);
        Ok(f64::from(u32::try_from(descriptors(proxy)?)?) - in_stock)
    };
    let open_before = open(lab)?;
    let mut wrong = Vec::new();
    for kind in kinds {
        let (at_once, pace) = many(kind);
        match survives(lab, (kind, at_once, pace), time) {
            Ok((done, held)) => {
                let row: Vec<String> = held
                    .iter()
                    .map(|Held { before, peak, after }| {
                        format!("{:.0} / {:.0} / {:.0}", mib(*before), mib(*peak), mib(*after))
                    })
                    .collect();
                println!("| {kind:?} | {at_once} at once | {done} | {} |", row.join(" | "));
            }
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let metrics = proxy_of_b(lab)?;
    ensure!(metrics.sum("millrace_proxy_panics_total", &[]) == 0.0, "no task panicked");
    clock::until(CALL * 3, "descriptors come back", || {
        let now = open(lab)?;
        ensure!(now <= open_before + 64.0, "{now} are open, {open_before} were");
        Ok(())
    })?;
    clock::until(CALL, "buffers come back", || {
        let held = proxy_of_b(lab)?.sum("millrace_proxy_buffers_held_bytes", &[]);
        ensure!(held < f64::from(4 << 20), "{held} bytes are held still");
        Ok(())
    })?;
    lab.pod("shop/client")?.connects(lab.pod("shop/caller")?.at(8080))?;
    Ok(())
}

#[test]
fn every_attack_at_the_tunnel_port_is_cut_by_name_and_costs_little() {
    in_lab("attack", |lab| {
        let many = |kind| {
            let crowds = [(Kind::Idle, 200), (Kind::SlowTls, 200), (Kind::HalfClosed, 50)];
            (crowds.iter().find(|(crowd, _)| *crowd == kind).map_or(4, |(_, many)| *many), Pace::Eager)
        };
        // Its time is ten seconds of silence, as the slow head's, and one of them is enough here.
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::SlowPreface);
        table(lab, kinds, many, Duration::from_millis(600))
    });
}
