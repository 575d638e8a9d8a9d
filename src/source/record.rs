//! The record of what was seen: a file of JSON lines, written by a thread of its own, and read again by a replay.
//!
//! It is of us and not of the outside world; it stands here because nothing else touches files. Whoever records only
//! hands over: a disk that is full, slow or hung loses lines and delays nobody.
//!
//! A header comes first: format, version, and the collectors with their pace. Then a line for each reading, with every
//! fact that a check can be made on and nothing else. Another header stands where a sidecar began anew, and at the head
//! of the file that follows a full one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};

use crate::fact::Span;
use crate::sample::{Cause, Now, Points, Reading};

/// Of the file; it grows when an old reader could not read a new file right.
pub const FORMAT: u32 = 1;

/// A file of this size is set aside as `<file>.1`, in the place of an earlier one.
const FULL: u64 = 64 * 1024 * 1024;

/// Lines that may wait for the disk. Each holds on to a whole reading.
const WAITING: usize = 128;

/// The river looks at the clock every second. Of a longer pause than this the record tells.
const PAUSE: Duration = Duration::from_secs(5);

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum Line {
    Header(Header),
    Reading(Looked),
    Pause(Pause),
    /// So many lines are missing here.
    Lost {
        count: u64,
    },
}

/// What a file begins with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    pub version: String,
    pub mono: Micros,
    pub wall: Timestamp,
    pub collectors: Vec<Paced>,
}

/// One collector that ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paced {
    pub name: String,
    pub interval: Span,
    pub timeout: Span,
}

/// One reading, at the moment at which it was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Looked {
    pub collector: String,
    pub mono: Micros,
    pub wall: Timestamp,
    /// Why nothing was seen, if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Cause>,
    pub facts: BTreeMap<String, Vec<Value>>,
    /// Which of the facts, by place, no check judges by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub excused: BTreeMap<String, Vec<usize>>,
    /// The same of what could not be seen for want of a right.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<String, Vec<usize>>,
}

/// The values of the labels, and the fact's; without one: listed, but not seen.
pub type Value = (Vec<Arc<str>>, Option<f64>);

/// Nobody watched for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    pub from: Micros,
    pub mono: Micros,
    pub wall: Timestamp,
}

/// The monotonic clock in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Micros(pub u64);

