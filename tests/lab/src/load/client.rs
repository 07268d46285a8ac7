//! Makes connections at a pace: to be held all at once, or each for one question.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{CLOSE, ECHO, Report, raise_descriptors};
use crate::clock;

/// Longer than anything takes that works, retransmitted SYNs included.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connects under way at once: under what one pod may have pending, over several processes.
const UNDER_WAY: usize = 200;

/// Between two batches of connects: short enough that a batch is a few.
const TICK: Duration = Duration::from_millis(5);

/// How often a file is looked for that says that what is held may go.
const LOOK: Duration = Duration::from_millis(100);

/// Who closes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum First {
    /// The end that connected.
    Client,
    /// The end that accepted.
    Server,
}

/// How much of it, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Connections.
    pub count: u32,
    /// A second.
    pub rate: u32,
}

/// Makes connections that last for one question each.
pub async fn short(target: SocketAddr, pace: Pace, first: First) -> Result<Report> {
    raise_descriptors()?;
    let ask = move || async move {
        let begun = clock::now();
        let mut stream = timeout(PATIENCE, open(target, if first == First::Server { CLOSE } else { ECHO })).await??;
        let took = begun.elapsed();
        if first == First::Server {
            ensure!(timeout(PATIENCE, stream.read(&mut [0])).await?? == 0, "more than was asked for");
        }
        Ok((took, None::<TcpStream>))
    };
    let (mut report, _none) = paced(pace, ask).await?;
    report.seconds = report.seconds.max(f64::EPSILON);
    Ok(report)
}

/// Makes connections and holds them all until `until` is there; then each must still answer. Says so when all are open.
pub async fn hold(target: SocketAddr, pace: Pace, until: &Path, first: First) -> Result<Report> {
    raise_descriptors()?;
    let ask = move || async move {
        let begun = clock::now();
        let stream = timeout(PATIENCE, open(target, ECHO)).await??;
        Ok((begun.elapsed(), Some(stream)))
    };
    let (mut report, mut held) = paced(pace, ask).await?;
    opened(&report);
    let until = PathBuf::from(until);
    while !until.exists() {
        tokio::time::sleep(LOOK).await;
    }
    report.done = 0;
    for stream in &mut held {
        let answered = async {
            stream.write_all(&[if first == First::Server { CLOSE } else { ECHO }]).await?;
            stream.read_exact(&mut [0]).await?;
            let more = if first == First::Server { stream.read(&mut [0]).await? } else { 0 };
            if more == 0 { Ok(()) } else { Err(std::io::Error::other("more than was asked for")) }
        };
        match timeout(PATIENCE, answered).await {
            Ok(Ok(())) => report.done += 1,
            Ok(Err(error)) => note(&mut report, format!("held: {:?}", error.kind())),
            Err(_elapsed) => note(&mut report, "held: silent".to_owned()),
        }
    }
    Ok(report)
}

async fn open(target: SocketAddr, ask: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&[ask]).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == [ask], "another answer");
    Ok(stream)
}

/// Does this many times what is asked, at the pace, and keeps what each leaves.
async fn paced<F, T: Send + 'static>(pace: Pace, ask: impl Fn() -> F) -> Result<(Report, Vec<T>)>
where
    F: Future<Output = Result<(Duration, Option<T>)>> + Send + 'static,
{
    let (mut report, mut kept, mut took) = (Report::default(), Vec::new(), Vec::new());
    let (room, mut under_way) = (Arc::new(Semaphore::new(UNDER_WAY)), JoinSet::new());
    let begun = clock::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut made = 0;
    let mut end = |report: &mut Report, ended: Result<(Duration, Option<T>)>| match ended {
        Ok((time, left)) => {
            report.done += 1;
            took.push(time);
            kept.extend(left);
        }
        Err(error) => note(report, kind(&error)),
    };
    while made < pace.count {
        ticks.tick().await;
        while let Some(ended) = under_way.try_join_next() {
            end(&mut report, ended?);
        }
        let due = due(begun, pace);
        while made < due {
            let permit = room.clone().acquire_owned().await?;
            let asking = ask();
            under_way.spawn(async move {
                let ended = asking.await;
                drop(permit);
                ended
            });
            made += 1;
        }
    }
    while let Some(ended) = under_way.join_next().await {
        end(&mut report, ended?);
    }
    report.seconds = begun.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).or(took.last());
    let micros = |time: Option<&Duration>| time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    (report.median_us, report.p99_us) = (micros(at(50)), micros(at(99)));
    Ok((report, kept))
}

/// How many are to have been made by now.
fn due(begun: Instant, pace: Pace) -> u32 {
    let due = begun.elapsed().as_millis() * u128::from(pace.rate) / 1000;
    u32::try_from(due).unwrap_or(u32::MAX).clamp(1, pace.count)
}

fn note(report: &mut Report, what: String) {
    *report.failed.entry(what).or_default() += 1;
}

fn kind(error: &anyhow::Error) -> String {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => format!("{:?}", io.kind()),
        None => format!("{error:#}"),
    }
}

#[expect(clippy::print_stdout, reason = "who started it waits for this line")]
fn opened(report: &Report) {
    println!("open: {} of {}, {:?}", report.done, report.done + report.n_failed(), report.failed);
}
