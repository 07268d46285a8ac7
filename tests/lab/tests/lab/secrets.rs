//! Private keys are nowhere but in the memory of the processes that need them, and in the two files that are named for it.
//!
//! Every key in use is taken from where it may be, and looked for everywhere else, in each form that a program writes bytes in: what
//! the processes answer, what they log at trace level, what is on the disk, and the memory of every process of the lab.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aho_corasick::AhoCorasick;
use anyhow::{Context as _, Result, bail, ensure};
use millrace_lab::{Lab, Part, clock};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};

use crate::scene;

const PATIENCE: Duration = Duration::from_secs(60);

/// How an ECPrivateKey of RFC 5915 begins, before its 32 bytes: version 1, then an octet string.
const SCALAR: &[u8] = &[0x02, 0x01, 0x01, 0x04, 0x20];

/// What sealed memory with keys is called.
const SEALED: &str = "millrace-keys";

/// Larger files in the temporary directory are others'.
const MAX_FILE: u64 = 64 << 20;

/// Every part of the mesh in a lab of two nodes.
const PARTS: [Part<'static>; 5] =
    [Part::Control, Part::Agent("a"), Part::Agent("b"), Part::Proxy("a"), Part::Proxy("b")];

/// It needs none.
const HOLDER: Part<'static> = Part::Holder("a");

/// A P-256 key, and who may hold it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: String,
    scalar: Vec<u8>,
}

/// The keys in these bytes, DER or a message with DER in it.
fn scalars(bytes: &[u8]) -> Vec<Vec<u8>> {
    let starts = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(SCALAR));
    starts.filter_map(|at| Some(bytes.get(at + SCALAR.len()..at + SCALAR.len() + 32)?.to_vec())).collect()
}

/// The key in a PEM file.
fn in_file(name: &str, path: &Path) -> Result<Key> {
    let key = PrivateKeyDer::from_pem_file(path).map_err(|error| anyhow::anyhow!("{}: {error:?}", path.display()))?;
    let scalar = scalars(key.secret_der()).pop().context("a P-256 key")?;
    Ok(Key { name: name.to_owned(), scalar })
}

/// Every workload's key that the agent of `node` holds now, from its sealed memory.
fn of_workloads(lab: &Lab, node: &str) -> Result<BTreeSet<Key>> {
    let fds = PathBuf::from(format!("/proc/{}/fd", lab.pid(Part::Agent(node))?));
    let mut keys = BTreeSet::new();
    for entry in fs::read_dir(&fds)? {
        let path = entry?.path();
        // A descriptor may be closed meanwhile.
        let is_sealed = fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().contains(SEALED));
        if is_sealed {
            let bytes = fs::read(&path).unwrap_or_default();
            keys.extend(scalars(&bytes).into_iter().map(|scalar| Key { name: format!("{node}'s workload"), scalar }));
        }
    }
    Ok(keys)
}

/// Every key in use now.
fn in_use(lab: &Lab) -> Result<BTreeSet<Key>> {
    let state = |of: &str| lab.directory().join(of).join("state");
    let mut keys = BTreeSet::from([in_file("control's root", &state("wire").join("root.key"))?]);
    for node in ["a", "b"] {
        keys.insert(in_file(&format!("{node}'s own"), &state(node).join("node.key"))?);
        keys.extend(of_workloads(lab, node)?);
    }
    Ok(keys)
}

fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> Vec<u8> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| (byte >> bit) & 1)).collect();
    // Whole letters only: the last one would have bits of what follows.
    bits.chunks_exact(6).map(|six| alphabet[six.iter().fold(0, |n, bit| (n << 1) | usize::from(*bit))]).collect()
}

/// A key in every form that a program may write it in, and the form's name. Line breaks are taken out of what is searched.
fn forms(key: &Key) -> Vec<(&'static str, Vec<u8>)> {
    const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let scalar = &key.scalar;
    let reversed: Vec<u8> = scalar.iter().rev().copied().collect();
    let join = |separator: &str, each: fn(&u8) -> String| {
        scalar.iter().map(each).collect::<Vec<_>>().join(separator).into_bytes()
    };
    let mut forms = vec![
        ("bytes", scalar.clone()),
        ("little-endian bytes", reversed),
        ("hex", join("", |byte| format!("{byte:02x}"))),
        ("HEX", join("", |byte| format!("{byte:02X}"))),
        ("hex with colons", join(":", |byte| format!("{byte:02x}"))),
        ("a list", join(",", u8::to_string)),
    ];
    // Wherever in a run of three bytes the key begins; DER and PEM have it somewhere in their middle.
    for start in 0..3 {
        forms.push(("base64", base64(&scalar[start..], STANDARD)));
        forms.push(("base64url", base64(&scalar[start..], URL)));
    }
    // A string that escapes what is not printed, as Debug of bytes does.
    forms.push(("escaped", scalar.escape_ascii().to_string().into_bytes()));
    forms
}

