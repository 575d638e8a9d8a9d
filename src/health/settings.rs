//! The `[checks]` table: what a person may change about when a check fails.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::custom::CustomCheck;
use crate::fact::{Policy, ReadyNeeds, Severity, Span, UnknownAs};

/// What the configuration says of checks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Settings {
    /// `[checks.<name>]`, by name of the check.
    pub checks: BTreeMap<String, CheckConfig>,
    /// `[[custom_check]]`, each with its policy.
    #[serde(skip)]
    pub custom: Vec<CustomCheck>,
}

/// Defines a table with the keys that checks and subjects share, and those of its own.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$own_doc:meta])* $own:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            pub enabled: Option<bool>,
            pub severity: Option<Severity>,
            pub fail_for: Option<Span>,
            pub fail_count: Option<FailCount>,
            pub fail_ratio: Option<FailRatio>,
            pub ratio_window: Option<Span>,
            pub ratio_min: Option<RatioMin>,
            pub recover_for: Option<Span>,
            pub unknown_for: Option<Span>,
            pub unknown_as: Option<UnknownAs>,
            $($(#[$own_doc])* pub $own: $type,)*
        }

        impl $name {
            /// Every key that it takes.
            pub const KEYS: &'static [&'static str] = &[
                "enabled", "severity", "fail_for", "fail_count", "fail_ratio", "ratio_window", "ratio_min", "recover_for",
                "unknown_for", "unknown_as", $(stringify!($own),)*
            ];

            /// Lays what is set here over a policy. `unknown_as` is not among it: it may follow the severity.
            fn lay_over(&self, policy: &mut Policy) {
                set(&mut policy.severity, self.severity);
                set(&mut policy.fail_for, duration(self.fail_for));
                set(&mut policy.fail_count, self.fail_count.map(|count| count.0));
                set(&mut policy.fail_ratio, self.fail_ratio.map(|ratio| ratio.0));
                set(&mut policy.ratio_window, duration(self.ratio_window));
                set(&mut policy.ratio_min, self.ratio_min.map(|count| count.0));
                set(&mut policy.recover_for, duration(self.recover_for));
                set(&mut policy.unknown_for, duration(self.unknown_for));
            }
        }
    };
}

table! {
    /// `[checks.<name>]`.
    CheckConfig {
        ready_needs: Option<ReadyNeeds>,
        /// Subjects whose absence is bad.
        expect: Vec<String>,
        subjects: BTreeMap<String, SubjectConfig>,
    }
}

table! {
    /// `[checks.<name>.subjects."<subject>"]`.
    SubjectConfig {}
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn duration(span: Option<Span>) -> Option<Duration> {
    span.map(|span| span.0)
}

impl Settings {
    pub(super) fn of(&self, check: &str) -> Option<&CheckConfig> {
        self.checks.get(check)
    }
}

impl CheckConfig {
    pub(super) fn is_off(&self) -> bool {
        self.enabled == Some(false)
    }
}

impl SubjectConfig {
    pub(super) fn is_off(&self) -> bool {
        self.enabled == Some(false)
    }
}

/// The policy of one subject: the defaults of its check, then what is set for the check, then for the subject.
pub(super) fn policy(defaults: &Policy, config: Option<&CheckConfig>, subject: Option<&SubjectConfig>) -> Policy {
    let mut policy = defaults.clone();
    if let Some(config) = config {
        config.lay_over(&mut policy);
        set(&mut policy.ready_needs, config.ready_needs);
    }
    if let Some(subject) = subject {
        subject.lay_over(&mut policy);
    }
    let unknown_as = subject.and_then(|subject| subject.unknown_as).or(config.and_then(|config| config.unknown_as));
    policy.unknown_as = unknown_as.unwrap_or(Policy::unknown_as(policy.severity));
    policy
}

/// `fail_count`: at least 1, or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailCount(pub Option<u32>);

/// `fail_ratio`: above 0 and at most 1, or off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailRatio(pub Option<f64>);

/// `ratio_min`: at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RatioMin(pub u32);

impl<'de> Deserialize<'de> for FailCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FailCount, D::Error> {
        const RANGE: &str = "`fail_count` is a whole number from 1 up, or \"off\"";
        match deserializer.deserialize_any(Number(RANGE))? {
            Limit::Off => Ok(FailCount(None)),
            Limit::At(number) => whole(number, RANGE).map(|count| FailCount(Some(count))),
        }
    }
}

impl<'de> Deserialize<'de> for FailRatio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FailRatio, D::Error> {
        const RANGE: &str = "`fail_ratio` is a number above 0 and at most 1, or \"off\"";
        match deserializer.deserialize_any(Number(RANGE))? {
            Limit::Off => Ok(FailRatio(None)),
            Limit::At(ratio) if ratio > 0.0 && ratio <= 1.0 => Ok(FailRatio(Some(ratio))),
            Limit::At(ratio) => Err(D::Error::custom(format!("{RANGE}, not {ratio}"))),
        }
    }
}

impl<'de> Deserialize<'de> for RatioMin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RatioMin, D::Error> {
        const RANGE: &str = "`ratio_min` is a whole number from 1 up";
        match deserializer.deserialize_any(Number(RANGE))? {
            Limit::Off => Err(D::Error::custom(format!("{RANGE}, not \"off\""))),
            Limit::At(number) => whole(number, RANGE).map(RatioMin),
        }
    }
}

