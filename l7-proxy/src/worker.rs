//! Runs a worker: one thread, one current_thread runtime, its connections and its pool of tunnels.

use std::{sync::Arc, time::Duration};

use millrace_node::{clock, memory};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::MissedTickBehavior,
};

use crate::{
    accept::{Accepted, Fresh, Kind},
    fair::Turns,
    http::{Mirrors, Pools, Tables, Upstreams},
    inbound, outbound, plaintext,
    pool::Pool,
    proxy::Proxy,
};

/// How often idle tunnels are looked for. Those of a former key or mesh are, when it changes.
const SWEEP: Duration = Duration::from_secs(5);

/// What a worker's connections share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) pool: Arc<Pool>,
    /// In which of them a connection runs is its workload's.
    pub(crate) turns: Arc<Turns>,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) tables: Tables,
    pub(crate) pools: Pools,
    pub(crate) mirrors: Mirrors,
}

impl Worker {
    /// Counts a task that panicked; its Record has said what it was.
    pub(crate) fn note(&self, ended: Result<(), JoinError>) {
        if ended.is_err_and(|why| why.is_panic()) {
            self.proxy.metrics.panics.inc();
        }
    }
}

/// Serves what the acceptor gives, and ends after its queue was closed and the last connection has ended.
pub(crate) async fn work(proxy: Arc<Proxy>, mut queue: mpsc::Receiver<Fresh>, turns: Arc<Turns>) {
    let pool = Arc::new(Pool::new(turns.clone()));
    let worker = Arc::new(Worker {
        proxy: proxy.clone(),
        pool,
        turns: turns.clone(),
        upstreams: Arc::new(Upstreams::new(turns.clone())),
        tables: Tables::default(),
        pools: Pools::default(),
        mirrors: Mirrors::default(),
    });
    let pace = turns.pace();
    let keep = proxy.requests.keep();
    tokio::pin!(pace, keep);
    let (mut mesh, mut keys, mut drain) = (proxy.mesh.clone(), proxy.keys.watch(), proxy.drain.clone());
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut is_open, mut rest) = (true, Rest::default());
    while is_open || !connections.is_empty() {
        tokio::select! {
            fresh = queue.recv(), if is_open => match fresh {
                Some(Fresh { socket, accepted }) => {
                    let account = accepted.account.clone();
                    connections.spawn(turns.schedule(&account, serve(worker.clone(), socket, accepted)));
                }
                None => is_open = false,
            },
            Some(ended) = connections.join_next() => worker.note(ended),
            Ok(()) = mesh.changed() => {
                worker.pools.forget();
                rest.is_rested = false;
                worker.pool.sweep(&proxy, &proxy.current(), clock::now());
            }
            Ok(()) = keys.changed() => worker.pool.sweep(&proxy, &proxy.current(), clock::now()),
            _ = sweep.tick() => {
                worker.pool.sweep(&proxy, &proxy.current(), clock::now());
                proxy.accounts.relax();
                worker.upstreams.sweep(clock::now());
                rest.look(clock::thread_cpu());
            }
            () = drain.over() => break,
            () = &mut pace => {}
            () = &mut keep => {}
        }
    }
    connections.shutdown().await;
    proxy.requests.end();
}

/// A worker that had no more of a processor between two looks is idle: a hundredth of it. Looking around takes less.
const IDLE: Duration = Duration::from_millis(10 * SWEEP.as_secs());

/// Gives memory back once a worker that was busy is idle, whatever it was busy with.
#[derive(Debug, Default)]
struct Rest {
    had: Duration,
    is_rested: bool,
}

impl Rest {
    /// `had` is what the worker has had of a processor so far.
    fn look(&mut self, had: Duration) {
        if had.saturating_sub(self.had) > IDLE {
            self.is_rested = false;
        } else if !self.is_rested {
            memory::give_back_all();
            self.is_rested = true;
        }
        self.had = had;
    }
}

async fn serve(worker: Arc<Worker>, socket: std::os::fd::OwnedFd, accepted: Accepted) {
    let socket = match TcpStream::from_std(socket.into()) {
        Ok(socket) => socket,
        Err(why) => return tracing::warn!(%why, "a connection can't be watched"),
    };
    match accepted.kind {
        Kind::Outbound => outbound::serve(worker, accepted, socket).await,
        Kind::Plaintext => Box::pin(plaintext::serve(worker, accepted, socket)).await,
        Kind::Tunnel => inbound::serve(worker, accepted, socket).await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{IDLE, Rest};

    #[test]
    fn a_worker_rests_once_after_each_time_it_was_busy() {
        let mut rest = Rest::default();
        let mut had = Duration::ZERO;
        let mut look = |more: Duration| {
            had += more;
            let was_rested = rest.is_rested;
            rest.look(had);
            (was_rested, rest.is_rested)
        };
        assert_eq!(look(IDLE * 2), (false, false), "it has just begun");
        assert_eq!(look(IDLE), (false, true));
        assert_eq!(look(Duration::ZERO), (true, true));
        assert_eq!(look(IDLE * 50), (true, false));
        assert_eq!(look(Duration::ZERO), (false, true));
    }
}
