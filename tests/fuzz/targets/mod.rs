//! Parsers of outside bytes, each as one function that is given bytes and asserts what must hold of whatever they are.
//!
//! The ordinary tests run each over its kept corpus and some thousand mutations of it; `tests/fuzz/run` gives them to
//! libFuzzer. What is asserted is never only that nothing panics: see each target.

pub mod database;
pub mod files;
pub mod machine;
pub mod text;
pub mod verdicts;
pub mod wire;

use std::time::Duration;

/// One parser.
pub struct Target {
    /// Of its folder under `corpus`, too.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Its share of executions, the ordinary tests' and the long run's.
    pub weight: u32,
    /// What its language is made of.
    pub words: &'static [&'static str],
}

const fn target(name: &'static str, run: fn(&[u8]), weight: u32, words: &'static [&'static str]) -> Target {
    Target { name, run, weight, words }
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "false",
    "\"\"",
    "0",
    "-1",
    "1e999",
    "18446744073709551615",
    "\\u0000",
];

pub static ALL: &[Target] = &[
    target("span", text::span, 150, &["h", "m", "s", "ms", "1", "99999999999999", "-", ".", "PT", "d", "w", " "]),
    target(
        "stamp",
        text::stamp,
        200,
        &["Z", "+00:00", "-23:59", ".", "T", " ", "2026-11-21", "24:00:00", "9999", "0000"],
    ),
    target("url", text::url, 150, &["http://", "https://", "@", "?", "#", "[::1]", ":0", ":65536", "/", "%00"]),
    target(
        "container_name",
        text::container_name,
        40,
        &["{group}", "{epoch}", "{hash}", "*", "pynchy-", "\n", "-", "a"],
    ),
    target("status_page", text::status_page, 60, JSON),
    target("record", text::record, 120, JSON),
    target("replay", text::replay, 6, JSON),
    target("key_file", files::key_file, 20, &["\n", " ", "\r", "\u{0}"]),
    target(
        "pid_file",
        files::pid_file,
        20,
        &["{", "}", "\"pid\"", "\"port\"", "\"host\"", ":", "::1", "0.0.0.0", "/", "?", "@"],
    ),
    target("host_config", files::host_config, 10, TOML),
    target("litellm_config", files::litellm_config, 15, YAML),
    target("web_config", files::web_config, 4, YAML),
    target("headers_file", files::headers_file, 10, &[":", "\n", "#", "authorization", "host", " "]),
    target("otel_environment", files::otel_environment, 15, OTEL),
    target("paid_file", files::paid_file, 8, &["\n", "Z", "2026-11-21T19:25:53Z", "9999", "-"]),
    target("unit_file", files::unit_file, 8, &["ExecStart", "=", "WorkingDirectory", "\\\n", "[Service]", "/", "-"]),
    target("written_config", files::written_config, 6, &["\"", "\\", "\u{7f}", "\n", "\u{1b}"]),
    target(
        "process",
        machine::process,
        4,
        &["(", ")", " ", "\n", "btime ", "NSpid:", "rchar:", "01", "18446744073709551615", "-1"],
    ),
    target("command_line", machine::command_line, 4, COMMAND),
    target(
        "cgroup",
        machine::cgroup,
        3,
        &["0::/", "\n", ":", "/", "..", "docker-", ".scope", "inactive_file ", "usage_usec "],
    ),
    target(
        "git",
        machine::git,
        1,
        &[
            "ref: ",
            "refs/heads/main",
            "gitdir: ",
            "\n",
            "..",
            "0000000000000000000000000000000000000000",
            "[core]",
            "= ",
        ],
    ),
    target("config", verdicts::config, 40, TOML),
    target("config_secret", verdicts::config_secret, 50, TOML),
    target("state_texts", verdicts::state_texts, 2, JSON),
    target("state_file", verdicts::state_file, 1, &["SQLite format 3\u{0}", "agho", "windows", "changes", "about"]),
    target(
        "database_rows",
        database::rows,
        1,
        &["NULL", "2026-11-21T19:25:53+00:00", "Error:", "active", "\n", "{}", "-1", "9e999"],
    ),
    target("database_file", database::file, 1, &["SQLite format 3\u{0}", "CREATE TABLE", "messages"]),
    target("http_answer", wire::http_answer, 3, HTTP),
    target("host_answers", wire::host_answers, 1, JSON),
    target("gateway_answers", wire::gateway_answers, 1, JSON),
    target("docker_answers", wire::docker_answers, 1, JSON),
    target("request", wire::request, 3, HTTP),
    target("push_answer", wire::push_answer, 20, &["\n", "\u{8}", "\u{12}", "\u{0}", "\u{ff}"]),
];

const TOML: &[&str] = &[
    "[",
    "]",
    "=",
    "\"",
    "'''",
    "\"\"\"",
    "\n",
    "[host]",
    "[checks.service_up]",
    "[[custom_check]]",
    "[collect.repos]",
    "[[collect.http]]",
    "interval",
    "\"1s\"",
    "\"9999999999999h\"",
    "fail_for",
    "ratio_min",
    "4294967295",
    "inf",
    "nan",
    "true",
    "-1",
    "0",
];
const YAML: &[&str] = &[
    "general_settings",
    "background_health_checks",
    "include",
    ": ",
    "true",
    "on",
    "~",
    "- ",
    "&a ",
    "*a ",
    "<<: ",
    "!!bool ",
    "\n  ",
    "{",
    "}",
    "[",
    "]",
    "|",
    ">",
    "\"",
    "---\n",
    "basic_auth_users",
    "tls_server_config",
    "rate_limit",
    "interval",
    "burst",
];
const OTEL: &[&str] = &[
    "OTEL_EXPORTER_OTLP_ENDPOINT=",
    "OTEL_EXPORTER_OTLP_HEADERS=",
    "OTEL_RESOURCE_ATTRIBUTES=",
    "OTEL_METRIC_EXPORT_INTERVAL=",
    "%2",
    "=",
    ",",
    "OTEL_EXPORTER_OTLP_TIMEOUT=",
    "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
    "http://",
    "\n",
    "OTEL_SDK_DISABLED=true",
    "OTEL_METRICS_EXPORTER=otlp",
];
const HTTP: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "GET / HTTP/1.1\r\n",
    "\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Host: localhost\r\n",
    "Authorization: Basic ",
    "Cookie: ",
    "Retry-After: ",
    "Location: ",
    "Content-Type: application/json\r\n",
    "/metrics",
    "/status?section=",
    "/readyz?exclude=",
    "&verbose",
    "token=",
    "Accept-Encoding: gzip;q=",
    "HEAD ",
    "POST ",
];
const COMMAND: &[&str] = &[
    "\u{0}", "env", "node", "npx", "python3", "-m", "-c", "uv", "run", "docker", "mcp", "pi", "--mode", "rpc",
    "claude", "/", "@", "=", ".js", "bash",
];

