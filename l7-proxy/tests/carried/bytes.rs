//! What goes in comes out: bytes, ends and resets.

use std::{io::ErrorKind, net::SocketAddr};

use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::stage::{SOON, Stage, was_shown};

const BULK: usize = 64 << 20;

/// Pseudo-random bytes that differ by seed, so that a swapped direction shows.
fn noise(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |buffer| {
        for chunk in buffer.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let bytes = state.to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// Sends `total` bytes and the end, reads to the end, and says the digests of both.
async fn exchange(stream: TcpStream, seed: u64, total: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut read, mut write) = stream.into_split();
    let sending = async move {
        let (mut fill, mut digest) = (noise(seed), Sha256::new());
        let mut buffer = vec![0; 100_000];
        let mut left = total;
        while left > 0 {
            let n = left.min(buffer.len());
            fill(&mut buffer[..n]);
            digest.update(&buffer[..n]);
            write.write_all(&buffer[..n]).await.unwrap();
            left -= n;
        }
        write.shutdown().await.unwrap();
        digest.finalize().to_vec()
    };
    let receiving = async move {
        let (mut digest, mut buffer) = (Sha256::new(), vec![0; 100_000]);
        loop {
            match read.read(&mut buffer).await.unwrap() {
                0 => return digest.finalize().to_vec(),
                n => digest.update(&buffer[..n]),
            }
        }
    };
    tokio::join!(sending, receiving)
}

async fn bulk_is_equal(client: TcpStream, listener: tokio::net::TcpListener, total: usize) {
    let server = async { exchange(listener.accept().await.unwrap().0, 2, total).await };
    let ((sent, received), (sent_back, received_there)) =
        timeout(SOON * 3, async { tokio::join!(exchange(client, 1, total), server) }).await.unwrap();
    assert!(sent == received_there, "what the client sent is what the server got");
    assert!(sent_back == received, "what the server sent is what the client got");
}

#[tokio::test]
async fn sixty_four_mebibytes_each_way_arrive_whole_through_a_tunnel() {
    let stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let client = stage.web_connects(stage.api_at(8080)).await;
    let own = client.local_addr().unwrap();
    bulk_is_equal(client, listener, BULK).await;
    assert!(was_shown(own), "the application was shown the pod's address and port");
    let total = BULK as u64;
    assert_eq!(stage.a.metric("millrace_proxy_bytes_total{direction=\"outbound\",way=\"sent\"}"), total);
    assert_eq!(stage.b.metric("millrace_proxy_bytes_total{direction=\"inbound\",way=\"received\"}"), total);
    assert_eq!(stage.a.metric("millrace_proxy_tunnels_opened_total{end=\"client\"}"), 1);
}

#[tokio::test]
async fn sixty_four_mebibytes_each_way_arrive_whole_in_plain_text() {
    let stage = Stage::new().await;
    let listener = stage.api_listens(9000);
    let client = TcpStream::connect(stage.api_at(9000)).await.unwrap();
    let own = client.local_addr().unwrap();
    bulk_is_equal(client, listener, BULK).await;
    assert!(was_shown(own));
}

/// Sizes around every buffer and window, one after another and side by side in one tunnel.
#[tokio::test]
async fn odd_sizes_arrive_whole() {
    let stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.shutdown().await.unwrap();
            });
        }
    });
    let mut running = tokio::task::JoinSet::new();
    for total in [0, 1, 2, 1023, 1024, 1025, 8191, 16_384, 65_535, 65_536, 262_143, 262_145, 1 << 20, (5 << 20) + 7] {
        let client = stage.web_connects(stage.api_at(8080)).await;
        running.spawn(async move {
            let (sent, received) = exchange(client, total as u64, total).await;
            assert!(sent == received, "{total} bytes");
        });
    }
    while let Some(ended) = timeout(SOON, running.join_next()).await.unwrap() {
        ended.unwrap();
    }
    server.abort();
}

async fn pair(stage: &Stage, is_tunnel: bool) -> (TcpStream, TcpStream) {
    let port = if is_tunnel { 8080 } else { 9000 };
    let listener = stage.api_listens(port);
    let target = stage.api_at(port);
    let connecting = async {
        match is_tunnel {
            true => stage.web_connects(target).await,
            false => TcpStream::connect(target).await.unwrap(),
        }
    };
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    (client, accepted.unwrap().0)
}

async fn read_to_end(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("an end or a reset comes")?;
    Ok(bytes)
}

