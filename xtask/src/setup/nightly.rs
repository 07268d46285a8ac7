//! Installs by rustup: a nightly that builds core for BPF from source, and a bpf-linker that fits its LLVM.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{config::Config, console, ebpf::toolchain::Compiler};

use super::LINKER_VERSION;

/// The LLVM versions that this bpf-linker can be built with.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// What to do when this command cannot.
const BY_HAND: &str = "install by hand what the kernel programs need: rustup's nightly with rust-src \
    (`rustup toolchain install nightly --profile minimal --component rust-src`) and bpf-linker 0.13 \
    (a prebuilt one, or `cargo binstall bpf-linker`) in PATH";

/// Installs what is missing of the two.
pub(crate) fn install(config: &Config, compiler: Option<&Compiler>) -> Result<()> {
    if compiler.is_none() {
        let rustup = config.program("rustup").context(BY_HAND)?;
        console::say("install  rustup's nightly, with rust-src: compiles the kernel programs");
        let component = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
        console::run(Command::new(rustup).args(component)).context(BY_HAND)?;
    }
    let Some(root) = crate::ebpf::toolchain::compiler() else {
        bail!("rustup installed no nightly with rust-src; {BY_HAND}")
    };
    if crate::ebpf::toolchain::linker().is_some_and(|linker| super::runs(&linker)) {
        return Ok(());
    }
    console::say(&format!("install  bpf-linker {LINKER_VERSION}: links the kernel programs"));
    if config.program("cargo-binstall").is_some() {
        let linker = format!("bpf-linker@{LINKER_VERSION}");
        return console::run(Command::new(&config.cargo).args(["binstall", "--no-confirm", &linker])).context(BY_HAND);
    }
    let version = llvm_of(&root)?;
    let prefix = format!("/usr/lib/llvm-{version}");
    if !LLVM.contains(&version) || !Path::new(&prefix).join("bin/llvm-config").exists() {
        bail!("no LLVM {version}, which this compiler uses, is installed to build bpf-linker with; {BY_HAND}");
    }
    console::run(
        Command::new(&config.cargo)
            .args(["install", "bpf-linker", "--locked", "--force", "--version", LINKER_VERSION])
            .args(["--no-default-features", "--features", &format!("llvm-{version}")])
            .env("LLVM_PREFIX", prefix),
    )
    .context(BY_HAND)
}

/// The major version of the LLVM inside a compiler: bpf-linker must not be older.
fn llvm_of(compiler: &Compiler) -> Result<u32> {
    let rustc = match compiler {
        Compiler::Debian => "/usr/bin/rustc".into(),
        Compiler::Nightly(root) => root.join("bin/rustc"),
    };
    let said = console::read(Command::new(rustc).arg("-vV"))?;
    llvm_in(&said).context("the compiler does not say which LLVM it holds")
}

fn llvm_in(said: &str) -> Option<u32> {
    said.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::llvm_in;

    #[test]
    fn the_compilers_llvm_is_read_from_what_it_says_of_itself() {
        assert_eq!(llvm_in("rustc 1.95.0\nrelease: 1.95.0\nLLVM version: 22.1.2\n"), Some(22));
        assert_eq!(llvm_in("rustc 1.95.0\n"), None);
    }
}
