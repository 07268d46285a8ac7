//! Reads which pods a kubelet has, or had: it keeps each pod's logs in a folder named `<namespace>_<name>_<uid>`, and only root writes
//! there. The uid is the one that the kubelet itself goes by: a static pod's, which an API server never sees, is there too.

use std::{fs, io, path::Path};

use millrace_model::ObjectName;

/// Every pod that has a folder, and its uid. Logs outlive their pod, so that one name may have several.
pub fn pods(logs: &Path) -> io::Result<impl Iterator<Item = io::Result<(ObjectName, String)>>> {
    let pod = |entry: fs::DirEntry| {
        let folder = entry.file_name();
        // None of the three may hold an underscore.
        let mut parts = folder.to_str()?.split('_');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(name), Some(uid), None) => Some((ObjectName::new(namespace, name), uid.to_owned())),
            _ => None,
        }
    };
    Ok(fs::read_dir(logs)?.filter_map(move |entry| entry.map(pod).transpose()))
}
