//! Watches real directories: every way in which people and tools change files, and none that takes away what was not taken away.

#![cfg(test)]

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use millrace_control::{
    diagnostic::Effect,
    source::{Sourced, directory::Directory},
    world::Settings,
};
use tempfile::TempDir;
use tokio::sync::watch;

/// Long enough for a busy machine, short enough to see a hang.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for an event that must not come to have come.
const QUIET: Duration = Duration::from_millis(200);

fn settings() -> Settings {
    Settings { trust_domain: "cluster.local".into(), root_namespace: "millrace-system".into() }
}

fn account(name: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: shop}}\n")
}

struct Watched {
    root: TempDir,
    kept: TempDir,
    seen: watch::Receiver<Arc<Sourced>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    /// Watches the folder `dir` of a scratch folder that `make` prepared.
    fn over(make: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        make(root.path());
        Self::open(root, tempfile::tempdir().unwrap())
    }

    fn open(root: TempDir, kept: TempDir) -> Self {
        let (directory, sourced) = Directory::open(&root.path().join("dir"), kept.path(), settings()).unwrap();
        let (sender, seen) = watch::channel(Arc::new(sourced));
        let task = tokio::spawn(async move { directory.follow(sender).await.unwrap() });
        Self { root, kept, seen, task }
    }

    async fn restarted(self) -> Self {
        let Self { root, kept, seen, task } = self;
        drop(seen);
        task.await.unwrap();
        Self::open(root, kept)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    fn accounts(&self) -> Vec<String> {
        self.seen.borrow().objects.service_accounts.keys().map(|name| name.name.to_string()).collect()
    }

    async fn until(&mut self, wanted: &[&str]) {
        let reached = self
            .seen
            .wait_for(|s| s.objects.service_accounts.keys().map(|name| &*name.name).eq(wanted.iter().copied()));
        let reached = tokio::time::timeout(PATIENCE, reached).await.map(drop);
        assert!(reached.is_ok(), "wanted {wanted:?}, have {:?}", self.accounts());
    }

    /// Nothing but this is ever seen, for a while.
    async fn stays(&mut self, wanted: &[&str]) {
        let other = self
            .seen
            .wait_for(|s| !s.objects.service_accounts.keys().map(|name| &*name.name).eq(wanted.iter().copied()));
        assert!(tokio::time::timeout(QUIET, other).await.is_err(), "wanted {wanted:?} all the while");
    }
}

fn plain(root: &Path) {
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/a.yaml"), account("a")).unwrap();
}

#[tokio::test]
async fn files_written_changed_renamed_and_removed() {
    let mut watched = Watched::over(plain);
    assert_eq!(watched.accounts(), ["a"]);
    fs::write(watched.path("dir/b.yml"), account("b")).unwrap();
    watched.until(&["a", "b"]).await;
    fs::write(watched.path("dir/b.yml"), account("c")).unwrap();
    watched.until(&["a", "c"]).await;
    fs::rename(watched.path("dir/b.yml"), watched.path("dir/b.txt")).unwrap();
    watched.until(&["a"]).await;
    fs::rename(watched.path("dir/b.txt"), watched.path("dir/d.yaml")).unwrap();
    watched.until(&["a", "c"]).await;
    fs::remove_file(watched.path("dir/a.yaml")).unwrap();
    watched.until(&["c"]).await;
}

/// As editors save: a neighbour is written, then renamed over the file.
#[tokio::test]
async fn a_file_renamed_over_another() {
    let mut watched = Watched::over(plain);
    for name in ["b", "c", "d"] {
        fs::write(watched.path("dir/.a.yaml.swp"), account(name)).unwrap();
        fs::rename(watched.path("dir/.a.yaml.swp"), watched.path("dir/a.yaml")).unwrap();
        watched.until(&[name]).await;
    }
}

/// As Kubernetes mounts a ConfigMap: files link to ..data/file, and ..data is swapped.
#[tokio::test]
async fn a_symlink_swapped_as_a_config_map_is() {
    let mut watched = Watched::over(|root| {
        let dir = root.join("dir");
        fs::create_dir_all(dir.join("..v1")).unwrap();
        fs::write(dir.join("..v1/a.yaml"), account("a")).unwrap();
        symlink("..v1", dir.join("..data")).unwrap();
        symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    });
    assert_eq!(watched.accounts(), ["a"]);
    fs::create_dir(watched.path("dir/..v2")).unwrap();
    fs::write(watched.path("dir/..v2/a.yaml"), account("b")).unwrap();
    symlink("..v2", watched.path("dir/..data_tmp")).unwrap();
    fs::rename(watched.path("dir/..data_tmp"), watched.path("dir/..data")).unwrap();
    watched.until(&["b"]).await;
    fs::write(watched.path("dir/..v2/a.yaml"), account("c")).unwrap();
    watched.until(&["c"]).await;
}

/// As a deployment by links does it: the directory itself is a link that is swapped.
#[tokio::test]
async fn the_directory_itself_swapped() {
    let mut watched = Watched::over(|root| {
        for version in ["v1", "v2"] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("a.yaml"), account(version)).unwrap();
        }
        symlink("v1", root.join("dir")).unwrap();
    });
    assert_eq!(watched.accounts(), ["v1"]);
    symlink("v2", watched.path("new")).unwrap();
    fs::rename(watched.path("new"), watched.path("dir")).unwrap();
    watched.until(&["v2"]).await;
    fs::write(watched.path("v2/a.yaml"), account("v3")).unwrap();
    watched.until(&["v3"]).await;
}