#[tokio::test]
async fn a_half_close_passes_and_the_other_half_goes_on() {
    for is_tunnel in [true, false] {
        let stage = Stage::new().await;
        let (mut client, mut server) = pair(&stage, is_tunnel).await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut server).await.unwrap(), b"question");
        server.write_all(&vec![7; 300_000]).await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut client).await.unwrap(), vec![7; 300_000]);

        let (mut client, mut server) = {
            let stage = &stage;
            drop((client, server));
            pair(stage, is_tunnel).await
        };
        server.write_all(b"greeting").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut client).await.unwrap(), b"greeting");
        client.write_all(b"late answer").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut server).await.unwrap(), b"late answer");
    }
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset_at_either_end() {
    for is_tunnel in [true, false] {
        let stage = Stage::new().await;
        let (client, mut server) = pair(&stage, is_tunnel).await;
        reset(client);
        assert_eq!(read_to_end(&mut server).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        drop(server);
        let (mut client, server) = pair(&stage, is_tunnel).await;
        reset(server);
        assert_eq!(read_to_end(&mut client).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        // After a half-close each way, too.
        drop(client);
        let (mut client, mut server) = pair(&stage, is_tunnel).await;
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut server).await.unwrap(), b"");
        reset(client);
        // The reset of a client that has already ended is seen by who still writes to it.
        let writing = async {
            loop {
                if let Err(error) = server.write_all(&[1; 1000]).await {
                    return error.kind();
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let kind = timeout(SOON, writing).await.unwrap();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
    }
}

/// A reader that stops must stop its writer, not fill the proxies; a client that resets meanwhile is still noticed.
#[tokio::test]
async fn a_slow_reader_slows_the_writer_and_a_reset_behind_a_full_window_passes() {
    let stage = Stage::new().await;
    let (client, mut server) = pair(&stage, true).await;
    let mut written = 0;
    let chunk = vec![3; 64 * 1024];
    while let Ok(ready) = timeout(std::time::Duration::from_millis(500), client.writable()).await {
        ready.unwrap();
        match client.try_write(&chunk) {
            Ok(n) => written += n,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(written < 64 << 20, "the writer was never stopped");
    }
    // A small stream beside it still has its turn.
    let (mut beside, mut beside_server) = {
        let listener = stage.api_listens(8081);
        let (client, accepted) = tokio::join!(stage.web_connects(stage.api_at(8081)), listener.accept());
        (client, accepted.unwrap().0)
    };
    beside.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    timeout(SOON, beside_server.read_exact(&mut four)).await.unwrap().unwrap();
    reset(client);
    assert_eq!(read_to_end(&mut server).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Writes until nothing is taken any more, here or on the way.
async fn fill(client: &TcpStream) {
    let chunk = vec![3; 64 * 1024];
    while let Ok(ready) = timeout(std::time::Duration::from_millis(500), client.writable()).await {
        ready.unwrap();
        if let Err(error) = client.try_write(&chunk) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    }
}

/// Forty applications that have stopped reading: more than sixteen windows in each of the two workers' tunnels.
#[tokio::test]
async fn readers_that_stop_stop_no_other_connection_of_their_tunnel() {
    let stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let mut stopped = Vec::new();
    let mut filling = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (client, accepted) = tokio::join!(stage.web_connects(stage.api_at(8080)), listener.accept());
        stopped.push(accepted.unwrap().0);
        filling.spawn(async move {
            fill(&client).await;
            client
        });
    }
    let filled = timeout(SOON, filling.join_all()).await.unwrap();
    // One in each tunnel, and each way.
    for _ in 0..4 {
        let (client, accepted) = tokio::join!(stage.web_connects(stage.api_at(8080)), listener.accept());
        let total = 3 << 20;
        let (sent, there) = (exchange(client, 1, total), exchange(accepted.unwrap().0, 2, total));
        let ((sent, received), (sent_back, there)) = timeout(SOON, async { tokio::join!(sent, there) }).await.unwrap();
        assert!(sent == there && received == sent_back);
    }
    assert_eq!(stage.a.metric("millrace_proxy_tunnels_opened_total{end=\"client\"}"), 2);
    drop((filled, stopped));
}

/// Tiny messages to a reader that does not read: h2 by itself ends the tunnel for it.
#[tokio::test]
async fn tiny_messages_to_a_slow_reader_end_no_tunnel() {
    let stage = Stage::new().await;
    let (mut client, mut server) = pair(&stage, true).await;
    let total = 150_000;
    let sending = async {
        for i in 0..total {
            client.write_all(&[u8::try_from(i % 251).unwrap(); 24]).await.unwrap();
            if i % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        client.shutdown().await.unwrap();
    };
    let receiving = async {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        read_to_end(&mut server).await.unwrap().len()
    };
    let ((), received) = timeout(SOON, async { tokio::join!(sending, receiving) }).await.unwrap();
    assert_eq!(received, total * 24);
    assert_eq!(stage.a.metric("millrace_proxy_tunnels_opened_total{end=\"client\"}"), 1);
}

/// 300 at once: more than a tunnel's 64 streams, and one dial at a time.
#[tokio::test]
async fn many_connections_share_few_tunnels() {
    let stage = Stage::new().await;
    let listener = stage.api_listens(8080);
    let server = tokio::spawn(async move {
        let mut kept = Vec::new();
        for _ in 0..300 {
            kept.push(listener.accept().await.unwrap().0);
        }
        kept
    });
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(stage.web_connects(stage.api_at(8080)).await);
    }
    let kept = timeout(SOON, server).await.unwrap().unwrap();
    assert_eq!(kept.len(), 300);
    let opened = stage.a.metric("millrace_proxy_tunnels_opened_total{end=\"client\"}");
    assert_eq!(opened, 6, "three for each of two workers");
    let address: SocketAddr = clients[0].local_addr().unwrap();
    assert!(address.ip().is_loopback());
}
