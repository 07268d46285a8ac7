//! States what is charged to a workload while its bytes wait.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    net::TcpListener,
};

use super::*;
use crate::{
    handshakes::Caller,
    home::Pod,
    limits::{Account, Accounts, Budget, Limits, WorkloadLimits},
};

const MIB: usize = 1 << 20;

/// A frame that is not gathered with others.
const LARGE: usize = 64 * 1024;

fn account(max_buffered: usize) -> Arc<Account> {
    let accounts = Accounts::new(Budget::new(64 * MIB as u64));
    let each = WorkloadLimits { max_buffered: max_buffered as u64, ..WorkloadLimits::default() };
    accounts.set(Limits { each, ..Limits::default() });
    accounts.of(&Pod { name: millrace_model::ObjectName::new("shop", "web"), uid: "1".into() })
}

fn waits(account: &Arc<Account>) -> Arc<Waits> {
    Arc::new(account.waits(Caller::Pod([10, 0, 0, 1].into())))
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A stream of a tunnel: what this end sends, and what the other receives. Both ends are driven by tasks.
async fn stream() -> (SendStream<Bytes>, RecvStream) {
    let (ours, theirs) = duplex(64 * 1024);
    let mut server = h2::server::Builder::new();
    server.initial_window_size(4 << 20).initial_connection_window_size(8 << 20).max_frame_size(1 << 20);
    let (server, client) = tokio::join!(server.handshake::<_, Bytes>(theirs), h2::client::handshake(ours));
    let (mut server, (mut send, connection)) = (server.unwrap(), client.unwrap());
    tokio::spawn(async move { drop(connection.await) });
    let (_response, send) = send.send_request(http::Request::new(()), false).unwrap();
    let (request, respond) = server.accept().await.unwrap().unwrap();
    tokio::spawn(async move {
        let _answers = respond;
        while server.accept().await.is_some() {}
    });
    (send, request.into_body())
}

/// What was charged when the socket was full stays charged until it is written, however little the application takes at a time.
#[tokio::test]
async fn what_waits_for_a_slow_application_is_charged_until_it_is_written() {
    let (account, (near, mut application)) = (account(64 * MIB), sockets().await);
    let (mut send, mut recv) = stream().await;
    // More than the kernel takes at both ends.
    let frames = 3 * MIB / LARGE + 16 * MIB / LARGE;
    tokio::spawn(async move {
        for _ in 0..frames {
            send.reserve_capacity(LARGE);
            while send.capacity() < LARGE {
                poll_fn(|cx| send.poll_capacity(cx)).await.expect("it is open").expect("it is whole");
            }
            send.send_data(Bytes::from(vec![7; LARGE]), false).unwrap();
        }
        send.send_data(Bytes::new(), true).unwrap();
        // To drop it would be to reset it.
        std::future::pending::<()>().await;
    });
    let count = AtomicU64::new(0);
    let (whose, written) = (waits(&account), &count);
    let pumping = async { to_socket(&mut recv, &near, written, &whose).await.unwrap() };
    let reading = async {
        let mut buffer = vec![0; LARGE];
        let mut all = 0;
        // Nobody reads: what the window holds has come and waits.
        let full = async {
            while account.n_buffered() < 3 * MIB as u64 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), full).await.expect("a window's worth is charged");
        // A little is taken, again and again: the rest goes on to be charged.
        for _ in 0..200 {
            all += application.read(&mut buffer[..16 * 1024]).await.unwrap();
            tokio::task::yield_now().await;
            let (charged, written) = (account.n_buffered(), written.load(Ordering::Relaxed));
            assert!(charged >= 2 * MIB as u64, "{charged} are charged, {written} were written");
        }
        loop {
            match application.read(&mut buffer).await.unwrap() {
                0 => break all,
                n => all += n,
            }
        }
    };
    let ((), all) = tokio::join!(pumping, reading);
    assert_eq!((all, account.n_buffered()), (frames * LARGE, 0));
}

/// What comes beyond a bound for an application that reads nothing can't wait: the stream ends by the bound's name.
#[tokio::test]
async fn a_stream_for_which_too_much_waits_ends_by_the_bounds_name() {
    let (account, (near, _deaf)) = (account(MIB), sockets().await);
    let (mut send, mut recv) = stream().await;
    tokio::spawn(async move {
        loop {
            send.reserve_capacity(LARGE);
            match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(n)) if n > 0 && send.send_data(Bytes::from(vec![7; n]), false).is_ok() => {}
                Some(Ok(0)) => tokio::task::yield_now().await,
                _ => return,
            }
        }
    });
    let count = AtomicU64::new(0);
    let ended = to_socket(&mut recv, &near, &count, &waits(&account)).await;
    assert!(matches!(ended, Err(Broken::Full(Limit::Buffered | Limit::PeerBuffered))), "{ended:?}");
    assert_eq!(account.n_buffered(), 0);
}

/// Messages of every size around the sizes at which reading changes arrive whole, and the end after them.
#[tokio::test]
async fn what_is_read_in_pieces_of_any_size_arrives_whole() {
    let ((near, mut client), (far, mut server)) = (sockets().await, sockets().await);
    let account = account(64 * MIB);
    let sizes: Vec<usize> =
        [1, 64, FIRST_CHUNK - 1, FIRST_CHUNK, FIRST_CHUNK + 1, 5 * FIRST_CHUNK, CHUNK, CHUNK + 1, MIB]
            .into_iter()
            .chain([1, FIRST_CHUNK, 3])
            .collect();
    let sent: usize = sizes.iter().sum();
    let count = AtomicU64::new(0);
    let whose = waits(&account);
    let pumping = async { between(&near, &far, &count, &whose).await.unwrap() };
    let writing = async {
        for (number, size) in sizes.iter().enumerate() {
            client.write_all(&vec![u8::try_from(number).unwrap(); *size]).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
    };
    let reading = async {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        all
    };
    let ((), (), all) = tokio::join!(pumping, writing, reading);
    let expected: Vec<u8> =
        sizes.iter().enumerate().flat_map(|(number, size)| vec![u8::try_from(number).unwrap(); *size]).collect();
    assert!(all == expected, "{} of {sent} bytes came", all.len());
    assert_eq!(count.load(Ordering::Relaxed), sent as u64);
}