fn whole<E: Error>(number: f64, range: &str) -> Result<u32, E> {
    let fits = number >= 1.0 && number <= f64::from(u32::MAX) && number.fract() == 0.0;
    if fits { Ok(number as u32) } else { Err(E::custom(format!("{range}, not {number}"))) }
}

/// A number, or the word that says there is no limit.
enum Limit {
    Off,
    At(f64),
}

/// Reads a `Limit`; holds what to say if it is something else.
struct Number(&'static str);

impl Visitor<'_> for Number {
    type Value = Limit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Limit, E> {
        Ok(Limit::At(number as f64))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Limit, E> {
        Ok(Limit::At(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Limit, E> {
        Ok(Limit::At(number))
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<Limit, E> {
        match word {
            "off" => Ok(Limit::Off),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Policy {
        Policy::new(Severity::Critical, seconds(120))
    }

    fn read(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    fn error(text: &str) -> String {
        toml::from_str::<Settings>(text).unwrap_err().to_string()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn without_settings_a_policy_is_the_defaults_of_the_check() {
        assert_eq!(policy(&defaults(), None, None), Policy::new(Severity::Critical, seconds(120)));
    }

    #[test]
    fn every_key_is_laid_over_the_defaults() {
        let settings = read(
            r#"
            [lamp_lit]
            severity = "warning"
            fail_for = "3m"
            fail_count = 4
            fail_ratio = 1
            ratio_window = "20m"
            ratio_min = 7
            recover_for = "5m"
            unknown_for = "6m"
            unknown_as = "fail"
            ready_needs = "any"
            expect = ["hall"]
            "#,
        );
        let config = settings.of("lamp_lit").unwrap();
        assert_eq!(config.expect, ["hall"]);
        let expected = Policy {
            severity: Severity::Warning,
            fail_for: seconds(180),
            fail_count: Some(4),
            fail_ratio: Some(1.0),
            ratio_window: seconds(1200),
            ratio_min: 7,
            recover_for: seconds(300),
            unknown_for: seconds(360),
            unknown_as: UnknownAs::Fail,
            ready_needs: ReadyNeeds::Any,
        };
        assert_eq!(policy(&defaults(), Some(config), None), expected);
    }

    #[test]
    fn a_subject_is_laid_over_its_check() {
        let settings = read(
            r#"
            [lamp_lit]
            fail_for = "3m"
            fail_count = 4
            recover_for = "5m"
            [lamp_lit.subjects."hall"]
            fail_for = "1h"
            fail_count = "off"
            fail_ratio = "off"
            "#,
        );
        let config = settings.of("lamp_lit").unwrap();
        let hall = policy(&defaults(), Some(config), config.subjects.get("hall"));
        assert_eq!((hall.fail_for, hall.recover_for), (seconds(3600), seconds(300)));
        assert_eq!((hall.fail_count, hall.fail_ratio), (None, None));
        let others = policy(&defaults(), Some(config), None);
        assert_eq!((others.fail_for, others.fail_count), (seconds(180), Some(4)));
    }

    #[test]
    fn unknown_as_follows_the_severity_unless_it_is_set() {
        let settings = read(
            r#"
            [lamp_lit]
            severity = "warning"
            [lamp_lit.subjects.hall]
            severity = "critical"
            [lamp_lit.subjects.shed]
            unknown_as = "fail"
            "#,
        );
        let config = settings.of("lamp_lit").unwrap();
        let of = |subject: &str| policy(&defaults(), Some(config), config.subjects.get(subject)).unknown_as;
        assert_eq!([of("hall"), of("shed"), of("attic")], [UnknownAs::Fail, UnknownAs::Fail, UnknownAs::Hold]);
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        for (line, says) in [
            ("fail_ratio = 0", "`fail_ratio` is a number above 0 and at most 1, or \"off\", not 0"),
            ("fail_ratio = 1.5", "at most 1, or \"off\", not 1.5"),
            ("fail_ratio = nan", "not NaN"),
            ("fail_ratio = \"on\"", "expected `fail_ratio` is a number above 0"),
            ("fail_count = 0", "`fail_count` is a whole number from 1 up, or \"off\", not 0"),
            ("fail_count = 2.5", "not 2.5"),
            ("fail_count = -1", "not -1"),
            ("fail_count = 5000000000", "not 5000000000"),
            ("fail_count = true", "expected `fail_count` is a whole number"),
            ("ratio_min = 0", "`ratio_min` is a whole number from 1 up, not 0"),
            ("ratio_min = \"off\"", "`ratio_min` is a whole number from 1 up, not \"off\""),
            ("fail_for = \"-2m\"", "`-2m` is not a duration"),
            ("fail_for = 120", "expected a string"),
            ("severity = \"urgent\"", "unknown variant `urgent`"),
            ("ready_needs = \"most\"", "unknown variant `most`"),
            ("fail_fro = \"2m\"", "unknown field `fail_fro`"),
            ("subjects.hall.expect = []", "unknown field `expect`"),
            ("subjects.hall.ready_needs = \"any\"", "unknown field `ready_needs`"),
        ] {
            let error = error(&format!("[lamp_lit]\n{line}\n"));
            assert!(error.contains(says), "{line}: {error}");
            assert!(error.contains("line 2"), "{line}: {error}");
        }
    }
}
