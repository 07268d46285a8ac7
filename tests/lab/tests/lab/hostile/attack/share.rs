//! One workload that takes ten times its share of two nodes' proxies, and what its neighbours on both notice of it.
//!
//! Its share is eight connections that are always busy: with the neighbour's calls beside them both cores are spent already. Ten times
//! as many spend no more of the machine; what they could take is the neighbour's turn in the proxies, and that is what is measured. So
//! both of its ends are one thread each, however many connections there are: eighty threads that are ready to run would take the
//! neighbour's turn at the kernel's scheduler, where no proxy has a say.

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
use millrace_lab::{Lab, peer::latency::Latency};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Applications, in_lab, neighbour, runtime};

/// Busy connections of a workload that takes its share.
const SHARE: usize = 8;

/// Where the busy workload's other end listens.
const ECHO: u16 = 8083;

/// What goes there and back.
const BYTES: usize = 64;

/// An application that sends back what comes, on one thread.
fn echo(lab: &Lab, pod: &str) -> Result<Applications> {
    let listener = lab.place(lab.pod(pod)?.name())?.inside(|| std::net::TcpListener::bind(("0.0.0.0", ECHO)))??;
    listener.set_nonblocking(true)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                let accepted = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
                let Ok(Ok((mut stream, _))) = accepted else { continue };
                drop(tokio::spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    let mut buffer = [0; BYTES];
                    while stream.read_exact(&mut buffer).await.is_ok() && stream.write_all(&buffer).await.is_ok() {}
                }));
            }
        });
    });
    Ok(Applications(stop))
}

/// One round trip after the other, on one connection, until told to stop.
async fn busy(target: SocketAddr, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut buffer = [7; BYTES];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&buffer).await?;
        stream.read_exact(&mut buffer).await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Calls of the neighbour while `shop/near` keeps so many connections to `shop/far` busy; and how many round trips those made.
fn beside(lab: &Lab, n_busy: usize, count: u32, pace: Duration) -> Result<(Latency, u64)> {
    let place = lab.place(lab.pod("shop/near")?.name())?;
    let target = lab.pod("shop/far")?.at(ECHO);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let called = thread::scope(|scope| -> Result<Latency> {
        let load = scope.spawn(|| {
            place.inside(|| {
                runtime().block_on(async {
                    let mut tasks = JoinSet::new();
                    (0..n_busy).for_each(|_| drop(tasks.spawn(busy(target, stop.clone(), done.clone()))));
                    while let Some(ended) = tasks.join_next().await {
                        ended.context("a busy connection")??;
                    }
                    anyhow::Ok(())
                })
            })
        });
        let called = neighbour(lab, count, pace);
        stop.store(true, Ordering::Relaxed);
        load.join().map_err(|_panic| anyhow::anyhow!("the load panicked"))???;
        called
    })?;
    ensure!(called.failed == 0, "a neighbour's calls fail beside {n_busy} busy connections: {called:?}");
    Ok((called, done.load(Ordering::Relaxed)))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Ten times its share against its share, interleaved: ratios of the neighbour's p50 and p99, the median of the rounds' each.
fn ratios(lab: &Lab, rounds: usize, count: u32) -> Result<[f64; 2]> {
    let pace = Duration::from_millis(5);
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (alone, _) = beside(lab, 0, count, pace)?;
        let (share, trips) = beside(lab, SHARE, count, pace)?;
        let (ten, more) = beside(lab, 10 * SHARE, count, pace)?;
        println!(
            "| {round} | alone {} / {} | share {} / {}, {trips} trips | ten times {} / {}, {more} trips |",
            alone.p50_us, alone.p99_us, share.p50_us, share.p99_us, ten.p50_us, ten.p99_us
        );
        p50.push(ten.p50_us as f64 / share.p50_us as f64);
        p99.push(ten.p99_us as f64 / share.p99_us as f64);
    }
    let found = [median(p50), median(p99)];
    println!("ten times the share moves the neighbour's p50 by {:.2}, its p99 by {:.2}", found[0], found[1]);
    Ok(found)
}

#[test]
fn a_workload_at_ten_times_its_share_delays_its_neighbours_calls_little() {
    in_lab("share", |lab| {
        let _echo = echo(lab, "shop/far")?;
        let [p50, _] = ratios(lab, 3, 200)?;
        // With room for a busy machine; the long form has the figure that is promised.
        ensure!(p50 < 4.0, "a neighbour's p50 moves by {p50:.2}");
        Ok(())
    });
}

#[test]
#[ignore = "long: a minute of load in seven rounds, for the neighbours' p99; it wants a quiet machine"]
fn a_workload_at_ten_times_its_share_moves_its_neighbours_p99_by_less_than_half() {
    in_lab("shares", |lab| {
        let _echo = echo(lab, "shop/far")?;
        let [_, p99] = ratios(lab, 7, 600)?;
        ensure!(p99 < 1.5, "a neighbour's p99 moves by {p99:.2}");
        Ok(())
    });
}
