//! Lists what the agent of a node does, from its start to SIGTERM.

use std::{
    os::unix::fs::DirBuilderExt as _,
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use http::StatusCode;
use millrace_abi::config::{DEBUG, FLOWS};
use millrace_model::{Mesh, NodeProfile};
use millrace_node::{
    admin::{self, Admin, Route},
    drain::Drain,
    memory, telemetry,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    certificates::{self, Keeper},
    config::{Config, Place, Switch},
    control::{self, Connected, Link, Report},
    flows::{Edges, Flows},
    join,
    kernel::{
        self, Capacities, Kernel, Missing, Options,
        features::{self, Feature, Presence},
        missing::TCX,
    },
    kubelet, limits,
    metrics::Metrics,
    node::{Counted, End, Inputs, Node, Outputs},
    pods::{Left, Pods},
    proxy,
    seat::Seat,
    state_dir::StateDir,
    status::{self, Status},
    trust,
};

/// Nothing is drained: connections are the kernel's and the proxy's.
const GRACE: Duration = Duration::ZERO;

/// What proxies said and the loop has not heard yet: some bursts of requests for sockets. Then they wait.
const PROXY_EVENTS: usize = 256;

/// Pods that a CNI plugin has told of and nobody has looked at: more than start at once. Then plugins wait.
const PODS_TOLD: usize = 64;

/// Only root asks the agent.
const ADMIN_MODE: u32 = 0o600;

/// Everybody may look up a socket in the run directory; who may connect is said on each.
const RUN_DIR_MODE: u32 = 0o755;

/// Runs the agent until SIGTERM or until a part of it fails.
#[expect(clippy::too_many_lines, reason = "a list: what there is, and what is wired to what")]
pub async fn run(config: Config) -> anyhow::Result<()> {
    let log_level = telemetry::init("millrace-agent");
    let mut drain = Drain::on_signal(GRACE).context("signals can't be caught")?;
    let config = Arc::new(config);
    std::fs::DirBuilder::new().recursive(true).mode(RUN_DIR_MODE).create(&config.run_dir).context("--run-dir")?;
    let dir = StateDir::open(&config.state_dir).context("--state-dir")?;

    limits::raise_descriptors();
    memory::keep().context("the memory can't be kept from others")?;
    let held = control::load(&dir);
    let options = options(&config, held.profiles.get(&config.node).map(|profile| &**profile))?;
    // Before an older agent is told to go: programs that this kernel does not take must not leave the node without one.
    let mut kernel = Kernel::load(&options).context("the kernel's half can't be loaded")?;
    let socket = config.run_dir.join("proxy.sock");
    let listener = proxy::bind(&socket, config.proxy_user).context("proxies can't be listened for")?;
    let seat = Seat::take(&dir, &socket).await.context("the node can't be taken over")?;
    kernel.attach(&options).context("the kernel's half can't be set up")?;
    let have = kernel.state()?;
    let anti_spoofing = if kernel.lacks(TCX) { Switch::Off } else { config.anti_spoofing };
    let left = Left {
        attached: kernel.attached_pods()?,
        entries: &have.pods,
        guards: kernel.guards()?,
        cgroup: &config.place.cgroup,
        logs: &config.kubelet.logs,
    };
    let pods = Pods::new(config.node.clone(), left, anti_spoofing)?;

    tracing::info!(node = &*config.node, generation = held.generation, "the agent starts");
    let (mesh, mesh_seen) = watch::channel(Arc::new(Mesh::new(Arc::new(held))));
    let (trust, trust_seen) = watch::channel(trust::load(&dir));
    let (trusting, trusting_seen) = watch::channel(None);
    let (credentials, credentials_seen) = watch::channel(None);
    let (channel, channel_seen) = watch::channel(None);
    let (revoked, revoked_seen) = watch::channel(None);
    let (connected, connected_seen) = watch::channel(Connected::default());
    let (keys, keys_seen) = watch::channel(Arc::default());
    let (report, report_seen) = watch::channel(Report::default());
    let (status, status_seen) = watch::channel(Status::default());
    let (ready, ready_seen) = watch::channel(vec!["the agent has just begun".to_owned()]);
    let (events, events_seen) = mpsc::channel(PROXY_EVENTS);
    let (sought, sought_seen) = watch::channel(Arc::default());
    let (sandboxes, sandboxes_seen) = watch::channel(Arc::default());
    let (words, words_seen) = mpsc::channel(PODS_TOLD);
    let (known, known_seen) = watch::channel(Arc::default());
    let (metrics, registry) = Metrics::registered();
    let flows = Arc::new(Flows::default());
    let edges = Arc::new(Edges::default());
    registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(Box::new(edges.clone()));

    let outputs = Outputs {
        report,
        sought,
        known,
        status,
        ready,
        flows: flows.clone(),
        edges,
        metrics,
        counted: Counted::default(),
    };
    let mut node = Node::new(config.node.clone(), (kernel, have), pods, (dir.clone(), outputs))?;
    if config.kernel_log == Switch::On {
        node.log_kernel();
    }

    let mut parts = JoinSet::new();
    parts.spawn({
        let (config, dir, credentials) = (config.clone(), dir.clone(), credentials.clone());
        async move {
            let files = join::Files { token: config.join_token_file.as_deref(), roots: config.roots_file.as_deref() };
            match join::keep(&config.node, &config.control, files, &dir, (credentials, revoked_seen)).await {}
        }
    });
    parts.spawn({
        let address = config.control.clone();
        let credentials = credentials_seen.clone();
        let report = report_seen;
        let trusting = trusting_seen;
        let link = Link { address, credentials, mesh, trust, trusting, report, channel, revoked, connected };
        async move {
            control::follow(link).await;
            Ok(())
        }
    });
    parts.spawn({
        let (node, mesh, dir) = (config.node.clone(), mesh_seen.clone(), dir.clone());
        let (channel, trust) = (channel_seen, trust_seen);
        let keeper = Keeper { node, mesh, channel, credentials, trust, trusting, dir, held: keys };
        async move {
            certificates::keep(keeper).await;
            Ok(())
        }
    });
    parts.spawn({
        let mesh = mesh_seen.clone();
        async move {
            control::sync(dir, mesh).await;
            Ok(())
        }
    });
    parts.spawn({
        let kubelet = config.kubelet.clone();
        async move { kubelet::follow(kubelet, sought_seen, sandboxes, words_seen).await.context("pods can't be looked for") }
    });
    parts.spawn({
        let user = config.proxy_user;
        async move { proxy::listen(listener, user, events).await.context("proxies can't be listened for") }
    });
    parts.spawn({
        let path = config.run_dir.join("agent-admin.sock");
        let (config, mesh) = (config.clone(), mesh_seen.clone());
        let admin = Admin {
            ready: ready_seen,
            metrics: registry,
            config: Arc::new(move |to| {
                let mesh = mesh.borrow().clone();
                admin::configuration(status::config(&config), &mesh.snapshot, to)
            }),
            log_level,
            routes: routes(flows, status_seen, (words, known_seen)),
        };
        async move { admin.serve(&path, ADMIN_MODE).await.context("the admin socket can't be served") }
    });

    parts.spawn({
        let mesh = mesh_seen.clone();
        async move {
            memory::give_back_between(mesh).await;
            // Nobody hears of changes any more: the agent is ending, and not for this.
            std::future::pending().await
        }
    });

    // To load the programs takes the kernel's types, parsed whole: none of it is used again.
    memory::give_back_all();
    let inputs = Inputs {
        mesh: mesh_seen,
        keys: keys_seen,
        connected: connected_seen,
        credentials: credentials_seen,
        proxies: events_seen,
        sandboxes: sandboxes_seen,
        drain: drain.clone(),
        seat,
    };
    tokio::select! {
        end = node.run(inputs) => match end {
            End::Drained => {}
            End::Yielded => {
                tracing::info!("a newer agent has taken over: this one is idle until it is ended");
                parts.shutdown().await;
                drain.begun().await;
            }
        },
        Some(ended) = parts.join_next() => ended.context("a part of the agent broke off")??,
    }
    tracing::info!("the agent ends; the kernel's programs stay");
    Ok(())
}

/// Takes kernel programs and pins out of the node.
pub fn leave(place: &Place) -> anyhow::Result<()> {
    kernel::leave(&place.pins).context("not everything could be taken out")
}

/// How the kernel's half is opened: by the last Snapshot's profile, and without what this kernel lacks.
fn options(config: &Config, profile: Option<&NodeProfile>) -> anyhow::Result<Options> {
    let features = features::probe_without(&config.force_missing);
    features::require(&features)?;
    let lacking = features.iter().filter(|feature| feature.presence != Presence::Present);
    for Feature { name, presence, without, .. } in lacking {
        tracing::warn!(feature = name, ?presence, "the kernel lacks a feature: {without}");
    }
    let bit = |switch, bit| if switch == Switch::On { bit } else { 0 };
    let Place { pins, cgroup } = config.place.clone();
    let capacities = Capacities::of(profile);
    Ok(Options {
        pins: pins.with_file_name(capacities.directory()),
        cgroup,
        config: bit(config.flows, FLOWS) | bit(config.kernel_log, DEBUG),
        capacities,
        missing: Missing::of(&features),
    })
}

fn routes(flows: Arc<Flows>, status: watch::Receiver<Status>, teller: kubelet::Teller) -> Vec<Route> {
    vec![
        kubelet::route(teller),
        Route {
            method: "GET",
            path: "/flows",
            answer: Arc::new(move |request| {
                let answer = flows.answer(&request);
                Box::pin(async move { answer })
            }),
        },
        Route {
            method: "GET",
            path: "/status",
            answer: Arc::new(move |_| {
                let value = serde_json::to_value(&*status.borrow());
                Box::pin(async move {
                    match value {
                        Ok(value) => admin::json(StatusCode::OK, &value),
                        Err(why) => admin::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
                    }
                })
            }),
        },
    ]
}
