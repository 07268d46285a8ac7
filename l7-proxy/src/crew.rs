//! Keeps as many worker threads as the proxy is tuned to, each on its processor. One that is too many takes no new connection
//! and ends with its last; any other that ends is a bug, and the process must be started again whole.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Weak},
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, watch};

use crate::{
    accept::{Lane, QUEUE, Workers},
    fair::Turns,
    proxy::Proxy,
    tuning::{MAX_WORKERS, Tuning},
    worker,
};

/// Threads whose end was not heard of yet: every worker there may be, twice over for those that are on their way out, and
/// the acceptor.
const ENDS: usize = 2 * MAX_WORKERS + 1;

/// A thread of the proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The one that accepts.
    Acceptor,
    /// One that carries, by its number: no number is given twice.
    Worker(usize),
}

/// The threads.
#[derive(Debug)]
pub(crate) struct Crew {
    proxy: Arc<Proxy>,
    tuning: watch::Receiver<Arc<Tuning>>,
    /// Gone with the acceptor, after which nobody is given anything.
    workers: Weak<Workers>,
    threads: Vec<(Who, JoinHandle<()>)>,
    next: usize,
    /// Who may end while the proxy serves.
    retired: BTreeSet<Who>,
    ends: mpsc::Sender<Who>,
    ended: mpsc::Receiver<Who>,
}

impl Crew {
    /// As many workers as it is tuned to now, and what the acceptor gives them by.
    pub(crate) fn start(proxy: Arc<Proxy>) -> io::Result<(Self, Arc<Workers>)> {
        let (ends, ended) = mpsc::channel(ENDS);
        let workers = Arc::new(Workers::default());
        let tuning = proxy.tuning.watch();
        let mut crew = Self {
            proxy,
            tuning,
            workers: Arc::downgrade(&workers),
            threads: Vec::new(),
            next: 0,
            retired: BTreeSet::new(),
            ends,
            ended,
        };
        crew.resize()?;
        Ok((crew, workers))
    }

    /// Starts the one that accepts.
    pub(crate) fn add_acceptor(&mut self, life: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let end = (Who::Acceptor, self.ends.clone());
        self.threads.push((Who::Acceptor, spawn("acceptor".to_owned(), life, || {}, end)?));
        Ok(())
    }

    /// Starts the workers that are missing, and retires those that are too many, the newest first.
    fn resize(&mut self) -> io::Result<()> {
        let n_wanted = self.tuning.borrow_and_update().n_workers;
        let Some(workers) = self.workers.upgrade() else { return Ok(()) };
        while workers.len() < n_wanted {
            let number = self.next;
            self.next += 1;
            let (queue, fresh) = mpsc::channel(QUEUE);
            let turns = Arc::<Turns>::default();
            let rests = turns.rests();
            let life = placed(self.proxy.clone(), number, worker::work(self.proxy.clone(), fresh, turns));
            let who = Who::Worker(number);
            self.threads.push((who, spawn(format!("worker-{number}"), life, rests, (who, self.ends.clone()))?));
            workers.add(Lane::new(who, queue));
        }
        while workers.len() > n_wanted.max(1) {
            self.retired.extend(workers.remove());
        }
        Ok(())
    }

    /// Waits until every thread has ended, which they do when the drain is over. Keeps their number right until then.
    pub(crate) async fn ended(mut self) -> anyhow::Result<()> {
        while !self.threads.is_empty() {
            tokio::select! {
                Some(who) = self.ended.recv() => {
                    let is_due = self.proxy.drain.deadline().is_some() || self.retired.remove(&who);
                    anyhow::ensure!(is_due, "the thread {who:?} ended");
                    let (gone, rest) = self.threads.into_iter().partition(|(other, _)| *other == who);
                    self.threads = rest;
                    for (who, thread) in gone {
                        // It has said its last word: this waits for no more than the thread's own end.
                        thread.join().map_err(|_panic| anyhow::anyhow!("the thread {who:?} panicked"))?;
                    }
                }
                Ok(()) = self.tuning.changed() => self.resize()?,
            }
        }
        Ok(())
    }
}

/// A worker's life, on the processor that it has in turn.
async fn placed(proxy: Arc<Proxy>, number: usize, life: impl Future<Output = ()>) {
    let mut tuning = proxy.tuning.watch();
    let place = |tuning: &Tuning| proxy.tuning.own.place(number, tuning);
    // Where nobody asks for anything the thread stays as it was born.
    if !tuning.borrow_and_update().cpus.is_empty() {
        place(&tuning.borrow());
    }
    tokio::pin!(life);
    loop {
        tokio::select! {
            () = &mut life => return,
            Ok(()) = tuning.changed() => place(&tuning.borrow_and_update()),
        }
    }
}

/// A thread with a runtime of its own, which calls `rests` whenever it has nothing to do; tells of its end however it ends.
fn spawn(
    name: String,
    life: impl Future<Output = ()> + Send + 'static,
    rests: impl Fn() + Send + Sync + 'static,
    end: (Who, mpsc::Sender<Who>),
) -> io::Result<JoinHandle<()>> {
    struct Ending((Who, mpsc::Sender<Who>));
    impl Drop for Ending {
        fn drop(&mut self) {
            let Self((who, sender)) = self;
            // The queue has room for every thread's one word.
            if sender.try_send(*who).is_err() {
                tracing::debug!("nobody waits for the threads' end");
            }
        }
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().on_thread_park(rests).build()?;
    let ending = Ending(end);
    thread::Builder::new().name(name).spawn(move || {
        runtime.block_on(life);
        drop(ending);
    })
}
