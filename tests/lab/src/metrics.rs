//! Reads Prometheus text: enough to add up the series of a name.

use std::collections::BTreeMap;

/// One process's metrics at one time.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    series: Vec<Series>,
}

/// One line of the text.
#[derive(Clone, Debug)]
pub struct Series {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Reads the text; lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        Self { series: text.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line).collect() }
    }

    /// The series of a name that have all these labels.
    pub fn select<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| {
            series.name == name
                && labels.iter().all(|(key, value)| series.labels.get(*key).is_some_and(|has| has == value))
        })
    }

    /// Their sum; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|series| series.value).sum()
    }

    /// Every name there is, once.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.series.iter().map(|series| series.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn parse_line(line: &str) -> Option<Series> {
    let (head, rest) = match line.split_once('{') {
        Some((name, rest)) => (name, rest.rsplit_once('}')?),
        None => {
            let (name, value) = line.split_once(' ')?;
            (name, ("", value))
        }
    };
    let (labels, value) = rest;
    let value = value.split_whitespace().next()?.parse().ok()?;
    Some(Series { name: head.to_owned(), labels: parse_labels(labels), value })
}

/// Label values of ours have no quote, comma or backslash in them, save in `reason` texts, where the cut is harmless.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim_end_matches('"').to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn series_of_a_name_add_up_by_label() {
        let text = "# HELP x y\nx_total{side=\"a\",reason=\"b c\"} 3\nx_total{side=\"z\"} 4\nup 1\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("x_total", &[]), 7.0);
        assert_eq!(metrics.sum("x_total", &[("reason", "b c")]), 3.0);
        assert_eq!(metrics.sum("up", &[]), 1.0);
        assert_eq!(metrics.names(), ["up", "x_total"]);
    }
}
