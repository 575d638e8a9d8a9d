//! The page in a real Chromium, before the real binary.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fantoccini::Locator;
use fantoccini::wd::WebDriverCompatibleCommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Api, Say};
use crate::binary::{FAST, Sidecar, exporter, up};
use crate::browser::Browser;
use crate::fixture::Root;
use crate::skipped;

/// Somebody's name for something, which must stay a name.
const HOSTILE: &str = "<img src=x onerror=alert(1)>";
/// git takes no spaces.
const HOSTILE_BRANCH: &str = "<img/src=x/onerror=alert(1)>";

/// What Chromium wrote to the console.
#[derive(Debug)]
struct ConsoleLog;

impl WebDriverCompatibleCommand for ConsoleLog {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}

impl Browser {
    /// The same of one that calls back when it is done.
    fn ask_and_wait(&self, script: &str) -> Value {
        self.runtime.block_on(self.client.execute_async(script, vec![])).unwrap()
    }

    fn until_verdict(&self, part: &str) -> String {
        let part = serde_json::to_string(part).unwrap();
        self.until(&part, &format!("return document.querySelector('h1').textContent.includes({part})"));
        self.text("h1")
    }

    fn click(&self, css: &str) {
        self.runtime.block_on(async { self.client.find(Locator::Css(css)).await?.click().await }).unwrap();
    }

    /// What of the console is worse than a remark; the log is emptied by this.
    fn complaints(&self) -> Vec<String> {
        let log = self.runtime.block_on(self.client.issue_cmd(ConsoleLog)).unwrap();
        let lines = log.as_array().unwrap().iter();
        let bad = lines.filter(|line| ["SEVERE", "WARNING"].contains(&line["level"].as_str().unwrap()));
        bad.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }
}

/// A host that says of a channel what the test wants, and a sidecar that notices within seconds.
struct Stage {
    root: Root,
    api: Api,
    config: PathBuf,
    sidecar: Sidecar,
}

impl Stage {
    fn new(extra: &str) -> Stage {
        Stage::with(Root::with_history(Timestamp::now()), extra)
    }

    fn with(root: Root, extra: &str) -> Stage {
        let api = Api::healthy();
        say(&api, true);
        let config = root.path().join("exporter.toml");
        let url = format!("[host]\nurl = \"{}\"\n", api.url);
        let check = "[checks.channel_connected]\nfail_for = \"1s\"\nrecover_for = \"1s\"\nunknown_for = \"1s\"\n";
        let fast = if extra.is_empty() { FAST } else { CHANNELS };
        std::fs::write(&config, format!("{url}{check}{fast}{extra}")).unwrap();
        let sidecar = start(&root, &config, 0);
        Stage { root, api, config, sidecar }
    }
}

const CHANNELS: &str = "[collect.channels]\ninterval = \"1s\"\n";

/// What the host says of the channel with the evil name.
fn say(api: &Api, connected: bool) {
    let mut status: Value = serde_json::from_str(&api.said("/status")).unwrap();
    status["channels"] = json!({"slack": true, HOSTILE: connected});
    api.json("/status", status);
}

fn start(root: &Root, config: &Path, port: u16) -> Sidecar {
    let flags = [format!("--host.root={}", root.path().display()), format!("--web.listen-address=127.0.0.1:{port}")];
    Sidecar::spawn_at(exporter(), config, flags)
}

