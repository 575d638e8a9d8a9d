//! Numbers of rows that are added up: one wild row must not swallow all others, and no sum may fall.

/// More in one row is no number of anything. So much can be added a thousand times before an `f64` loses milliseconds.
const MOST: f64 = 1e12;

/// The number, if it is an amount of something.
pub fn amount(told: Option<f64>) -> Option<f64> {
    told.filter(|value| (0.0..=MOST).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_added_up_is_an_amount() {
        for number in [0.0, 0.25, 1e12] {
            assert_eq!(amount(Some(number)), Some(number));
        }
        for number in [-0.001, 1.1e12, 9e300, f64::INFINITY, f64::NAN] {
            assert_eq!(amount(Some(number)), None, "{number}");
        }
        assert_eq!(amount(None), None);
    }
}
