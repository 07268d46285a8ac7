//! Names why the kernel's half could not be set up.

use std::{io, path::PathBuf};

use super::maps::MapError;

/// Why programs, maps or links could not be opened, attached or removed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The BPF file system is not there and could not be mounted.
    #[error("cannot mount the BPF file system at {}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory or file of pins could not be made, read or removed.
    #[error("cannot use the pin {}", path.display())]
    Pin {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The object could not be loaded.
    #[error("cannot load the kernel programs' object")]
    Object(#[source] Box<aya::EbpfError>),
    /// The object lacks a program or a map: it is of another build.
    #[error("the kernel programs' object has no {what} of the name {name}")]
    Missing {
        /// `program` or `map`.
        what: &'static str,
        /// Which.
        name: &'static str,
    },
    /// The kernel's verifier refused a program.
    #[error("the kernel refuses the program {program}")]
    Refused {
        /// Which.
        program: &'static str,
        /// Why: ends with the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// A pinned map has other sizes than this version's.
    #[error("the pinned map {map} has another layout than this version: run `millrace-agent leave` first")]
    Layout {
        /// Which.
        map: &'static str,
    },
    /// A cgroup or a network namespace could not be opened.
    #[error("cannot open {what}")]
    Target {
        /// Which.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A program could not be attached or detached.
    #[error("cannot attach or detach the program {program}")]
    Link {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A map could not be read, written or frozen.
    #[error(transparent)]
    Map(#[from] MapError),
}
