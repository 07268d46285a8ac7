//! Trouble that a request asks for by its path: `/trouble/<n>/<what>/...`, for the first `n` requests of that path at this server.

use std::{io, time::Duration};

use http::StatusCode;

/// Longer than any test waits.
const SILENCE: Duration = Duration::from_secs(60);

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is answered with this status.
    Status(StatusCode),
    /// Its connection is closed.
    Reset,
    /// It is not answered.
    Silence,
}

impl Trouble {
    /// What is asked for, by how many.
    pub(super) fn of(path: &str) -> Option<(u32, Self)> {
        let mut parts = path.strip_prefix("/trouble/")?.split('/');
        let n = parts.next()?.parse().ok()?;
        let what = match parts.next()? {
            "reset" => Self::Reset,
            "silence" => Self::Silence,
            status => Self::Status(status.parse().ok()?),
        };
        Some((n, what))
    }

    /// The status to answer with; an error where the connection ends.
    pub(super) async fn happen(self) -> Result<StatusCode, io::Error> {
        match self {
            Self::Status(status) => Ok(status),
            Self::Reset => Err(io::ErrorKind::ConnectionReset.into()),
            Self::Silence => {
                tokio::time::sleep(SILENCE).await;
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}
