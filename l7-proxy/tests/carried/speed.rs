//! Says how fast it is, here and in this profile: `cargo test -p millrace-l7-proxy --test carried speed -- --ignored --nocapture`.
//! Both nodes, the client and the server share this machine's cores.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stage::Stage;

#[expect(clippy::disallowed_methods, reason = "the test measures")]
fn now() -> Instant {
    Instant::now()
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = |n: usize| stat.rsplit_once(')').unwrap().1.split_whitespace().nth(n).unwrap().parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

#[tokio::test]
#[ignore = "measures, asserts nothing"]
async fn speed() {
    let stage = Stage::new().await;
    bulk(&stage, 8080, "tunnel").await;
    bulk(&stage, 9000, "plaintext").await;
    round_trips(&stage).await;
    short_connections(&stage).await;
}

async fn bulk(stage: &Stage, port: u16, name: &str) {
    const TOTAL: usize = 1 << 30;
    let listener = stage.api_listens(port);
    let reading = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener.into_std().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 1 << 20];
            let mut total = 0;
            loop {
                match stream.read(&mut buffer).await.unwrap() {
                    0 => return total,
                    n => total += n,
                }
            }
        })
    });
    let target = stage.api_at(port);
    let mut client = match port {
        9000 => tokio::net::TcpStream::connect(target).await.unwrap(),
        _ => stage.web_connects(target).await,
    };
    let (began, cpu_before) = (now(), cpu());
    let buffer = vec![7; 1 << 20];
    for _ in 0..TOTAL / buffer.len() {
        client.write_all(&buffer).await.unwrap();
    }
    client.shutdown().await.unwrap();
    client.read_to_end(&mut Vec::new()).await.unwrap();
    let elapsed = began.elapsed();
    assert_eq!(reading.join().unwrap(), TOTAL);
    println!(
        "{name}: {:.2} Gbit/s, {:.2} CPU-s per GB in all",
        TOTAL as f64 * 8.0 / elapsed.as_secs_f64() / 1e9,
        (cpu() - cpu_before).as_secs_f64() / (TOTAL as f64 / 1e9)
    );
}

async fn round_trips(stage: &Stage) {
    let listener = stage.api_listens(8081);
    let (client, accepted) = tokio::join!(stage.web_connects(stage.api_at(8081)), listener.accept());
    let (mut client, mut server) = (client, accepted.unwrap().0);
    server.set_nodelay(true).unwrap();
    let echo = tokio::spawn(async move {
        let mut buffer = [0; 64];
        while server.read_exact(&mut buffer).await.is_ok() {
            server.write_all(&buffer).await.unwrap();
        }
    });
    let (began, cpu_before, n) = (now(), cpu(), 10_000);
    for _ in 0..n {
        let mut buffer = [1; 64];
        client.write_all(&buffer).await.unwrap();
        client.read_exact(&mut buffer).await.unwrap();
    }
    println!("64 B round trip: {:?}, {:?} CPU in all", began.elapsed() / n, (cpu() - cpu_before) / n);
    drop(client);
    echo.await.unwrap();
}

async fn short_connections(stage: &Stage) {
    let listener = stage.api_listens(8082);
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                stream.read_exact(&mut buffer).await.unwrap();
                stream.write_all(&buffer).await.unwrap();
            });
        }
    });
    let (began, cpu_before, n) = (now(), cpu(), 4_000u32);
    for _ in 0..n / 16 {
        let mut sixteen = Vec::new();
        for _ in 0..16 {
            let mut client = stage.web_connects(stage.api_at(8082)).await;
            client.write_all(&[1; 64]).await.unwrap();
            sixteen.push(client);
        }
        for mut client in sixteen {
            client.read_exact(&mut [0; 64]).await.unwrap();
        }
    }
    let rate = f64::from(n) / began.elapsed().as_secs_f64();
    println!("short connections: {rate:.0}/s, {:?} CPU each in all", (cpu() - cpu_before) / n);
    server.abort();
}