/// Looks for all keys at once.
struct Search {
    keys: Vec<(Key, &'static str)>,
    automaton: AhoCorasick,
}

impl Search {
    fn new(keys: &BTreeSet<Key>) -> Result<Self> {
        let all: Vec<_> =
            keys.iter().flat_map(|key| forms(key).into_iter().map(move |(form, bytes)| (key, form, bytes))).collect();
        let automaton = AhoCorasick::new(all.iter().map(|(_, _, bytes)| bytes))?;
        Ok(Self { keys: all.into_iter().map(|(key, form, _)| (key.clone(), form)).collect(), automaton })
    }

    /// The names of the keys that are in these bytes, and in which form.
    fn find(&self, bytes: &[u8]) -> BTreeSet<(String, &'static str)> {
        let found = self.automaton.find_iter(bytes).map(|found| found.pattern().as_usize());
        found.filter_map(|at| self.keys.get(at)).map(|(key, form)| (key.name.clone(), *form)).collect()
    }

    /// As above, in text that may have been broken into lines.
    fn find_in_text(&self, bytes: &[u8]) -> BTreeSet<(String, &'static str)> {
        let mut found = self.find(bytes);
        let unbroken: Vec<u8> = bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect();
        found.extend(self.find(&unbroken));
        // In JSON a line break is two letters.
        let text = String::from_utf8_lossy(bytes).replace("\\n", "");
        found.extend(self.find(text.as_bytes()));
        found
    }

    /// The keys that a process remembers.
    fn find_in_memory(&self, pid: u32) -> Result<BTreeSet<(String, &'static str)>> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mut memory = fs::File::open(format!("/proc/{pid}/mem"))?;
        let mut found = BTreeSet::new();
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { bail!("{line:?}") };
            // Code and constants hold no key; what was never written can't.
            if !rights.starts_with("rw") || line.contains("[v") {
                continue;
            }
            let (from, to) = range.split_once('-').context("a range")?;
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            let mut bytes = Vec::new();
            memory.seek(SeekFrom::Start(from))?;
            // A range may be gone by now, or have holes in it.
            if memory.by_ref().take(to - from).read_to_end(&mut bytes).is_ok() {
                found.extend(self.find(&bytes));
            }
        }
        Ok(found)
    }
}

/// Every file below, but what is no file and what goes while it is looked at.
fn files(below: &Path, newer: SystemTime, depth: usize) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        let is_new = || entry.metadata().is_ok_and(|m| m.len() <= MAX_FILE && m.modified().is_ok_and(|at| at >= newer));
        // Pins of the kernel's tables are no files, and hold no key by their type.
        if kind.is_dir() && depth > 0 && entry.file_name() != "bpf" {
            all.extend(files(&path, newer, depth - 1));
        } else if kind.is_file() && is_new() {
            all.push(path);
        }
    }
    all
}

/// What every process answers to whoever may ask.
fn answers(lab: &Lab) -> Result<Vec<(String, String)>> {
    let paths =
        ["/config", "/status", "/metrics", "/diagnostics", "/flows?follow=false", "/root", "/revoked", "/readyz"];
    let mut answers = Vec::new();
    for part in PARTS {
        for path in paths {
            let answer = lab.admin(part).ask(path)?;
            if answer.status == 200 {
                answers.push((format!("{part:?} {path}"), answer.body));
            }
        }
    }
    ensure!(answers.len() >= 15, "they answer: {}", answers.len());
    Ok(answers)
}