impl From<Now> for Micros {
    fn from(now: Now) -> Micros {
        Micros(u64::try_from(now.mono.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Milliseconds are enough to show.
fn wall(now: Now) -> Timestamp {
    now.wall.round(Unit::Millisecond).unwrap_or(now.wall)
}

impl Header {
    /// `collectors`: name, interval and time-out.
    pub fn new(
        now: Now,
        version: &str,
        collectors: impl Iterator<Item = (&'static str, Duration, Duration)>,
    ) -> Header {
        let paced = |(name, interval, timeout)| Paced {
            name: String::from(name),
            interval: Span(interval),
            timeout: Span(timeout),
        };
        Header {
            format: FORMAT,
            version: version.into(),
            mono: now.into(),
            wall: wall(now),
            collectors: collectors.map(paced).collect(),
        }
    }
}

impl Looked {
    /// What of a reading is recorded. An infinite value is written as unknown: JSON has no other word for it.
    pub fn new(now: Now, reading: &Reading) -> Looked {
        let failed = reading.outcome.as_ref().err().map(|failure| failure.cause);
        let (facts, excused, denied) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let collector = reading.collector.into();
        let mut looked = Looked { collector, mono: now.into(), wall: wall(now), failed, facts, excused, denied };
        reading.outcome.iter().for_each(|sample| looked.add(&sample.points));
        looked.add(&reading.own);
        looked
    }

    fn add(&mut self, points: &Points) {
        for point in points.0.iter().filter(|point| point.fact.can_be_judged()) {
            let value = (point.labels.clone(), point.value.filter(|value| value.is_finite()));
            let values = self.facts.entry(point.fact.prometheus.into()).or_default();
            let places = match point.withheld {
                None | Some(Cause::Unanswered) => None,
                Some(Cause::Excused) => Some(&mut self.excused),
                Some(Cause::Denied) => Some(&mut self.denied),
            };
            if let Some(places) = places {
                places.entry(point.fact.prometheus.into()).or_default().push(values.len());
            }
            values.push(value);
        }
    }

    /// Why no check judges by the value at this place, if none does.
    pub fn withheld(&self, fact: &str, place: usize) -> Option<Cause> {
        let has = |places: &BTreeMap<String, Vec<usize>>| places.get(fact).is_some_and(|all| all.contains(&place));
        let causes = [(&self.excused, Cause::Excused), (&self.denied, Cause::Denied)];
        causes.into_iter().find_map(|(places, cause)| has(places).then_some(cause))
    }
}

/// What the river hands over to the thread that writes.
enum Entry {
    Reading(Now, Arc<Reading>),
    Pause(Now, Now),
    Lost(u64),
    Header(Header),
}

/// The river's end of the record. Nothing here waits.
pub struct Recorder {
    queue: SyncSender<Entry>,
    lost: u64,
    warned: bool,
    /// When the river last turned.
    beat: Option<Now>,
}

impl Recorder {
    /// Appends to a file, from a thread of its own.
    ///
    /// # Errors
    /// The file cannot be opened for appending; the message names it.
    pub fn start(path: &Path, header: Header) -> Result<Recorder> {
        let tape = Tape::open(path, FULL, header)?;
        let (queue, entries) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("record".into())
            .spawn(move || tape.run(&entries))
            .context("start a thread")?;
        Ok(Recorder::into(queue))
    }

    fn into(queue: SyncSender<Entry>) -> Recorder {
        Recorder { queue, lost: 0, warned: false, beat: None }
    }

    /// The river turns: tells of it if it had not for a while.
    pub fn beat(&mut self, now: Now) {
        match self.beat.replace(now) {
            Some(before) if now.mono.saturating_sub(before.mono) > PAUSE => self.hand_over(Entry::Pause(before, now)),
            _ => {}
        }
    }

    /// A reading has come.
    pub fn take(&mut self, now: Now, reading: &Arc<Reading>) {
        self.beat(now);
        self.hand_over(Entry::Reading(now, reading.clone()));
    }

    /// Others run from now on, or at another pace.
    pub fn paced(&mut self, header: Header) {
        self.hand_over(Entry::Header(header));
    }

    fn hand_over(&mut self, entry: Entry) {
        if self.lost > 0 && self.queue.try_send(Entry::Lost(self.lost)).is_ok() {
            self.lost = 0;
        }
        if self.queue.try_send(entry).is_err() {
            self.lost += 1;
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!("the record's disk is too slow or has stopped: lines are lost");
            }
        }
    }
}

/// The file, and what went wrong with it.
struct Tape {
    path: PathBuf,
    file: File,
    size: u64,
    full: u64,
    header: Header,
    /// The header stands in the file.
    headed: bool,
    /// Lines that could not be written since the last that could.
    lost: u64,
    failing: bool,
}

impl Tape {
    fn open(path: &Path, full: u64, header: Header) -> Result<Tape> {
        let naming = || format!("record to {}", path.display());
        if path.metadata().is_ok_and(|meta| meta.file_type().is_fifo()) {
            bail!("{}: it is a pipe, which would block", naming());
        }
        if !begins_a_record(path).with_context(naming)? {
            bail!("{}: it is a file of something else, which would be spoiled", naming());
        }
        let (file, size) = open(path).with_context(naming)?;
        let path = path.to_owned();
        let mut tape = Tape { path, file, size, full, header, headed: false, lost: 0, failing: false };
        let headed = tape.head();
        tape.tell(headed);
        Ok(tape)
    }

    /// Until nobody hands over any more.
    fn run(mut self, entries: &Receiver<Entry>) {
        while let Ok(entry) = entries.recv() {
            self.take(entry);
        }
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Reading(now, reading) => {
                self.turn_if_full(now);
                self.put(&Line::Reading(Looked::new(now, &reading)));
            }
            Entry::Pause(from, now) => {
                self.put(&Line::Pause(Pause { from: from.into(), mono: now.into(), wall: wall(now) }));
            }
            Entry::Lost(count) => self.put(&Line::Lost { count }),
            Entry::Header(header) if header.collectors == self.header.collectors => {}
            Entry::Header(header) => {
                (self.header, self.headed) = (header, false);
                let headed = self.head();
                self.tell(headed);
            }
        }
    }

    fn put(&mut self, line: &Line) {
        let written = self.head().and_then(|()| self.own_up()).and_then(|()| self.append(line));
        self.lost += u64::from(written.is_err());
        self.tell(written);
    }

    /// Writes the header, if the file has not got it yet.
    fn head(&mut self) -> io::Result<()> {
        if !self.headed {
            self.append(&Line::Header(self.header.clone()))?;
            self.headed = true;
        }
        Ok(())
    }

    /// Says how many lines are missing.
    fn own_up(&mut self) -> io::Result<()> {
        if self.lost > 0 {
            self.append(&Line::Lost { count: self.lost })?;
            self.lost = 0;
        }
        Ok(())
    }

    /// One line in the log per change.
    fn tell(&mut self, written: io::Result<()>) {
        let failing = std::mem::replace(&mut self.failing, written.is_err());
        match written {
            Err(error) if !failing => {
                tracing::warn!(file = %self.path.display(), %error, "cannot record: lines are lost");
            }
            Ok(()) if failing => tracing::info!(file = %self.path.display(), "records again"),
            _ => {}
        }
    }

    /// A line that went in by half is taken out again.
    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let written = self.file.write_all(&text);
        match &written {
            Ok(()) => self.size += text.len() as u64,
            Err(_) => drop(self.file.set_len(self.size)),
        }
        written
    }

    fn turn_if_full(&mut self, now: Now) {
        if self.size < self.full {
            return;
        }
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        let opened = std::fs::rename(&self.path, &aside).and_then(|()| open(&self.path));
        match opened {
            Ok((file, size)) => {
                (self.file, self.size, self.headed) = (file, size, false);
                (self.header.mono, self.header.wall) = (now.into(), wall(now));
            }
            // The full one goes on growing: better than to lose all of it.
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "cannot set the full record aside");
                self.full = self.full.saturating_mul(2);
            }
        }
    }
}

