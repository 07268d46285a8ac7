//! Prints the definitions of Millrace's kinds, for `kubectl apply -f -`; with a folder, writes one file for each into it.

use std::{
    io::{self, Write as _},
    path::Path,
};

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1);
    let mut out = io::stdout().lock();
    for (file, crd) in millrace_crd::crds() {
        let yaml = millrace_crd::yaml(&crd).map_err(io::Error::other)?;
        match &folder {
            Some(folder) => std::fs::write(Path::new(folder).join(file), yaml)?,
            None => write!(out, "---\n{yaml}")?,
        }
    }
    Ok(())
}
