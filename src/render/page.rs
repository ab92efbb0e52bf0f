//! A page for a terminal: 80 columns, paragraphs with a hanging indent, tables.

use crate::ui::style::is_style;

/// Columns of the page.
pub(super) const WIDTH: usize = 80;
/// Rows of a table of nodes before the rest is only counted.
pub(super) const MOST_ROWS: usize = 40;

pub(super) use crate::ui::style::{BOLD, DIM, GREEN, RED, RESET, YELLOW};

/// Text that grows line by line.
pub(super) struct Page(pub(super) String);

impl Page {
    /// Adds a line.
    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        self.0.push_str(text.as_ref().trim_end());
        self.0.push('\n');
    }

    /// Begins a section.
    pub(super) fn section(&mut self, title: &str) {
        self.0.push('\n');
        self.line(format!("{BOLD}{title}{RESET}"));
    }

    /// A labelled paragraph, wrapped with a hanging indent.
    pub(super) fn paragraph(&mut self, label: &str, indent: usize, text: &str) {
        let mut first = true;
        for line in wrap(text, WIDTH - indent) {
            let head = if first { format!("{label:<indent$}") } else { " ".repeat(indent) };
            self.line(format!("{head}{line}"));
            first = false;
        }
    }

    /// A table: columns are as wide as their widest cell; numbers are set to the right.
    pub(super) fn table(&mut self, head: &[&str], right: &[usize], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell));
            cells.chain([visible(head[column])]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let set = |cells: &[String]| {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let pad = " ".repeat(widths[column].saturating_sub(visible(cell)));
                let cell = if right.contains(&column) { format!("{pad}{cell}") } else { format!("{cell}{pad}") };
                line.push_str(&cell);
                line.push_str("  ");
            }
            line
        };
        let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
        self.line(format!("{DIM}{}{RESET}", set(&head).trim_end()));
        for row in rows.iter().take(MOST_ROWS) {
            self.line(set(row));
        }
        if rows.len() > MOST_ROWS {
            self.line(format!("… and {} more (see --format json)", rows.len() - MOST_ROWS));
        }
    }
}

/// Number of characters that show.
fn visible(text: &str) -> usize {
    text.chars().filter(|c| !is_style(*c)).count()
}

/// Breaks text at spaces; a word longer than a line is broken anywhere.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        let used = lines.last().map_or(0, |line| visible(line));
        if used > 0 && used + 1 + word.len() > width {
            lines.push(String::new());
        }
        while word.len() > width {
            let rest = word.split_off(width);
            if let Some(line) = lines.last_mut() {
                line.extend(word);
            }
            lines.push(String::new());
            word = rest;
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend(word);
        }
    }
    lines
}

/// Cuts text to `most` characters.
pub(super) fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_and_long_words_are_broken() {
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn colours_take_no_room() {
        assert_eq!(visible(&format!("{RED}red{RESET}")), 3);
    }
}
