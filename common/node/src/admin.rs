//! Answers an operator over HTTP on a Unix socket: health, readiness, metrics, configuration, log level.
//!
//! Who may ask is who may open the socket: its file's permissions are the only lock, so no TCP port is ever opened.
//! Connections, headers and bodies are bounded in number, time and size.

mod body;
mod routes;
mod serve;
mod written;

use std::{
    io,
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::telemetry::LogLevel;

pub use body::{Body, Request, Response, json, stream, text};
pub use written::configuration;

/// What answers one extra route.
pub type Answer = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// Writes a configuration.
pub type Config = Arc<dyn Fn(&mut dyn io::Write) -> io::Result<()> + Send + Sync>;

/// One route beyond the common ones.
#[derive(Clone)]
pub struct Route {
    /// Its method, in capitals.
    pub method: &'static str,
    /// Its path, without a query.
    pub path: &'static str,
    /// What answers it.
    pub answer: Answer,
}

/// The admin endpoint of one process. `GET /healthz /readyz /metrics /config` and `PUT /log-level` are always there.
#[derive(Clone)]
pub struct Admin {
    /// Why the process is not ready, a sentence each; empty: it is.
    pub ready: watch::Receiver<Vec<String>>,
    /// Its metrics.
    pub metrics: Arc<Mutex<prometheus_client::registry::Registry>>,
    /// Writes what it works by now as JSON, without any secret. A Snapshot is in it, which as a value of JSON takes five times its room.
    pub config: Config,
    /// Its log level.
    pub log_level: LogLevel,
    /// Routes that only this process has.
    pub routes: Vec<Route>,
}

#[cfg(test)]
mod tests;
