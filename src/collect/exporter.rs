//! The sidecar itself: the `process_*` facts that every Prometheus client gives, and how its pushes go.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, NOTHING, Needs};
use crate::fact::{Check, Fact};
use crate::host::Host;
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::otlp::{Pushes, Reason, Told};
use crate::source::process::{Own, Processes};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// What the sidecar uses; what cannot be read is null.
#[derive(Debug, Serialize)]
pub struct Section {
    pub cpu_seconds: Option<f64>,
    pub resident_memory_bytes: Option<u64>,
    pub virtual_memory_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    pub threads: Option<u64>,
    pub started_at: Option<Timestamp>,
    /// The pushes by OTLP since the start; null if there are none.
    pub otlp: Option<Told>,
}

static CPU: Fact = Fact::counter(
    "process.cpu",
    "process_cpu_seconds_total",
    "User and system CPU time that the exporter itself has used, from /proc/self/stat.",
)
.unit("s");

static RESIDENT: Fact = Fact::gauge(
    "process.resident_memory",
    "process_resident_memory_bytes",
    "Resident memory of the exporter itself, from /proc/self/stat.",
)
.unit("By");

static VIRTUAL: Fact = Fact::gauge(
    "process.virtual_memory",
    "process_virtual_memory_bytes",
    "Virtual memory of the exporter itself, from /proc/self/stat.",
)
.unit("By");

static OPEN_FDS: Fact =
    Fact::gauge("process.open_fds", "process_open_fds", "File descriptors that the exporter itself has open.");

static MAX_FDS: Fact = Fact::gauge(
    "process.max_fds",
    "process_max_fds",
    "File descriptors that the exporter itself may have open (soft limit); absent without a limit.",
);

static STARTED: Fact = Fact::gauge(
    "process.start_time_seconds",
    "process_start_time_seconds",
    "When the exporter itself was started, in seconds since 1970.",
);

static THREADS: Fact = Fact::gauge("process.threads", "process_threads", "Threads of the exporter itself.");

static SENT: Fact = Fact::counter(
    "agenthost.otlp.sent",
    "agenthost_otlp_sent_total",
    "Pushes that the OTLP endpoint took since the exporter started; absent if nothing is pushed.",
)
.unit("{push}");

static FAILED: Fact = Fact::counter(
    "agenthost.otlp.failed",
    "agenthost_otlp_failed_total",
    "Pushes that the OTLP endpoint did not take since the exporter started: unreachable, timeout, tls, denied (401, 403), \
     refused (another status below 500), unavailable (429, 500 and above), broken (no answer of HTTP).",
)
.unit("{push}")
.of(&["reason"]);

static REJECTED: Fact = Fact::counter(
    "agenthost.otlp.rejected_points",
    "agenthost_otlp_rejected_points_total",
    "Points that the OTLP endpoint refused of pushes that it took, by its own word.",
)
.unit("{point}");

static LAST_SENT: Fact = Fact::gauge(
    "agenthost.otlp.last_sent_timestamp_seconds",
    "agenthost_otlp_last_sent_timestamp_seconds",
    "When the OTLP endpoint last took a push (Unix time); absent before the first.",
);

pub struct Exporter {
    processes: Processes,
    pushes: Pushes,
}

impl Collector for Exporter {
    const NAME: &'static str = "exporter";
    const EVERY: Duration = Duration::from_secs(15);
    const FACTS: &'static [&'static Fact] =
        &[&CPU, &RESIDENT, &VIRTUAL, &OPEN_FDS, &MAX_FDS, &STARTED, &THREADS, &SENT, &FAILED, &REJECTED, &LAST_SENT];
    const CHECKS: &'static [Check] = &[];
    const NEEDS: Needs =
        Needs { reads: "this program's own /proc", fix: "nothing is needed", costs: "nothing", opens: NOTHING };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, _host: &Host, sources: &Sources) -> Result<Option<Exporter>> {
        Ok(Some(Exporter { processes: sources.processes.clone(), pushes: sources.pushes.clone() }))
    }

    async fn collect(&mut self, _now: Now) -> Result<Section> {
        let told = self.pushes.told();
        Ok(Section { otlp: told.endpoint.is_some().then_some(told), ..self.processes.own().into() })
    }

    fn points(section: &Section, points: &mut Points) {
        let mut put = |fact, value: Option<f64>| {
            if let Some(value) = value {
                points.put(fact, [], value);
            }
        };
        put(&CPU, section.cpu_seconds);
        put(&RESIDENT, section.resident_memory_bytes.map(|bytes| bytes as f64));
        put(&VIRTUAL, section.virtual_memory_bytes.map(|bytes| bytes as f64));
        put(&OPEN_FDS, section.open_fds.map(|count| count as f64));
        put(&MAX_FDS, section.max_fds.map(|count| count as f64));
        put(&STARTED, section.started_at.map(|at| at.as_duration().as_secs_f64()));
        put(&THREADS, section.threads.map(|count| count as f64));
        section.otlp.iter().for_each(|told| pushed(told, points));
    }
}

fn pushed(told: &Told, points: &mut Points) {
    points.put(&SENT, [], told.sent as f64);
    for reason in Reason::ALL {
        points.put(&FAILED, [&reason.name().into()], told.failed.get(&reason).map_or(0.0, |count| *count as f64));
    }
    points.put(&REJECTED, [], told.rejected_points as f64);
    if let Some(at) = told.last_sent_at {
        points.put(&LAST_SENT, [], at.as_duration().as_secs_f64());
    }
}

impl From<Own> for Section {
    fn from(own: Own) -> Section {
        Section {
            cpu_seconds: own.cpu_seconds,
            resident_memory_bytes: own.resident_bytes,
            virtual_memory_bytes: own.virtual_bytes,
            open_fds: own.open_fds,
            max_fds: own.max_fds,
            threads: own.threads,
            started_at: own.started,
            otlp: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(own: Own) -> Vec<(&'static str, f64)> {
        let mut points = Points::default();
        Exporter::points(&own.into(), &mut points);
        points.0.iter().map(|point| (point.fact.prometheus, point.value.unwrap())).collect()
    }

    const NOTHING: Own = Own {
        cpu_seconds: None,
        resident_bytes: None,
        virtual_bytes: None,
        open_fds: None,
        max_fds: None,
        started: None,
        threads: None,
    };

    #[test]
    fn each_number_is_under_its_name() {
        let own = Own {
            cpu_seconds: Some(1.5),
            resident_bytes: Some(2),
            virtual_bytes: Some(3),
            open_fds: Some(4),
            max_fds: Some(5),
            started: Some("1970-01-01T00:01:40.25Z".parse().unwrap()),
            threads: Some(6),
        };
        let expected = [
            ("process_cpu_seconds_total", 1.5),
            ("process_resident_memory_bytes", 2.0),
            ("process_virtual_memory_bytes", 3.0),
            ("process_open_fds", 4.0),
            ("process_max_fds", 5.0),
            ("process_start_time_seconds", 100.25),
            ("process_threads", 6.0),
        ];
        assert_eq!(exported(own), expected);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(exported(NOTHING), []);
        assert_eq!(exported(Own { open_fds: Some(0), ..NOTHING }), [("process_open_fds", 0.0)]);
    }
}
