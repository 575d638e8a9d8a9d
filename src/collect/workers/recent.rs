//! What each worker used in the latest looks: a line for the page to draw (`/status/workers/recent`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::to_raw_value;

use crate::sample::Details;

/// So many looks are kept of each: ten minutes at the default pace.
const LOOKS: usize = 40;

/// What one look has seen of one worker.
pub struct Used {
    /// Its pid or its container.
    pub id: Arc<str>,
    /// Another process with the same pid has another start; containers have none.
    pub started: Option<Duration>,
    pub cpu_percent: Option<f64>,
    pub rss_bytes: Option<u64>,
}

/// The lines of all workers that are there, by pid or container.
#[derive(Debug, Default)]
pub struct Recent {
    lines: BTreeMap<Arc<str>, Line>,
}

/// Oldest first. Null is what that look could not tell.
#[derive(Debug, Default, Serialize)]
struct Line {
    cpu_percent: VecDeque<Option<f32>>,
    rss_bytes: VecDeque<Option<u64>>,
    #[serde(skip)]
    started: Option<Duration>,
}

#[derive(Serialize)]
struct Shown<'a> {
    processes: &'a BTreeMap<Arc<str>, Line>,
}

impl Recent {
    /// Adds what a look has seen of all that are there, and forgets the others.
    pub fn note(&mut self, seen: impl Iterator<Item = Used>) {
        let mut before = std::mem::take(&mut self.lines);
        for used in seen {
            let line = before.remove(&used.id).filter(|line| line.started == used.started);
            let mut line = line.unwrap_or_else(|| Line { started: used.started, ..Line::default() });
            line.add(&used);
            self.lines.insert(used.id, line);
        }
    }

    pub fn details(&self) -> Details {
        let shown = to_raw_value(&Shown { processes: &self.lines });
        shown.map(|shown| BTreeMap::from([("recent".into(), shown.into())])).unwrap_or_default().into()
    }
}

impl Line {
    fn add(&mut self, used: &Used) {
        if self.cpu_percent.len() == LOOKS {
            self.cpu_percent.pop_front();
            self.rss_bytes.pop_front();
        }
        // A tenth is as fine as the kernel counts within a look.
        self.cpu_percent.push_back(used.cpu_percent.map(|percent| (percent * 10.0).round() as f32 / 10.0));
        self.rss_bytes.push_back(used.rss_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lined(looks: &[(u64, Option<f64>, u64)]) -> Recent {
        let mut recent = Recent::default();
        for &(started, cpu_percent, rss) in looks {
            let started = Some(Duration::from_secs(started));
            recent.note([Used { id: "7".into(), started, cpu_percent, rss_bytes: Some(rss) }].into_iter());
        }
        recent
    }

    fn shown(recent: &Recent) -> String {
        recent.details()["recent"].get().to_owned()
    }

    #[test]
    fn a_line_keeps_its_order_and_its_gaps() {
        let recent = lined(&[(1, None, 10), (1, Some(1.26), 20)]);
        assert_eq!(shown(&recent), r#"{"processes":{"7":{"cpu_percent":[null,1.3],"rss_bytes":[10,20]}}}"#);
    }

    #[test]
    fn another_process_of_the_same_pid_begins_another_line() {
        assert_eq!(
            shown(&lined(&[(1, Some(9.0), 10), (2, None, 20)])),
            r#"{"processes":{"7":{"cpu_percent":[null],"rss_bytes":[20]}}}"#
        );
    }

    #[test]
    fn a_line_is_bounded_and_goes_with_its_worker() {
        let looks: Vec<_> = (0..LOOKS as u64 + 5).map(|i| (1, None, i)).collect();
        let mut recent = lined(&looks);
        assert_eq!(recent.lines["7"].rss_bytes.len(), LOOKS);
        assert_eq!(recent.lines["7"].rss_bytes[0], Some(5));
        recent.note(std::iter::empty());
        assert_eq!(shown(&recent), r#"{"processes":{}}"#);
    }
}
