//! Texts: durations, moments, URLs, names, records, and what another sidecar says.

use std::path::PathBuf;

use agenthost_exporter::fact::Span;
use agenthost_exporter::health::Settings;
use agenthost_exporter::host::containers::{Names, Pattern};
use agenthost_exporter::sample::{Moment, Stamped};
use agenthost_exporter::source::http;
use agenthost_exporter::source::record::{self, Line};
use agenthost_exporter::tool::{replay, status};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::{SECRET, is_plain, keeps_secret, parts};

/// A duration agrees with a reader that knows hours to milliseconds only, and is read again as it is shown.
pub fn span(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = text.parse::<Span>();
    assert_eq!(read, text.parse(), "twice the same");
    if let Some(millis) = simple_span(text) {
        assert_eq!(read.as_ref().map(|span| span.0.as_millis()), Ok(millis), "{text}");
    }
    if let Ok(span) = read {
        let shown = span.to_string();
        let again: Span = shown.parse().unwrap_or_else(|why| panic!("{text} is shown as {shown}: {why}"));
        assert_eq!(again.0.as_millis(), span.0.as_millis(), "{text} is shown as {shown}");
        // Policies reckon with it: twice a half, three times an interval, for each of some observations.
        assert!(span.0.checked_mul(1000).is_some(), "{text}");
        let _ = agenthost_exporter::sample::Now::read().plus(span.0);
    }
}

/// `1h30m`, `15s`, `250ms`: digits and a unit, the larger before the smaller.
fn simple_span(text: &str) -> Option<u128> {
    let (mut rest, mut sum) = (text, 0);
    for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let Some(after) = rest[digits..].strip_prefix(unit).filter(|_| (1..=7).contains(&digits)) else { continue };
        if unit == "m" && after.starts_with('s') {
            continue;
        }
        sum += rest[..digits].parse::<u128>().ok()? * millis;
        rest = after;
    }
    (rest.is_empty() && !text.is_empty()).then_some(sum)
}

/// A moment of a host's database agrees with jiff; what has the shape and is a moment to jiff is one; and it is read again as
/// it is shown.
pub fn stamp(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = text.parse::<Stamped>();
    let moment = Moment::read(Some(text));
    assert_eq!(moment.at(), read.ok().map(|stamped| stamped.at));
    assert_eq!(moment.is_unreadable(), read.is_err(), "nothing that is there is absent");
    let oracle = |naive: bool| match naive {
        true => text.parse::<DateTime>().ok().and_then(|at| Offset::UTC.to_timestamp(at).ok()),
        false => text.parse::<Timestamp>().ok(),
    };
    match (read, shaped(text)) {
        (Ok(stamped), Some(naive)) => {
            assert_eq!((stamped.naive, Some(stamped.at)), (naive, oracle(naive)), "{text}");
            let shown = stamped.at.to_string();
            if !shown.starts_with('-') {
                assert_eq!(shown.parse::<Stamped>().map(|again| again.at), Ok(stamped.at), "{text}");
            }
        }
        (Ok(_), None) => panic!("{text} has not the shape"),
        (Err(_), Some(naive)) => assert_eq!(oracle(naive).filter(|_| !text.contains(":60")), None, "{text}"),
        (Err(_), None) => {}
    }
}

/// Whether it has the shape that is taken, and then whether it has no offset.
fn shaped(text: &str) -> Option<bool> {
    let mask = "dddd-dd-ddTdd:dd:dd";
    let fits = |(letter, wanted): (u8, u8)| match wanted {
        b'd' => letter.is_ascii_digit(),
        b'T' => letter == b'T' || letter == b' ',
        wanted => letter == wanted,
    };
    let (head, rest) = text.split_at_checked(mask.len())?;
    let rest = match rest.strip_prefix('.') {
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            (1..=9).contains(&digits).then(|| &rest[digits..])?
        }
        None => rest,
    };
    let offset = match rest.as_bytes() {
        b"" => Some(true),
        b"Z" => Some(false),
        [b'+' | b'-', h, i, b':', m, n] => {
            let digits = [h, i, m, n].iter().all(|byte| byte.is_ascii_digit());
            (digits && (*h < b'2' || *h == b'2' && *i < b'4')).then_some(false)
        }
        _ => None,
    }?;
    let spaced = head.as_bytes()[10] == b' ' && !offset;
    (head.bytes().zip(mask.bytes()).all(fits) && !spaced).then_some(offset)
}

