//! Calls, each kind by tonic's own client.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use http::uri::PathAndQuery;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{Calls, Chat, Kinds, Note, POD, TRAILER};

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Many unary calls.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port`.
    pub target: String,
    /// How many calls.
    pub count: u32,
    /// Calls at once, in one connection.
    pub at_once: usize,
    /// The file at whose appearance it ends.
    pub until: Option<PathBuf>,
    /// The method.
    pub method: String,
    /// The status to ask for.
    pub code: i32,
}

async fn connect(target: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{target}"))?.connect_timeout(PATIENCE);
    endpoint.connect().await.with_context(|| format!("connect {target}"))
}

async fn ready(channel: &Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(format!("not ready: {error}")))?;
    Ok(grpc)
}

fn path(method: &str) -> PathAndQuery {
    PathAndQuery::try_from(format!("/{}/{method}", super::SERVICE)).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

/// Calls until all is asked.
pub async fn say(options: &Options) -> Result<Calls> {
    let channel = connect(&options.target).await?;
    let left = Arc::new(AtomicU32::new(options.count));
    let mut callers = JoinSet::new();
    for _ in 0..options.at_once {
        let (channel, left, options) = (channel.clone(), left.clone(), options.clone());
        callers.spawn(async move {
            let mut calls = Calls::default();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
                && !options.until.as_ref().is_some_and(|file| file.exists())
            {
                // As gRPC asks of its libraries, and tonic leaves to who calls: what was not sent when its connection was told to go is sent again.
                let call = async {
                    match one(&channel, &options.method, options.code).await {
                        Err(status) if is_unsent(&status) => one(&channel, &options.method, options.code).await,
                        ended => ended,
                    }
                };
                let status = match timeout(PATIENCE, call).await {
                    Ok(Ok(pod)) => {
                        *calls.by_pod.entry(pod).or_default() += 1;
                        continue;
                    }
                    Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
                    Err(_late) => "no answer in time".to_owned(),
                };
                *calls.by_status.entry(status).or_default() += 1;
            }
            calls
        });
    }
    let mut all = Calls::default();
    while let Some(calls) = callers.join_next().await {
        let Calls { by_pod, by_status } = calls?;
        by_pod.into_iter().for_each(|(pod, n)| *all.by_pod.entry(pod).or_default() += n);
        by_status.into_iter().for_each(|(status, n)| *all.by_status.entry(status).or_default() += n);
    }
    Ok(all)
}

/// Whether a call never left its client: hyper says so in these words.
fn is_unsent(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == "operation was canceled"
}

/// One unary call: who answered.
async fn one(channel: &Channel, method: &str, code: i32) -> Result<String, Status> {
    let mut grpc = ready(channel).await?;
    let note = Request::new(Note { code, ..Note::default() });
    let response = grpc.unary::<_, Note, _>(note, path(method), ProstCodec::default()).await?;
    Ok(response.metadata().get(POD).and_then(|pod| pod.to_str().ok()).unwrap_or_default().to_owned())
}

/// One call of each kind; streams of so many messages of so many bytes.
pub async fn kinds(target: &str, number: u32, size: usize) -> Result<Kinds> {
    let channel = connect(target).await?;
    let payload = vec![7; size];
    let unary = one(&channel, "Say", 0).await?;
    let asked = Note { number, payload: payload.clone(), code: Code::DataLoss.into(), ..Note::default() };
    let mut grpc = ready(&channel).await?;
    let answers = grpc.server_streaming::<_, Note, _>(Request::new(asked), path("Count"), ProstCodec::default());
    let mut answers = answers.await?.into_inner();
    let mut n_came = 0;
    let server = loop {
        match answers.message().await {
            Ok(Some(note)) => {
                ensure!(note.number == n_came && note.payload.len() == size, "messages come in order and whole");
                n_came += 1;
            }
            Ok(None) => break (n_came, "Ok".to_owned(), String::new()),
            Err(status) => {
                let told = status.metadata().get(TRAILER).and_then(|value| value.to_str().ok()).unwrap_or_default();
                break (n_came, format!("{:?}: {}", status.code(), status.message()), told.to_owned());
            }
        }
    };
    let notes =
        tokio_stream::iter((0..number).map(move |number| Note { number, payload: payload.clone(), ..Note::default() }));
    let gathered = ready(&channel).await?;
    let mut gathering = gathered;
    let told = gathering.client_streaming::<_, _, Note, _>(Request::new(notes), path("Gather"), ProstCodec::default());
    let Note { number: n_sent, text, .. } = told.await?.into_inner();
    let Chat { rounds: both, cut } = chat(target, number, None, Duration::ZERO).await?;
    ensure!(cut.is_none(), "a stream both ways is not cut: {cut:?}");
    Ok(Kinds { unary, server, client: (n_sent, text.parse()?), both })
}

/// A stream both ways: each message is sent once the one before has come back. It ends after so many rounds or when `until` is there.
pub async fn chat(target: &str, rounds: u32, until: Option<PathBuf>, pause: Duration) -> Result<Chat> {
    let channel = connect(target).await?;
    let (send, notes) = mpsc::channel(1);
    let mut grpc = ready(&channel).await?;
    let asked = Request::new(ReceiverStream::new(notes).map(|note: Note| note));
    send.send(Note::default()).await?;
    let answers = grpc.streaming::<_, _, Note, _>(asked, path("Chat"), ProstCodec::default()).await?;
    let mut answers = answers.into_inner();
    let mut chat = Chat::default();
    loop {
        match timeout(PATIENCE, answers.message()).await {
            Ok(Ok(Some(note))) if note.number == chat.rounds => chat.rounds += 1,
            Ok(Ok(Some(_))) => chat.cut = Some("an answer came out of turn".to_owned()),
            Ok(Ok(None)) => chat.cut = Some("it ended before its client did".to_owned()),
            Ok(Err(status)) => chat.cut = Some(format!("{:?}: {}", status.code(), status.message())),
            Err(_late) => chat.cut = Some("no answer in time".to_owned()),
        }
        let is_over = chat.rounds >= rounds || until.as_ref().is_some_and(|file| file.exists());
        if chat.cut.is_some() || is_over {
            break;
        }
        tokio::time::sleep(pause).await;
        // Where the stream was cut meanwhile nobody takes it, and the next answer says why.
        drop(send.send(Note { number: chat.rounds, ..Note::default() }).await);
    }
    drop(send);
    if chat.cut.is_none() {
        // Its end comes back too.
        let last = timeout(PATIENCE, answers.message()).await?;
        chat.cut =
            last.map_or_else(|status| Some(status.to_string()), |more| more.map(|_| "an answer too many".to_owned()));
    }
    Ok(chat)
}

/// Begins a stream both ways, has one answer and goes away without a word.
pub async fn leave(target: &str) -> Result<()> {
    let channel = connect(target).await?;
    let (send, notes) = mpsc::channel(1);
    let mut grpc = ready(&channel).await?;
    send.send(Note::default()).await?;
    let asked = Request::new(ReceiverStream::new(notes));
    let mut answers = grpc.streaming::<_, _, Note, _>(asked, path("Chat"), ProstCodec::default()).await?.into_inner();
    timeout(PATIENCE, answers.message()).await??.context("an answer")?;
    Ok(())
}
