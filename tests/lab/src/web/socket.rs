//! WebSockets: a server that sends back every message, and a client that keeps one open.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{accept_async, client_async, tungstenite::Message};

/// A message that does not come back in this time is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Messages that came back.
    pub rounds: u32,
    /// How it ended, where its client did not end it.
    pub cut: Option<String>,
}

/// Sends back what comes, until killed.
pub async fn serve(listen: SocketAddr, tell: fn(&str)) -> Result<()> {
    let listener = super::serve::listen_at(listen)?;
    tell("listening");
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut socket = accept_async(stream).await?;
            while let Some(message) = socket.next().await {
                match message? {
                    message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
                    Message::Close(_) => break,
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                }
            }
            tell("gone");
            Ok::<_, anyhow::Error>(())
        });
    }
}

/// A socket that sends a message of so many bytes once the one before has come back, until `rounds` or `until`.
pub async fn ask(
    target: &str,
    (rounds, size): (u32, usize),
    until: Option<PathBuf>,
    pause: Duration,
) -> Result<Socket> {
    let stream = TcpStream::connect(target).await.with_context(|| format!("connect {target}"))?;
    stream.set_nodelay(true)?;
    let (mut socket, response) = client_async(format!("ws://{target}/socket"), stream).await?;
    ensure!(response.status().as_u16() == 101, "it changes: {response:?}");
    let mut said = Socket::default();
    while said.rounds < rounds && !until.as_ref().is_some_and(|file| file.exists()) {
        let sent = Message::binary(vec![u8::try_from(said.rounds % 251).unwrap_or(0); size]);
        let round = async {
            socket.send(sent.clone()).await?;
            let came = socket.next().await.context("it ended")??;
            ensure!(came == sent, "another message came back");
            Ok::<_, anyhow::Error>(())
        };
        match timeout(PATIENCE, round).await {
            Ok(Ok(())) => said.rounds += 1,
            Ok(Err(error)) => said.cut = Some(format!("{error:#}")),
            Err(_late) => said.cut = Some("no answer in time".to_owned()),
        }
        if said.cut.is_some() {
            return Ok(said);
        }
        tokio::time::sleep(pause).await;
    }
    socket.close(None).await?;
    Ok(said)
}
