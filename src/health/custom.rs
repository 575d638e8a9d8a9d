//! A check that the configuration makes: any fact against any bound, judged like the ones that come with the program.

use std::sync::Arc;
use std::time::Duration;

use super::settings::CheckConfig;
use crate::fact::{Bound, Fact, Policy, Severity};

/// One `[[custom_check]]`. It owns its texts, so that a reload leaves nothing behind.
#[derive(Debug, Clone)]
pub struct CustomCheck {
    pub name: Arc<str>,
    pub fact: &'static Fact,
    /// Whose fact it is; `None`: the loop's, which has one of every collector.
    pub collector: Option<&'static str>,
    pub bad: Bound,
    /// Only points with these values are judged: the place among the fact's labels, and the value.
    pub labels: Vec<(usize, Arc<str>)>,
    /// The failure in a few words, with `{}` for the subject.
    pub headline: Arc<str>,
    pub means: Arc<str>,
    pub policy: CheckConfig,
}

impl CustomCheck {
    /// Its policy where the table says nothing. Readiness is the operator's to give away, so never critical by itself.
    pub fn defaults() -> Policy {
        Policy::new(Severity::Warning, Duration::from_secs(5 * 60))
    }
}
