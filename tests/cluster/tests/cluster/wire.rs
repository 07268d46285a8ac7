//! A wire between a control plane and the API server that can be cut and can go silent.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// How the wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Bytes pass.
    Whole,
    /// Connections stand, and nothing passes.
    Silent,
    /// Connections are closed.
    Cut,
}

/// A port that leads to the API server.
pub(crate) struct Line {
    pub(crate) port: u16,
    state: watch::Sender<Wire>,
    tasks: JoinSet<()>,
}

impl Line {
    /// A whole wire to this port of loopback.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (state, end) = watch::channel(Wire::Whole);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let mut end = end.clone();
                carried.spawn(async move {
                    let cut = end.clone();
                    tokio::select! {
                        () = carry(near, port, cut) => {}
                        _ = end.wait_for(|state| *state == Wire::Cut) => {}
                    }
                });
            }
        });
        Self { port: own, state, tasks }
    }

    /// Makes the wire so from now on.
    pub(crate) fn set(&self, state: Wire) {
        self.state.send_replace(state);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

async fn carry(near: TcpStream, port: u16, state: watch::Receiver<Wire>) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let state = Arc::new(state);
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::select! {
        () = pump(near_in, far_out, (*state).clone()) => {}
        () = pump(far_in, near_out, (*state).clone()) => {}
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut state: watch::Receiver<Wire>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return };
        if n == 0 || state.wait_for(|state| *state == Wire::Whole).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