#[tokio::test]
async fn a_link_to_a_file_elsewhere_that_is_edited_there() {
    let mut watched = Watched::over(|root| {
        fs::create_dir_all(root.join("dir")).unwrap();
        fs::create_dir_all(root.join("elsewhere")).unwrap();
        fs::write(root.join("elsewhere/real"), account("a")).unwrap();
        symlink("../elsewhere/real", root.join("dir/a.yaml")).unwrap();
    });
    assert_eq!(watched.accounts(), ["a"]);
    fs::write(watched.path("elsewhere/real"), account("b")).unwrap();
    watched.until(&["b"]).await;
}

/// A file that is emptied and then filled must not lose its objects for the moment between.
#[tokio::test]
async fn a_file_is_read_when_its_writer_closes_it() {
    use std::io::Write as _;
    let mut watched = Watched::over(plain);
    let mut file = fs::File::create(watched.path("dir/a.yaml")).unwrap();
    watched.stays(&["a"]).await;
    file.write_all(account("b").as_bytes()).unwrap();
    watched.stays(&["a"]).await;
    // Another file's event is no reason to look at this one.
    fs::write(watched.path("dir/c.yaml"), account("c")).unwrap();
    watched.until(&["a", "c"]).await;
    file.write_all(format!("---\n{}", account("d")).as_bytes()).unwrap();
    watched.stays(&["a", "c"]).await;
    drop(file);
    watched.until(&["b", "c", "d"]).await;
}

#[tokio::test]
async fn a_directory_that_goes_takes_nothing_with_it_and_is_found_again() {
    let mut watched = Watched::over(plain);
    fs::rename(watched.path("dir"), watched.path("away")).unwrap();
    let told = watched.seen.wait_for(|s| !s.diagnostics.is_empty());
    tokio::time::timeout(PATIENCE, told).await.expect("it is told").unwrap();
    assert_eq!(watched.accounts(), ["a"]);
    {
        let seen = watched.seen.borrow();
        let told = &seen.diagnostics[0];
        assert!(told.to_string().contains("the directory: it can't be read"), "{told}");
        assert_eq!(told.effect, Effect::Kept);
    }
    fs::create_dir(watched.path("dir")).unwrap();
    fs::write(watched.path("dir/b.yaml"), account("b")).unwrap();
    watched.until(&["b"]).await;
    assert!(watched.seen.borrow().diagnostics.is_empty());
}

