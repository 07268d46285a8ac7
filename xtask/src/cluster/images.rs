//! Builds and packs what pods of a cluster run: no registry is asked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{binary, place::Place};
use crate::{config::Config, console};

/// What holds a pod's namespaces.
pub(super) const PAUSE: &str = "localhost/pause:1";
/// An application that answers who asked, and asks.
const ECHO: &str = "localhost/echo:1";

/// An image as an archive.
pub(super) struct Image {
    /// Its full name.
    pub(super) name: String,
    /// The archive.
    pub(super) archive: PathBuf,
}

impl Image {
    /// Which state of the archive this is.
    pub(super) fn state(&self) -> Result<String> {
        let meta = fs::metadata(&self.archive).with_context(|| format!("{}", self.archive.display()))?;
        Ok(format!("{} {:?}", meta.len(), meta.modified()?))
    }
}

/// The images that every cluster has, built if they are not there.
pub(super) fn prepare(config: &Config, place: &Place, cache: &Path) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for (program, name) in [("pause", PAUSE), ("echo", ECHO)] {
        let archive = cache.join(file(name)).with_extension("tar");
        if !archive.exists() {
            let built = cache.join(program);
            binary::build(config, program, &built)?;
            pack(place, name, &archive, &format!("/{program}"), &[format!("/{program}={}", built.display())])?;
        }
        images.push(Image { name: name.to_owned(), archive });
    }
    Ok(images)
}

/// Packs files, given as `place=source`, into an image that runs none of them by itself.
pub(super) fn made(place: &Place, name: &str, files: &[String]) -> Result<Image> {
    let archive = place.folder.join(file(name)).with_extension("tar");
    pack(place, name, &archive, "", files)?;
    Ok(Image { name: name.to_owned(), archive })
}

fn pack(place: &Place, name: &str, archive: &Path, entry: &str, files: &[String]) -> Result<()> {
    let unfinished = archive.with_extension(format!("new-{}", std::process::id()));
    let mut pack = Command::new(place.program("image"));
    pack.args(["--name", name, "--entry", entry, "--out"]).arg(&unfinished).args(files);
    console::run(&mut pack)?;
    Ok(fs::rename(unfinished, archive)?)
}

/// An image's name as a file's.
pub(super) fn file(name: &str) -> String {
    name.replace(['/', ':', '.'], "-")
}
