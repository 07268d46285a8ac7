//! States that what moves the bytes of connections to endpoints is polled in the turn of the pod that they are for.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU64, Ordering},
};

use millrace_model::ObjectName;

use super::*;
use crate::{
    fair::tests::{busy, now, worked},
    handshakes::Caller,
    limits::{Accounts, Budget},
};

/// A connection whose driver is always ready, and works 20 microseconds each time; how often it did is counted.
async fn opened(account: &Arc<Account>, polls: Arc<AtomicU64>) -> Opened {
    let (ours, _theirs) = tokio::io::duplex(1024);
    let (send, _connection) = h2::client::handshake(ours).await.unwrap();
    let waits = Arc::new(account.waits(Caller::Other(Ipv4Addr::LOCALHOST.into())));
    let driver = Box::pin(async move {
        loop {
            busy(Duration::from_micros(20));
            polls.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    Opened { sender: Sender::Two(send, Unread::new(&waits), waits), driver }
}

#[tokio::test]
async fn a_pod_with_eight_times_the_connections_to_endpoints_has_no_more_of_a_worker() {
    let (turns, accounts) = (Arc::new(Turns::by_clock(now)), Accounts::new(Budget::new(0)));
    let upstreams = Arc::new(Upstreams::new(turns.clone()));
    let mut leases = Vec::new();
    let mut polls = Vec::new();
    for (name, n) in [("many", 80), ("few", 10)] {
        let pod = Pod { name: ObjectName::new("shop", name), uid: "1".into() };
        let (account, count) = (accounts.of(&pod), Arc::default());
        let ends = Ends {
            source: pod,
            source_address: Ipv4Addr::LOCALHOST.into(),
            target: (Ipv4Addr::LOCALHOST, 80).into(),
            instance: None,
            speaks: Speak::Two,
        };
        for _ in 0..n {
            leases.push(upstreams.add(&ends, opened(&account, Arc::clone(&count)).await, &account));
        }
        polls.push(count);
    }
    tokio::select! {
        () = turns.pace() => {}
        () = worked(Duration::from_millis(300)) => {}
    }
    upstreams.lock().tasks.abort_all();
    let [many, few] = [0, 1].map(|n: usize| polls[n].load(Ordering::Relaxed));
    assert!(few * 11 > many * 10 && many * 11 > few * 10, "{many} polls of 80 drivers, {few} of 10");
}
