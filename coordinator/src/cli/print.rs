//! How answers reach the person or the program that asked: tables, JSON, one line. Writes to
//! standard output, complaints to standard error; a reader that went away is no error.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::args::Output;

/// A line on standard output.
pub fn line(text: &str) {
    // A closed pipe (`maiactl … | head`) ends the reading, not the command.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// A line on standard error.
pub fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// JSON on standard output.
pub fn json(value: &Value) {
    line(&format!("{value:#}"));
}

/// A table on standard output.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for text in table.to_string().lines() {
        line(text.trim_end());
    }
}

/// A list of objects: the fields named by `columns` (`HEAD`, `field`), or the JSON as it came.
pub fn objects(output: Output, whole: &Value, list: &str, columns: &[(&str, &str)]) {
    if output == Output::Json {
        return json(whole);
    }
    let head: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
    let empty = Vec::new();
    let rows: Vec<Vec<String>> = whole[list]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|object| {
            columns
                .iter()
                .map(|(_, field)| text(&object[*field]))
                .collect()
        })
        .collect();
    table(&head, &rows);
}

/// A JSON value as a cell: strings bare, lists with commas, nothing as `-`.
#[must_use]
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_plain() {
        assert_eq!(text(&json!(null)), "-");
        assert_eq!(text(&json!(["a", 2])), "a,2");
        assert_eq!(text(&json!([])), "-");
        assert_eq!(text(&json!(true)), "true");
    }
}
