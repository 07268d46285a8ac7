//! Every attack at the tunnel port: what it sends, again and again until it is told to stop.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, split},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PREFACE, PRIORITY, RESET, SETTINGS, UNKNOWN, WINDOW, bomb, connect,
    frame, greedy,
};

/// What is attacked, and with what.
#[derive(Clone)]
pub(super) struct Target {
    /// The tunnel port.
    pub(super) tunnel: SocketAddr,
    /// An application behind it that sends without end.
    pub(super) fire_hose: SocketAddr,
    /// One that reads nothing.
    pub(super) deaf: SocketAddr,
    /// With a certificate of the mesh, or without any.
    pub(super) tls: Arc<ClientConfig>,
    /// How many connections or tunnels at once.
    pub(super) many: usize,
    pub(super) pace: Pace,
    pub(super) stop: Arc<AtomicBool>,
    /// What was done: connections made, or floods cut.
    pub(super) done: Arc<AtomicU64>,
}

/// When an attacker that was cut off begins again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// At once.
    Eager,
    /// After a while: a crowd that is to stand there is not to be a flood of connects as well.
    After(Duration),
    /// At its next moment and never before, whether it was cut off or not: as much is begun wherever it is aimed.
    Each(Duration),
}

/// One way to attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Idle,
    SlowTls,
    Handshakes,
    Garbage,
    HalfClosed,
    LongChain,
    RapidReset,
    Continuations,
    Settings,
    Pings,
    Windows,
    Priorities,
    Unknown,
    EmptyData,
    HeaderBomb,
    LargeFrame,
    LongAuthority,
    KeyUpdates,
    SlowPreface,
    SlowHead,
    IdleTunnels,
    NeverReads,
    NeverRead,
}

impl Kind {
    /// Every one, in the order of the table: strangers first, slow ones last of each.
    pub(super) const ALL: [Self; 23] = [
        Self::Handshakes,
        Self::Garbage,
        Self::HalfClosed,
        Self::Idle,
        Self::SlowTls,
        Self::LongChain,
        Self::RapidReset,
        Self::Continuations,
        Self::Settings,
        Self::Pings,
        Self::Windows,
        Self::Priorities,
        Self::Unknown,
        Self::EmptyData,
        Self::HeaderBomb,
        Self::LargeFrame,
        Self::LongAuthority,
        Self::KeyUpdates,
        Self::IdleTunnels,
        Self::NeverReads,
        Self::NeverRead,
        Self::SlowPreface,
        Self::SlowHead,
    ];

    /// Whether the attacker has a certificate of the mesh.
    pub(super) fn has_papers(self) -> bool {
        !matches!(self, Self::Idle | Self::SlowTls | Self::Handshakes | Self::Garbage | Self::HalfClosed)
    }

    /// The metric and the reason that it must be counted as; None where nothing is refused of this size.
    pub(super) fn counted(self) -> Option<(&'static str, &'static str)> {
        const FAILED: &str = "millrace_proxy_handshakes_failed_total";
        const BROKEN: &str = "millrace_proxy_tunnels_broken_total";
        const REFUSED: &str = "millrace_proxy_connections_refused_total";
        match self {
            Self::Idle | Self::SlowTls => Some((FAILED, "handshakes_full")),
            Self::Handshakes => Some((FAILED, "no_certificate")),
            Self::LongChain => Some((FAILED, "chain_too_long")),
            Self::Garbage | Self::HalfClosed => Some((FAILED, "handshake")),
            Self::RapidReset | Self::EmptyData | Self::HeaderBomb => Some((BROKEN, "http2_calm")),
            Self::Continuations => Some((BROKEN, "flood_continuation")),
            Self::Settings => Some((BROKEN, "flood_settings")),
            Self::Pings => Some((BROKEN, "flood_ping")),
            Self::Windows => Some((BROKEN, "flood_window")),
            Self::Priorities | Self::Unknown => Some((BROKEN, "flood_other")),
            Self::LargeFrame => Some((BROKEN, "http2_frame_size")),
            Self::LongAuthority => Some((REFUSED, "bad_authority")),
            Self::KeyUpdates => Some((BROKEN, "broken")),
            Self::SlowPreface => Some((FAILED, "http2")),
            Self::SlowHead => Some((BROKEN, "slow_head")),
            Self::IdleTunnels | Self::NeverReads | Self::NeverRead => None,
        }
    }

    /// How long the other end may take to name it: longer than its time for a handshake or a head.
    pub(super) fn is_slow(self) -> bool {
        matches!(self, Self::SlowPreface | Self::SlowHead)
    }
}

