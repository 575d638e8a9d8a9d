//! `agenthost-exporter metrics`: the catalogue of everything that can be measured.

use std::fmt::Write;

use clap::ValueEnum;
use serde::Serialize;

use crate::fact::{Fact, Kind};
use crate::snapshot::catalogue;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// The table of the README.
    Markdown,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    r#type: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    collector: &'static str,
}

/// The whole catalogue, sorted by name.
///
/// # Errors
/// Never in practice: the rows are plain text.
pub fn render(format: Format) -> Result<String, serde_json::Error> {
    let mut rows: Vec<Row> = catalogue().into_iter().map(|(collector, fact)| row(collector, fact)).collect();
    rows.sort_by_key(|row| row.name);
    match format {
        Format::Text => Ok(text(&rows)),
        Format::Json => serde_json::to_string_pretty(&rows).map(|json| json + "\n"),
        Format::Markdown => Ok(markdown(&rows)),
    }
}

fn row(collector: &'static str, fact: &'static Fact) -> Row {
    let Fact { prometheus, help, kind, unit, labels, .. } = *fact;
    Row { name: prometheus, r#type: kind, unit, labels, help, collector }
}

fn kind(row: &Row) -> &'static str {
    match row.r#type {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
    }
}

fn text(rows: &[Row]) -> String {
    rows.iter().fold(String::new(), |mut text, row| {
        let labels = row.labels.join(",");
        let unit = if row.unit.is_empty() { String::new() } else { format!(", in {}", row.unit) };
        let _ = writeln!(text, "{}{{{labels}}} {}{unit}\n    {}", row.name, kind(row), row.help);
        text
    })
}

fn markdown(rows: &[Row]) -> String {
    let head = "| metric | type | labels | what it means |\n|---|---|---|---|\n".to_owned();
    rows.iter().fold(head, |mut text, row| {
        let labels: Vec<String> = row.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", row.name, kind(row), labels.join(" "), row.help);
        text
    })
}
