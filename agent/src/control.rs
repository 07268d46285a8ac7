//! Follows the control plane: one stream per node, over which Updates come and reports go. Without it the node goes
//! on by the last Snapshot it has.

mod connect;
mod snapshot;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use millrace_model::{Delta, Mesh, ObjectName, Snapshot, delta::WrongBase};
use millrace_node::{
    clock,
    credentials::{Expect, Trust, Unusable, client_config},
    wire::{
        Undecodable,
        control::{
            Applied, Have, Listener, Listening, NodeMessage, Trusting, control_client::ControlClient,
            node_message::Kind,
        },
        convert,
        mesh::Update,
    },
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, transport::Channel};

use crate::{config::ControlAddress, join::Credentials};

pub use connect::{Dial, channel};
pub use snapshot::{Kept, Step, load, sync};

/// The longest Update: the whole of the largest mesh.
const MAX_UPDATE: usize = 256 * 1024 * 1024;

/// Reports that wait to be sent; a newer one replaces what is not yet queued, so a few are enough.
const REPORTS: usize = 4;

/// The longest wait between two tries: a control plane that is back is found in a second or two, and the tries of a
/// thousand nodes are no load to it.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// A session this long was a good one: the next try is at once again.
const GOOD: Duration = Duration::from_secs(10);

/// Whether the control plane is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// It is, now.
    pub connected: bool,
    /// Since when this is so, from the Unix epoch.
    pub since: Duration,
}

/// Workloads by name and instance.
pub type Enrolled = BTreeSet<(ObjectName, Arc<str>)>;

/// What the node tells the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The workloads whose listeners are open; None until the node knows: after a restart, silence
    /// means "as before", where an empty list would take every workload of the node out of the mesh.
    pub listening: Option<Enrolled>,
    /// The generation that kernel and proxy hold; 0 for none.
    pub applied: u64,
    /// What could not be enforced.
    pub failures: Vec<String>,
}