/// Attacks until told to stop. Then all end, wherever they are: some wait for who never answers.
pub(super) async fn run(kind: Kind, target: Target) {
    let mut attackers = JoinSet::new();
    for number in 0..target.many {
        let target = target.clone();
        attackers.spawn(async move {
            if let Pace::Each(time) = target.pace {
                // Spread over the time: a thousand at one moment is another attack.
                sleep(time.mul_f64(number as f64 / target.many as f64)).await;
            }
            loop {
                again(kind, &target, number).await;
            }
        });
    }
    while !target.stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(20)).await;
    }
    attackers.shutdown().await;
}

/// Attacks once, and rests.
async fn again(kind: Kind, target: &Target, number: usize) {
    let attack = Box::pin(once(kind, target, number));
    match target.pace {
        Pace::Eager => {
            if attack.await.is_err() {
                // Refused before anything began: not to be a flood of connects beside what it is.
                sleep(Duration::from_millis(5)).await;
            }
        }
        Pace::After(time) => {
            drop(attack.await);
            sleep(time).await;
        }
        Pace::Each(time) => {
            let next = sleep(time);
            drop(timeout(time, attack).await);
            next.await;
        }
    }
    target.done.fetch_add(1, Ordering::Relaxed);
}

#[expect(clippy::too_many_lines, reason = "a flat list: what each attack sends")]
async fn once(kind: Kind, target: &Target, number: usize) -> Result<()> {
    match kind {
        Kind::Idle => idle(TcpStream::connect(target.tunnel).await?, target).await,
        Kind::SlowTls => slow_tls(target).await,
        Kind::Handshakes | Kind::LongChain => drop(tls(target).await?.read(&mut [0; 64]).await?),
        Kind::Garbage => {
            let mut stream = TcpStream::connect(target.tunnel).await?;
            let noise: Vec<u8> = (0..256_u32).flat_map(|i| (i + 7).wrapping_mul(2_654_435_761).to_be_bytes()).collect();
            stream.write_all(&noise).await?;
            stream.read_to_end(&mut Vec::new()).await?;
        }
        Kind::HalfClosed => {
            let mut stream = TcpStream::connect(target.tunnel).await?;
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await?;
            stream.shutdown().await?;
            idle(stream, target).await;
        }
        Kind::RapidReset => {
            let mut frames = Vec::new();
            for stream in (1..8191).step_by(2) {
                frames.extend(frame(HEADERS, END_HEADERS, stream, &connect(&target.deaf.to_string())));
                frames.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
            }
            flood(tls(target).await?, &frames, target).await;
        }
        Kind::Continuations => {
            let mut frames = frame(HEADERS, 0, 1, &connect(&target.deaf.to_string()));
            frames.extend(std::iter::repeat_n(frame(CONTINUATION, 0, 1, &[0x10, 1, b'a', 1, b'b']), 1000).flatten());
            flood(tls(target).await?, &frames, target).await;
        }
        Kind::Settings => flood(tls(target).await?, &frame(SETTINGS, 0, 0, &[]).repeat(1000), target).await,
        Kind::Pings => flood(tls(target).await?, &frame(PING, 0, 0, &[7; 8]).repeat(1000), target).await,
        Kind::Priorities => {
            flood(tls(target).await?, &frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 9]).repeat(1000), target).await;
        }
        Kind::Unknown => flood(tls(target).await?, &frame(UNKNOWN, 0, 0, &[7; 8]).repeat(1000), target).await,
        Kind::Windows => {
            let frames = frame(WINDOW, 0, 0, &1_u32.to_be_bytes()).repeat(1000);
            let mut tls = raw_tls(target).await?;
            tls.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
            flood(tls, &frames, target).await;
        }
        Kind::EmptyData => {
            let mut tls = tls(target).await?;
            tls.write_all(&frame(HEADERS, END_HEADERS, 1, &connect(&target.deaf.to_string()))).await?;
            flood(tls, &frame(DATA, 0, 1, &[]).repeat(1000), target).await;
        }
        Kind::HeaderBomb => {
            let head = frame(HEADERS, END_HEADERS, 1, &bomb(&target.deaf.to_string()));
            flood(tls(target).await?, &head, target).await;
        }
        Kind::LargeFrame => {
            let mut head = vec![0x7f, 0xff, 0xff, DATA, 0];
            head.extend(1_u32.to_be_bytes());
            flood(tls(target).await?, &head, target).await;
        }
        Kind::LongAuthority => {
            let frames: Vec<u8> = (1..128)
                .step_by(2)
                .flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &connect(&"9".repeat(12_000))))
                .collect();
            let mut tls = tls(target).await?;
            tls.write_all(&frames).await?;
            drop(timeout(Duration::from_millis(300), drain(&mut tls)).await);
        }
        Kind::KeyUpdates => key_updates(tls(target).await?, target).await,
        Kind::SlowPreface => {
            let mut tls = raw_tls(target).await?;
            for byte in PREFACE {
                tls.write_all(&[*byte]).await?;
                tls.flush().await?;
                sleep(Duration::from_millis(900)).await;
                if target.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        Kind::SlowHead => {
            let mut tls = tls(target).await?;
            tls.write_all(&frame(HEADERS, 0, 1, &connect(&target.deaf.to_string()))).await?;
            idle(tls, target).await;
        }
        Kind::IdleTunnels => idle(tls(target).await?, target).await,
        Kind::NeverReads => never_reads(tls(target).await?, target).await?,
        Kind::NeverRead => never_read(tls(target).await?, target, number).await?,
    }
    Ok(())
}