#[test]
fn private_keys_are_nowhere_but_where_they_are_needed() {
    let start = clock::date();
    scene::plain(&scene::two_nodes("secrets"), |lab| {
        lab.control_flags(&["--leaf-ttl", "10s", "--log", "trace"]);
        lab.start_mesh()?;
        lab.start(HOLDER)?;
        for part in PARTS {
            let answer = lab.admin(part).request("PUT", "/log-level", "trace")?;
            ensure!(answer.status < 300, "{part:?}: {answer:?}");
        }
        let serving = [lab.pod("shop/near")?.serves("[::]:8080", &[])?, lab.pod("shop/far")?.serves("[::]:8080", &[])?];
        let mut keys = in_use(lab)?;
        // Until every workload has a key that was made, sent and used while everything was logged.
        let first = [of_workloads(lab, "a")?, of_workloads(lab, "b")?];
        clock::until(PATIENCE, "every workload has a new key", || {
            for (node, first) in ["a", "b"].into_iter().zip(&first) {
                let now = of_workloads(lab, node)?;
                ensure!(now.len() >= first.len() && now.is_disjoint(first), "not on {node}");
            }
            Ok(())
        })?;
        lab.pod("shop/client")?.connects(lab.pod("shop/far")?.at(8080))?;
        lab.pod("shop/caller")?.connects(lab.pod("shop/near")?.at(8080))?;
        keys.extend(in_use(lab)?);
        let search = Search::new(&keys)?;
        println!("{} keys", keys.len());
        ensure!(keys.len() >= 11, "two of each workload, two nodes', the root's: {}", keys.len());

        for (what, body) in answers(lab)? {
            let found = search.find_in_text(body.as_bytes());
            ensure!(found.is_empty(), "{what} shows {found:?}");
        }
        let temporary = std::env::temp_dir();
        let all = [
            files(&lab.directory(), start - PATIENCE, 8),
            files(&temporary, start, 2),
            files(Path::new("/dev/shm"), start, 2),
        ];
        let (mut n_files, mut n_bytes) = (0, 0);
        for path in all.concat() {
            let Ok(bytes) = fs::read(&path) else { continue };
            (n_files, n_bytes) = (n_files + 1, n_bytes + bytes.len());
            let mut found = search.find_in_text(&bytes);
            let holds = |of: &str, file: &str| path == lab.directory().join(of).join("state").join(file);
            for (of, file, key) in
                [("wire", "root.key", "control's root"), ("a", "node.key", "a's own"), ("b", "node.key", "b's own")]
            {
                if holds(of, file) {
                    let before = found.len();
                    found.retain(|(name, _)| name != key);
                    ensure!(found.len() < before, "the search does not find {key} in {}", path.display());
                }
            }
            ensure!(found.is_empty(), "{} holds {found:?}", path.display());
        }
        println!("none in {n_files} files of {n_bytes} bytes, logs at trace level among them");
        let log = fs::read_to_string(lab.logs().join("control.err"))?;
        ensure!(log.contains("TRACE"), "everything was logged");
        in_memory(lab, &search, &serving)
    });
}

/// Who remembers which key.
fn in_memory(lab: &Lab, search: &Search, serving: &[millrace_lab::process::Process]) -> Result<()> {
    for part in PARTS {
        let found: BTreeSet<String> =
            search.find_in_memory(lab.pid(part)?)?.into_iter().map(|(name, _)| name).collect();
        let may: &[&str] = match part {
            Part::Control => &["control's root"],
            Part::Agent("a") => &["a's own", "a's workload"],
            Part::Agent(_) => &["b's own", "b's workload"],
            Part::Proxy("a") => &["a's workload"],
            Part::Proxy(_) => &["b's workload"],
            Part::Holder(_) => &[],
        };
        println!("{part:?} remembers {found:?}");
        ensure!(found.iter().all(|name| may.contains(&name.as_str())), "{part:?} may hold {may:?}, not {found:?}");
        let must = may.first().copied().unwrap_or_default();
        ensure!(found.contains(must), "the search does not find {must} in {part:?}: it would find nothing else either");
    }
    let others = serving.iter().map(|server| Ok(server.pid())).chain([lab.pid(HOLDER)]);
    for pid in others.collect::<Result<Vec<_>>>()? {
        let found = search.find_in_memory(pid)?;
        ensure!(found.is_empty(), "process {pid}, an application or the holder, holds {found:?}");
    }
    Ok(())
}

/// A core file would be a copy of all keys, and so would be what another process of the same user reads.
#[test]
fn memory_that_holds_keys_is_neither_dumped_nor_read_by_the_same_user() {
    scene::mesh(&scene::two_nodes("memory"), |lab| {
        for part in PARTS {
            let pid = lab.pid(part)?;
            let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("a limit")?;
            let values: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
            ensure!(values == ["0", "0"], "{part:?}: {core}");
        }
        // The user of a proxy, without a capability: as whoever broke into another proxy of the node.
        let pid = lab.pid(Part::Proxy("a"))?;
        let as_proxy = |file: String| -> Result<bool> {
            let mut command = lab.place("a")?.command("setpriv")?;
            command.args([
                "--reuid=15008",
                "--regid=15008",
                "--clear-groups",
                "--bounding-set=-all",
                "--inh-caps=-all",
            ]);
            command.args(["head", "-c", "1", &file]);
            Ok(millrace_lab::process::run(command, PATIENCE)?.status.success())
        };
        ensure!(as_proxy("/proc/self/environ".to_owned())?, "it reads its own");
        for file in ["environ", "mem", "auxv"] {
            ensure!(!as_proxy(format!("/proc/{pid}/{file}"))?, "{file} of the proxy was read by its own user");
        }
        Ok(())
    });
}
