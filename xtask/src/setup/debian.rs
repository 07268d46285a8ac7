//! Installs by Debian's packages, as root.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Result;

use crate::{config::Config, console};

use super::{LINKER_VERSION, need::Need};

/// Installs the packages of `wanted`, and returns those that apt cannot.
///
/// Never takes a package out: `rustc-web` conflicts with Debian's own `rustc` and `rustup`, and who has one of those keeps it.
pub(crate) fn install<'a>(apt: &Path, wanted: &[&'a Need]) -> Result<Vec<&'a Need>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    console::run(apt_get(apt).args(["update", "-q"]))?;
    let absent = match refusal(apt, wanted)? {
        None => Vec::new(),
        Some(_) => one_by_one(apt, wanted)?,
    };
    let offered: Vec<&Need> = wanted.iter().copied().filter(|need| !absent.contains(need)).collect();
    for need in &offered {
        console::say(&format!("install  {}: {}", need.package, need.why));
    }
    if !offered.is_empty() {
        console::run(apt_get(apt).args(INSTALL).args(offered.iter().map(|need| need.package)))?;
    }
    Ok(absent)
}

/// How packages are installed: only they and what they cannot do without.
const INSTALL: [&str; 5] = ["install", "-q", "-y", "--no-install-recommends", "--no-remove"];

/// Those that apt would not install, with the reason said.
fn one_by_one<'a>(apt: &Path, wanted: &[&'a Need]) -> Result<Vec<&'a Need>> {
    let mut absent = Vec::new();
    for need in wanted {
        if let Some(why) = refusal(apt, &[need])? {
            console::say(&format!("absent   {}: {why}", need.package));
            absent.push(*need);
        }
    }
    Ok(absent)
}

/// Why apt would not install these; None when it would.
fn refusal(apt: &Path, needs: &[&Need]) -> Result<Option<String>> {
    let said = apt_get(apt).args(INSTALL).arg("--simulate").args(needs.iter().map(|need| need.package)).output()?;
    let errors = String::from_utf8_lossy(&said.stderr);
    let errors: Vec<&str> = errors.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    Ok((!said.status.success()).then(|| errors.join("; ")))
}

fn apt_get(apt: &Path) -> Command {
    let mut command = Command::new(apt);
    // Nobody is there to answer; nothing that runs on the machine is restarted for a library; and in this runlevel no
    // service is started because its package came.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_SUSPEND", "1").env("RUNLEVEL", "1");
    command.stdin(Stdio::null());
    command
}

/// Builds bpf-linker against Debian's LLVM, which is that of its compiler. It goes where cargo puts binaries.
pub(crate) fn install_linker(config: &Config) -> Result<()> {
    console::say(&format!("install  bpf-linker {LINKER_VERSION}: links the kernel programs (a minute or more)"));
    console::run(
        Command::new(&config.cargo)
            .args(["install", "bpf-linker", "--locked", "--force", "--version", LINKER_VERSION])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", "/usr/lib/llvm-22"),
    )
}
