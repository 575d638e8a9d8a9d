//! Counters that go on where they were when their collector begins anew, by another configuration or after a panic.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fact::Kind;
use crate::sample::Points;

/// By metric and labels.
type Series = BTreeMap<(&'static str, Vec<Arc<str>>), f64>;

/// What one collector's counters showed, and what is added to them so that none ever falls.
#[derive(Debug, Default)]
pub struct Counters {
    /// As the latest good run showed them.
    last: Series,
    /// Below these none may come back. One that is not back before the collector begins anew again is forgotten.
    floors: Series,
    /// To each that came back below: the gap that it came back with.
    added: Series,
}

impl Counters {
    /// The collector begins anew: what it counts from now on may begin lower.
    pub fn begin_anew(&mut self) {
        if !self.last.is_empty() {
            self.floors = std::mem::take(&mut self.last);
        }
        self.added.clear();
    }

    /// Lifts what a run counted. What happened between the two collectors is counted only as far as the new one tells: a
    /// counter that comes back where it was or above needs no lift.
    pub fn lift(&mut self, points: &mut Points) {
        let mut before = std::mem::take(&mut self.last);
        for point in points.0.iter_mut().filter(|point| point.fact.kind == Kind::Counter) {
            let series = (point.fact.prometheus, point.labels.clone());
            match &mut point.value {
                Some(value) => {
                    *value += self.gap(&series, *value);
                    self.last.insert(series, *value);
                }
                None => self.last.extend(before.remove_entry(&series)), // not seen now, and still there
            }
        }
    }

    fn gap(&mut self, series: &(&'static str, Vec<Arc<str>>), value: f64) -> f64 {
        if let Some(floor) = self.floors.remove(series).filter(|floor| *floor > value) {
            self.added.insert(series.clone(), floor - value);
        }
        self.added.get(series).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fact::Fact;

    static COUNT: Fact = Fact::counter("test.count", "test_count_total", "A count.").of(&["tank"]);
    static LEVEL: Fact = Fact::gauge("test.level", "test_level", "A level.").of(&["tank"]);

    /// What goes out for these counters; each tank has a gauge of the same value.
    fn lifted(counters: &mut Counters, shown: &[(&str, Option<f64>)]) -> Vec<Option<f64>> {
        let mut points = Points::default();
        for (tank, value) in shown {
            points.put(&COUNT, [&(*tank).into()], *value);
            points.put(&LEVEL, [&(*tank).into()], *value);
        }
        counters.lift(&mut points);
        let gauges = points.0.iter().filter(|point| point.fact.kind != Kind::Counter).map(|point| point.value);
        assert!(gauges.eq(shown.iter().map(|(_, value)| *value)), "a gauge is what it is");
        points.0.iter().filter(|point| point.fact.kind == Kind::Counter).map(|point| point.value).collect()
    }

    #[test]
    fn a_counter_that_begins_lower_goes_on_where_it_was() {
        let mut counters = Counters::default();
        let mut out = |anew: bool, shown: &[(&str, Option<f64>)]| {
            if anew {
                counters.begin_anew();
            }
            lifted(&mut counters, shown)
        };
        assert_eq!(out(false, &[("a", Some(5.0)), ("b", Some(7.0))]), [Some(5.0), Some(7.0)]);
        assert_eq!(out(false, &[("a", Some(4.0))]), [Some(4.0)], "a collector of ours is its own judge");
        assert_eq!(out(false, &[("a", Some(5.0)), ("b", Some(7.0))]), [Some(5.0), Some(7.0)]);
        // From nothing, and from a total that stands outside and has grown.
        assert_eq!(out(true, &[("a", Some(0.0)), ("b", Some(9.0)), ("c", Some(1.0))]), [5.0, 9.0, 1.0].map(Some));
        assert_eq!(out(false, &[("a", Some(2.0)), ("b", Some(10.0)), ("c", Some(1.0))]), [7.0, 10.0, 1.0].map(Some));
        // And once more.
        assert_eq!(out(true, &[("a", Some(1.0))]), [Some(7.0)]);
        assert_eq!(out(false, &[("a", Some(3.0)), ("b", Some(4.0))]), [Some(9.0), Some(10.0)], "b came back later");
        assert_eq!(out(false, &[("a", Some(4.0)), ("b", Some(5.0))]), [Some(10.0), Some(11.0)]);
    }

    #[test]
    fn nothing_is_forgotten_by_a_second_beginning_before_the_first_run_nor_by_a_blind_one() {
        let mut counters = Counters::default();
        lifted(&mut counters, &[("a", Some(5.0)), ("b", Some(7.0))]);
        assert_eq!(lifted(&mut counters, &[("a", Some(6.0)), ("b", None)]), [Some(6.0), None]);
        counters.begin_anew();
        counters.begin_anew();
        assert_eq!(lifted(&mut counters, &[("a", Some(0.0)), ("b", Some(1.0))]), [Some(6.0), Some(7.0)]);
    }

    #[test]
    fn what_is_gone_for_good_is_not_kept_for_ever() {
        let mut counters = Counters::default();
        lifted(&mut counters, &[("gone", Some(5.0)), ("a", Some(5.0))]);
        for _ in 0..2 {
            counters.begin_anew();
            lifted(&mut counters, &[("a", Some(1.0))]);
        }
        assert_eq!((counters.last.len(), counters.floors.len(), counters.added.len()), (1, 0, 1));
        assert_eq!(lifted(&mut counters, &[("gone", Some(1.0))]), [Some(1.0)]);
    }
}