#[test]
fn it_shows_what_there_is_within_a_second_and_in_every_size_and_light() {
    for (width, flags) in [(1280, &[][..]), (360, &["--blink-settings=preferredColorScheme=0"][..])] {
        let stage = Stage::with(Root::with_history(Timestamp::now()).with_repos(), "");
        stage.sidecar.until_patiently("all has been seen", |status| status["health"]["overall"] != "starting");
        let Some(browser) = Browser::start(width, flags) else { return };
        browser.open(&stage.sidecar);

        // The best of some: it must be able to, whatever else this machine does meanwhile.
        let times = (0..10).map(|_| {
            browser.open(&stage.sidecar);
            browser.ask("return performance.getEntriesByName('first data')[0].startTime").as_f64().unwrap()
        });
        let best = times.take_while(|&time| time > 1000.0).count();
        assert!(best < 10, "never within a second");

        let shown = browser.ask("return [...document.querySelectorAll('.card')].map((card) => card.id)");
        let status = stage.sidecar.status();
        let sections = status.as_object().unwrap().keys().map(String::as_str);
        let apart = ["health", "collectors", "schema", "sidecar"];
        let sections: BTreeSet<_> = sections.filter(|name| !apart.contains(name)).collect();
        let shown: BTreeSet<_> = shown.as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        assert_eq!(shown, sections, "every section is a card, whoever made it");
        assert_eq!(browser.ask("return document.querySelectorAll('img').length"), 0);
        assert!(browser.text("#channels").contains(HOSTILE), "{}", browser.text("#channels"));
        assert_eq!(overhang(&browser), 0, "at {width}");
        let is_dark = browser.ask("return matchMedia('(prefers-color-scheme: dark)').matches").as_bool().unwrap();
        assert_eq!(is_dark, !flags.is_empty());
        let paper = browser.ask("return getComputedStyle(document.body).backgroundColor");
        assert_eq!(paper, if is_dark { "rgb(15, 18, 21)" } else { "rgb(255, 255, 255)" });
        is_usable_by_all(&browser);
        assert_eq!(browser.complaints(), [""; 0]);
    }
}

/// By how much the page is wider than its window.
fn overhang(browser: &Browser) -> i64 {
    browser.ask("const page = document.documentElement; return page.scrollWidth - page.clientWidth").as_i64().unwrap()
}

fn is_usable_by_all(browser: &Browser) {
    let Some(axe) = axe() else { return };
    browser.ask(&format!("{axe}\nreturn true"));
    let found = browser.ask_and_wait("const done = arguments[0]; axe.run().then((found) => done(found))");
    let mut told = String::new();
    assert!(found["passes"].as_array().unwrap().len() > 20, "it has looked: {found}");
    for found in found["violations"].as_array().unwrap() {
        if ["serious", "critical"].contains(&found["impact"].as_str().unwrap()) {
            let nodes = found["nodes"].as_array().unwrap().iter().take(3);
            let html: Vec<_> = nodes.map(|node| format!("{}: {}", node["html"], node["failureSummary"])).collect();
            let _ = writeln!(told, "{}: {}", found["help"], html.join("; "));
        }
    }
    assert_eq!(told, "");
}

/// The rules of WCAG, as a script.
fn axe() -> Option<String> {
    let folder = std::env::var_os("AGENTHOST_AXE").map(PathBuf::from);
    let script =
        folder.and_then(|folder| std::fs::read_to_string(folder.join("node_modules/axe-core/axe.min.js")).ok());
    if script.is_none() {
        skipped("axe-core", "AGENTHOST_AXE is not a folder with it");
    }
    script
}

