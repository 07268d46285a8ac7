//! Prints what a process says of itself as it says it: metrics, log level.

use std::path::Path;

use bytes::Bytes;
use http::Method;

use crate::{Ending, Failure, client::Client, config::Process, out};

/// Prints a process's metrics.
pub(crate) async fn metrics(run_dir: &Path, process: Process) -> Result<Ending, Failure> {
    let body = Client::new(process, run_dir).ask(Method::GET, "/metrics", Bytes::new()).await?;
    out::print(&String::from_utf8_lossy(&body))?;
    Ok(Ending::Yes)
}

/// Says whether a process is ready; where it is not, why is the failure's text, and the exit code 1.
pub(crate) async fn ready(run_dir: &Path, process: Process) -> Result<Ending, Failure> {
    let body = Client::new(process, run_dir).ask(Method::GET, "/readyz", Bytes::new()).await?;
    out::print(&String::from_utf8_lossy(&body))?;
    Ok(Ending::Yes)
}

/// Shows or sets a process's log filter.
pub(crate) async fn log_level(run_dir: &Path, process: Process, filter: Option<String>) -> Result<Ending, Failure> {
    let (method, body) = match filter {
        Some(filter) => (Method::PUT, Bytes::from(filter)),
        None => (Method::GET, Bytes::new()),
    };
    let answer = Client::new(process, run_dir).ask(method, "/log-level", body).await?;
    out::print(&String::from_utf8_lossy(&answer))?;
    Ok(Ending::Yes)
}
