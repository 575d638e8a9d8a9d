//! A row of the matrix: what was broken, and what was said of it. And the page `tests/faults.md`, on which all rows stand.
//!
//! The page is kept as goldens are: what a test saw must be what stands there, but for the measured column, and
//! `UPDATE=1 cargo test --test faults` writes it anew. A row that was not played this time stays as it is.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

/// One fault of one part. All but `seen` is the same in every run.
#[derive(Debug, Clone)]
pub struct Row {
    pub part: &'static str,
    pub fault: &'static str,
    /// How, in a few words; with part and fault it names the row.
    pub injected: &'static str,
    /// Samples until it was seen, as measured; `None` if it is nothing that can be counted in samples.
    pub seen: Option<u32>,
    /// Samples that are promised.
    pub within: u32,
    /// Code, and what it names.
    pub readyz: String,
    pub metric: String,
    pub page: String,
    pub alert: String,
    pub clears: String,
    /// What stayed fresh meanwhile.
    pub fresh: String,
}

const COLUMNS: [&str; 11] = [
    "part",
    "fault",
    "injected by",
    "seen after",
    "at most",
    "`/readyz`",
    "metric",
    "page",
    "alert",
    "clears",
    "meanwhile",
];

/// The measured one.
const SEEN: usize = 3;

impl Row {
    fn cells(&self) -> Vec<String> {
        let samples = |count: Option<u32>| count.map_or("–".to_owned(), |count| count.to_string());
        let within = (self.within > 0).then_some(self.within);
        let own = [self.part, self.fault, self.injected].map(str::to_owned);
        let said = [&self.readyz, &self.metric, &self.page, &self.alert, &self.clears, &self.fresh].map(Clone::clone);
        own.into_iter()
            .chain([samples(self.seen), samples(within)])
            .chain(said)
            .map(|cell| cell.replace('|', "/"))
            .collect()
    }
}

/// What names a row: its part, its fault, and how that is injected.
pub type Key<'a> = [&'a str; 3];

/// The rows as a table of Markdown.
pub fn table(rows: &[Row]) -> String {
    tabled(&rows.iter().map(Row::cells).collect::<Vec<_>>())
}

fn tabled(rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head = COLUMNS.map(str::to_owned);
    let rule = COLUMNS.map(|_| "---".to_owned());
    [line(&head), line(&rule)].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}

/// Prints the rows and holds them to those that stand under this heading of the page, of which `all` there are.
pub fn keep(heading: &str, all: &[Key<'_>], played: &[Row]) {
    static PAGE: Mutex<()> = Mutex::new(());
    let _alone = PAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("{heading}\n\n{}", table(played));
    let page = std::fs::read_to_string(path()).unwrap_or_default();
    let known = section(&page, heading);
    let now: Vec<_> = all.iter().filter_map(|key| cells_of(played, key).or_else(|| standing(&known, key))).collect();
    if std::env::var_os("UPDATE").is_some() {
        return std::fs::write(path(), with_section(&page, heading, &tabled(&now))).unwrap();
    }
    let mut wrong = String::new();
    for key in all {
        let (now, known) = (cells_of(played, key), standing(&known, key));
        match (now.map(stable), known.map(stable)) {
            (Some(now), Some(known)) => different(&mut wrong, key, &now, &known),
            (_, None) => wrong += &format!("{key:?} does not stand there\n"),
            (None, Some(_)) => {}
        }
    }
    let gone = known.iter().filter(|row| !all.iter().any(|key| row.starts_with(&key.map(str::to_owned))));
    for row in gone {
        let _ = writeln!(wrong, "{:?} is no row any more", &row[..3]);
    }
    assert!(wrong.is_empty(), "tests/faults.md says otherwise (UPDATE=1 accepts it):\n{wrong}");
}

fn different(wrong: &mut String, key: &Key<'_>, now: &[String], known: &[String]) {
    for ((now, known), column) in now.iter().zip(known).zip(COLUMNS).filter(|((now, known), _)| now != known) {
        let _ = writeln!(wrong, "{key:?}, {column}:\n  was: {known}\n  is:  {now}");
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/faults.md")
}

fn cells_of(rows: &[Row], key: &Key<'_>) -> Option<Vec<String>> {
    rows.iter().find(|row| [row.part, row.fault, row.injected] == *key).map(Row::cells)
}

fn standing(rows: &[Vec<String>], key: &Key<'_>) -> Option<Vec<String>> {
    rows.iter().find(|row| row.starts_with(&key.map(str::to_owned))).cloned()
}

/// What was measured may differ from run to run.
fn stable(mut cells: Vec<String>) -> Vec<String> {
    cells[SEEN].clear();
    cells
}

/// The rows that stand under a heading.
fn section(page: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = page.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
    let rows = lines.filter(|line| line.starts_with("| ")).skip(2);
    rows.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The page with this table under the heading, and all else as it is; a new heading comes last.
fn with_section(page: &str, heading: &str, table: &str) -> String {
    let page = if page.contains(heading) { page.to_owned() } else { format!("{page}\n{heading}\n\n") };
    let (before, rest) = page.split_once(&format!("{heading}\n")).unwrap_or((&page, ""));
    let text: String =
        rest.lines().take_while(|line| !line.starts_with(['|', '#'])).map(|line| format!("{line}\n")).collect();
    let after = rest.find("\n## ").map_or("", |at| &rest[at..]);
    format!("{before}{heading}\n{text}{table}{after}")
}
