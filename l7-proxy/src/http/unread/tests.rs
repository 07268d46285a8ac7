//! States what is charged for bytes that wait unread in HTTP/2, and which stream is broken off over a bound.

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http_body_util::BodyExt as _;
use tokio::{io::duplex, sync::mpsc};

use super::*;
use crate::{
    handshakes::Caller,
    home::Pod,
    http::received::Received,
    limits::{Account, Accounts, Budget, Limits, WorkloadLimits},
};

const KIB: usize = 1024;

fn account(max_buffered: usize) -> Arc<Account> {
    let accounts = Accounts::new(Budget::new(64 << 20));
    let each = WorkloadLimits { max_buffered: max_buffered as u64, ..WorkloadLimits::default() };
    accounts.set(Limits { each, ..Limits::default() });
    accounts.of(&Pod { name: millrace_model::ObjectName::new("shop", "web"), uid: "1".into() })
}

/// Two streams of one connection: what their client sends, and what comes of it, counted in `unread`. Tasks drive both ends.
async fn streams(unread: &Unread) -> [(SendStream<Bytes>, RecvStream); 2] {
    let (ours, theirs) = duplex(64 * KIB);
    let mut server = h2::server::Builder::new();
    server.initial_window_size(256 * 1024).initial_connection_window_size(16 << 20);
    let accepting = server.handshake::<_, Bytes>(Reading::new(theirs, unread.clone()));
    let (server, client) = tokio::join!(accepting, h2::client::handshake(ours));
    let (mut server, (mut send, connection)) = (server.unwrap(), client.unwrap());
    tokio::spawn(async move { drop(connection.await) });
    let (accepted, mut came) = mpsc::channel(2);
    let counted = unread.clone();
    tokio::spawn(async move {
        let mut answers = Vec::new();
        loop {
            let next = std::future::poll_fn(|cx| {
                let next = server.poll_accept(cx);
                counted.look();
                next
            });
            let Some(Ok((request, respond))) = next.await else { return };
            answers.push(respond);
            accepted.send(request.into_body()).await.unwrap();
        }
    });
    let mut both = Vec::new();
    for _ in 0..2 {
        std::future::poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
        let (_answer, stream) = send.send_request(http::Request::new(()), false).unwrap();
        both.push((stream, came.recv().await.unwrap()));
    }
    both.try_into().unwrap()
}

/// Waits until `holds`: what moves bytes are tasks of this very thread.
async fn until(holds: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it does not come to hold");
}

#[tokio::test]
async fn what_is_not_read_is_charged_until_it_is() {
    let account = account(16 << 20);
    let unread = Unread::new(&Arc::new(account.waits(Caller::Pod([10, 0, 0, 1].into()))));
    let [(mut one, one_came), (mut other, other_came)] = streams(&unread).await;
    let (one_body, other_body) = (Received::two(one_came, &unread), Received::two(other_came, &unread));
    for stream in [&mut one, &mut other] {
        stream.send_data(vec![7; 200 * KIB].into(), true).unwrap();
    }
    // All but what came since it was looked at last.
    until(|| account.n_buffered() >= 300 * 1024).await;
    assert_eq!(one_body.collect().await.unwrap().to_bytes().len(), 200 * KIB);
    drop(other_body);
    assert_eq!(account.n_buffered(), 0, "read or dropped, nothing waits");
}

#[tokio::test]
async fn over_a_bound_the_fullest_stream_is_broken_off_and_the_other_goes_on() {
    let account = account(256 * KIB);
    let unread = Unread::new(&Arc::new(account.waits(Caller::Pod([10, 0, 0, 1].into()))));
    let [(mut one, one_came), (mut other, other_came)] = streams(&unread).await;
    let (mut one_body, other_body) = (Received::two(one_came, &unread), Received::two(other_came, &unread));
    other.send_data(vec![7; 100 * KIB].into(), true).unwrap();
    one.send_data(vec![7; 250 * KIB].into(), false).unwrap();
    until(|| unread.lock().streams.values().any(|one| one.full.get().is_some())).await;
    let broken = one_body.frame().await.unwrap().unwrap_err();
    // By which of the two depends on how much came between two looks.
    assert!(["peer_buffers", "workload_buffers"].contains(&&*broken.to_string()), "{broken}");
    drop(one_body);
    assert_eq!(other_body.collect().await.unwrap().to_bytes().len(), 100 * KIB);
    assert_eq!(account.n_buffered(), 0);
}
