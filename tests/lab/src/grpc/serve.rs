//! Answers every kind of call.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Result;
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    metadata::MetadataValue,
    server::{Grpc, NamedService, StreamingService},
    transport::Server,
};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::{Note, POD, TRAILER};

/// Messages that wait to be sent: a server that is read slowly is slowed.
const QUEUE: usize = 4;

/// How soon after a stream's end it shows that its client has gone.
const GONE: Duration = Duration::from_millis(200);

/// Tells what happened: who serves prints it.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// Serves until killed. `tell` is told `gone <method>` for each call whose client went away.
pub async fn serve(listen: SocketAddr, pod: String, tell: Tell) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    tell("listening");
    let probe = Probe { pod: pod.into(), tell };
    Server::builder().add_service(probe).serve_with_incoming(TcpListenerStream::new(listener)).await?;
    Ok(())
}

#[derive(Clone)]
struct Probe {
    pod: Arc<str>,
    tell: Tell,
}

impl NamedService for Probe {
    const NAME: &'static str = super::SERVICE;
}

impl Service<http::Request<Body>> for Probe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let call = Call { probe: self.clone(), method };
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).streaming(call, request).await) })
    }
}

struct Call {
    probe: Probe,
    method: String,
}

type Answers = mpsc::Sender<Result<Note, Status>>;

impl StreamingService<Note> for Call {
    type Response = Note;
    type ResponseStream = ReceiverStream<Result<Note, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Note>>) -> Self::Future {
        let (answers, stream) = mpsc::channel(QUEUE);
        let (probe, method) = (self.probe.clone(), self.method.clone());
        tokio::spawn(async move {
            let gone = answers.clone();
            tokio::select! {
                ended = attend(&probe.pod, &method, request.into_inner(), &answers) => {
                    if ended.is_none() {
                        (probe.tell)(&format!("gone {method}"));
                    }
                }
                () = gone.closed() => (probe.tell)(&format!("gone {method}")),
            }
        });
        let mut response = Response::new(ReceiverStream::new(stream));
        if let Ok(pod) = MetadataValue::try_from(&*self.probe.pod) {
            response.metadata_mut().insert(POD, pod);
        }
        ready(Ok(response))
    }
}

/// One call; None where its client went away.
async fn attend(pod: &str, method: &str, mut asked: Streaming<Note>, answers: &Answers) -> Option<()> {
    match method {
        "Say" => {
            let note = asked.message().await.ok()??;
            match ended_by(note.code) {
                Some(status) => answers.send(Err(status)).await.ok(),
                None => answers.send(Ok(Note { text: pod.to_owned(), ..Note::default() })).await.ok(),
            }
        }
        "Count" => {
            let note = asked.message().await.ok()??;
            for number in 0..note.number {
                answers.send(Ok(Note { number, payload: note.payload.clone(), ..Note::default() })).await.ok()?;
            }
            match ended_by(note.code) {
                Some(status) => answers.send(Err(status)).await.ok(),
                None => Some(()),
            }
        }
        "Gather" => {
            let (mut number, mut count) = (0, 0);
            while let Some(note) = asked.message().await.ok()? {
                number += 1;
                count += note.payload.len();
            }
            answers.send(Ok(Note { number, text: count.to_string(), ..Note::default() })).await.ok()
        }
        "Chat" => {
            while let Some(note) = asked.message().await.ok()? {
                answers.send(Ok(note)).await.ok()?;
            }
            // A reset looks like an end from here; but then nobody waits for the answer's.
            if timeout(GONE, answers.closed()).await.is_ok() { None } else { Some(()) }
        }
        _ => answers.send(Err(Status::unimplemented("no such method"))).await.ok(),
    }
}

/// The status that was asked for, with a trailer.
fn ended_by(code: i32) -> Option<Status> {
    let code = Code::from_i32(code);
    (code != Code::Ok).then(|| {
        let mut status = Status::new(code, "as asked");
        status.metadata_mut().insert(TRAILER, MetadataValue::from_static("as asked"));
        status
    })
}
