//! Reaches an application of this node on behalf of a caller from elsewhere: whether it may, and a dial that shows who calls.

use std::{net::SocketAddr, os::fd::AsFd as _};

use millrace_model::{Facts, Membership, Mesh, Verdict, Workload, authorize, resolve::hears_plaintext};

use crate::{
    copy,
    dial::{Connected, dial_for},
    fault::Why,
    home::{Home, LAST_WORDS},
    proxy::Proxy,
    stock::Family,
};

/// What a connection was allowed by, to be asked again when the mesh changes.
#[derive(Clone, Debug)]
pub(crate) enum Called {
    /// By somebody with a certificate.
    Known(Facts),
    /// In plain text.
    Unknown(Facts),
}

/// Whether policy lets the caller in.
pub(crate) fn authorized(mesh: &Mesh, workload: &Workload, facts: &Facts) -> Result<(), Why> {
    // It left the mesh, where nobody is asked; what comes by us still was on its way.
    if workload.membership == Membership::Outside {
        return Ok(());
    }
    match authorize(mesh, workload, facts) {
        Verdict::Allow(_) => Ok(()),
        Verdict::Deny(ground) => Err(Why::Denied(ground.policy().cloned())),
    }
}

/// Whether a caller without identity is heard at all, and then whether policy lets it in.
pub(crate) fn authorized_plaintext(mesh: &Mesh, workload: &Workload, facts: &Facts) -> Result<(), Why> {
    if workload.membership == Membership::Outside || hears_plaintext(workload, facts.port) {
        authorized(mesh, workload, facts)
    } else {
        Err(Why::Strict)
    }
}

/// The application at `target`, which will see `client` as its peer.
pub(crate) async fn dial_shown(
    proxy: &Proxy,
    home: &Home,
    target: SocketAddr,
    client: SocketAddr,
) -> Result<Connected, Why> {
    let unconnected = proxy.stock.take(&home.pod, Family::of(target.ip())).await?;
    let maps = proxy.welcome()?.maps;
    if let Err(why) = maps.show(unconnected.socket.as_fd(), client) {
        tracing::warn!(%why, "an application could not be shown its client");
        return Err(Why::NotShown);
    }
    copy::abortive(&unconnected.socket);
    dial_for(unconnected, client, target).await
}

/// Waits until the mesh denies what it allowed, or the workload is gone and has had its time to be heard out.
pub(crate) async fn denied_or_gone(proxy: &Proxy, home: &Home, called: Called) -> Why {
    // First: what turns after this wakes it.
    let mut judged = proxy.judged.hear();
    let denied = async {
        loop {
            judged.mark_unchanged();
            let now = proxy.current();
            let verdict = match (home.pod.workload(&now), &called) {
                (Err(_), _) => {
                    drop(now);
                    tokio::time::sleep(LAST_WORDS).await;
                    return Why::Gone;
                }
                (Ok(workload), Called::Known(facts)) => authorized(&now, workload, facts),
                (Ok(workload), Called::Unknown(facts)) => authorized_plaintext(&now, workload, facts),
            };
            drop(now);
            match verdict {
                Ok(()) => {}
                Err(Why::Denied(policy)) => return Why::Revoked(policy),
                Err(_) => return Why::Revoked(None),
            }
            if judged.changed().await.is_err() {
                // Nobody compiles any more: the process is ending.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        why = denied => why,
        () = home.silent() => Why::Gone,
    }
}
