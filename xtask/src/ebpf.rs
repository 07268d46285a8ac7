//! Builds the kernel programs, as the agent's build script does: `ebpf/toolchain.rs` serves both.

use anyhow::{Result, anyhow};

use crate::{config::Config, console, setup};

#[path = "../../ebpf/toolchain.rs"]
pub(crate) mod toolchain;

/// Builds the object and says where it is.
pub(crate) fn run(config: &Config) -> Result<()> {
    setup::quietly(config)?;
    let object = build(config)?;
    console::say(&format!("{} ({} KB)", object.display(), std::fs::metadata(&object)?.len() / 1000));
    Ok(())
}

/// The object, built.
pub(crate) fn build(config: &Config) -> Result<std::path::PathBuf> {
    toolchain::build(&config.root, &config.target.join("ebpf")).map_err(|said| anyhow!("{said}"))
}
