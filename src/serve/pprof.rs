//! `/debug/pprof/`: where this program itself spends its time and its memory, in the form that `go tool pprof` reads.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::ALLOW;
use hyper::{Method, Request, StatusCode};

use crate::show::{self, Answer};
use crate::source::return_memory;

const FOLDER: &str = "/debug/pprof/";

/// Samples each second of CPU time; no multiple of what else happens each second.
const FREQUENCY: i32 = 99;
/// As Go has it.
const SECONDS: u64 = 30;
const LONGEST: u64 = 300;

/// A sample taken in one of these is not unwound: it may hold a lock that unwinding needs.
const UNREAD: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

const INDEX: &str = "\
Profiles of agenthost-exporter itself, for `go tool pprof`.

/debug/pprof/profile?seconds=30              CPU time, sampled 99 times a second for 1 to 300 seconds
/debug/pprof/profile?seconds=30&format=svg   the same as a flame graph
/debug/pprof/heap                            live memory, in builds with the feature heap-profile

One CPU profile at a time; the next is told 409. While one is taken it costs about 2 % of what it measures. The first one takes
about 170 MB of memory, of which about 70 MB stay until a restart.
";

/// What of a profile is wanted.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    seconds: u64,
    svg: bool,
}

/// Whether a path is of this folder.
pub fn is_below(path: &str) -> bool {
    path == FOLDER.trim_end_matches('/') || path.starts_with(FOLDER)
}

/// Answers one request; a profile takes as long as it is asked to.
pub async fn answer<B>(request: &Request<B>) -> Answer {
    let place = request.uri().path().strip_prefix(FOLDER);
    let is_index = place.is_none_or(str::is_empty);
    match *request.method() {
        Method::GET => {}
        Method::HEAD if is_index => {}
        _ if is_index => {
            return show::with(show::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"), ALLOW, "GET, HEAD");
        }
        // A profile is taken for whoever reads it.
        _ => return show::with(show::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"), ALLOW, "GET"),
    }
    match place {
        None | Some("") => show::text(StatusCode::OK, INDEX),
        Some("profile") => match Wanted::of(request.uri().query()) {
            Ok(wanted) => profile(wanted).await,
            Err(why) => show::text(StatusCode::BAD_REQUEST, why),
        },
        Some("heap" | "allocs") => heap().await,
        Some(_) => show::text(StatusCode::NOT_FOUND, "no such profile: see /debug/pprof/\n"),
    }
}

impl Wanted {
    fn of(query: Option<&str>) -> Result<Wanted, &'static str> {
        let mut wanted = Wanted { seconds: SECONDS, svg: false };
        for pair in query.unwrap_or_default().split('&') {
            match pair.split_once('=') {
                Some(("seconds", seconds)) => wanted.seconds = seconds.parse().unwrap_or(0),
                Some(("format", "svg")) => wanted.svg = true,
                Some(("format", "pprof" | "proto")) => wanted.svg = false,
                Some(("format", _)) => return Err("format: pprof or svg\n"),
                _ => {}
            }
        }
        let fits = (1..=LONGEST).contains(&wanted.seconds);
        fits.then_some(wanted).ok_or("seconds: a whole number from 1 to 300\n")
    }
}

async fn profile(wanted: Wanted) -> Answer {
    let guard = match pprof::ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&UNREAD).build() {
        Ok(guard) => guard,
        Err(pprof::Error::Running) => {
            return show::text(StatusCode::CONFLICT, "a profile is being taken: come again\n");
        }
        Err(error) => return failed(&error.to_string()),
    };
    tracing::info!(seconds = wanted.seconds, "taking a CPU profile");
    tokio::time::sleep(Duration::from_secs(wanted.seconds)).await;
    // Names take a while to be found.
    let telling = move || {
        let _letting_go = LettingGo; // dropped last, after the guard
        let guard = guard;
        tell(&guard, wanted.svg)
    };
    let told = tokio::task::spawn_blocking(telling).await;
    match told {
        Ok(Ok(body)) if wanted.svg => show::file("image/svg+xml", "profile.svg", body),
        Ok(Ok(body)) => show::file("application/octet-stream", "profile.pb.gz", body),
        Ok(Err(error)) => failed(&error.to_string()),
        Err(error) => failed(&error.to_string()),
    }
}

/// Gives back the memory that a profile took, as far as the library holds on to nothing.
struct LettingGo;

impl Drop for LettingGo {
    fn drop(&mut self) {
        backtrace::clear_symbol_cache();
        return_memory();
    }
}

fn tell(guard: &pprof::ProfilerGuard<'_>, svg: bool) -> anyhow::Result<Bytes> {
    use pprof::protos::Message;
    let report = guard.report().build()?;
    let mut body = Vec::new();
    if svg {
        report.flamegraph(&mut body)?;
        return Ok(body.into());
    }
    report.pprof()?.encode(&mut body)?;
    let mut packing = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packing, &body)?;
    Ok(packing.finish()?.into())
}

fn failed(error: &str) -> Answer {
    tracing::error!(error, "cannot take a profile");
    show::text(StatusCode::INTERNAL_SERVER_ERROR, "no profile could be taken: the log says why\n")
}

/// Begins to sample who takes memory, where this build can.
///
/// # Errors
/// The allocator refuses.
#[cfg(feature = "heap-profile")]
pub async fn begin() -> anyhow::Result<()> {
    match jemalloc_pprof::PROF_CTL.as_ref() {
        Some(control) => Ok(control.lock().await.activate()?),
        None => Ok(()),
    }
}

#[cfg(not(feature = "heap-profile"))]
pub async fn begin() -> anyhow::Result<()> {
    Ok(())
}

/// What is held now of what was taken since the start.
#[cfg(feature = "heap-profile")]
async fn heap() -> Answer {
    let Some(control) = jemalloc_pprof::PROF_CTL.as_ref() else {
        return show::text(StatusCode::NOT_IMPLEMENTED, "the allocator was started without profiling\n");
    };
    let mut control = control.lock().await;
    let dumping = move || {
        let _letting_go = LettingGo;
        control.dump_pprof()
    };
    match tokio::task::spawn_blocking(dumping).await {
        Ok(Ok(body)) => show::file("application/octet-stream", "heap.pb.gz", body.into()),
        Ok(Err(error)) => failed(&error.to_string()),
        Err(error) => failed(&error.to_string()),
    }
}

#[cfg(not(feature = "heap-profile"))]
async fn heap() -> Answer {
    let why = "this build cannot: build it with `--features heap-profile`, which takes another allocator\n";
    show::text(StatusCode::NOT_IMPLEMENTED, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_bounded() {
        let wanted = |query| Wanted::of(Some(query));
        assert_eq!(Wanted::of(None), Ok(Wanted { seconds: 30, svg: false }));
        assert_eq!(wanted("seconds=5&format=svg"), Ok(Wanted { seconds: 5, svg: true }));
        for bad in ["seconds=0", "seconds=301", "seconds=-1", "seconds=x", "seconds=", "format=text"] {
            assert!(wanted(bad).is_err(), "{bad}");
        }
    }
}
