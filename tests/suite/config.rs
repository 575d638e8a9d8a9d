//! A wrong configuration is refused with one line: file, line, key, and the nearest right name.

use agenthost_exporter::config::Config;

fn refusal(text: &str) -> String {
    match Config::parse(text, "config.toml") {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn each_mistake_has_its_message() {
    let table = [
        ("[hots]\n", "config.toml:1: [hots]: unknown table `hots`, did you mean `host`?"),
        (
            "[collect.mesages]\n",
            "config.toml:1: [collect.mesages]: unknown collector `mesages`, did you mean `messages`?",
        ),
        (
            "[checks.task_overdu]\n",
            "config.toml:1: [checks.task_overdu]: unknown check `task_overdu`, did you mean `task_overdue`?",
        ),
        (
            "\n[collect.messages]\ninterval = \"soon\"\n",
            "config.toml:3: interval: `soon` is not a duration: write it like `15s`, `2m`, `1h30m` or `250ms`",
        ),
        (
            "[collect.messages]\ninterval = 15\n",
            "config.toml:2: interval: invalid type: integer `15`, expected a string",
        ),
        ("[collect.messages]\ninterval = \"10ms\"\n", "config.toml:2: interval: must be at least 1s"),
        (
            "[collect.messages]\nenabled = \"yes\"\n",
            "config.toml:2: enabled: invalid type: string \"yes\", expected a boolean",
        ),
        ("[collect]\nmessages = 3\n", "config.toml:2: messages: must be a table"),
        ("[web]\nlisten = [\"somewhere\"]\n", "config.toml:2: listen: invalid socket address syntax"),
        (
            "[checks.service_up]\nseverity = \"fatal\"\n",
            "config.toml:2: severity: unknown variant `fatal`, expected one of `info`, `warning`, `critical`",
        ),
        (
            "[host]\nurl = \"http://user:s3cret@x\"\n",
            "config.toml:2: url: a URL with user and password is not taken: it would be shown",
        ),
        ("[host]\n\nurl = \"https://x\"\n", "config.toml:3: url: `https://x`: https is not spoken yet, only http"),
        ("[host]\nprocess = \"\"\n", "config.toml:2: process: empty, it would match nothing"),
        (
            "[host]\npid_file = \"a\"\nprocess = \"b\"\n",
            "config.toml: [host] has both `pid_file` and `process`: keep the one that names its process",
        ),
        ("[host\n", "config.toml:1: [host: unclosed table, expected `]`"),
    ];
    for (text, message) in table {
        assert_eq!(refusal(text), message, "{text}");
    }
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let message = refusal("[web]\nlisen = []\n");
    assert!(message.starts_with("config.toml:2: lisen: unknown field `lisen`"), "{message}");
    assert!(message.ends_with("did you mean `listen`?") || message.ends_with("expected `listen`"), "{message}");
    let message = refusal("[checks.service_up]\nfail_fro = \"2m\"\n");
    assert!(message.ends_with("did you mean `fail_for`?"), "{message}");
    let message = refusal("[host]\nrot = \"/srv\"\n");
    assert!(message.ends_with("did you mean `root`?"), "{message}");
}

#[test]
fn a_collector_switched_off_is_not_run_but_its_table_must_be_right() {
    let names = |text: &str| -> Vec<&str> {
        let config = Config::parse(text, "config.toml").unwrap_or_else(|error| panic!("{error:#}"));
        config.collectors.iter().map(|planned| planned.subsystem.name).collect()
    };
    let all = names("");
    let less = names("[collect.messages]\nenabled = false\n");
    assert!(all.contains(&"messages") && !less.contains(&"messages"));
    assert_eq!(all.len(), less.len() + 1);
    assert!(refusal("[collect.messages]\nenabled = false\nno_such = 1\n").contains("no_such"));
}
