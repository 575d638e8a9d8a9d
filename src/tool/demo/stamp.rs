//! Moments as a pynchy host writes them: Python's `isoformat()`, in text columns.

use jiff::Timestamp;

/// `2026-11-21T19:25:53.282664+00:00`; the fraction disappears when it is 0. Never `Z`.
pub fn precise(at: Timestamp) -> String {
    match at.subsec_nanosecond() / 1000 {
        0 => whole(at),
        micros => format!("{}.{micros:06}+00:00", naive(at)),
    }
}

/// `2026-11-21T19:25:53+00:00`: the second is cut off, not rounded.
pub fn whole(at: Timestamp) -> String {
    format!("{}+00:00", naive(at))
}

/// `2026-11-21T19:25:53`: how the time of a `once` task is kept, without its offset.
pub fn naive(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_python_writes_them() {
        let at: Timestamp = "2026-11-21T19:25:53.002664999Z".parse().unwrap();
        assert_eq!(precise(at), "2026-11-21T19:25:53.002664+00:00");
        assert_eq!(whole(at), "2026-11-21T19:25:53+00:00");
        assert_eq!(naive(at), "2026-11-21T19:25:53");
    }

    #[test]
    fn a_fraction_of_zero_disappears() {
        let at: Timestamp = "2026-11-21T19:25:53.000000999Z".parse().unwrap();
        assert_eq!(precise(at), "2026-11-21T19:25:53+00:00");
    }
}
