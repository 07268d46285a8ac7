//! The image's recipe, as far as it takes no registry: the programs that it builds are those that it packs, and what it packs runs with nothing else.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::server::{program, target};

/// Where programs are in the image.
const PROGRAMS: &str = "usr/local/bin";

fn recipe() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/Containerfile")).unwrap()
}

/// The instructions of the recipe that begin so, each in one line.
fn instructions(begin: &str) -> Vec<String> {
    let whole = recipe().replace("\\\n", " ");
    whole.lines().filter_map(|line| line.strip_prefix(begin)).map(str::to_owned).collect()
}

/// The words between two others, of the only instruction that has them.
fn words(instructions: &[String], from: &str, to: &str) -> Vec<String> {
    let found: Vec<&str> =
        instructions.iter().filter_map(|one| Some(one.split_once(from)?.1.split_once(to)?.0)).collect();
    assert_eq!(found.len(), 1, "{from}: {instructions:?}");
    found[0].split_whitespace().map(str::to_owned).collect()
}

/// The programs that the image holds.
fn programs() -> Vec<String> {
    words(&instructions("RUN "), "for program in ", ";")
}

fn done(said: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(said.status.success(), "{}{}", text(&said.stdout), text(&said.stderr));
    text(&said.stdout)
}

/// The folder that the recipe makes an image of, by the recipe's own words, of the programs that were built with this one.
pub(crate) fn packed(below: &Path) -> PathBuf {
    programs().iter().for_each(|name| drop(program(name)));
    let (image, libraries) = (below.join("image"), below.join("libraries"));
    let pack = instructions("RUN ").into_iter().find(|one| one.contains("for program in")).unwrap();
    let pack = pack.replace("/image", &image.display().to_string());
    let pack = pack.replace("/libraries", &libraries.display().to_string());
    let pack = pack.replace("target/release", &target().join("debug").display().to_string());
    done(&Command::new("sh").args(["-c", &pack]).output().unwrap());
    image
}

/// The files of a folder, as ways from it.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path.strip_prefix(folder).unwrap().to_owned()) }
        }
    }
    files.sort();
    files
}

#[test]
fn what_the_recipe_packs_runs_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let image = packed(folder.path());
    let files = files(&image);
    let held =
        files.iter().filter(|file| file.starts_with(PROGRAMS)).map(|file| file.file_name().unwrap().to_string_lossy());
    assert_eq!(held.collect::<BTreeSet<_>>(), programs().iter().map(|name| name.as_str().into()).collect());
    let others = files.iter().filter(|file| !file.starts_with(PROGRAMS));
    let others: Vec<_> = others.filter(|file| !file.to_string_lossy().contains(".so")).collect();
    assert!(others.is_empty(), "no program, and no library: {others:?}");
    for name in programs() {
        // In a user's own namespace, so that it takes no root to make that folder the root of all files.
        let mut run = Command::new("unshare");
        run.args(["--user", "--map-root-user", "chroot"]).arg(&image);
        run.arg(Path::new("/").join(PROGRAMS).join(&name))
            .arg("--version")
            .env_clear()
            .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin");
        let said = done(&run.output().unwrap());
        assert_eq!(said.split_whitespace().next(), Some(name.as_str()), "{said}");
    }
}

/// Else a program that was added would be built and left out, or asked for and never built.
#[test]
fn the_recipe_packs_every_program_of_the_packages_that_it_builds() {
    let mut built = words(&instructions("RUN "), "cargo build --release --locked ", " --bins");
    built.retain(|word| word != "-p");
    let mut ask = Command::new(env!("CARGO"));
    ask.args(["metadata", "--no-deps", "--offline", "--format-version=1"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let all: Value = serde_json::from_str(&done(&ask.output().unwrap())).unwrap();
    let packages = all["packages"].as_array().unwrap();
    let of = |name: &String| {
        let package = packages.iter().find(|one| one["name"] == name.as_str()).unwrap_or_else(|| panic!("no {name}"));
        let targets = package["targets"].as_array().unwrap().iter();
        let programs = targets.filter(|one| one["kind"].as_array().unwrap().iter().any(|kind| kind == "bin"));
        programs.map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let built: BTreeSet<String> = built.iter().flat_map(of).collect();
    assert_eq!(built, programs().into_iter().collect());
}
