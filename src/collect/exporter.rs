//! The sidecar itself: the `process_*` facts that every Prometheus client gives.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::fact::{Check, Fact};
use crate::host::Host;
use crate::sample::{Now, Points};
use crate::source::Sources;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

#[derive(Debug, Serialize)]
pub struct Section {}

pub struct Exporter {}

impl Collector for Exporter {
    const NAME: &'static str = "exporter";
    const EVERY: Duration = Duration::from_secs(15);
    const FACTS: &'static [&'static Fact] = &[];
    const CHECKS: &'static [Check] = &[];
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, _host: &Host, _sources: &Sources) -> Result<Option<Exporter>> {
        Ok(Some(Exporter {}))
    }

    async fn collect(&mut self, _now: Now) -> Result<Section> {
        Ok(Section {})
    }

    fn points(_section: &Section, _points: &mut Points) {}
}
