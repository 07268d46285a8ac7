//! Finds or installs what the kernel programs and the tests need, and says what for.
//!
//! Looks at files only: when all is there, it takes a tenth of a second, so every other command asks first. Three ways: on
//! Debian as root its packages; else a nightly of rustup for the kernel programs; else a message of what to install by hand.

mod debian;
mod need;
mod nightly;
pub(crate) mod peers;

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{
    cluster::binary,
    config::{Config, User},
    console,
    ebpf::toolchain,
};

use need::{BUILD, COMPILER, LINKER, Need, TOOLS};

/// The linker's version: what is built with another may not load.
const LINKER_VERSION: &str = "0.13.0";

/// Finds or installs everything, saying what each thing is for.
pub(crate) fn run(config: &Config) -> Result<()> {
    let found = look(config);
    match &found.compiler {
        Some(toolchain::Compiler::Debian) => {
            console::say("found    Debian's rustc, with core for BPF: compiles the kernel programs");
        }
        Some(toolchain::Compiler::Nightly(root)) => {
            console::say(&format!("found    {}, with rust-src: compiles the kernel programs", root.display()));
        }
        None => console::say("missing  a compiler for BPF: compiles the kernel programs"),
    }
    say_one("bpf-linker: links the kernel programs", found.linker);
    say_one("Go: builds Kubernetes for the cluster tests", found.go);
    for need in BUILD.iter().chain(TOOLS) {
        say_one(
            &format!("{}: {}", need.package, need.why),
            !found.missing.iter().any(|missing| missing.package == need.package),
        );
    }
    if found.is_complete() {
        return Ok(());
    }
    install(config, &found)?;
    if !found.go {
        binary::go(config)?;
    }
    let left = look(config);
    if !left.is_complete() {
        bail!("after installing, this is still missing: {}", left.names().join(", "));
    }
    console::say("set up: all that was missing is installed");
    Ok(())
}

/// Nothing when all is there, else as [`run`].
pub(crate) fn quietly(config: &Config) -> Result<()> {
    if look(config).is_complete() {
        return Ok(());
    }
    console::begin("setup");
    run(config)
}

struct Found {
    compiler: Option<toolchain::Compiler>,
    linker: bool,
    go: bool,
    missing: Vec<&'static Need>,
}

impl Found {
    fn is_complete(&self) -> bool {
        self.compiler.is_some() && self.linker && self.go && self.missing.is_empty()
    }

    fn names(&self) -> Vec<&'static str> {
        let compiler = self.compiler.is_none().then_some("a compiler for BPF");
        let linker = (!self.linker).then_some("bpf-linker");
        let go = (!self.go).then_some("Go 1.26");
        compiler.into_iter().chain(linker).chain(go).chain(self.missing.iter().map(|need| need.package)).collect()
    }
}

fn look(config: &Config) -> Found {
    Found {
        compiler: toolchain::compiler(),
        linker: toolchain::linker().is_some_and(|linker| runs(&linker)),
        go: binary::known(config).is_some(),
        missing: missing(config, BUILD.iter().chain(TOOLS)),
    }
}

fn missing(config: &Config, needs: impl Iterator<Item = &'static Need>) -> Vec<&'static Need> {
    needs.filter(|need| !need.is_there(config)).collect()
}

/// A linker kept in a cache of `CARGO_HOME` may have come to a machine without the LLVM it was linked to.
fn runs(linker: &std::path::Path) -> bool {
    Command::new(linker)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn say_one(what: &str, is_there: bool) {
    console::say(&format!("{} {what}", if is_there { "found   " } else { "missing " }));
}

fn install(config: &Config, found: &Found) -> Result<()> {
    let debian = config.program("apt-get").filter(|_| config.user == User::Root);
    let Some(apt) = debian else {
        if found.compiler.is_none() || !found.linker {
            nightly::install(config, found.compiler.as_ref())?;
        }
        if !found.missing.is_empty() {
            let packages: Vec<_> = found.missing.iter().map(|need| need.package).collect();
            bail!(
                "install these by hand, the names are Debian's (on Debian, `cargo xtask setup` as root does it): {}",
                packages.join(" ")
            );
        }
        return Ok(());
    };
    let mut wanted = found.missing.clone();
    if found.compiler.is_none() {
        wanted.extend(missing(config, COMPILER.iter()));
    }
    if !found.linker {
        wanted.extend(missing(config, LINKER.iter()));
    }
    let absent = debian::install(&apt, &wanted)?;
    if found.linker {
        return Ok(());
    }
    if absent.is_empty() {
        debian::install_linker(config)
    } else {
        // An older or newer Debian: its packages hold no compiler for BPF, rustup's nightly does.
        nightly::install(config, toolchain::compiler().as_ref())
    }
}
