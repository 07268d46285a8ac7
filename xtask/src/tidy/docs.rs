//! Checks documents: links lead somewhere, decisions are numbered without a gap.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use super::{Complaint, tree::Tree};

/// Every check of documents.
pub(crate) fn check(tree: &Tree) -> Vec<Complaint> {
    let places = places(tree);
    let links = tree.ending(".md").flat_map(|(path, text)| broken(path, text, &places));
    links.chain(numbers(tree)).collect()
}

/// All files, and all folders above them.
fn places(tree: &Tree) -> BTreeSet<&Path> {
    tree.files.keys().flat_map(|path| Path::new(path).ancestors()).collect()
}

fn broken(path: &str, text: &str, places: &BTreeSet<&Path>) -> Vec<Complaint> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    prose(text)
        .flat_map(|(line, text)| targets(text).map(move |target| (line, target)))
        .filter(|(_, target)| !target.contains("://") && !target.starts_with("mailto:") && !target.starts_with('#'))
        .filter_map(|(line, target)| {
            let file = target.split('#').next().unwrap_or_default();
            let leads = resolve(folder, file).is_some_and(|place| places.contains(&*place));
            (!leads).then(|| Complaint::new(format!("{path}:{line}"), format!("the link to `{target}` leads nowhere")))
        })
        .collect()
}

/// The lines outside fenced blocks, by number from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// What stands between `](` and `)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

/// The path a link means, from the repository's root; None when it leads out of it.
fn resolve(folder: &Path, link: &str) -> Option<PathBuf> {
    let joined = match link.strip_prefix('/') {
        Some(rooted) => PathBuf::from(rooted),
        None => folder.join(link),
    };
    let mut place = PathBuf::new();
    for component in joined.components() {
        match component {
            Component::Normal(name) => place.push(name),
            Component::ParentDir => place.pop().then_some(())?,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(place)
}

/// Decisions are `NNNN-what.md`, from 0001, each number once.
fn numbers(tree: &Tree) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut expected = 1;
    for path in tree.files.keys() {
        let Some(name) = path.strip_prefix("docs/decisions/") else { continue };
        let number =
            name.split_once('-').filter(|(digits, _)| digits.len() == 4).and_then(|(digits, _)| digits.parse().ok());
        if number != Some(expected) || !name.ends_with(".md") {
            complaints.push(Complaint::new(path, format!("the next decision is `{expected:04}-<what>.md`")));
        }
        expected = number.unwrap_or(expected) + 1;
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::tree::Tree;

    fn complaints(tree: &Tree) -> Vec<String> {
        check(tree).into_iter().map(|complaint| format!("{} {}", complaint.place, complaint.what)).collect()
    }

    #[test]
    fn a_link_leads_to_a_file_or_a_folder() {
        let text = "[a](docs/B.md#part), [b](docs), [c](https://example.org), [d](#here)\n\n[e](gone.md)\n```\n[f](gone.md)\n```\n";
        let tree = Tree::from([("README.md", text), ("docs/B.md", "[up](../README.md) [out](../../x)")]);
        assert_eq!(
            complaints(&tree),
            ["README.md:3 the link to `gone.md` leads nowhere", "docs/B.md:1 the link to `../../x` leads nowhere"]
        );
    }

    #[test]
    fn decisions_are_numbered_without_a_gap() {
        let tree = Tree::from([("docs/decisions/0001-a.md", ""), ("docs/decisions/0003-b.md", "")]);
        assert_eq!(complaints(&tree), ["docs/decisions/0003-b.md the next decision is `0002-<what>.md`"]);
        let twice = Tree::from([("docs/decisions/0001-a.md", ""), ("docs/decisions/0001-b.md", "")]);
        assert_eq!(complaints(&twice), ["docs/decisions/0001-b.md the next decision is `0002-<what>.md`"]);
    }
}
