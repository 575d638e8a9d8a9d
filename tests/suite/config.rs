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
        (
            "[host]\n\nurl = \"ftp://x\"\n",
            "config.toml:3: url: `ftp://x` is not a URL of the form http://host:port or https://host",
        ),
        ("[host]\nprocess = \"\"\n", "config.toml:2: process: empty, it would match nothing"),
        (
            "[host]\npid_file = \"a\"\nprocess = \"b\"\n",
            "config.toml: [host] has both `pid_file` and `process`: keep the one that names its process",
        ),
        ("[state]\npath = \"\"\n", "config.toml:2: path: empty: leave it out, and nothing is kept"),
        (
            "[collect.groups]\nenabled = false\n[[custom_check]]\nname = \"x\"\nfact = \"agenthost_groups\"\nbelow = 1\n",
            "config.toml: the custom check `x` is on a fact of `groups`, which is switched off",
        ),
        (
            "[collect.workers]\npresets = [\"claud\"]\n",
            "config.toml:2: presets: unknown variant `claud`, expected one of `pi`, `claude`, `codex`, `opencode`, `openclaw`, \
             `mcp`, `nanoclaw`; did you mean `claude`?",
        ),
        (
            "[[collect.workers.rule]]\nname = \"x\"\ncmdline = \"x(\"\n",
            "config.toml:3: cmdline: no regular expression: found open group without closing ')'",
        ),
        (
            "[collect.workers]\n[[collect.workers.rule]]\nname = \"x\"\n",
            "config.toml:2: [[collect.workers.rule]]: the rule `x` needs one of `comm`, `exe`, `cmdline`",
        ),
        // What stands there may be a secret of a list that was broken off.
        ("[host\n", "config.toml:1: unclosed table, expected `]`"),
        ("[host]\nurl = [\nc2VjcmV0==\n", "config.toml:3: unexpected `=` in array, expected value, `]`"),
        (
            "[host]\nstatus_poll = \"often\"\n",
            "config.toml:2: status_poll: neither `auto` nor `never`, and `often` is not a duration: write it like `15s`, `2m`, \
             `1h30m` or `250ms`",
        ),
        (
            "[host]\nprofile = \"netclow\"\n",
            "config.toml:2: profile: unknown variant `netclow`, expected one of `pynchy`, `netclaw`, `pi-web`, `openclaw`, \
             `generic`; did you mean `netclaw`?",
        ),
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

#[test]
fn a_subject_that_the_fact_cannot_have_is_refused() {
    for (text, message) in [
        (
            "[checks.service_up]\nexpect = [\"main\"]\n",
            "config.toml:2: expect: `main` is no subject: agenthost_service_up has no labels",
        ),
        (
            "[checks.service_up.subjects.main]\nenabled = false\n",
            "config.toml:1: [checks.service_up.subjects.main]: `main` is no subject: agenthost_service_up has no labels",
        ),
        (
            "[checks.deliveries_pending]\nexpect = [\"slack\", \"slack/x\", \"a/b/c\"]\n[checks.collector_up]\nexpect = [\"gruops\"]\n",
            "config.toml:4: expect: there is no collector `gruops`, did you mean `groups`?",
        ),
    ] {
        assert_eq!(refusal(text), message, "{text}");
    }
    let two = agenthost_exporter::collect::ALL.iter().flat_map(|one| one.checks).find(|one| one.fact.labels.len() == 2);
    let two = two.expect("a check with two labels");
    let message = refusal(&format!("[checks.{}]\nexpect = [\"a/b\", \"alone\"]\n", two.name));
    let of = format!("one of {} is `{}`", two.fact.prometheus, two.fact.labels.join("/"));
    assert_eq!(message, format!("config.toml:2: expect: `alone` is no subject: {of}"));
    let message = custom("name = \"x\"\nfact = \"agenthost_service_up\"\nbelow = 1\nexpect = [\"y\"]");
    assert_eq!(message, "config.toml:5: expect: `y` is no subject: agenthost_service_up has no labels");
}

fn custom(lines: &str) -> String {
    refusal(&format!("[[custom_check]]\n{lines}\n"))
}