/// Whether a file is one of ours to go on with: its first line is a header. One that is missing or empty is.
fn begins_a_record(path: &Path) -> io::Result<bool> {
    const LONGEST: u64 = 1 << 20;
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return Ok(true); // a device keeps nothing that could be spoiled
    }
    let mut line = Vec::new();
    BufReader::new(file.take(LONGEST)).read_until(b'\n', &mut line)?;
    Ok(line.is_empty() || matches!(parse(line.trim_ascii_end()), Ok(Line::Header(_)) | Err(Unreadable::Newer(_))))
}

/// Opens for appending, for nobody else to read. A line that a killed sidecar left unfinished is ended.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

/// Why a line cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is skipped.
    Broken(String),
    /// Nothing behind it can be trusted: it is of a later format than ours.
    Newer(u32),
}

/// Every line of a file with its number.
///
/// # Errors
/// The file cannot be opened. An item is an error if it cannot be read.
pub fn read(path: &Path) -> Result<impl Iterator<Item = io::Result<(u64, Result<Line, Unreadable>)>>> {
    let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    let lines = BufReader::new(file).split(b'\n');
    Ok((1..).zip(lines).map(|(number, line)| Ok((number, parse(&line?)))))
}

/// Reads one line.
///
/// # Errors
/// It is none of a record, or of a later format.
pub fn parse(line: &[u8]) -> Result<Line, Unreadable> {
    /// All of a header that must stay the same in every format to come.
    #[derive(Deserialize)]
    struct Marked {
        format: u32,
    }
    match serde_json::from_slice(line) {
        Ok(Line::Header(Header { format, .. })) if format > FORMAT => Err(Unreadable::Newer(format)),
        Ok(line) => Ok(line),
        Err(error) => match serde_json::from_slice(line) {
            Ok(Marked { format }) if format > FORMAT => Err(Unreadable::Newer(format)),
            _ => Err(Unreadable::Broken(error.to_string())),
        },
    }
}

#[cfg(test)]
mod tests;
