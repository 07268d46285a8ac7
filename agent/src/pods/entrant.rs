//! Does things inside network namespaces, on one thread that exists for nothing else: no thread of the runtime ever
//! enters one, so that no socket is ever made in the wrong place.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

/// Jobs that wait: one per caller, and only the node's loop calls.
const QUEUE: usize = 16;

type Job = Box<dyn FnOnce() + Send>;

/// The thread that enters namespaces.
#[derive(Clone, Debug)]
pub struct Entrant(SyncSender<Job>);

impl Entrant {
    /// Starts the thread. It ends with the last clone of this.
    pub fn start() -> io::Result<Self> {
        let home = File::open("/proc/self/ns/net")?;
        let (sender, jobs) = sync_channel::<Job>(QUEUE);
        thread::Builder::new().name("namespaces".into()).spawn(move || {
            for job in jobs {
                job();
                // A thread keeps the namespace that it is in alive: a pod's must end with the pod. Where there is no
                // way back, the next job leaves it.
                if let Err(why) = enter(&home) {
                    tracing::warn!(error = &why as &dyn std::error::Error, "no way out of a network namespace");
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// What `work` gives inside the namespace. Work must not block: the next job waits for it.
    pub async fn within<T: Send + 'static>(
        &self,
        namespace: Arc<OwnedFd>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            let result = enter(&*namespace).and_then(|()| work());
            // Who asked may have gone: then nobody misses it.
            drop(answer.send(result));
        });
        let gone = |_| io::Error::other("the thread that enters namespaces has ended");
        self.0.try_send(job).map_err(|_full_or_gone| io::Error::from(io::ErrorKind::WouldBlock))?;
        answered.await.map_err(gone)?
    }
}

fn enter(namespace: &impl AsFd) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, sync::Arc};

    use super::Entrant;

    #[tokio::test]
    async fn work_is_done_in_the_namespace_it_names_and_nowhere_else() {
        let own = || std::fs::read_link("/proc/thread-self/ns/net");
        let Ok(namespace) = File::open("/proc/self/ns/net") else { return };
        let before = own().unwrap();
        match Entrant::start().unwrap().within(Arc::new(namespace.into()), own).await {
            Ok(inside) => assert_eq!(inside, before),
            // Entering takes CAP_SYS_ADMIN; the lab tests have it.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
        }
        assert_eq!(own().unwrap(), before);
    }
}
