//! The table at the end: ours, what stands beside it, and what was aimed at.

use std::sync::Mutex;

/// What the ratio of ours to theirs should be.
#[derive(Clone, Copy)]
pub enum Aim {
    AtMost(f64),
    AtLeast(f64),
    Nothing,
}

struct Row {
    what: String,
    ours: f64,
    beside: String,
    theirs: f64,
    unit: &'static str,
    aim: Aim,
}

static ROWS: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// One more row, printed at the end.
pub fn row(what: impl Into<String>, ours: f64, unit: &'static str, beside: impl Into<String>, theirs: f64, aim: Aim) {
    let row = Row { what: what.into(), ours, beside: beside.into(), theirs, unit, aim };
    ROWS.lock().expect("nobody panicked").push(row);
}

/// The table in Markdown, as the README has it.
pub fn print() {
    let rows = ROWS.lock().expect("nobody panicked");
    if rows.is_empty() {
        return;
    }
    println!("\n| what | agenthost-exporter | beside it | | ratio | aimed at |\n|---|--:|---|--:|--:|--:|");
    rows.iter().for_each(|row| println!("{}", line(row)));
}

fn line(row: &Row) -> String {
    let Row { what, ours, beside, theirs, unit, aim } = row;
    let ratio = ours / theirs;
    let (aim, met) = match *aim {
        Aim::AtMost(most) => (format!("at most {most}"), ratio <= most),
        Aim::AtLeast(least) => (format!("at least {least}"), ratio >= least),
        Aim::Nothing => (String::new(), true),
    };
    let missed = if met { "" } else { ", missed" };
    let [ours, theirs] = [ours, theirs].map(|value| format!("{} {unit}", figures(*value)));
    format!("| {what} | {ours} | {beside} | {theirs} | {ratio:.2} | {aim}{missed} |")
}

/// Three figures of it, more of a thousand.
fn figures(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
