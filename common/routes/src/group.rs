//! Narrows a path down to the matches that may fit it: those for the path itself, those for each of its prefixes, and the rest.
//!
//! Narrows only: which of them has the request is the order of the matches' numbers, the best first.

use std::collections::HashMap;

use millrace_model::route::{PathMatch, Text};

/// The matches of one host, by what they ask of the path.
#[derive(Debug, Default)]
pub(crate) struct Group {
    exact: HashMap<Box<str>, Vec<usize>>,
    prefix: HashMap<Box<str>, Vec<usize>>,
    /// The longest prefix, in bytes: what is longer of a path is no key, and is not looked up.
    longest: usize,
    /// Those that ask by an expression, or for a gRPC method of any service.
    scan: Vec<usize>,
}

impl Group {
    /// Takes in a match of this number, which is higher than all before.
    pub(crate) fn add(&mut self, path: &PathMatch, number: usize) {
        let mut below = |prefix: Box<str>| {
            self.longest = self.longest.max(prefix.len());
            self.prefix.entry(prefix).or_default().push(number);
        };
        match path {
            PathMatch::Exact(path) => self.exact.entry((**path).into()).or_default().push(number),
            PathMatch::Prefix(prefix) => below((**prefix).into()),
            PathMatch::Grpc { service: Some(Text::Exact(service)), method: Some(Text::Exact(method)) } => {
                self.exact.entry(format!("/{service}/{method}").into()).or_default().push(number);
            }
            PathMatch::Grpc { service: Some(Text::Exact(service)), method: None } => {
                below(format!("/{service}").into());
            }
            PathMatch::Regex(_) | PathMatch::Grpc { .. } => self.scan.push(number),
        }
    }

    /// The best of those that fit, where `fits` asks all that is not the path's index to say.
    pub(crate) fn best(&self, path: &str, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = None;
        let mut ask = |numbers: &[usize]| {
            let found = numbers.iter().copied().take_while(|n| best.is_none_or(|best| *n < best)).find(|n| fits(*n));
            best = found.or(best);
        };
        if let Some(numbers) = self.exact.get(path) {
            ask(numbers);
        }
        // A client chooses how long its path is: it pays for each letter once, and not for each of its segments.
        for prefix in prefixes(path).skip_while(|prefix| prefix.len() > self.longest) {
            if let Some(numbers) = self.prefix.get(prefix) {
                ask(numbers);
            }
        }
        ask(&self.scan);
        best
    }
}

/// A path and all that it lies below, by whole segments, the longest first; "" last.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        if path.is_empty() {
            return None;
        }
        Some(path.rfind('/').and_then(|end| path.get(..end)).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::prefixes;

    #[test]
    fn a_path_lies_below_its_segments_and_no_part_of_one() {
        assert_eq!(prefixes("/a/bc/d").collect::<Vec<_>>(), ["/a/bc/d", "/a/bc", "/a", ""]);
        assert_eq!(prefixes("/a/").collect::<Vec<_>>(), ["/a/", "/a", ""]);
        assert_eq!(prefixes("*").collect::<Vec<_>>(), ["*", ""]);
    }
}
