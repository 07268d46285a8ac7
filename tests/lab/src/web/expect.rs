//! Asks whether a body is wanted before it is sent, in HTTP/2, and says so as a server. Other servers here read the body to say it.

use std::{future::poll_fn, net::SocketAddr, pin::Pin, task::Poll, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use h2::{RecvStream, client, server};
use http::{Request, Response, StatusCode, header::EXPECT};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};

use super::serve::{Tell, listen_at};

/// The body.
const BODY: &[u8] = b"twelve bytes";

/// How long a client waits to be asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a request that waited to be asked came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Whether its client was asked for the body.
    pub is_asked: bool,
    /// After so many milliseconds it was, or was answered without.
    pub after_ms: u64,
    /// The status of the answer.
    pub status: u16,
    /// The answer's body.
    pub said: String,
}

/// Serves until killed, HTTP/2 by prior knowledge alone. Where a body is expected to be asked for, `/silent` never asks, `/refuse`
/// answers 413 in its place; every other path asks. The answer is how many bytes came, and whether they were to be asked for.
pub async fn serve(listen: SocketAddr, tell: Tell) -> Result<()> {
    let listener = listen_at(listen)?;
    tell("listening");
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut connection = server::handshake(stream).await?;
            while let Some(asked) = connection.accept().await {
                let (request, respond) = asked?;
                tokio::spawn(answer(request, respond));
            }
            Ok::<_, anyhow::Error>(())
        });
    }
}

async fn answer(request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) -> Result<()> {
    let is_expected = request.headers().contains_key(EXPECT);
    match request.uri().path() {
        "/refuse" => {
            respond.send_response(Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE).body(())?, true)?;
            return Ok(());
        }
        "/silent" => {}
        _ if is_expected => respond.send_informational(Response::builder().status(StatusCode::CONTINUE).body(())?)?,
        _ => {}
    }
    let n_body = read(request.into_body()).await?.len();
    let said = format!("{n_body} bytes, expected {is_expected}");
    respond.send_response(Response::new(()), false)?.send_data(said.into(), true)?;
    Ok(())
}

async fn read(mut body: RecvStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        all.extend_from_slice(&part);
    }
    Ok(all)
}

/// Sends a head that waits to be asked, the body once it is, and says what that came to.
pub async fn ask(target: &str, path: &str) -> Result<Asked> {
    let stream = TcpStream::connect(target).await.with_context(|| format!("connect {target}"))?;
    let (send, connection) = client::handshake(stream).await?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://{target}{path}")).header(EXPECT, "100-continue").body(())?;
    let began = tokio::time::Instant::now();
    let (mut answer, mut body) = send.ready().await?.send_request(request, false)?;
    let mut early = None;
    let first = poll_fn(|cx| {
        if let Poll::Ready(Some(word)) = answer.poll_informational(cx) {
            return Poll::Ready(word.map(|word| word.status() == StatusCode::CONTINUE));
        }
        Pin::new(&mut answer).poll(cx).map(|answered| {
            early = Some(answered?);
            Ok(false)
        })
    });
    let is_asked = match timeout(PATIENCE, first).await {
        Ok(asked) => asked?,
        Err(_silent) => bail!("neither asked nor answered within {PATIENCE:?}"),
    };
    let after_ms = u64::try_from(began.elapsed().as_millis())?;
    if is_asked {
        body.send_data(Bytes::from_static(BODY), true)?;
    }
    let (head, came) = match early {
        Some(answered) => answered,
        None => timeout(PATIENCE, answer).await.context("no answer")??,
    }
    .into_parts();
    let said = String::from_utf8_lossy(&read(came).await.unwrap_or_default()).into_owned();
    Ok(Asked { is_asked, after_ms, status: head.status.as_u16(), said })
}
