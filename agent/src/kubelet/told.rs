//! Takes a CNI plugin's word of a pod that is about to start, and says when the node knows it: the plugin holds the pod back till then.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use millrace_model::ObjectName;
use millrace_node::admin::{self, Response, Route};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{Company, Own, Sandbox, Sandboxes};
use crate::pods::open_namespace;

/// How long a pod may take from its network's making to its first process. A runtime starts it at once; an hour's work it is not.
pub(super) const BEGINS: Duration = Duration::from_secs(60);
/// How long the plugin is kept waiting: a kubelet gives a pod's network minutes, and tries again.
const PATIENCE: Duration = Duration::from_secs(10);

/// The namespaces, by the device and inode of their files, from which the kernel's tables know who calls.
pub type Known = BTreeSet<(u64, u64)>;

/// Where words go, and where what is known comes from.
pub type Teller = (mpsc::Sender<Word>, watch::Receiver<Arc<Known>>);

/// Where a pod will run.
#[derive(Clone, Debug)]
pub struct Word {
    /// The pod.
    pub pod: ObjectName,
    /// Its network namespace.
    pub namespace: Arc<OwnedFd>,
    /// The device and inode of its file.
    pub file: (u64, u64),
}

/// The words on pods that are not found by their processes yet.
#[derive(Debug, Default)]
pub(super) struct Words(BTreeMap<ObjectName, (Word, Instant)>);

impl Words {
    pub(super) fn hear(&mut self, word: Word, now: Instant) {
        self.0.insert(word.pod.clone(), (word, now));
    }

    /// Puts in what was told and is not found. Of a pod that is made again under its name, what was told is the newer.
    pub(super) fn overlay(&mut self, seen: &mut Sandboxes, now: Instant) {
        self.0.retain(|pod, (word, since)| {
            let is_found = seen.own(pod).is_some_and(|own| own.file == word.file);
            !is_found && now.saturating_duration_since(*since) < BEGINS
        });
        for (pod, (word, _)) in &self.0 {
            let Word { pod: _, namespace, file } = word.clone();
            let own = Own { namespace, file, addresses: Vec::new(), company: Company::Nobody, process: None };
            seen.pods.insert(pod.clone(), Sandbox::Own(own));
        }
    }
}

/// What the plugin says.
#[derive(Deserialize)]
struct Said {
    namespace: String,
    name: String,
    netns: PathBuf,
}

/// `POST /pods`: answered once the pod can call, or with why it can't.
pub fn route(teller: Teller) -> Route {
    Route {
        method: "POST",
        path: "/pods",
        answer: Arc::new(move |request| {
            let teller = teller.clone();
            Box::pin(async move { answer(request.body(), teller).await })
        }),
    }
}

async fn answer(body: &[u8], (words, mut known): Teller) -> Response {
    let said: Said = match serde_json::from_slice(body) {
        Ok(said) => said,
        Err(why) => return admin::text(StatusCode::BAD_REQUEST, format!("that names no pod: {why}\n")),
    };
    let pod = ObjectName::new(&said.namespace, &said.name);
    let path = said.netns.display().to_string();
    let (namespace, file) = match tokio::task::spawn_blocking(move || open_namespace(&path)).await {
        Ok(Ok((namespace, file))) => (Arc::new(namespace.into()), file),
        Ok(Err(why)) => {
            let path = said.netns.display();
            return admin::text(StatusCode::BAD_REQUEST, format!("{path} can't be opened: {why}\n"));
        }
        Err(why) => return admin::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
    };
    if words.send(Word { pod: pod.clone(), namespace, file }).await.is_err() {
        return admin::text(StatusCode::SERVICE_UNAVAILABLE, "the agent ends\n");
    }
    let is_known = timeout(PATIENCE, known.wait_for(|known| known.contains(&file))).await;
    match is_known {
        Ok(Ok(_)) => admin::text(StatusCode::OK, "it can call\n"),
        Ok(Err(_)) | Err(_) => {
            let why = format!(
                "{pod} is not captured after {} s: has the control plane told this node of it? See `millrace status`\n",
                PATIENCE.as_secs()
            );
            admin::text(StatusCode::SERVICE_UNAVAILABLE, why)
        }
    }
}
