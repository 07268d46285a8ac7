//! Finds a compiler for the kernel programs and builds them with it.
//!
//! Included by `#[path]` in the agent's build script and in xtask, so that a plain `cargo build` and `cargo xtask ebpf`
//! are one build. Uses std alone: a build script should cost nothing to compile. Installs nothing; see xtask for that.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// What is said, in one sentence, when a part of the toolchain is not there.
pub(crate) const MISSING: &str =
    "the kernel programs need a compiler for BPF that is not installed yet: run `cargo xtask setup`";

/// The one target that is built: every machine Millrace runs on is little endian.
const TARGET: &str = "bpfel-unknown-none";

/// The object's name, under the target's directory and beneath `out`.
const OBJECT: &str = "millrace-ebpf";

/// Where Debian's `rustc-web` and `libstd-rust-web-dev-bpf` put the compiler and its core library for BPF.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// A compiler that can build for BPF, and the linker beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// The compiler, and how it comes by a core library.
    pub(crate) compiler: Compiler,
    /// bpf-linker, by its full path: its directory need not be in `PATH`.
    pub(crate) linker: PathBuf,
}

/// The two ways to a core library for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// Debian's compiler, with a core library that is built already. Stable, told to accept unstable features.
    Debian,
    /// A nightly toolchain of rustup with `rust-src`, in this directory: core is built from source.
    Nightly(PathBuf),
}

/// The toolchain of this machine. Looks at files only, so that asking is free.
pub(crate) fn find() -> Option<Toolchain> {
    Some(Toolchain { compiler: compiler()?, linker: linker()? })
}

/// The compiler of this machine: Debian's first, as it needs no build of core.
pub(crate) fn compiler() -> Option<Compiler> {
    if Path::new(DEBIAN_RUSTC).exists() && has_core(Path::new(DEBIAN_CORE)) {
        return Some(Compiler::Debian);
    }
    let toolchains = home("RUSTUP_HOME", ".rustup")?.join("toolchains");
    // Sorted, and `nightly-<host>` comes after `nightly-<date>-<host>`: the newest is the last.
    let mut nightlies: Vec<PathBuf> = entries(&toolchains)
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"nightly-")))
        .filter(|path| path.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists())
        .collect();
    nightlies.sort();
    nightlies.pop().map(Compiler::Nightly)
}

/// bpf-linker, in cargo's own directory of binaries first: a fresh `CARGO_HOME` is often not in `PATH`.
pub(crate) fn linker() -> Option<PathBuf> {
    let cargo = home("CARGO_HOME", ".cargo").map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    cargo.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join("bpf-linker")).find(|path| path.is_file())
}

/// The target directory that holds `inside`: the nearest folder above it with cargo's tag.
pub(crate) fn target_dir(inside: &Path) -> Option<PathBuf> {
    inside.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).map(Path::to_path_buf)
}

/// Builds the kernel programs into the target directory `out` and returns the object, `out/millrace-ebpf`.
///
/// `out` must not be the target directory of a cargo that waits for this one: they would wait for each other's lock.
/// An error is what a person should read: [`MISSING`], or all that the compiler said.
pub(crate) fn build(repo_root: &Path, out: &Path) -> Result<PathBuf, String> {
    let toolchain = find().ok_or_else(|| MISSING.to_owned())?;
    let said = command(&toolchain, repo_root, out)
        .output()
        .map_err(|error| format!("cannot start cargo for the kernel programs: {error}"))?;
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).into_owned());
    }
    let object = out.join(OBJECT);
    keep(&out.join(TARGET).join("release").join(OBJECT), &object)
        .map_err(|error| format!("cannot copy the kernel programs to {}: {error}", object.display()))?;
    Ok(object)
}

fn command(toolchain: &Toolchain, repo_root: &Path, out: &Path) -> Command {
    let mut flags = OsString::from("-Clinker=");
    flags.push(&toolchain.linker);
    // BTF describes map values to bpftool and lets aya relocate; it is made from debug info.
    flags.push("\x1f-Clink-arg=--btf\x1f-Cdebuginfo=2");
    // Else the linker turns every copy and clearing of more than a few bytes into a call of a loop, byte by byte.
    flags.push("\x1f-Clink-arg=--disable-expand-memcpy-in-order");
    let (cargo, rustc, core) = match &toolchain.compiler {
        Compiler::Debian => (env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), DEBIAN_RUSTC.into(), None),
        Compiler::Nightly(root) => {
            (root.join("bin/cargo").into_os_string(), root.join("bin/rustc"), Some("-Zbuild-std=core"))
        }
    };
    let mut command = Command::new(cargo);
    // What the outer cargo said to its build scripts is about another crate, target and compiler.
    for (name, _) in env::vars_os().filter(|(name, _)| belongs_to_outer_build(name)) {
        command.env_remove(name);
    }
    command
        .args(["build", "--release", "--target", TARGET])
        .args(core)
        .arg("--manifest-path")
        .arg(repo_root.join("ebpf/programs/Cargo.toml"))
        .arg("--target-dir")
        .arg(out)
        .env("RUSTC", rustc)
        // Both compilers are given the same unstable features; a nightly has them anyway.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    command
}

/// True for the variables cargo, rustup and clippy set for, or about, one build. What says where crates come from
/// (`CARGO_HOME`, `CARGO_NET_*`, `CARGO_HTTP_*`, `CARGO_REGISTRIES_*`, `CARGO_SOURCE_*`) and the job server's tokens stay.
fn belongs_to_outer_build(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let about_the_machine =
        ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    let about_a_build = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CLIPPY_", "DEP_"];
    let exactly = ["TARGET", "HOST", "PROFILE", "OUT_DIR", "OPT_LEVEL", "DEBUG", "NUM_JOBS", "MAKEFLAGS"];
    exactly.contains(&name)
        || about_a_build.iter().any(|prefix| name.starts_with(prefix))
            && !about_the_machine.iter().any(|prefix| name.starts_with(prefix))
}

/// Copies `from` to `to` unless they are equal, so that an unchanged object keeps its time and rebuilds nobody. By
/// rename, so that no reader sees half a file.
fn keep(from: &Path, to: &Path) -> io::Result<()> {
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let partial = to.with_extension(format!("partial.{}", std::process::id()));
    fs::write(&partial, bytes)?;
    fs::rename(partial, to)
}

fn has_core(folder: &Path) -> bool {
    entries(folder).iter().any(|path| {
        path.extension().is_some_and(|extension| extension == "rlib")
            && path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libcore-"))
    })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn home(variable: &str, below_home: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(below_home)))
}
