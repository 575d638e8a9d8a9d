//! The one-shot commands that ask a sidecar: real ones, dead ones, and others that answer in its place.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use agenthost_exporter::tool::status::page;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Api, Say};
use crate::binary::{Sidecar, exporter};
use crate::fixture::Root;
use crate::outputs::golden;

/// The exit code, what was said on standard output, and on standard error.
fn said(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("it ended by itself"), text(stdout), text(stderr))
}

fn asked(words: &[&str]) -> (i32, String) {
    let (code, out, err) = said(exporter().args(words));
    assert!(!err.contains("panic"), "{err}");
    (code, out)
}

/// A probe with and without --unreachable=ok: both codes, and one line each.
fn checked(words: &[&str]) -> (i32, i32, String) {
    // A busy machine may be late; what it does within the default is another test's.
    let fail = [&["healthcheck", "--timeout=30s"], words].concat();
    let ok = [&fail[..], &["--unreachable=ok"]].concat();
    let ((fail, line), (ok, other)) = (asked(&fail), asked(&ok));
    for line in [&line, &other] {
        assert!(line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
    }
    (fail, ok, line)
}

/// The host is up and answers.
fn well() -> (Root, Api, Sidecar) {
    let (root, api) = (Root::with_history(Timestamp::now()), Api::healthy());
    let sidecar = Sidecar::start(root.path(), &format!("[host]\nurl = \"{}\"\n", api.url));
    sidecar.until("ready", |status| status["health"]["ready"] == true);
    (root, api, sidecar)
}

/// It is down, and that fails at once.
fn ill() -> (Root, Sidecar) {
    let root = Root::with_history(Timestamp::now());
    let config = root.path().join("exporter.toml");
    let policy = "[collect.service]\ninterval = \"1s\"\n[collect.channels]\nenabled = false\n[collect.gateway]\nenabled = false\n\
                  [checks.service_up]\nfail_for = \"1s\"\nfail_count = 2\n[checks.service_responding]\nfail_for = \"10m\"\n";
    std::fs::write(&config, policy).unwrap();
    let sidecar = Sidecar::start_as_is(root.path(), &config);
    sidecar.until_patiently("failed", |status| status["health"]["overall"] == "unhealthy");
    (root, sidecar)
}

fn url(sidecar: &Sidecar) -> String {
    format!("--url=http://{}", sidecar.address)
}

#[test]
fn a_verdict_is_told_and_nothing_else_fails_with_unreachable_ok() {
    let (_well_root, _api, well) = well();
    let (_ill_root, ill) = ill();
    assert_eq!(checked(&[&url(&well)]).0, 0);
    assert_eq!(checked(&[&url(&well), "--readyz"]), (0, 0, format!("ok: http://{}/readyz\n", well.address)));
    assert_eq!(checked(&[&url(&ill)]).0, 0, "the sidecar of a host that is down works");
    let (fail, ok, line) = checked(&[&url(&ill), "--readyz"]);
    assert_eq!((fail, ok), (1, 1), "{line}");
    assert!(line.starts_with("failed: http://") && line.contains("/readyz: service_up failed: bad "), "{line}");

    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (fail, ok, line) = checked(&[&format!("--url=http://{gone}"), "--readyz"]);
    assert_eq!((fail, ok, line), (1, 0, format!("nothing is known: http://{gone}/readyz: refused\n")));
    let (fail, ok, line) = checked(&[&format!("--url=https://{}", well.address), "--readyz"]);
    assert!((fail, ok) == (1, 0) && line.contains("TLS: answers, but not with TLS"), "{line}");
    let (fail, ok, line) = checked(&["--url=http://nowhere.invalid:1", "--readyz"]);
    assert!((fail, ok) == (1, 0) && line.contains("look up its name"), "{line}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // whom nobody accepts
    for (more, code) in [("--unreachable=fail", 1), ("--unreachable=ok", 0)] {
        let to = format!("--url=http://{}", silent.local_addr().unwrap());
        let (found, line) = asked(&["healthcheck", &to, "--readyz", more]);
        assert!(found == code && line.contains("timed out"), "{found} {line}");
    }
}

#[test]
fn what_answers_in_its_place_is_no_verdict() {
    let other = Api::new();
    let to = format!("--url={}", other.url);
    let answer = |status, text: &str| Say::Answer(status, "text/plain", text.to_owned());
    let starting = "[+]loop ok\n[-]started failed: not every collector with a critical check has seen something yet\n\
                    readyz check failed\n";
    for say in [
        Say::Status(401),
        Say::Status(403),
        Say::Status(404),
        Say::Status(429),
        Say::Status(500),
        Say::Status(503),
        Say::Redirect("http://127.0.0.1:1/readyz"),
        Say::Html("<p>Welcome</p>".to_owned()),
        answer(503, "upstream connect error"),
        answer(503, starting),
        answer(503, "the sidecar is stopping\n"),
    ] {
        other.say("/readyz", say.clone());
        let (fail, ok, line) = checked(&[&to, "--readyz"]);
        assert_eq!((fail, ok), (1, 0), "{say:?}: {line}");
        assert!(line.starts_with("nothing is known: ") && !line.contains("secret"), "{line}");
    }
    other.say("/readyz", answer(503, "[-]service_up \u{1b}[2Jx failed: bad\nreadyz check failed\n"));
    let (fail, ok, line) = checked(&[&to, "--readyz"]);
    assert!((fail, ok) == (1, 1) && line.contains("service_up \u{fffd}[2Jx failed"), "{line}");
}

#[test]
fn a_sidecar_that_is_starting_is_no_verdict() {
    let (root, api) = (Root::with_history(Timestamp::now()), Api::healthy());
    api.say("/status", Say::Hang); // so that nobody knows of the channels, for minutes
    let sidecar = Sidecar::start(root.path(), &format!("[host]\nurl = \"{}\"\n", api.url));
    sidecar.until("service", |status| status["collectors"]["service"]["up"] == true);
    assert_eq!(sidecar.status()["health"]["overall"], "starting");
    let (fail, ok, line) = checked(&[&url(&sidecar), "--readyz"]);
    assert!((fail, ok) == (1, 0) && line.contains("started failed"), "{fail} {ok} {line}");
    let (code, line) = asked(&["nagios", &url(&sidecar)]);
    assert!(code == 3 && line.starts_with("UNKNOWN - starting"), "{code} {line}");
}

#[test]
fn it_asks_where_its_own_configuration_says() {
    let (root, _api, sidecar) = well();
    let port = sidecar.address.port();
    let found = |(code, line): (i32, String)| {
        assert!(code == 0 && line == format!("ok: http://127.0.0.1:{port}/livez\n"), "{code} {line}");
    };
    found(asked(&["healthcheck", "--timeout=30s", &format!("--web.listen-address=:{port}")]));
    let mut by_environment = exporter();
    by_environment.env("AGENTHOST_WEB_LISTEN_ADDRESS", format!("0.0.0.0:{port}"));
    let (code, out, _) = said(by_environment.args(["healthcheck", "--timeout=30s"]));
    found((code, out));
    // What else the file says is of no concern: a sidecar that refused it runs on.
    let config = root.path().join("own.toml");
    std::fs::write(&config, format!("[web]\nlisten = [\"[::]:{port}\"]\n[collect.nonsense]\n")).unwrap();
    found(asked(&["healthcheck", "--timeout=30s", &format!("--config.file={}", config.display())]));
    // One that cannot be read is a doubt, and said.
    std::fs::write(&config, "[web\n").unwrap();
    let (code, line) =
        asked(&["healthcheck", "--unreachable=ok", "--readyz", &format!("--config.file={}", config.display())]);
    assert!(code == 0, "{line}");
    assert!(
        line.starts_with("ok")
            && (line.contains("so this is a guess") || line == "ok: http://127.0.0.1:10484/readyz\n"),
        "{line}"
    );
}

#[test]
fn wrong_command_lines_have_the_codes_that_their_callers_know() {
    let health = |words: &[&str]| said(exporter().arg("healthcheck").args(words));
    for words in [
        &["--bogus"][..],
        &["--unreachable=perhaps"],
        &["--url=ftp://x", "--unreachable=ok"],
        &["--url=http://127.0.0.1:1/readyz"],
        &["--url=http://127.0.0.1:1", "--ca-file=/nonexistent", "--unreachable=ok"],
        &["--url=http://127.0.0.1:1", "--user=x", "--password-file=/nonexistent", "--unreachable=ok"],
        &["--url=http://127.0.0.1:1", "--user=x"],
        &["--web.listen-address=127.0.0.1:0", "--unreachable=ok"],
        &["--config.file=/nonexistent.toml", "--unreachable=ok"],
        &["--web.config.file=/nonexistent.yml", "--unreachable=ok"],
        &["--timeout=0s", "--unreachable=ok"],
        &["more"],
    ] {
        let (code, out, _) = health(words);
        assert_eq!(code, 1, "{words:?}: {out}");
        assert!(out.starts_with("failed: ") && out.lines().count() == 1, "{words:?}: {out}");
    }
    for words in [
        &["nagios", "--bogus"][..],
        &["--bogus", "nagios"],
        &["--log.level=bogus", "nagios"],
        &["nagios", "--url=http://127.0.0.1:1", "--ca-file=/nonexistent"],
    ] {
        let (code, out, _) = said(exporter().args(words));
        assert!(code == 3 && out.starts_with("UNKNOWN - ") && out.lines().count() == 1, "{words:?}: {code} {out}");
    }
    for command in ["healthcheck", "nagios", "status"] {
        for url in ["http://bob:hunter2@h", "http://bob:hun/hunter2@h", "http://h?token=hunter2"] {
            let (_, out, err) = said(exporter().args([command, &format!("--url={url}")]));
            assert!(!(out.clone() + &err).contains("hunter2"), "{command} {url}: {out}{err}");
        }
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let told = exporter().args(["nagios", "--url=http://127.0.0.1:1"]).stdout(full).status().unwrap();
    assert_eq!(told.code(), Some(3), "a verdict that nobody can read is none");
    assert_eq!(said(exporter().args(["status", "--bogus"])).0, 1);
    assert_eq!(said(exporter().args(["--host.root", "healthcheck", "--bogus"])).0, 2, "that is no command");
    assert_eq!(said(exporter().args(["healthcheck", "--help"])).0, 0);
}

#[test]
fn nagios_is_told_each_verdict() {
    let (_root, _api, well) = well();
    let told = |sidecar: &Sidecar| asked(&["nagios", &url(sidecar)]);
    well.until_patiently("no doubt", |status| {
        ["healthy", "degraded"].contains(&status["health"]["overall"].as_str().unwrap())
    });
    let (code, line) = told(&well);
    assert!(code < 2 && line.lines().count() == 1 && line.matches('|').count() == 1, "{code} {line}");
    let figures = line.split(" | ").nth(1).unwrap();
    for figure in figures.split_whitespace() {
        let (label, values) = figure.split_once('=').unwrap();
        assert!(label.starts_with('\'') && label.ends_with('\'') && values.split(';').count() <= 5, "{figure}");
    }
    let (_ill_root, ill) = ill();
    let (code, line) = told(&ill);
    assert!(code == 2 && line.starts_with("CRITICAL - not ready: host down, failed for "), "{code} {line}");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, line) = asked(&["nagios", &format!("--url=http://{gone}")]);
    assert!(code == 3 && line == format!("UNKNOWN - http://{gone}/livez: refused\n"), "{code} {line}");
}

#[test]
fn a_loop_that_has_stopped_makes_what_it_said_before_worthless() {
    let other = Api::new();
    other.say(
        "/livez",
        Say::Answer(503, "text/plain", "[-]loop failed: it has stopped\nlivez check failed\n".to_owned()),
    );
    let healthy = json!({"overall": "healthy", "ready": true, "checks": []});
    other.json("/status", json!({"health": healthy}));
    other.json("/status?section=health", healthy);
    let (code, line) = asked(&["nagios", &format!("--url={}", other.url)]);
    assert!(code == 3 && line.contains("own loop has stopped"), "{code} {line}");
    let (code, page) = asked(&["status", &format!("--url={}", other.url)]);
    assert!(code == 1 && page.starts_with("✕ NOBODY KNOWS"), "{code} {page}");
    assert_eq!(asked(&["healthcheck", "--timeout=30s", "--unreachable=ok", &format!("--url={}", other.url)]).0, 1);
}

/// A sidecar with TLS by a certificate of its own authority, and a user.
fn locked(folder: &Path) -> (Root, Sidecar) {
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let top = params.self_signed(&authority).unwrap();
    let issuer = rcgen::Issuer::new(params, authority);
    let issue = |names: &[&str], file: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{file}.crt")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    };
    std::fs::write(folder.join("ca.pem"), top.pem()).unwrap();
    issue(&["sidecar.example", "127.0.0.1"], "server");
    issue(&["client.example"], "client");
    std::fs::write(folder.join("password"), "hello\n").unwrap();
    std::fs::write(folder.join("wrong"), "other\n").unwrap();
    let root = Root::with_history(Timestamp::now());
    let digest = bcrypt_of_hello();
    let web = format!(
        "tls_server_config: {{cert_file: server.crt, key_file: server.key, client_auth_type: VerifyClientCertIfGiven, \
         client_ca_file: ca.pem}}\nbasic_auth_users: {{prom: '{digest}'}}\n"
    );
    std::fs::write(folder.join("web.yml"), web).unwrap();
    let config = root.path().join("exporter.toml");
    std::fs::write(&config, "").unwrap();
    let flags = [
        format!("--web.config.file={}", folder.join("web.yml").display()),
        format!("--host.root={}", root.path().display()),
    ];
    let sidecar = Sidecar::spawn(&config, flags);
    (root, sidecar)
}

fn bcrypt_of_hello() -> String {
    bcrypt::hash("hello", 4).unwrap()
}

#[test]
fn tls_and_users_are_met_by_flags() {
    let folder = tempfile::tempdir().unwrap();
    let (_root, sidecar) = locked(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let to = format!("--url=https://{}", sidecar.address);
    let ca = format!("--ca-file={}", file("ca.pem"));
    let user = ["--user=prom".to_owned(), format!("--password-file={}", file("password"))];
    assert_eq!(checked(&[&to, &ca]).0, 0, "a probe needs no user");
    assert_eq!(checked(&[&to, "--insecure"]).0, 0);
    let own = [format!("--cert-file={}", file("client.crt")), format!("--key-file={}", file("client.key"))];
    assert_eq!(checked(&[&to, &ca, &own[0], &own[1]]).0, 0);
    let (fail, ok, line) = checked(&[&to]);
    assert!((fail, ok) == (1, 0) && line.contains("of no authority that we know"), "{line}");
    let (fail, ok, _) = checked(&[&format!("--url=http://{}", sidecar.address)]);
    assert_eq!((fail, ok), (1, 0), "it speaks TLS only");
    // By its own configuration it knows itself.
    let listens = format!("--web.listen-address={}", sidecar.address);
    let (fail, _, line) = checked(&[&listens, &format!("--web.config.file={}", file("web.yml"))]);
    assert_eq!((fail, line), (0, format!("ok: https://{}/livez\n", sidecar.address)));

    for tool in ["status", "nagios"] {
        let ask = |more: &[&str]| asked(&[&[tool, to.as_str(), ca.as_str(), "--timeout=60s"], more].concat());
        let (code, out) = ask(&[&user[0], &user[1]]);
        assert!(if tool == "status" { code == 0 } else { !out.contains("401") }, "{code} {out}");
        let wrong = format!("--password-file={}", file("wrong"));
        for refused in [ask(&[]), ask(&[&user[0], &wrong])] {
            assert_eq!(refused.0, if tool == "status" { 1 } else { 3 }, "{}", refused.1);
            assert!(refused.1.contains("answered with status 401") && !refused.1.contains("other"), "{}", refused.1);
        }
    }
}

#[test]
fn three_statuses_are_as_they_were() {
    let now: Timestamp = "2026-11-21T20:05:00Z".parse().unwrap();
    let file =
        |name: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)).unwrap();
    let degraded: Value = serde_json::from_str(&file("golden/status.json")).unwrap();
    let unhealthy: Value = serde_json::from_str(&file("fixtures/status-unhealthy.json")).unwrap();
    let strange: Value = serde_json::from_str(&file("fixtures/status-of-another-version.json")).unwrap();
    golden("status-degraded.txt", &page(&degraded, now, false, None));
    golden("status-unhealthy.txt", &page(&unhealthy, now, false, Some(120)));
    golden("status-unhealthy-in-colour.txt", &page(&unhealthy, now, true, Some(80)).replace('\u{1b}', "<ESC>"));
    golden("status-of-another-version.txt", &page(&strange, now, false, None));
}

#[test]
fn a_page_is_coloured_where_it_is_wanted_and_shown_again_and_again() {
    let (_root, _api, sidecar) = well();
    let page = |words: &[&str], environment: &[(&str, &str)]| {
        said(exporter().envs(environment.iter().copied()).args(["status", &url(&sidecar), "--timeout=60s"]).args(words))
    };
    let (code, plain, _) = page(&[], &[]);
    assert!(code == 0 && !plain.contains('\u{1b}') && plain.contains(", ready  pynchy "), "{code} {plain}");
    assert!(page(&["--color=always"], &[("NO_COLOR", "1")]).1.contains('\u{1b}'), "a flag wins");
    assert!(!page(&["--color=never"], &[]).1.contains('\u{1b}'));
    // On a terminal, which `script` makes.
    let on_terminal = |environment: &[(&str, &str)]| {
        let line = format!("{} status {} --timeout=60s", env!("CARGO_BIN_EXE_agenthost-exporter"), url(&sidecar));
        let mut script = Command::new("script");
        script.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(environment.iter().copied());
        let out = script.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null()).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(on_terminal(&[("TERM", "xterm")]).contains('\u{1b}'));
    for plain in [[("TERM", "xterm"), ("NO_COLOR", "1")], [("TERM", "dumb"), ("X", "")]] {
        let page = on_terminal(&plain);
        assert!(page.contains(", ready") && !page.contains('\u{1b}'), "{page}");
    }
    let mut watching = exporter();
    watching.args(["status", &url(&sidecar), "--watch=0.1"]).stdout(std::process::Stdio::piped());
    let mut child = watching.spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let pages = lines.filter(|line| line.as_ref().unwrap().contains(", ready  pynchy ")).take(3).count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(pages, 3);
}

#[test]
fn shells_complete_what_there_is_and_the_man_page_shows_it() {
    let (code, script, _) = said(exporter().args(["completions", "bash"]));
    assert_eq!(code, 0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions");
    std::fs::write(&file, &script).unwrap();
    let ask = "source \"$1\"; complete=_agenthost__exporter; COMP_WORDS=(agenthost-exporter heal); COMP_CWORD=1; \
               $complete agenthost-exporter heal agenthost-exporter; echo \"${COMPREPLY[@]}\"; \
               COMP_WORDS=(agenthost-exporter healthcheck --unr); COMP_CWORD=2; \
               $complete agenthost-exporter --unr healthcheck; echo \"${COMPREPLY[@]}\"";
    let (_, completed, err) = said(Command::new("bash").args(["-c", ask, "bash"]).arg(&file));
    assert_eq!(completed, "healthcheck\n--unreachable\n", "{err}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = said(exporter().args(["completions", shell]));
        assert!(code == 0 && script.contains("healthcheck") && !script.contains("demo-worker"), "{shell}");
    }
    assert_eq!(said(exporter().args(["completions", "cmd"])).0, 2);
    let (code, page, _) = said(exporter().arg("man"));
    assert!(code == 0 && page.starts_with(".ie"), "{page}");
    for said in [".TH agenthost-exporter 1", "COMMAND HEALTHCHECK", "COMMAND DOCTOR", "\\-\\-unreachable"] {
        assert!(page.contains(said), "{said}\n{page}");
    }
    assert!(!page.contains("demo\\-host") && !page.contains("DEMO-HOST"), "what is hidden stays so");
}
