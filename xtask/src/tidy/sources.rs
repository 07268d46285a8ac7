//! Checks source files: a first line that says what a module does, sizes, words that must not stay, names.

use super::{Complaint, tree::Tree};

/// Over this many lines a file's `//!` says why.
const LONG: usize = 600;

/// A proto file has few comments and no tests: it is read from top to bottom.
const LONG_PROTO: usize = 200;

/// Every check of sources.
pub(crate) fn check(tree: &Tree) -> Vec<Complaint> {
    let rust = tree.ending(".rs").flat_map(|(path, text)| rust(path, text));
    let proto = tree.ending(".proto").filter_map(|(path, text)| {
        let n_lines = text.lines().count();
        (n_lines > LONG_PROTO)
            .then(|| Complaint::new(path, format!("{n_lines} lines; a proto file fits in {LONG_PROTO}: split it")))
    });
    let places =
        tree.files.iter().filter(|(path, _)| !path.ends_with(".lock")).flat_map(|(path, text)| machine(path, text));
    rust.chain(proto).chain(places).collect()
}

fn rust(path: &str, text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    if path.ends_with("/mod.rs") {
        complaints.push(Complaint::new(path, "a module is `noun.rs` beside `noun/`, not `mod.rs`"));
    }
    if !text.starts_with("//!") {
        complaints.push(Complaint::new(path, "the first line is not a `//!` that says what the module does"));
    }
    let n_lines = text.lines().count();
    if n_lines > LONG && !explains_length(text) {
        let what = format!("{n_lines} lines; split it, or say in its `//!` what it is `long because` of");
        complaints.push(Complaint::new(path, what));
    }
    for (index, line) in text.lines().enumerate() {
        if let Some(name) = vague(line) {
            let what = format!("`{name}` says nothing of what it is: call it by what it holds or does");
            complaints.push(Complaint::new(format!("{path}:{}", index + 1), what));
        }
    }
    for (line, word) in words(text, &unfinished()) {
        complaints.push(Complaint::new(
            format!("{path}:{line}"),
            format!("{word}: finish it, or say the condition under which it is revisited"),
        ));
    }
    complaints
}

/// A type defined on this line whose name ends in a word that fits anything.
fn vague(line: &str) -> Option<&str> {
    let mut words = line.trim_start().split(' ').skip_while(|word| word.starts_with("pub"));
    let keyword = words.next().filter(|word| ["struct", "enum", "trait", "type", "mod"].contains(word));
    let name = keyword.and_then(|_| words.next())?.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    let lower = name.to_lowercase();
    ["manager", "helper", "helpers", "util", "utils", "handler", "factory"]
        .iter()
        .any(|end| lower.ends_with(end))
        .then_some(name)
}

fn explains_length(text: &str) -> bool {
    let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
    head.join(" ").to_lowercase().replace("//! ", "").contains("long because")
}

/// Words of unfinished work. Put together here, so that this file does not hold them.
fn unfinished() -> Vec<String> {
    [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["to", "do!("], ["unimple", "mented!("]]
        .map(|parts| parts.concat())
        .to_vec()
}

/// Places that exist on one machine only, and hosts of package registries, which ordinary clients know by themselves.
fn foreign() -> Vec<String> {
    [
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["/wo", "rk/"],
        ["/Us", "ers/"],
        ["crates", ".io"],
        ["pypi", ".org"],
        ["npmjs", ".org"],
        ["proxy.go", "lang.org"],
        ["repo.ma", "ven"],
        ["deb.deb", "ian.org"],
    ]
    .map(|parts| parts.concat())
    .to_vec()
}

fn machine(path: &str, text: &str) -> Vec<Complaint> {
    words(text, &foreign())
        .map(|(line, word)| {
            Complaint::new(
                format!("{path}:{line}"),
                format!("`{word}` is a place on one machine, or a registry's host: leave it out"),
            )
        })
        .collect()
}

/// Where `wanted` words stand in a text, by line from 1. A word is not found inside a longer one.
fn words<'a>(text: &'a str, wanted: &'a [String]) -> impl Iterator<Item = (usize, &'a str)> {
    text.lines().enumerate().flat_map(move |(index, line)| {
        wanted.iter().filter(move |word| stands_alone(line, word)).map(move |word| (index + 1, &**word))
    })
}

fn stands_alone(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        let ends_open = word.ends_with(|c: char| c.is_alphanumeric());
        !(before.is_some_and(char::is_alphanumeric) || ends_open && after.is_some_and(char::is_alphanumeric))
    })
}

#[cfg(test)]
mod tests {
    use super::{LONG, check};
    use crate::tidy::tree::Tree;

    fn places(tree: &Tree) -> Vec<String> {
        check(tree).into_iter().map(|complaint| complaint.place).collect()
    }

    #[test]
    fn a_module_says_first_what_it_does() {
        let tree =
            Tree::from([("a.rs", "//! Does a thing.\n"), ("b.rs", "use a;\n"), ("c/mod.rs", "//! Is misplaced.\n")]);
        assert_eq!(places(&tree), ["b.rs", "c/mod.rs"]);
    }

    #[test]
    fn a_name_that_fits_anything_is_found() {
        let tree = Tree::from([(
            "a.rs",
            "//! Does.\npub(crate) struct PodManager;\nmod utils;\nstruct Pods;\n// a type Handler\n",
        )]);
        assert_eq!(places(&tree), ["a.rs:2", "a.rs:3"]);
    }

    #[test]
    fn a_long_file_says_why() {
        let body = "\n".repeat(LONG);
        let plain = format!("//! Does much.\n{body}");
        let explained = format!("//! Does much.\n//! Long\n//! because it is a table.\n{body}");
        assert_eq!(places(&Tree::from([("plain.rs", &*plain), ("table.rs", &*explained)])), ["plain.rs"]);
    }

    #[test]
    fn unfinished_work_is_found_but_not_inside_a_longer_word() {
        let text = ["//! Does.\n// TO", "DO later\n// KUBETO", "DOS\nfn f() { to", "do!() }\n"].concat();
        assert_eq!(places(&Tree::from([("a.rs", &*text)])), ["a.rs:2", "a.rs:4"]);
    }

    #[test]
    fn a_place_on_one_machine_is_found_in_any_file_but_a_lock_file() {
        let text = ["see /ho", "me/x\n"].concat();
        assert_eq!(places(&Tree::from([("README.md", &*text), ("Cargo.lock", &*text)])), ["README.md:1"]);
    }
}
