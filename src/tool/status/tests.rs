use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-11-21T20:05:00Z".parse().unwrap()
}

fn shown(status: &Value, terminal: &Terminal) -> String {
    terminal.show(&render(status, None, now()))
}

const PAPER: Terminal = Terminal { is_one: false, colour: false, width: None };

#[test]
fn nothing_at_all_is_no_verdict() {
    for status in [json!({}), json!(null), json!([1]), json!({"health": 3, "collectors": [], "sidecar": "x"})] {
        let page = shown(&status, &PAPER);
        assert!(page.starts_with("? NO VERDICT, readiness not told\n"), "{page:?}");
        assert!(!page.contains(" 0 ") && !page.contains(" ok"), "{page}");
    }
}

#[test]
fn lines_are_as_long_as_the_terminal_and_colours_take_no_room() {
    let status = json!({"health": {"overall": "healthy", "ready": true}, "groups": {"total": 3, "active_sessions": 2}});
    let narrow = |colour| shown(&status, &Terminal { is_one: true, colour, width: Some(20) });
    assert!(narrow(false).lines().all(|line| line.chars().count() <= 20), "{}", narrow(false));
    assert!(narrow(false).contains("· groups      3 reg…\n"), "{}", narrow(false));
    let mut bare = narrow(true);
    for style in [Style::Bold, Style::Dim, Style::Good, Style::Warn, Style::Bad, Style::Unknown] {
        bare = bare.replace(style.code(), "");
    }
    assert_eq!(bare.replace("\x1b[0m", ""), narrow(false));
    assert!(narrow(true).contains("\x1b[32m✓ HEALTHY\x1b[0m"));
}

#[test]
fn what_is_not_known_is_neither_zero_nor_fine() {
    let status = json!({
        "channels": {"a": {"connected": true}, "b": {"connected": null}, "c\u{1b}[2J": {"connected": false}},
        "queue": {"active_containers": null, "max_concurrent": 5, "groups_waiting": null},
        "messages": {"pending_deliveries": null, "erroring_deliveries": 2},
        "usage": {"groups": {"x": {"runs": 2, "cost_usd": null}}},
        "groups": null,
        "novel": {"depth": 7, "inner": {}},
    });
    let page = shown(&status, &PAPER);
    for line in [
        "· channels    1 of 3 connected, not: c\u{fffd}[2J, not known: b",
        "· queue       nothing told",
        "· messages    2 with errors",
        "· usage       2 runs",
        "? groups      not seen",
        "· novel       depth 7",
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
}

#[test]
fn a_dead_loop_is_said_before_all_else() {
    let status = json!({"health": {"overall": "healthy", "ready": true, "checks": []}});
    let page = PAPER.show(&render(&status, Some(&anyhow::anyhow!("its loop has stopped")), now()));
    assert!(page.starts_with("✕ NOBODY KNOWS: its loop has stopped\n  what follows is old:\n✓ HEALTHY"), "{page}");
}

#[test]
fn a_pause_is_seconds_or_a_duration() {
    assert_eq!(pause("5"), Ok(Duration::from_secs(5)));
    assert_eq!(pause("0.5"), Ok(Duration::from_millis(500)));
    assert_eq!(pause("1m"), Ok(Duration::from_secs(60)));
    for bad in ["0", "-1", "soon", "NaN"] {
        assert!(pause(bad).is_err(), "{bad}");
    }
}