/// Longer input is no other input.
pub const LONGEST: usize = 64 * 1024;

/// What no text of ours may show.
pub const SECRET: &str = "hunter2hunter2";

/// Runs a target over an input, which may cost so much CPU. A machine under load makes CPU time longer, too: what takes too
/// long is tried again, and the shortest counts.
pub fn run(target: &Target, data: &[u8], patience: Duration) {
    let data = &data[..data.len().min(LONGEST)];
    // Where it would be a secret, the target puts it.
    if data.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
        return;
    }
    let took = |_| {
        let begun = cpu();
        (target.run)(data);
        cpu().saturating_sub(begun)
    };
    let fastest = (0..3).map(took).find(|took| *took < patience);
    assert!(fastest.is_some(), "{}: {} bytes take longer than {patience:?}", target.name, data.len());
}

/// Of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

/// As many parts as wanted, between bytes of 0xFF; those that are missing are empty.
pub fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |&byte| byte == 0xff);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Asserts that a text has nothing that moves a cursor.
pub fn is_plain(text: &str) {
    let strange = text.chars().find(|letter| letter.is_control() && *letter != '\n');
    assert_eq!(strange, None, "in {text:?}");
}

/// Asserts that the secret is not shown.
pub fn keeps_secret(text: &str) {
    assert!(!text.contains(SECRET), "it is shown: {text}");
}