#[test]
fn a_check_goes_bad_and_comes_back_while_it_is_open() {
    let stage = Stage::new("");
    let Some(browser) = Browser::start(1280, &[]) else { return };
    browser.open(&stage.sidecar);
    browser.until_verdict("Ready");
    // Its own words, and that it is the same page all the time.
    browser.ask("document.querySelector('main').marked = true");
    say(&stage.api, false);
    let verdict = browser.until_verdict("Not ready");
    let said = browser.ask("return document.querySelector('[role=status]').textContent");
    assert_eq!(said, format!("Not ready: {HOSTILE} disconnected"), "nothing that changes by the second is read out");
    assert!(verdict.contains(&format!("{HOSTILE} disconnected for ")), "{verdict}");
    assert!(browser.text(".wrong").contains("has lost the channel"), "{}", browser.text(".wrong"));
    assert!(browser.text(".wrong").contains("blocks readiness"), "{}", browser.text(".wrong"));
    browser.until("its line of the day", "return [...document.querySelectorAll('.line rect.f-failed')].length > 0");
    assert!(browser.ask("return document.title").as_str().unwrap().starts_with("✕ Not ready: <img"));
    say(&stage.api, true);
    browser.until_verdict("Ready");
    browser.until(
        "the end of it",
        "return [...document.querySelectorAll('.line .sum')].some((sum) => sum.textContent.includes('failed once'))",
    );
    assert_eq!(browser.ask("return document.querySelector('main').marked"), true);
    assert_eq!(browser.ask("return document.querySelectorAll('img').length"), 0);
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Nobody says that the channel is lost, so the page does not either.
#[test]
fn silence_is_told_as_silence() {
    let stage = Stage::new("");
    let Some(browser) = Browser::start(1280, &[]) else { return };
    browser.open(&stage.sidecar);
    browser.until_verdict("Ready");
    for path in ["/status", "/health"] {
        stage.api.say(path, Say::Hang);
    }
    let shown = "return [...document.querySelectorAll('.wrong li h3')].map((head) => head.textContent).join('|')";
    browser.until("silence", "return [...document.querySelectorAll('.wrong li h3')].some((head) => head.textContent.startsWith('No answer about <img'))");
    let shown = browser.ask(shown);
    assert!(!shown.as_str().unwrap().contains("disconnected"), "{shown}");
    assert!(browser.text("body").contains("Channels: "), "why, by the collector's own words");
}

#[test]
fn a_sidecar_that_is_gone_is_told_and_one_that_is_back_is_seen() {
    let mut stage = Stage::new("");
    stage.sidecar.until_patiently("messages", up("messages", true));
    let Some(browser) = Browser::start(768, &[]) else { return };
    browser.open(&stage.sidecar);
    let before = browser.until_verdict("Ready");
    let port = stage.sidecar.address.port();
    stage.sidecar.child.kill().unwrap();
    stage.sidecar.child.wait().unwrap();
    browser.until_verdict("Lost the sidecar for");
    let verdict = browser.text(".verdict");
    assert!(verdict.contains("It cannot be reached") && verdict.contains("Last known, at "), "{verdict}");
    assert!(before.contains("Ready"), "{before}");
    assert!(browser.ask("return document.title").as_str().unwrap().starts_with("? Lost the sidecar – "));
    assert!(
        browser.ask("return document.querySelectorAll('.card').length").as_i64().unwrap() > 5,
        "what was seen stays"
    );
    assert_eq!(overhang(&browser), 0);
    stage.sidecar = start(&stage.root, &stage.config, port);
    browser.until("it is back", "return document.querySelector('.is-lost') === null");
    browser.until_verdict("Ready");
    // While it was away each request failed, which a browser remarks by itself.
    let others: Vec<_> =
        browser.complaints().into_iter().filter(|line| !line.contains("ERR_CONNECTION_REFUSED")).collect();
    assert_eq!(others, [""; 0]);
}

/// Two hundred worktrees, one of them on a branch with an evil name.
const WORKTREES: &str = r#"
cd data/repos/acme/web
for i in $(seq 197); do git worktree add -q --no-checkout --detach ../../../worktrees/acme/web/agent-$i; done
git worktree add -q -b 'BRANCH' ../../../worktrees/acme/web/evil
"#;

#[test]
fn three_hundred_workers_and_two_hundred_worktrees_stay_smooth_and_sort() {
    let root = Root::with_history(Timestamp::now()).with_repos();
    let mut git = Command::new("sh");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").current_dir(root.path());
    assert!(git.args(["-euc", &WORKTREES.replace("BRANCH", HOSTILE_BRANCH)]).status().unwrap().success());
    let _workers = Workers::start(root.path(), 300);
    let rule = "[collect.repos]\ninterval = \"2s\"\n[collect.workers]\ninterval = \"5s\"\n[[collect.workers.rule]]\n\
                name = \"own\"\ncomm = \"pageworker\"\n";
    let stage = Stage::with(root, rule);
    let are_all_there = |status: &Value| {
        let count = |list: &Value| list.as_array().map_or(0, Vec::len);
        count(&status["workers"]["processes"]) == 300
            && status["repos"]["acme/web"]["worktrees"].as_object().is_some_and(|trees| trees.len() >= 198)
    };
    stage.sidecar.until_patiently("all of them", are_all_there);
    let Some(browser) = Browser::start(1280, &[]) else { return };
    browser.open(&stage.sidecar);

    let rows = |card: &str| browser.ask(&format!("return document.querySelectorAll('#{card} tbody tr').length"));
    assert_eq!((rows("workers"), rows("repos")), (json!(40), json!(40)));
    for card in ["workers", "repos"] {
        browser.click(&format!("#{card} button.more"));
    }
    assert_eq!(rows("workers"), json!(300));
    assert!(rows("repos").as_i64().unwrap() >= 199);
    assert!(browser.text("#repos").contains(HOSTILE_BRANCH));
    assert_eq!(browser.ask("return document.querySelectorAll('img').length"), 0);

    is_sorted(&browser);
    is_smooth(&browser);
    assert_eq!(overhang(&browser), 0);
    assert_eq!(browser.complaints(), [""; 0]);
}

/// By memory, which differs between them, down and up.
fn is_sorted(browser: &Browser) {
    let memory =
        "return [...document.querySelectorAll('#workers tbody td[data-label=memory]')].map((cell) => cell.textContent)";
    let shown = || -> Vec<f64> {
        let cells = browser.ask(memory);
        cells.as_array().unwrap().iter().map(|cell| bytes(cell.as_str().unwrap())).collect()
    };
    let header = "#workers thead th:nth-child(5) button";
    browser.click(header);
    assert_eq!(
        browser.ask("return document.querySelector('#workers th[aria-sort]').getAttribute('aria-sort')"),
        "descending"
    );
    let down = shown();
    assert!(down.windows(2).all(|pair| pair[0] >= pair[1]), "{down:?}");
    assert!(down[0] > down[299], "they differ: {down:?}");
    browser.click(header);
    assert_eq!(
        browser.ask("return document.querySelector('#workers th[aria-sort]').getAttribute('aria-sort')"),
        "ascending"
    );
    let up = shown();
    assert!(up.windows(2).all(|pair| pair[0] <= pair[1]), "{up:?}");
    assert_eq!(browser.ask("return document.activeElement.textContent"), "Memory ↑", "the focus stays");
}

fn bytes(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap_or_else(|| panic!("{text}"));
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        other => panic!("{other}"),
    };
    number.parse::<f64>().unwrap() * factor
}

