//! States how a connection of HTTP/1 ends, and what becomes of what is under way.

use std::io::ErrorKind;

use super::*;

#[tokio::test]
async fn a_connection_that_is_to_end_says_so_with_its_next_answer() {
    let mut served = served(echo).await;
    served.send(ASK).await;
    assert!(!served.hear().await.contains("connection"));
    served.closing.0.store(true, Relaxed);
    served.send(ASK).await;
    let answer = served.hear_all().await;
    assert!(answer.contains("connection: close\r\n") && body(&answer) == "GET /a ", "{answer}");
    assert_eq!(served.ended().await.unwrap(), End::Over);
}

#[tokio::test]
async fn a_connection_that_is_to_end_now_ends_where_no_request_is_under_way() {
    let mut served = served(echo).await;
    served.closing.1.store(true, Relaxed);
    // Whatever wakes it: this is no whole head.
    served.send("GET / HT").await;
    assert_eq!(served.hear_all().await, "");
    assert_eq!(served.ended().await.unwrap(), End::Over);
}

/// What has come behind the request is the other protocol's.
#[tokio::test]
async fn another_protocol_gets_the_socket_and_what_came_of_it() {
    let (mut client, socket) = pair().await;
    let (_account, waits) = account();
    let early = BytesMut::from(&*format!("{ASK}raw"));
    let mut talk = Talk::new(Client { socket, heads: Heads::default(), early }, &waits, &Flaw::default());
    let never = AtomicBool::new(false);
    let ended = talk
        .go_on(Instant::now(), Closing { soon: &never, now: &never }, async |_: Request<Received>| {
            let mut response = Response::new(Said { is_exact: true, ..Said::default() });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            Ok(response)
        })
        .await;
    assert_eq!(ended.unwrap(), End::Switched);
    let (mut socket, early) = talk.into_raw().expect("the socket");
    assert_eq!(&*early, b"raw");
    socket.write_all(b"!").await.unwrap();
    let mut heard = vec![0; 1024];
    let mut n = 0;
    while !heard[..n].ends_with(b"\r\n\r\n!") {
        n += timeout(SOON, client.read(&mut heard[n..])).await.unwrap().unwrap();
    }
    assert!(heard.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_client_is_waited_for_a_minute_at_first_and_for_ten_between_requests() {
    for (early, time, is_good) in [
        ("".to_owned(), FIRST_HEAD, true),
        ("GET / HTT".to_owned(), FIRST_HEAD, false),
        (ASK.to_owned(), NEXT_HEAD, true),
        (format!("{ASK}GET / HTT"), NEXT_HEAD, false),
    ] {
        let began = Instant::now();
        let Served { client, ended, .. } = served_after(&early, echo).await;
        let ended = ended.await.unwrap();
        let took = began.elapsed();
        assert!((time..time + Duration::from_secs(2)).contains(&took), "{early:?}: {took:?}");
        assert!(
            if is_good { matches!(ended, Ok(End::Over)) } else { matches!(ended, Err(Broke::Silent)) },
            "{early:?}: {ended:?}"
        );
        drop(client);
    }
}

/// The socket is reset where its connection breaks, and not shut as if all were said.
#[tokio::test]
async fn a_connection_that_breaks_is_not_shut_as_if_all_were_well() {
    let (mut client, socket) = pair().await;
    // As sockets are that are accepted here.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    let (_account, waits) = account();
    drop(Talk::new(Client { socket, heads: Heads::default(), early: BytesMut::new() }, &waits, &Flaw::default()));
    let read = timeout(SOON, client.read(&mut [0; 8])).await.unwrap();
    assert_eq!(read.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_body_that_outlives_its_connection_breaks_off() {
    let (kept, mut bodies) = mpsc::channel(1);
    let mut served = served(move |request: Request<Received>| {
        let kept = kept.clone();
        async move {
            kept.send(request.into_body()).await.unwrap();
            std::future::pending().await
        }
    })
    .await;
    served.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc").await;
    let mut body = bodies.recv().await.unwrap();
    assert_eq!(&*body.frame().await.unwrap().unwrap().into_data().unwrap(), b"abc");
    let rest = tokio::spawn(async move { body.frame().await.unwrap().map(drop) });
    sleep(MOMENT).await;
    served.ended.abort();
    assert!(timeout(SOON, rest).await.expect("it is told").unwrap().is_err());
}