#[tokio::test]
async fn a_file_that_can_not_be_read_is_told_and_takes_nothing_away() {
    let mut watched = Watched::over(plain);
    fs::remove_file(watched.path("dir/a.yaml")).unwrap();
    watched.until(&[]).await;
    fs::write(watched.path("dir/a.yaml"), account("a")).unwrap();
    watched.until(&["a"]).await;
    symlink("nowhere.yaml", watched.path("new")).unwrap();
    fs::rename(watched.path("new"), watched.path("dir/a.yaml")).unwrap();
    let told = watched.seen.wait_for(|s| !s.diagnostics.is_empty());
    tokio::time::timeout(PATIENCE, told).await.expect("it is told").unwrap();
    assert_eq!(watched.accounts(), ["a"]);
    assert!(
        watched.seen.borrow().diagnostics[0].to_string().starts_with("a.yaml: the file as a whole: it can't be read")
    );
}

/// A pipe would be waited on for ever.
#[tokio::test]
async fn what_is_no_file_is_not_waited_for() {
    let mut watched = Watched::over(plain);
    rustix::fs::mkfifoat(rustix::fs::CWD, watched.path("dir/pipe.yaml"), rustix::fs::Mode::from_raw_mode(0o600))
        .unwrap();
    fs::write(watched.path("dir/b.yaml"), account("b")).unwrap();
    watched.until(&["a", "b"]).await;
    assert!(watched.seen.borrow().diagnostics[0].to_string().contains("pipe.yaml"));
}

#[tokio::test]
async fn other_files_and_folders_are_left_alone() {
    let mut watched = Watched::over(plain);
    fs::write(watched.path("dir/notes.txt"), "a: [").unwrap();
    fs::write(watched.path("dir/.hidden.yaml"), account("hidden")).unwrap();
    fs::create_dir(watched.path("dir/folder.yaml")).unwrap();
    fs::write(watched.path("dir/folder.yaml/x.yaml"), account("x")).unwrap();
    fs::write(watched.path("beside.yaml"), account("beside")).unwrap();
    watched.stays(&["a"]).await;
    assert!(watched.seen.borrow().diagnostics.is_empty());
}

/// A thousand edits in a row, each of a kind: what is seen in the end is what is there.
#[tokio::test]
async fn after_a_storm_of_edits_the_last_state_is_seen() {
    let mut watched = Watched::over(plain);
    for n in 0..1000 {
        let name = format!("dir/f{}.yaml", n % 7);
        match n % 3 {
            0 => fs::write(watched.path(&name), account(&format!("s{n}"))).unwrap(),
            1 => {
                fs::write(watched.path("dir/tmp"), account(&format!("s{n}"))).unwrap();
                fs::rename(watched.path("dir/tmp"), watched.path(&name)).unwrap();
            }
            _ => drop(fs::remove_file(watched.path(&name))),
        }
        if n % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    fs::write(watched.path("dir/last.yaml"), account("zz-last")).unwrap();
    let mut wanted: Vec<String> = fs::read_dir(watched.path("dir"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .filter_map(|text| Some(text.split_once("{name: ")?.1.split_once(',')?.0.to_owned()))
        .collect();
    wanted.sort();
    watched.until(&wanted.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// A Deny that somebody broke while the control plane was away must not fall for it.
#[tokio::test]
async fn the_last_good_version_outlives_a_restart() {
    let mut watched = Watched::over(plain);
    fs::write(watched.path("dir/b.yaml"), format!("{}---\n{}", account("b"), account("c"))).unwrap();
    watched.until(&["a", "b", "c"]).await;
    fs::write(watched.path("dir/b.yaml"), format!("{}---\nkind: [", account("b"))).unwrap();
    watched.seen.wait_for(|s| !s.diagnostics.is_empty()).await.unwrap();
    let mut watched = watched.restarted().await;
    assert_eq!(watched.accounts(), ["a", "b", "c"]);
    assert_eq!(watched.seen.borrow().diagnostics[0].effect, Effect::Kept);
    fs::write(watched.path("dir/b.yaml"), account("b")).unwrap();
    watched.until(&["a", "b"]).await;
    fs::remove_file(watched.path("dir/a.yaml")).unwrap();
    watched.until(&["b"]).await;
    let watched = watched.restarted().await;
    assert_eq!(watched.accounts(), ["b"], "what was taken away does not come back");
}