/// The node's end of the stream.
pub struct Link {
    /// Where the control plane listens.
    pub address: ControlAddress,
    /// What proves the node; None until it joined.
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    /// The mesh by the last Snapshot.
    pub mesh: watch::Sender<Arc<Mesh>>,
    /// By what peers are believed.
    pub trust: watch::Sender<Option<Arc<Trust>>>,
    /// By what the node and its proxies do believe, and under which roots their certificates are.
    pub trusting: watch::Receiver<Option<Trusting>>,
    /// What to tell.
    pub report: watch::Receiver<Report>,
    /// The live channel, for who asks for certificates.
    pub channel: watch::Sender<Option<Channel>>,
    /// Those that the control plane refused, as the node was taken out of the mesh.
    pub revoked: watch::Sender<Option<Arc<Credentials>>>,
    /// Whether there is one.
    pub connected: watch::Sender<Connected>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the control plane can't be reached")]
    Unreachable(#[from] tonic::transport::Error),
    #[error("the stream failed: {}", .0.message())]
    Stream(#[from] tonic::Status),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("an update can't be read")]
    Undecodable(#[from] Undecodable),
    #[error("an update does not fit")]
    WrongBase(#[from] WrongBase),
    #[error("what the control plane says of its roots can't be used")]
    Trust(#[source] Unusable),
    #[error("no TLS can be made of the node's credentials")]
    Tls(#[from] Unusable),
    #[error("the agent is ending")]
    Ending,
}

/// Follows the control plane until the process ends.
#[expect(clippy::infinite_loop, reason = "it follows for as long as the process lives")]
pub async fn follow(mut link: Link) {
    let mut failed = 0;
    let mut resume = Resume::FromHeld;
    loop {
        let began = clock::now();
        let lost = session(&mut link, resume).await;
        link.channel.send_replace(None);
        set_connected(&link, false);
        resume = match &lost {
            Lost::WrongBase(_) => Resume::FromNothing,
            Lost::Unreachable(_)
            | Lost::Stream(_)
            | Lost::Closed
            | Lost::Undecodable(_)
            | Lost::Trust(_)
            | Lost::Tls(_)
            | Lost::Ending => Resume::FromHeld,
        };
        failed = if clock::now().duration_since(began) >= GOOD { 0 } else { failed + 1 };
        tell_lost(&lost, failed);
        tokio::time::sleep(backoff(failed, rand::random(), MAX_WAIT)).await;
    }
}

/// A person is told once; that it goes on stands on status.
fn tell_lost(lost: &Lost, failed: u32) {
    let error = lost as &dyn std::error::Error;
    match failed {
        0 | 1 => tracing::warn!(error, "no control plane: serving by what is known"),
        _ => tracing::debug!(error, failed, "no control plane still"),
    }
}

/// From where a session resumes.
#[derive(Clone, Copy)]
enum Resume {
    FromHeld,
    /// What is held fits no Update that came: ask for a difference from the empty Snapshot.
    FromNothing,
}

/// The wait before the next try: doubled with each failure up to `most`, and cut by up to half by `jitter` from 0 to 1.
pub fn backoff(failed: u32, jitter: f64, most: Duration) -> Duration {
    const FIRST: Duration = Duration::from_millis(200);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    FIRST.saturating_mul(1 << failed.min(16)).min(most).mul_f64(1.0 - jitter / 2.0)
}

fn set_connected(link: &Link, connected: bool) {
    link.connected.send_if_modified(|held| {
        let changed = held.connected != connected || held.since.is_zero();
        if changed {
            *held = Connected { connected, since: clock::unix_time() };
        }
        changed
    });
}

/// One stream, from connecting to its end.
async fn session(link: &mut Link, resume: Resume) -> Lost {
    match run_session(link, resume).await {
        Ok(never) => match never {},
        Err(lost) => lost,
    }
}

async fn run_session(link: &mut Link, resume: Resume) -> Result<std::convert::Infallible, Lost> {
    let held = link.credentials.wait_for(Option::is_some).await.map_err(|_closed| Lost::Ending)?.clone();
    let credentials = held.ok_or(Lost::Ending)?;
    let material = &credentials.material;
    let expect = Expect::Identity(credentials.control());
    let tls = client_config(Some(material), &material.bundle, expect, &[b"h2"])?;
    let channel = channel(Dial::new(link.address.clone(), tls)).await?;
    let mut client = ControlClient::new(channel.clone()).max_decoding_message_size(MAX_UPDATE);
    let generation = match resume {
        Resume::FromHeld => link.mesh.borrow().snapshot.generation,
        Resume::FromNothing => 0,
    };
    let (tell, told) = mpsc::channel(REPORTS);
    tell.send(NodeMessage { kind: Some(Kind::Have(Have { generation })) }).await.map_err(|_gone| Lost::Closed)?;
    let subscribed = client.subscribe(ReceiverStream::new(told)).await;
    if subscribed.as_ref().is_err_and(is_revoked) {
        link.revoked.send_replace(Some(credentials.clone()));
    }
    let mut updates = subscribed?.into_inner();
    link.channel.send_replace(Some(channel));
    set_connected(link, true);
    tracing::info!(generation, "the control plane is there");
    let (mut sent, mut sent_trusting) = (Report::default(), None);
    loop {
        let next = untold(&sent, &link.report.borrow_and_update());
        let trusting = link.trusting.borrow_and_update().clone().filter(|now| sent_trusting.as_ref() != Some(now));
        tokio::select! {
            update = updates.message() => {
                let mut update = update?.ok_or(Lost::Closed)?;
                if let Some(trust) = update.trust.take() {
                    believe(&link.trust, trust)?;
                }
                apply(&link.mesh, update)?;
            }
            permit = tell.reserve(), if trusting.is_some() => {
                let permit = permit.map_err(|_gone| Lost::Closed)?;
                permit.send(NodeMessage { kind: trusting.clone().map(Kind::Trusting) });
                sent_trusting = trusting;
            }
            permit = tell.reserve(), if next.is_some() => {
                let permit = permit.map_err(|_gone| Lost::Closed)?;
                if let Some((message, told)) = next {
                    permit.send(message);
                    sent = told;
                }
            }
            changed = link.report.changed() => changed.map_err(|_ended| Lost::Ending)?,
            changed = link.trusting.changed() => changed.map_err(|_ended| Lost::Ending)?,
        }
    }
}

/// The control plane begins what it refuses with the reason's name.
fn is_revoked(status: &tonic::Status) -> bool {
    status.code() == Code::PermissionDenied && status.message().starts_with("node_revoked")
}

/// Takes in by what peers are believed.
fn believe(held: &watch::Sender<Option<Arc<Trust>>>, message: millrace_node::wire::mesh::Trust) -> Result<(), Lost> {
    let trust = Trust::try_from(message).map_err(Lost::Trust)?;
    held.send_if_modified(|held| {
        let differs = held.as_deref() != Some(&trust);
        if differs {
            tracing::info!(
                n_roots = trust.bundle.len(),
                n_revoked = trust.revoked.len(),
                "who is believed has changed"
            );
            *held = Some(Arc::new(trust));
        }
        differs
    });
    Ok(())
}

/// Takes an Update in. One that changes nothing but the generation is taken too: it is what is then reported.
fn apply(mesh: &watch::Sender<Arc<Mesh>>, update: Update) -> Result<(), Lost> {
    if update.from == update.to {
        // It said by what peers are believed, and nothing else.
        return Ok(());
    }
    let delta: Delta = convert::delta(update)?;
    let held = mesh.borrow().clone();
    let next: Snapshot = held.snapshot.apply(&delta)?;
    tracing::debug!(from = delta.from, to = delta.to, "an update came");
    mesh.send_replace(Arc::new(held.turned(Arc::new(next))));
    Ok(())
}

/// The next thing to tell, if any, and what has been told with it. Listeners go first: others wait for them.
fn untold(sent: &Report, now: &Report) -> Option<(NodeMessage, Report)> {
    let Report { listening, applied, failures } = now;
    let (kind, told) = if let Some(open) = listening.as_ref().filter(|_| sent.listening != *listening) {
        let workloads =
            open.iter().map(|(name, it)| Listener { name: Some(convert::name(name)), instance: it.to_string() });
        let kind = Kind::Listening(Listening { workloads: workloads.collect() });
        (kind, Report { listening: listening.clone(), ..sent.clone() })
    } else if *applied != 0 && (sent.applied != *applied || sent.failures != *failures) {
        let kind = Kind::Applied(Applied { generation: *applied, failures: failures.clone() });
        (kind, Report { listening: sent.listening.clone(), ..now.clone() })
    } else {
        return None;
    };
    Some((NodeMessage { kind: Some(kind) }, told))
}

#[cfg(test)]
mod tests;