fn is_smooth(browser: &Browser) {
    let watch = "window.draws = []; new PerformanceObserver((list) => \
                 draws.push(...list.getEntriesByName('draw').map((draw) => draw.duration))).observe({ type: 'measure' })";
    browser.ask(watch);
    // On a busy machine any of them may be long; on none of them may all be.
    browser.until("a drawing that no frame waits for", "return Math.min(...draws) < 50");
    eprintln!("drawings of 300 workers and 200 worktrees: {} ms", browser.ask("return draws"));
}

/// Processes with a name of their own, every third with more memory.
struct Workers(Vec<Child>);

impl Workers {
    fn start(root: &Path, count: usize) -> Workers {
        let program = root.join("pageworker");
        std::fs::copy("/bin/sh", &program).unwrap();
        let null = || File::open("/dev/null").unwrap();
        let children = (0..count).map(|i| {
            let size = if i % 3 == 0 { "x=$(head -c 3000000 /dev/zero | tr '\\0' x); " } else { "" };
            let mut command = Command::new(&program);
            command.args(["-c", &format!("{size}read x")]).current_dir(root).stdin(Stdio::piped());
            command.stdout(null()).stderr(null()).spawn().unwrap()
        });
        Workers(children.collect())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn without_javascript_it_says_where_the_same_is() {
    let stage = Stage::new("");
    let (code, page) = stage.sidecar.get("/");
    assert_eq!(code, 200);
    let shown = page.split("<noscript>").nth(1).and_then(|rest| rest.split("</noscript>").next()).unwrap();
    for path in ["/readyz?verbose", "/status", "/metrics"] {
        assert!(shown.contains(&format!("href=\"{path}\"")), "{path}");
        assert!([200, 503].contains(&stage.sidecar.get(path).0), "{path}");
    }
}
