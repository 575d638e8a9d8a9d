//! What a process costs, as the kernel says.

use std::fmt;
use std::path::PathBuf;

/// In KiB where it is memory.
#[derive(Debug, Clone, Copy)]
pub struct Vitals {
    pub rss: u64,
    /// Of it: what is no part of a file. Pages of the program come in as they are first run, so they are no growth.
    pub anon: u64,
    /// Of that: what the allocator has taken by moving the end of the heap, in use or not.
    pub heap: u64,
    pub threads: u64,
    pub fds: usize,
}

impl Vitals {
    /// `None` if it has ended.
    pub fn of(pid: u32) -> Option<Vitals> {
        let own = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(own.join("status")).ok()?;
        let smaps = std::fs::read_to_string(own.join("smaps")).unwrap_or_default();
        Some(Vitals {
            rss: number(&status, "VmRSS:")?,
            anon: number(&status, "RssAnon:")?,
            heap: smaps.split_once("[heap]").and_then(|(_, heap)| number(heap, "Rss:")).unwrap_or(0),
            threads: number(&status, "Threads:")?,
            fds: own.join("fd").read_dir().ok()?.count(),
        })
    }
}

impl fmt::Display for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vitals { rss, anon, heap, threads, fds } = self;
        write!(f, "{rss} KiB resident, {anon} of it anonymous, {heap} of that the heap; {threads} threads, {fds} files")
    }
}

fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// The middle one.
pub fn median<T: Ord + Copy>(values: impl IntoIterator<Item = T>) -> T {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Of four quarters of what was measured one after the other, this one: 0 to 3.
pub fn quarter<T>(of: &[T], number: usize) -> &[T] {
    &of[of.len() * number / 4..of.len() * (number + 1) / 4]
}