/// The base of a URL is its own base, leads to a port, and has no place for a key; what is refused names no password and no
/// query.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let base = http::base(text).map_err(|error| error.to_string());
    assert_eq!(base, http::base(text).map_err(|error| error.to_string()));
    if let Ok(base) = &base {
        assert_eq!(http::base(base).ok().as_ref(), Some(base), "{text}");
        assert!(http::port(base).is_some() && !base.ends_with('/'), "{base}");
        assert!(!base.contains(['?', '#']), "{base}");
        http::check(text).unwrap_or_else(|error| panic!("{text} is a base and no URL: {error}"));
        let authority = base.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
        assert!(!authority.contains('@'), "{base}");
    }
    let telling = [text.replacen('@', &format!(":{SECRET}@"), 1), text.replacen('?', &format!("?key={SECRET}&"), 1)];
    for telling in &telling {
        for error in [http::base(telling).err(), http::check(telling).err()].into_iter().flatten() {
            keeps_secret(&format!("{error:#}"));
        }
    }
}

/// A pattern takes what a slow reader of it takes; a name that is classified might be the host's, and has a beginning that
/// Docker is asked for; a group is a part of the name.
pub fn container_name(data: &[u8]) {
    let [pattern, name, image] = parts(data).map(String::from_utf8_lossy);
    let known = Names::pynchy();
    let pattern = pattern.parse::<Pattern>();
    if let Ok(parsed) = &pattern {
        let own = Names::default().with_agents(std::slice::from_ref(parsed));
        holds(&own, &name, None);
        holds(&own.clone().with_agents(&[]), &name, Some(&image));
        let pattern = String::from_utf8_lossy(parts::<3>(data)[0]).into_owned();
        if !pattern.contains('{') && name.is_ascii() && pattern.len() * name.len() < 10_000 {
            assert_eq!(own.might_be(&name), globs(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        holds(&known.clone().with_agents(std::slice::from_ref(parsed)), &name, Some(&image));
    }
    holds(&known, &name, Some(&image));
}

fn holds(names: &Names, name: &str, image: Option<&str>) {
    let member = names.classify(name, image);
    if let Some(member) = member {
        assert!(names.might_be(name), "{name}");
        assert!(name.contains(&*member.group) && !member.group.is_empty(), "{name}: {member:?}");
    }
    if names.might_be(name) {
        assert!(names.beginnings().iter().any(|beginning| name.starts_with(beginning)), "{name}");
    }
}

/// `*` alone is more than itself.
fn globs(pattern: &[u8], name: &[u8]) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for &part in pattern {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            if part == b'*' {
                next[at] = reached[at] || at > 0 && next[at - 1];
            } else {
                next[at] = at > 0 && reached[at - 1] && name[at - 1] == part;
            }
        }
        reached = next;
    }
    reached[name.len()]
}

/// Nothing that another sidecar says moves a cursor, and no line is longer than it may be.
pub fn status_page(data: &[u8]) {
    let Some((&how, text)) = data.split_first() else { return };
    let Ok(said) = serde_json::from_slice::<serde_json::Value>(text) else { return };
    let now: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
    let width = (how & 1 == 1).then(|| 1 + usize::from(how >> 1));
    let page = status::page(&said, now, false, width);
    is_plain(&page);
    assert_eq!(page, status::page(&said, now, false, width));
    for line in page.lines().filter(|_| width.is_some()) {
        assert!(line.chars().count() <= width.unwrap_or(0), "{line}");
    }
    let mut coloured = status::page(&said, now, true, None);
    for code in ["\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[1;31m", "\x1b[35m", "\x1b[0m"] {
        coloured = coloured.replace(code, "");
    }
    assert_eq!(coloured, status::page(&said, now, false, None), "colours apart the same");
}

/// A line of a record is written as it was read; no fact that is missing has a value.
pub fn record(data: &[u8]) {
    let Ok(line) = record::parse(data) else { return };
    let written = serde_json::to_vec(&line).unwrap();
    let again =
        record::parse(&written).unwrap_or_else(|why| panic!("{why:?} in {}", String::from_utf8_lossy(&written)));
    assert_eq!(settled(again), settled(line));
}

/// A duration is shown in milliseconds; an empty list of places is none.
fn settled(mut line: Line) -> Line {
    if let Line::Header(header) = &mut line {
        for one in &mut header.collectors {
            (one.interval, one.timeout) = (whole(one.interval), whole(one.timeout));
        }
    }
    line
}

fn whole(span: Span) -> Span {
    Span(std::time::Duration::from_millis(span.0.as_millis() as u64))
}

/// Two replays of a record are the same, and come to an end; what they print moves no cursor.
pub fn replay(data: &[u8]) {
    let folder = super::files::folder();
    let file = folder.join("record");
    std::fs::write(&file, data).unwrap();
    let files: [PathBuf; 1] = [file];
    let run = || {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let broken =
            replay::run(&Settings::default(), &files, &mut out, &mut err).map_err(|error| format!("{error:#}"));
        (broken, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let (broken, out, err) = run();
    assert_eq!(run(), (broken, out.clone(), err));
    is_plain(&out);
}
