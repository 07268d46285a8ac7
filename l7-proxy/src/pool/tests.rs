//! States who gets the places of a tunnel that was dialled.

use std::{future::poll_fn, task::Poll};

use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::limits::{Accounts, Budget};

/// Room for both ends' settings.
const ROOM: usize = 64 * 1024;

fn ends() -> Ends {
    let identity = |name| Identity::new("td", "shop", name);
    Ends {
        source: Pod { name: millrace_model::ObjectName::new("shop", "web"), uid: "1".into() },
        source_identity: identity("web"),
        source_address: "10.0.0.1".parse().unwrap(),
        peer: identity("api"),
        peer_uid: "2".into(),
        tunnel: "10.0.0.2:15008".parse().unwrap(),
    }
}

/// A tunnel whose peer has said how many streams it takes, and that end of it.
async fn opened(n_streams: u32) -> (Opened, h2::server::Connection<DuplexStream, Bytes>) {
    let (ours, theirs) = duplex(ROOM);
    let mut server = h2::server::Builder::new();
    let server = server.max_concurrent_streams(n_streams).handshake(theirs);
    let tuning = crate::tuning::Held::new(1).now();
    let (server, client) = tokio::join!(server, tunnel::client(&tuning).handshake::<_, Bytes>(ours));
    let (mut server, (send, mut connection)) = (server.unwrap(), client.unwrap());
    poll_fn(|cx| {
        assert!(server.poll_closed(cx).is_pending() && Pin::new(&mut connection).poll(cx).is_pending());
        if send.current_max_send_streams() == n_streams as usize { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let accounts = Accounts::new(Budget::new(0));
    let waits = Arc::new(accounts.of(&ends().source).waits(Caller::Pod(ends().tunnel.ip())));
    let driver = Box::pin(async { drop(connection.await) });
    (Opened { send, leaf: None, carried: Carried::default(), waits, driver }, server)
}

/// To whoever waits for it this is an answer: to dial another one would get no further, and again.
#[tokio::test]
async fn a_tunnel_that_takes_no_streams_is_broken() {
    let pool = Pool::default();
    let (opened, _server) = opened(0).await;
    let settled = pool.settle(&ends(), 1, Ok(opened));
    assert_eq!(settled.map(|_place| ()).map_err(|fault| fault.why), Err(Why::TunnelBroken));
}

#[tokio::test]
async fn who_dialled_has_the_first_place() {
    let pool = Pool::default();
    let (opened, _server) = opened(1).await;
    let place = pool.settle(&ends(), 1, Ok(opened)).unwrap();
    let place_left = || pool.lock().routes.get_mut(&ends()).unwrap().tunnels[0].place(1);
    assert!(place_left().is_none(), "somebody else has it");
    drop(place);
    assert!(place_left().is_some());
}
