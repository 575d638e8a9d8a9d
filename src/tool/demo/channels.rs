//! The two channels of a demo host: one comes and goes by the clock, the other stays.

use jiff::SignedDuration;

/// The channel that comes and goes.
pub const SLACK: &str = "connection.slack.acme";
/// The channel that stays.
pub const WHATSAPP: &str = "connection.whatsapp.personal";
pub const ALL: [&str; 2] = [SLACK, WHATSAPP];

/// How long Slack is there, from the start of the host on.
pub const CONNECTED: SignedDuration = SignedDuration::from_mins(3);
/// How long it is gone then: longer than the two minutes after which a lost channel fails.
pub const GONE: SignedDuration = SignedDuration::from_secs(3 * 60 + 30);

/// Whether a channel is connected this long after the start. Before it, all were.
pub fn is_connected(channel: &str, since_start: SignedDuration) -> bool {
    let turn = (CONNECTED + GONE).as_millis();
    channel != SLACK || since_start.is_negative() || since_start.as_millis() % turn < CONNECTED.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_is_there_for_three_minutes_then_gone_for_three_and_a_half() {
        let cases = [(-1, true), (0, true), (179, true), (180, false), (389, false), (390, true), (569, true)];
        for (seconds, connected) in cases.into_iter().chain([(570, false), (779, false), (780, true)]) {
            assert_eq!(is_connected(SLACK, SignedDuration::from_secs(seconds)), connected, "{seconds} s");
        }
        assert!(is_connected(SLACK, SignedDuration::from_millis(179_999)));
    }

    #[test]
    fn whatsapp_stays() {
        assert!((-10..2000).all(|seconds| is_connected(WHATSAPP, SignedDuration::from_secs(seconds))));
    }
}
