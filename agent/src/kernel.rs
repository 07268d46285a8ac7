//! Holds the kernel's half of a node: programs, maps, links, and what they should say.
//!
//! What decides does no IO: [`plan`] compares two [`State`]s, [`reconcile`] carries a Plan out. What does IO decides
//! nothing: [`Kernel`] opens the object and its pins, writes one map entry at a time, attaches one pod at a time.

mod attach;
mod btf;
mod by_service;
pub mod capacities;
mod error;
pub mod features;
mod flows;
mod guards;
mod leave;
pub mod maps;
pub mod missing;
mod netns;
mod object;
mod older;
pub mod plan;
pub mod reconcile;
pub mod state;
pub mod stats;
mod syscall;
pub mod tune;
mod unmounted;

pub use by_service::{ByService, Connected};
pub use capacities::Capacities;
pub use error::AttachError;
pub use flows::Record;
pub use leave::leave;
pub use maps::MapError;
pub use missing::Missing;
pub use netns::{netns_cookie, netns_of};
pub use object::{Count, Kernel, Options};
pub use state::{State, Write};
