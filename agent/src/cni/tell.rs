//! Speaks to the agent over its admin socket, and waits for an agent that is being replaced.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use millrace_node::clock;

/// How often an agent is looked for that is not there: a socket's file appears without the kernel telling.
const AGAIN: Duration = Duration::from_millis(100);
/// An answer is a sentence.
const MAX_ANSWER: u64 = 64 * 1024;
/// How long after the last moment the agent's own answer is waited for: it says why better than a time that ran out.
const GRACE: Duration = Duration::from_secs(1);

/// Tells the agent, and returns once it says that the pod can call; else why not.
pub(super) fn tell(run_dir: &Path, said: &Value, patience: Duration) -> Result<(), String> {
    let deadline = clock::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(clock::now());
        let why = match ask(run_dir, ("POST", "/pods", &said.to_string()), clock::now() + left + GRACE) {
            Ok((200, _)) => return Ok(()),
            Ok((503 | 400, why)) => return Err(why),
            // An agent of before, which is being replaced by one that knows the question.
            Ok((status, why)) => format!("the agent answers {status}: {why}"),
            Err(why) => format!("the agent can't be asked at {}: {why}", run_dir.display()),
        };
        if left.is_zero() {
            return Err(why);
        }
        thread::sleep(AGAIN);
    }
}

/// Whether the agent is ready.
pub(super) fn ready(run_dir: &Path) -> Result<(), String> {
    match ask(run_dir, ("GET", "/readyz", ""), clock::now() + GRACE) {
        Ok((200, _)) => Ok(()),
        Ok((_, why)) => Err(why),
        Err(why) => Err(format!("it can't be asked: {why}")),
    }
}

fn ask(run_dir: &Path, (method, path, body): (&str, &str, &str), deadline: Instant) -> io::Result<(u16, String)> {
    let mut socket = UnixStream::connect(run_dir.join("agent-admin.sock"))?;
    let left = deadline.saturating_duration_since(clock::now()).max(AGAIN);
    socket.set_read_timeout(Some(left))?;
    socket.set_write_timeout(Some(left))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: agent\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all((head + body).as_bytes())?;
    let mut answer = String::new();
    socket.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no answer"))?;
    let (_, text) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((status, text.trim().to_owned()))
}
