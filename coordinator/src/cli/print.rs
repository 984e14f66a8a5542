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

/// Microseconds since 1970 as `2026-11-23 07:30:29.858Z`. The calendar is Howard Hinnant's
/// `civil_from_days`, for years from 1970 on.
#[must_use]
pub fn utc(unix_us: u64) -> String {
    let (ms, days) = (unix_us / 1000, unix_us / 86_400_000_000);
    let since_march_0000 = days + 719_468;
    let era = since_march_0000 / 146_097;
    let day_of_era = since_march_0000 % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60);
    format!(
        "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}Z",
        ms % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(utc(951_782_400_000_000), "2000-02-29 00:00:00.000Z");
        assert_eq!(utc(1_795_419_029_858_191), "2026-11-23 07:30:29.858Z");
    }

    #[test]
    fn cells_are_plain() {
        assert_eq!(text(&json!(null)), "-");
        assert_eq!(text(&json!(["a", 2])), "a,2");
        assert_eq!(text(&json!([])), "-");
        assert_eq!(text(&json!(true)), "true");
    }
}
