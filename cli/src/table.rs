//! Lays text out in columns that line up, in as little width as they need.

use std::fmt;

/// Space between two columns.
const GAP: &str = "  ";

/// Rows of cells below a head. Prints nothing for no rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new<const N: usize>(head: [&'static str; N]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. Line ends in a cell become spaces: what a process says can't forge a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(self.head.get(column).map(|head| head.chars().count())).max().unwrap_or(0)
    }
}

/// Text without control characters: a terminal obeys them.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        let widths: Vec<usize> = (0..self.head.len()).map(|column| self.width(column)).collect();
        let head = self.head.iter().map(ToString::to_string).collect();
        for row in [&head].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}{GAP}"));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up_and_no_line_ends_in_space() {
        let mut table = Table::new(["WORKLOAD", "STATE"]);
        table.row(["shop/web".to_owned(), "captured".to_owned()]);
        table.row(["shop/longer-name".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "WORKLOAD          STATE\nshop/web          captured\nshop/longer-name\n");
        assert_eq!(Table::new(["A"]).to_string(), "");
    }

    #[test]
    fn a_cell_can_not_forge_a_row_or_move_the_cursor() {
        let mut table = Table::new(["A"]);
        table.row(["x\nadmin\u{1b}[2J".to_owned()]);
        assert_eq!(table.to_string(), "A\nx admin [2J\n");
    }
}
