//! Builds the kernel programs and tells the agent where their object is, as `MILLRACE_EBPF`.

#[path = "../ebpf/toolchain.rs"]
mod toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What the object is made from: when none of it changed, there is nothing to build.
const SOURCES: [&str; 5] = ["programs/src", "programs/Cargo.toml", "programs/Cargo.lock", "abi/src", "abi/Cargo.toml"];

fn main() {
    match object() {
        Ok(object) => println!("cargo::rustc-env=MILLRACE_EBPF={}", object.display()),
        // A line each: cargo takes one line as one message.
        Err(said) => said.lines().for_each(|line| println!("cargo::error={line}")),
    }
}

/// The object, in this build's own folder: what the agent embeds does not change under it when another build runs.
fn object() -> Result<PathBuf, String> {
    let own = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: cargo runs this")?);
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let root = manifest.parent().ok_or("the agent's folder has none above it")?;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join("ebpf").join(source).display());
    }
    match toolchain::find() {
        Some(found) => println!("cargo::rerun-if-changed={}", found.linker.display()),
        // Asked again at each build, so that setup is noticed.
        None => return Err(toolchain::MISSING.to_owned()),
    }
    let target = toolchain::target_dir(&own).or_else(|| own.ancestors().nth(4).map(Path::to_path_buf));
    let built = toolchain::build(root, &target.ok_or("OUT_DIR is not in a target directory")?.join("ebpf"))?;
    let object = own.join("millrace-ebpf");
    fs::copy(&built, &object).map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(object)
}