#[test]
fn each_mistake_in_a_custom_check_has_its_message() {
    const NAME: &str = "name = \"backlog\"";
    const FACT: &str = "fact = \"agenthost_inbound_unprocessed\"";
    let table = [
        (format!("{FACT}\nabove = 1"), "config.toml:1: [[custom_check]]: `name` is missing"),
        (format!("{NAME}\nabove = 1"), "config.toml:1: [[custom_check]]: `fact` is missing"),
        (
            format!("{NAME}\n{FACT}"),
            "config.toml:1: [[custom_check]]: one of `above`, `below`, `equals` is missing: it says which values are bad",
        ),
        (
            format!("{NAME}\n{FACT}\nabove = 1\nequals = 2"),
            "config.toml:5: equals: one of `above`, `below`, `equals` is enough",
        ),
        (format!("{NAME}\n{FACT}\nabove = \"1\""), "config.toml:4: above: invalid type: string \"1\", expected f64"),
        (format!("{NAME}\n{FACT}\nabove = nan"), "config.toml:4: above: NaN is no bound"),
        (format!("{NAME}\n{FACT}\nabov = 1"), "config.toml:4: abov: unknown key `abov`, did you mean `above`?"),
        (
            format!("{NAME}\n{FACT}\nabove = 1\nfail_fro = \"2m\""),
            "config.toml:5: fail_fro: unknown key `fail_fro`, did you mean `fail_for`?",
        ),
        (
            format!("{NAME}\n{FACT}\nabove = 1\nfail_for = \"soon\""),
            "config.toml:5: fail_for: `soon` is not a duration: write it like `15s`, `2m`, `1h30m` or `250ms`",
        ),
        (
            format!("{NAME}\n{FACT}\nabove = 1\nlabels = {{ grup = \"family\" }}"),
            "config.toml:5: labels: unknown label of agenthost_inbound_unprocessed `grup`, did you mean `group`?",
        ),
        (
            format!("{NAME}\nfact = \"agenthost_service_up\"\nbelow = 1\nlabels = {{ group = \"family\" }}"),
            "config.toml:5: labels: `agenthost_service_up` has no labels",
        ),
        (
            format!("{NAME}\n{FACT}\nabove = 1\nlabels = {{ group = 3 }}"),
            "config.toml:5: labels: invalid type: integer `3`, expected a string",
        ),
        (
            format!("{NAME}\nfact = \"agenthost_inbound_unproccessed\"\nabove = 1"),
            "config.toml:3: fact: unknown fact `agenthost_inbound_unproccessed`, did you mean `agenthost_inbound_unprocessed`?",
        ),
        (
            format!("{NAME}\nfact = \"agenthost_ready\"\nbelow = 1"),
            "config.toml:3: fact: `agenthost_ready` is what the sidecar makes of all checks: none can stand on it",
        ),
        (
            format!("{NAME}\nfact = \"agenthost_check_failed\"\nabove = 0"),
            "config.toml:3: fact: `agenthost_check_failed` is what the sidecar makes of all checks: none can stand on it",
        ),
        (
            format!("{NAME}\nfact = \"agenthost_collector_timeouts_total\"\nabove = 5"),
            "config.toml:3: fact: `agenthost_collector_timeouts_total` is a counter: it only rises, so no bound says that \
             something is wrong now",
        ),
        (
            format!("{NAME}\nfact = \"agenthost_task_last_run_timestamp_seconds\"\nabove = 5"),
            "config.toml:3: fact: `agenthost_task_last_run_timestamp_seconds` is a moment, not an age: no fixed bound says \
             that it is too long ago",
        ),
        (
            format!("name = \"task_overdue\"\n{FACT}\nabove = 1"),
            "config.toml:2: name: there is a check `task_overdue` already: `[checks.task_overdue]` changes its policy",
        ),
        (
            format!("name = \"started\"\n{FACT}\nabove = 1"),
            "config.toml:2: name: `started` is taken: /readyz says it of the sidecar itself",
        ),
        (
            format!("name = \"Back log\"\n{FACT}\nabove = 1"),
            "config.toml:2: name: `Back log` is no name of a check: a letter, then a-z, 0-9 and _",
        ),
        (format!("name = 3\n{FACT}\nabove = 1"), "config.toml:2: name: invalid type: integer `3`, expected a string"),
        (
            format!("{NAME}\n{FACT}\nabove = 1\n[[custom_check]]\n{NAME}\n{FACT}\nabove = 2"),
            "config.toml:6: name: there are two custom checks `backlog`",
        ),
        (
            format!("{NAME}\n{FACT}\nabove = 1\n[checks.backlog]\nfail_for = \"2m\""),
            "config.toml:5: [checks.backlog]: the policy of `backlog` stands in its own `[[custom_check]]`",
        ),
    ];
    for (lines, message) in table {
        assert_eq!(custom(&lines), message, "{lines}");
    }
    assert_eq!(
        refusal("[custom_check]\nname = \"backlog\"\n"),
        "config.toml:1: [custom_check]: must be `[[custom_check]]`, with two brackets"
    );
}

