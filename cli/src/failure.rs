//! Names how a command can end, and the exit code of each.

use std::{error::Error as _, fmt::Write as _, io, io::Write as _, path::PathBuf, process::ExitCode};

use crate::config::Process;

/// A command's end when it did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is done, or the answer is yes.
    Yes,
    /// The answer is no.
    No,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Yes => Self::SUCCESS,
            Ending::No => Self::from(1),
        }
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was asked wrongly.
    #[error("{0}")]
    Usage(String),
    /// The process to ask is not there, or does not answer.
    #[error("{process} does not answer at {}", path.display())]
    Unreachable {
        /// Which.
        process: Process,
        /// Its admin socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process answered that it won't.
    #[error("{process} says {status}: {text}")]
    Declined {
        /// Which.
        process: Process,
        /// HTTP's status.
        status: u16,
        /// What it says.
        text: String,
    },
    /// The process answered something that this version can't read.
    #[error("{process} answered {path} with what this version can't read")]
    Unreadable {
        /// Which.
        process: Process,
        /// The path asked for.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The cluster's API server is not there, or does not answer.
    #[error("the API server does not answer about {what}: {why}")]
    Away {
        /// What was asked.
        what: String,
        /// Why.
        why: String,
    },
    /// Something else.
    #[error("{0}")]
    Failed(String),
    /// Output could not be written.
    #[error("the output can't be written")]
    Output(#[source] io::Error),
}

impl Failure {
    /// The exit code that says it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Declined { .. } | Self::Failed(_) | Self::Output(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Unreachable { .. } | Self::Unreadable { .. } | Self::Away { .. } => ExitCode::from(3),
        }
    }

    /// Prints it and what caused it, on standard error.
    pub fn print(&self) {
        let mut text = format!("error: {self}");
        let mut next = self.source();
        while let Some(cause) = next {
            // Writing to a String does not fail.
            write!(text, ": {cause}").unwrap_or_default();
            next = cause.source();
        }
        // Where standard error is gone, the exit code still says it.
        writeln!(io::stderr(), "{}", text.trim_end()).unwrap_or_default();
    }
}