async fn raw_tls(target: &Target) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(target.tunnel).await?;
    let connecting = TlsConnector::from(target.tls.clone()).connect(ServerName::try_from("nobody.invalid")?, stream);
    Ok(Box::pin(connecting).await?)
}

/// A tunnel that begins as it should.
async fn tls(target: &Target) -> Result<TlsStream<TcpStream>> {
    let mut tls = raw_tls(target).await?;
    let mut begin = PREFACE.to_vec();
    begin.extend(greedy());
    tls.write_all(&begin).await?;
    Ok(tls)
}

/// Until the other end closes it, or the attack is over.
async fn idle(mut stream: impl AsyncRead + Unpin, target: &Target) {
    let mut buffer = vec![0; 4096];
    while !target.stop.load(Ordering::Relaxed) {
        if let Ok(ended) = timeout(Duration::from_millis(200), stream.read(&mut buffer)).await
            && !matches!(ended, Ok(1..))
        {
            return;
        }
    }
}

async fn drain(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = vec![0; 16 * 1024];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}

/// Sends the same over and over, reading what comes, until it is cut.
async fn flood(tls: TlsStream<TcpStream>, frames: &[u8], target: &Target) {
    let (mut read, mut write) = split(tls);
    let send = async {
        while !target.stop.load(Ordering::Relaxed) {
            if write.write_all(frames).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = send => {}
        () = drain(&mut read) => {}
    }
}

/// The hello, a byte each 100 ms.
async fn slow_tls(target: &Target) {
    let Ok(mut stream) = TcpStream::connect(target.tunnel).await else { return };
    let name = ServerName::try_from("nobody.invalid").unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(target.tls.clone(), name).unwrap().write_tls(&mut hello).unwrap();
    for byte in hello {
        if target.stop.load(Ordering::Relaxed) || stream.write_all(&[byte]).await.is_err() {
            return;
        }
        if let Ok(ended) = timeout(Duration::from_millis(100), stream.read(&mut [0; 64])).await
            && !matches!(ended, Ok(1..))
        {
            return;
        }
    }
}

/// TLS 1.3 has no renegotiation; this is what came in its place.
async fn key_updates(mut tls: TlsStream<TcpStream>, target: &Target) {
    while !target.stop.load(Ordering::Relaxed) {
        for _ in 0..64 {
            if tls.get_mut().1.refresh_traffic_keys().is_err() {
                return;
            }
        }
        let wrote = timeout(Duration::from_secs(1), async {
            tls.write_all(&frame(PING, 1, 0, &[0; 8])).await?;
            tls.flush().await
        });
        if !matches!(wrote.await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Asks for all that comes, on many streams, and reads none of it.
async fn never_reads(mut tls: TlsStream<TcpStream>, target: &Target) -> Result<()> {
    for stream in (1..64).step_by(2) {
        tls.write_all(&frame(HEADERS, END_HEADERS, stream, &connect(&target.fire_hose.to_string()))).await?;
    }
    tls.flush().await?;
    while !target.stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Sends a window's worth on many streams to an application that reads none of it.
async fn never_read(tls: TlsStream<TcpStream>, target: &Target, number: usize) -> Result<()> {
    let (mut read, mut write) = split(tls);
    let send = async {
        let data = vec![u8::try_from(number % 256)?; 16_000];
        for stream in (1..64).step_by(2) {
            write.write_all(&frame(HEADERS, END_HEADERS, stream, &connect(&target.deaf.to_string()))).await?;
            for _ in 0..64 {
                write.write_all(&frame(DATA, 0, stream, &data)).await?;
            }
        }
        write.flush().await?;
        while !target.stop.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::select! {
        ended = send => ended,
        () = drain(&mut read) => Ok(()),
    }
}
