//! Checks what no compiler does. Each check reads the tree and returns complaints, each with a place and a mend.

mod dependencies;
mod docs;
mod generated;
mod sources;
pub(crate) mod tree;

use anyhow::{Result, bail};

use crate::{config::Config, console};

use tree::Tree;

/// Something untidy: where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// A path in the repository, with a line where there is one.
    pub(crate) place: String,
    /// What is wrong, and the mend where it is not plain.
    pub(crate) what: String,
}

impl Complaint {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// All checks; an error when there is a complaint.
pub(crate) fn run(config: &Config) -> Result<()> {
    let tree = Tree::read(config)?;
    let complaints: Vec<Complaint> =
        [dependencies::check(config)?, sources::check(&tree), docs::check(&tree), generated::check(config)?].concat();
    for complaint in &complaints {
        console::say(&format!("{}: {}", complaint.place, complaint.what));
    }
    if !complaints.is_empty() {
        bail!("{} complaints", complaints.len());
    }
    console::say(&format!("{} files are tidy", tree.files.len()));
    Ok(())
}
