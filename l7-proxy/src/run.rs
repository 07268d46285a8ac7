//! Starts the proxy, in order: what is seen from outside, then no privilege, then the threads, then the agent.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use millrace_model::Mesh;
use millrace_node::{
    admin::{self, Admin},
    clock,
    drain::{Drain, Trigger},
    telemetry::LogLevel,
};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    accept::{self, COMMANDS},
    agent::{Agent, MakeMaps, Outbox},
    config::Config,
    crew::Crew,
    descriptors::Descriptors,
    http::{access_log, tap_route},
    maps::KernelMaps,
    memory,
    metrics::Metrics,
    outliers::OUTCOMES,
    privilege,
    proxy::{DENIALS, Proxy},
    slice,
    stock::{Stock, WANTS},
    tuning,
};

/// Owner and group may ask; the group is the proxy's own.
const ADMIN_MODE: u32 = 0o660;

/// The whole life of the process. Call it with no thread but this one.
pub fn run(config: &Config, log_level: LogLevel) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (trigger, drain) = Drain::new();
        let signals = Signals { drain: Drain::on_signal(config.drain)?, trigger: Arc::new(trigger) };
        let parts = Parts::new(config, (signals.trigger.clone(), drain), |original, client| {
            Arc::new(KernelMaps::new(original, client))
        });
        let access_log = access_log(config.access_log.as_deref())?;
        let mut admin = pin!(parts.admin(log_level).serve(&config.admin, ADMIN_MODE));
        // The first poll binds the socket, which is why it comes before the privileges go.
        if let Poll::Ready(ended) = poll_fn(|cx| Poll::Ready(admin.as_mut().poll(cx))).await {
            return Ok(ended?);
        }
        prove_crypto()?;
        if let Err(why) = slice::shorten() {
            tracing::warn!(%why, "threads run for as long as the kernel lets any: who is beside a busy workload waits longer");
        }
        privilege::drop_all(config.user, config.privileges)?;
        tracing::info!(user = %config.user, n_workers = config.n_workers, privileges = ?config.privileges, "starting");
        parts.proxy.requests.log.open(access_log);
        let running = parts.start()?;
        tokio::select! {
            ended = admin => Ok(ended?),
            ended = running.ended() => ended,
            () = signals.run() => Ok(()),
        }
    })
}

/// Passes the signals' drain on: the agent can begin it too.
struct Signals {
    drain: Drain,
    trigger: Arc<Trigger>,
}

impl Signals {
    async fn run(mut self) {
        self.trigger.begin(self.drain.begun().await);
        // A second signal brings the end forward.
        self.drain.over().await;
        self.trigger.begin(clock::now());
        std::future::pending::<()>().await;
    }
}

/// Draws from the provider once: its self-tests and its first look at the machine are not for the filter to forbid.
fn prove_crypto() -> Result<(), rustls::Error> {
    let mut once = [0; 32];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut once)
        .map_err(|_none| rustls::Error::FailedToGetRandomBytes)
}

/// A proxy that has not begun yet.
#[derive(Debug)]
pub struct Parts {
    proxy: Arc<Proxy>,
    agent: Agent,
    outbox: Outbox,
    commands: mpsc::Receiver<accept::Command>,
}

/// A proxy at work.
#[derive(Debug)]
pub struct Running {
    crew: Crew,
    agent: JoinSet<()>,
}

impl Parts {
    /// Everything but threads. `make_maps` makes socket storage of what comes with the agent's Welcome.
    pub fn new(config: &Config, drain: (Arc<Trigger>, Drain), make_maps: MakeMaps) -> Self {
        memory::keep();
        let (trigger, drain) = drain;
        let (mesh_in, mesh) = watch::channel(Arc::new(Mesh::default()));
        let (wants_in, wants) = mpsc::channel(WANTS);
        let (denials_in, denials) = mpsc::channel(DENIALS);
        let (outcomes_in, outcomes) = mpsc::channel(OUTCOMES);
        let (acceptor, commands) = mpsc::channel(COMMANDS);
        let stock = Stock::new(wants_in, Descriptors::at_limit(), Arc::new(Metrics::default()));
        let held = tuning::Held::new(config.n_workers);
        let proxy = Arc::new(Proxy::new(mesh, stock, (denials_in, outcomes_in), drain, held));
        let agent = Agent {
            path: config.agent.clone(),
            name: config.name.clone(),
            make_maps,
            proxy: proxy.clone(),
            mesh: mesh_in,
            acceptor,
            trigger,
            pods: BTreeMap::new(),
        };
        Self { proxy, agent, outbox: Outbox { wants, denials, outcomes }, commands }
    }

    /// What is counted, ready to be printed.
    pub fn metrics(&self) -> Arc<Mutex<Registry>> {
        let registry = self.proxy.metrics.registry(self.proxy.descriptors.clone());
        let mut all = registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.proxy.requests.register(&mut all);
        self.proxy.accounts.register(all.sub_registry_with_prefix("proxy"));
        drop(all);
        registry
    }

    /// What an operator may ask.
    fn admin(&self, log_level: LogLevel) -> Admin {
        let proxy = self.proxy.clone();
        let config = move |to: &mut dyn io::Write| {
            let snapshot = proxy.current().snapshot.clone();
            let settings = json!({
                "generation": snapshot.generation,
                "identities": proxy.keys.identities(),
                "descriptors": { "limit": proxy.descriptors.limit(), "left": proxy.descriptors.left() },
                "tuning": proxy.in_force().into_iter().map(|row| (row.field, row.value)).collect::<BTreeMap<_, _>>(),
                "draining": proxy.drain.deadline().is_some(),
            });
            admin::configuration(settings, &snapshot, to)
        };
        Admin {
            ready: self.proxy.readiness(),
            metrics: self.metrics(),
            config: Arc::new(config),
            log_level,
            routes: vec![self.proxy.accounts.route(), tap_route(self.proxy.clone())],
        }
    }

    /// Starts the threads, and the agent's task on this one. Call it inside a runtime.
    pub fn start(self) -> io::Result<Running> {
        let Self { proxy, agent, outbox, commands } = self;
        let (mut crew, workers) = Crew::start(proxy.clone())?;
        crew.add_acceptor(accept::run(proxy, commands, workers))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(agent.run(outbox));
        Ok(Running { crew, agent: tasks })
    }
}

impl Running {
    /// Waits until every thread has ended, which they do when the drain is over. Until then there are as many workers as the
    /// proxy is tuned to.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        self.crew.ended().await?;
        self.agent.shutdown().await;
        Ok(())
    }
}
