//! Shows the figures: a table for people, the same as JSON.

use serde::Serialize;

use crate::{
    figure::{Figure, Rule},
    machine::Machine,
    rounds::Surroundings,
};

/// All that a run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// Under what conditions.
    pub surroundings: Surroundings,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Tables that go with them, ready to be read.
    pub tables: Vec<Table>,
}

/// A table beside the figures.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// The heads of its columns.
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: Vec<Vec<String>>,
}

impl Report {
    /// How many figures passed, and how many did not.
    pub fn counts(&self) -> (usize, usize) {
        let n = |says| self.figures.iter().filter(|figure| figure.pass == Some(says)).count();
        (n(true), n(false))
    }

    /// As people read it.
    pub fn text(&self) -> String {
        let mut text = self.head();
        let mut group = "";
        for figure in &self.figures {
            let own = figure.name.split('.').next().unwrap_or_default();
            if own != group {
                group = own;
                text.push_str(&format!("\n{}\n", heads()));
            }
            text.push_str(&row(figure));
        }
        for table in &self.tables {
            text.push_str(&format!("\n{}", table.text()));
        }
        let (passed, failed) = self.counts();
        text.push_str(&format!("\n{passed} passed, {failed} failed\n"));
        text
    }

    fn head(&self) -> String {
        let Machine { processor, n_cores, memory_gib, kernel, congestion_control, day } = &self.machine;
        let around = &self.surroundings;
        let mut text = format!("{day}, {n_cores} cores of {processor}, {memory_gib:.0} GiB, Linux {kernel}\n");
        text.push_str(&format!("congestion control of everybody: {congestion_control}\n"));
        if around.rounds > 0 {
            text.push_str(&format!(
                "steal: {:.1} % in the mean, {:.1} % at most\n",
                around.mean_stolen * 100.0,
                around.most_stolen * 100.0
            ));
        }
        if around.is_busy() {
            text.push_str(&format!(
                "NOT QUIET: before {} of {} rounds others used the machine, {:.0} % of it at most\n",
                around.busy_rounds,
                around.rounds,
                around.most_used_by_others * 100.0
            ));
        }
        text
    }
}

const NAME: usize = 44;

fn heads() -> String {
    format!(
        "{:<NAME$} {:>10} {:>10}  {:<14} {:>6} {:>15} {:>3}  {:>8} {:>6}  ",
        "figure", "ours", "baseline", "unit", "ratio", "min to max", "n", "required", "aim"
    )
    .trim_end()
    .to_owned()
}

/// A figure's lines of the table.
pub fn row(figure: &Figure) -> String {
    let Figure { name, case, unit, ours, baseline, against, ratio, rounds, min, max, goal, note, .. } = figure;
    let mark = match (figure.pass, figure.aimed) {
        (Some(true), Some(true)) => "pass, aim reached",
        (Some(true), _) => "pass",
        (Some(false), _) => "FAIL",
        (None, _) => "",
    };
    let is_further = goal.rule == Rule::None;
    let case = if case.is_empty() { String::new() } else { format!(" ({case})") };
    // A further row of a comparison stands under its figure; what is compared with nothing has its own name.
    let is_beside = is_further && !against.is_empty();
    let label = if is_beside { format!("    vs {against}{case}") } else { format!("{name}{case}") };
    let number = |value: Option<f64>| value.map_or_else(String::new, plain);
    let bound = |value: f64| if is_further { String::new() } else { format!("{}{value}", sign(figure)) };
    let mut line = format!(
        "{label:<NAME$} {:>10} {:>10}  {unit:<14} {:>6} {:>15} {rounds:>3}  {:>8} {:>6}  {mark}",
        plain(*ours),
        number(*baseline),
        ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        format!("{} to {}", plain(*min), plain(*max)),
        bound(goal.required),
        bound(goal.aim),
    );
    line.truncate(line.trim_end().len());
    line.push('\n');
    if !is_further && !against.is_empty() {
        line.push_str(&format!("    baseline: {against}\n"));
    }
    if !note.is_empty() {
        line.push_str(&format!("    {note}\n"));
    }
    line
}

fn sign(figure: &Figure) -> &'static str {
    match figure.goal.better {
        crate::figure::Better::Higher => ">= ",
        crate::figure::Better::Lower => "<= ",
    }
}

/// Three digits that mean something.
pub fn plain(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Table {
    fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).chain(self.columns.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
        };
        let mut text = format!("{}\n{}", self.title, line(&self.columns));
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{plain, row};
    use crate::figure::{Better, Figure, Goal};

    #[test]
    fn a_row_says_whether_it_passes_and_a_further_row_does_not() {
        let figure = Figure::compared("x.y", "us", Goal::at_most(0.9, 0.7), &[80.0], &[100.0]).against("them");
        assert!(row(&figure).contains("<= 0.9") && row(&figure).contains("pass\n"), "{}", row(&figure));
        let failed = Figure::compared("x.y", "us", Goal::at_most(0.5, 0.4), &[80.0], &[100.0]);
        assert!(row(&failed).contains("FAIL"));
        let further = Figure::compared("x.y", "us", Goal::none(Better::Lower), &[80.0], &[100.0]).against("them");
        assert!(row(&further).trim_start().starts_with("vs them") && !row(&further).contains("pass"));
    }

    #[test]
    fn numbers_are_shown_with_three_digits() {
        assert_eq!([0.123, 12.34, 4321.0].map(plain), ["0.12", "12.3", "4321"]);
    }
}