#[test]
fn each_mistake_in_a_list_has_its_message() {
    const HTTP: &str = "[[collect.http]]\nname = \"a\"\nurl = \"http://x/s\"\n";
    let table = [
        (
            "[collect.http]\nname = \"a\"\n".to_owned(),
            "config.toml:1: [collect.http]: must be `[[collect.http]]`, with two brackets",
        ),
        ("[collect]\nsql = 3\n".to_owned(), "config.toml:2: sql: must be `[[collect.sql]]`, with two brackets"),
        ("[[collect.http]]\nname = \"a\"\n".to_owned(), "config.toml:1: [[collect.http]]: missing field `url`"),
        (
            format!("{HTTP}valus = {{}}\n"),
            "config.toml:4: valus: unknown field `valus`, expected one of `name`, `url`, `token_file`, `channels`, `queue`, \
             `values`, `states`; did you mean `values`?",
        ),
        (
            format!("{HTTP}interval = \"soon\"\n"),
            "config.toml:4: interval: `soon` is not a duration: write it like `15s`, `2m`, `1h30m` or `250ms`",
        ),
        (
            format!("{HTTP}[collect.http.values]\nb = \"c\"\n"),
            "config.toml:5: b: `c` is no JSON pointer: it begins with `/`",
        ),
        (format!("{HTTP}\n{HTTP}"), "config.toml:5: [[collect.http]]: there are two `[[collect.http]]` called `a`"),
        (
            "[[collect.http]]\nname = \"a\"\nurl = \"http://me:s3cret@x\"\n".to_owned(),
            "config.toml:3: url: a URL with user and password is not taken: it would be shown",
        ),
        (
            "[[collect.sql]]\nname = \"a\"\ndatabase = \"b\"\nquery = \"DROP TABLE c\"\n".to_owned(),
            "config.toml:4: query: only a query that begins with SELECT or WITH is taken",
        ),
        (
            "[[collect.heartbeat]]\nname = \"a b\"\npath = \"c\"\n".to_owned(),
            "config.toml:2: name: `a b` is no name: up to 64 of a-z, A-Z, 0-9, `_`, `-` and `.`",
        ),
    ];
    for (text, message) in table {
        assert_eq!(refusal(&text), message, "{text}");
    }
}

#[test]
fn a_list_is_looked_at_as_often_as_its_most_impatient_entry_wants() {
    let text = "[[collect.sql]]\nname = \"a\"\ndatabase = \"x\"\nquery = \"SELECT 1\"\ninterval = \"90s\"\n\
                [[collect.sql]]\nname = \"b\"\ndatabase = \"x\"\nquery = \"SELECT 1\"\ninterval = \"20s\"\ntimeout = \"3s\"\n\
                [[collect.sql]]\nname = \"c\"\ndatabase = \"x\"\nquery = \"SELECT 1\"\ninterval = \"1s\"\nenabled = false\n";
    let config = Config::parse(text, "config.toml").unwrap_or_else(|error| panic!("{error:#}"));
    let planned = config.collectors.iter().find(|planned| planned.subsystem.name == "sql").unwrap();
    let seconds = std::time::Duration::from_secs;
    assert_eq!((planned.interval, planned.timeout), (Some(seconds(20)), seconds(3)));
    assert_eq!(config.host.listed.sql.len(), 2, "one is switched off");
}

#[test]
fn an_interval_of_one_who_asks_for_the_status_is_the_operators_word() {
    let interval = |text: &str| {
        Config::parse(text, "config.toml").unwrap_or_else(|error| panic!("{error:#}")).host.status_interval
    };
    let seconds = |count| Some(std::time::Duration::from_secs(count));
    assert_eq!(interval(""), None);
    assert_eq!(interval("[collect.messages]\ninterval = \"20s\"\n"), None);
    assert_eq!(interval("[collect.queue]\ninterval = \"20s\"\n"), seconds(20));
    assert_eq!(interval("[collect.queue]\ninterval = \"20s\"\n[collect.channels]\ninterval = \"10s\"\n"), seconds(10));
}
