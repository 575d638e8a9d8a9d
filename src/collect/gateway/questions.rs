//! Everything that may be asked of a gateway, each at its own pace, and what each told last.

use std::collections::BTreeMap;
use std::time::Duration;

use super::litellm::{Database, Health, Names};
use super::probe::Read;
use super::provider::Traffic;
use super::question::Question;
use super::settings::ActiveHealth;
use super::{Probe, containers};
use crate::source::http::Error;

/// In each run.
const NEAR: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);
const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);

/// Everything that may be asked.
pub struct Questions {
    pub live: Question<Read<Option<usize>>>,
    pub readiness: Question<Read<Database>>,
    pub postgres: Question<Result<(), Error>>,
    pub containers: Question<containers::Told>,
    pub models: Question<Read<usize>>,
    /// The same with the admin key: whether that is one.
    pub admin_models: Question<Read<usize>>,
    pub loaded: Question<Read<usize>>,
    pub traffic: Question<Read<Traffic>>,
    pub names: Question<Read<Names>>,
    pub health: Question<Read<Option<Health>>>,
    pub latest: Question<Read<Option<Health>>>,
    pub spend: Question<Read<f64>>,
}

impl Questions {
    pub fn new(live: Question<Read<Option<usize>>>, mode: ActiveHealth) -> Questions {
        Questions {
            live,
            readiness: Question::new(NEAR),
            postgres: Question::new(NEAR),
            containers: Question::new(NEAR),
            models: Question::new(MINUTE),
            admin_models: Question::new(MINUTE),
            loaded: Question::new(MINUTE),
            traffic: Question::new(NEAR),
            names: Question::new(FIVE_MINUTES),
            health: Question::new(if mode == ActiveHealth::Paid { FIVE_MINUTES } else { MINUTE }),
            latest: Question::new(MINUTE),
            spend: Question::new(FIVE_MINUTES),
        }
    }

    pub async fn wait_for_keys(&mut self) {
        tokio::join!(self.live.wait(), self.models.wait(), self.admin_models.wait());
    }

    /// For all but what was paid for, which may take longer than a run.
    pub async fn wait(&mut self, mode: ActiveHealth) {
        let health = async {
            match mode {
                ActiveHealth::Paid => self.health.take().await,
                _ => self.health.wait().await,
            }
        };
        tokio::join!(
            self.live.wait(),
            self.readiness.wait(),
            self.postgres.wait(),
            self.containers.wait(),
            self.models.wait(),
            self.admin_models.wait(),
            self.loaded.wait(),
            self.traffic.wait(),
            self.names.wait(),
            health,
            self.latest.wait(),
            self.spend.wait(),
        );
    }

    /// What has come by now.
    pub async fn take(&mut self) {
        tokio::join!(
            self.live.take(),
            self.readiness.take(),
            self.postgres.take(),
            self.containers.take(),
            self.models.take(),
            self.admin_models.take(),
            self.loaded.take(),
            self.traffic.take(),
            self.names.take(),
            self.health.take(),
            self.latest.take(),
            self.spend.take(),
        );
    }

    /// What each HTTP question told last.
    pub fn shown(&self) -> BTreeMap<&'static str, Probe> {
        let mut probes = BTreeMap::new();
        let mut show = |name, told: Option<Probe>| probes.extend(told.map(|probe| (name, probe)));
        show("live", probe(&self.live));
        show("readiness", probe(&self.readiness));
        show("models", probe(&self.models));
        show("admin_models", probe(&self.admin_models));
        show("loaded", probe(&self.loaded));
        show("traffic", probe(&self.traffic));
        show("names", probe(&self.names));
        show("health", probe(&self.health));
        show("latest", probe(&self.latest));
        show("spend", probe(&self.spend));
        probes
    }
}

fn probe<T: Send + 'static>(question: &Question<Read<T>>) -> Option<Probe> {
    let told = question.latest()?;
    Some(Probe { seen: told.said.seen.clone(), at: told.at.wall })
}
