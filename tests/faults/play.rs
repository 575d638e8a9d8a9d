//! Plays a fault: healthy first, then a blip, then for good, then mended; and writes down what was said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::binary::get;
use crate::browser::Browser;
use crate::fault::{Fault, Way};
use crate::row::Row;
use crate::scene::Scene;
use crate::stage::Stage;

/// For what takes seconds where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Much more often than a sidecar looks.
const GLANCE: Duration = Duration::from_millis(200);
/// A blip is no longer, for `fail_for` is twice that at the least.
const BLIP: Duration = Duration::from_secs(2);
/// On a busy machine what should be one bad look may be some; what the program makes of one is the same each time.
const BLIPS: usize = 4;
/// What a busy machine adds to the time in which a fault is seen.
const LATE: Duration = Duration::from_secs(4);
/// So many intervals may a collector be late for once on a busy machine; what a fault hinders stays late.
const HICCUP: f64 = 6.0;

/// Who looks at all sidecars: a Prometheus, and a person.
pub struct World {
    pub stage: Stage,
    pub browser: Mutex<Browser>,
    targets: Mutex<Vec<(String, SocketAddr)>>,
}

impl World {
    pub fn new(stage: Stage, browser: Browser) -> World {
        World { stage, browser: Mutex::new(browser), targets: Mutex::default() }
    }

    fn watch(&self, change: impl FnOnce(&mut Vec<(String, SocketAddr)>)) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut targets);
        self.stage.watch(&targets.iter().map(|(name, address)| (&**name, *address)).collect::<Vec<_>>());
    }

    /// The alerts that fire for this sidecar; `None`: Prometheus does not say.
    fn firing(&self, instance: &str) -> Option<BTreeSet<String>> {
        let series =
            self.stage.pagers[0].series(&format!("ALERTS{{alertstate=\"firing\",instance=\"{instance}\"}}"))?;
        Some(series.iter().filter_map(|one| one["alertname"].as_str().map(str::to_owned)).collect())
    }

    fn whole_page(&self, scene: &Scene) -> String {
        let browser = self.browser.lock().unwrap_or_else(PoisonError::into_inner);
        browser.open(scene.sidecar());
        browser.text("main")
    }

    /// Where the page tells it: the verdict's word, and the list; `None` if it does not.
    fn page(&self, scene: &Scene, wanted: &str) -> Option<String> {
        let browser = self.browser.lock().unwrap_or_else(PoisonError::into_inner);
        browser.open(scene.sidecar());
        let wanted = serde_json::to_string(&wanted.to_lowercase()).unwrap();
        let script = format!("const wanted = {wanted}; {TOLD}");
        let told = browser.ask(&script).as_str().map(str::to_owned);
        browser.ask("page.replaceChildren(); window.stop(); location.replace('about:blank')"); // it would go on asking
        told
    }
}

/// The word of the verdict; and the head of the list under which the wanted words stand, or nothing if the verdict itself has
/// them. With a card before it, that card has them. Of several collectors that see nothing one is told, and the others are named beside.
const TOLD: &str = "
    const word = document.querySelector('h1 .word')?.textContent.replace(/^\\W+/, '') ?? '';
    if (!wanted) return word;
    const [, card, says] = wanted.match(/^#(\\w+): (.*)$/) ?? [];
    if (card) return document.getElementById(card).innerText.toLowerCase().includes(says) ? `${word}; the card ${card}` : null;
    const collector = wanted.match(/^collector (\\w+) sees nothing$/)?.[1];
    const tells = (item) => {
        const head = item.querySelector('h3')?.textContent.toLowerCase() ?? '';
        return head.includes(wanted) || collector && head.includes('sees nothing') && item.textContent.includes(collector);
    };
    for (const head of document.querySelectorAll('main h2'))
        if ([...head.parentElement.querySelectorAll('li')].some(tells))
            return `${word}; ${head.firstChild.textContent.trim()}`;
    return document.querySelector('h1').textContent.toLowerCase().includes(wanted) ? word : null;";

/// A sidecar is watched in the world as long as this lives.
struct Watched<'a> {
    world: &'a World,
    name: String,
}

impl<'a> Watched<'a> {
    fn new(world: &'a World, name: String, address: SocketAddr) -> Watched<'a> {
        world.watch(|targets| targets.push((name.clone(), address)));
        Watched { world, name }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.world.watch(|targets| targets.retain(|(name, _)| *name != self.name));
    }
}

/// What one sidecar says at a moment.
#[derive(Deserialize)]
struct Glance {
    health: Value,
    collectors: Value,
    #[serde(skip)]
    ready: u16,
}

impl Glance {
    fn state(&self, (check, subject): (&str, &str)) -> &str {
        let checks = self.health["checks"].as_array().unwrap();
        let one = checks.iter().find(|one| one["check"] == check && one["subject"] == subject);
        one.and_then(|one| one["state"].as_str()).unwrap_or("none")
    }

    fn is_up(&self, collector: &str) -> bool {
        self.collectors[collector]["up"] == true
    }

    fn sees_all(&self, collector: &str) -> bool {
        let one = &self.collectors[collector];
        self.is_up(collector) && one["access"] == "full"
    }

    fn is_well(&self) -> bool {
        let all = self.collectors.as_object().unwrap();
        self.health["overall"] == "healthy" && self.ready == 200 && all.keys().all(|one| self.sees_all(one))
    }
}

/// Looks at one sidecar all the time.
struct Eyes<'a> {
    fault: &'a Fault,
    address: SocketAddr,
    last: Value,
    /// Of the fault's collector.
    looks: u32,
    /// How old what each collector last saw was, in its intervals, at each glance of this phase.
    late: BTreeMap<String, Vec<f64>>,
    counters: BTreeMap<String, f64>,
}

impl<'a> Eyes<'a> {
    fn new(fault: &'a Fault, address: SocketAddr) -> Eyes<'a> {
        Eyes { fault, address, last: Value::Null, looks: 0, late: BTreeMap::new(), counters: BTreeMap::new() }
    }

    fn section(&self, name: &str) -> Value {
        let (_, text) = get(self.address, &format!("/status?section={name}")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn glance(&mut self) -> Glance {
        let (asked, text) = (jiff::Timestamp::now(), get(self.address, "/status").unwrap().1);
        let glance: Glance = serde_json::from_str(&text).unwrap();
        let glance = Glance { ready: get(self.address, "/readyz").unwrap().0, ..glance };
        let took = glance.collectors[self.fault.collector]["duration_seconds"].clone();
        if took != self.last {
            self.looks += 1;
            self.last = took;
        }
        self.note_lateness(&glance, asked);
        glance
    }

    fn note_lateness(&mut self, glance: &Glance, asked: jiff::Timestamp) {
        let at = |one: &Value| one["last_success_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        for (name, one) in glance.collectors.as_object().unwrap() {
            let late = at(one).map_or(f64::INFINITY, |at| asked.duration_since(at).as_secs_f64());
            let late = late / one["interval_seconds"].as_f64().unwrap();
            self.late.entry(name.clone()).or_default().push(late);
        }
    }

    /// A new phase begins: what was counted before is of no matter.
    fn begin(&mut self) {
        self.looks = 0;
        self.late.clear();
    }

    fn until(&mut self, what: &str, mut wanted: impl FnMut(&Glance) -> bool) -> Glance {
        let begun = Instant::now();
        loop {
            let glance = self.glance();
            if wanted(&glance) {
                return glance;
            }
            assert!(begun.elapsed() < PATIENCE, "never {what}: {:#} {:#}", not_ok(&glance.health), glance.collectors);
            std::thread::sleep(GLANCE);
        }
    }

    /// Who is not fresh in this phase: later than two looks most of the time.
    fn stale(&mut self) -> BTreeSet<String> {
        let is_late = |late: &mut Vec<f64>| {
            late.sort_by(f64::total_cmp);
            late[late.len() / 2] > 2.0 || late[late.len() - 1] > HICCUP
        };
        let own = self.fault.collector;
        self.late.iter_mut().filter_map(|(name, late)| (name != own && is_late(late)).then(|| name.clone())).collect()
    }

    fn metrics(&mut self) -> String {
        let text = get(self.address, "/metrics").unwrap().1;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let Some(name) = series.split('{').next().filter(|name| name.ends_with("_total")) else { continue };
            let (value, before) =
                (value.parse::<f64>().unwrap(), self.counters.get(series).copied().unwrap_or_default());
            assert!(value >= before, "{name} falls: {series} was {before}, is {value}");
            self.counters.insert(series.to_owned(), value);
        }
        text
    }
}

fn not_ok(health: &Value) -> Value {
    let checks = health["checks"].as_array().unwrap();
    let bad = checks.iter().filter(|check| check["state"] != "ok").cloned();
    serde_json::json!({"overall": health["overall"], "checks": bad.collect::<Vec<_>>()})
}

/// Plays it once. It panics where anything is not as it must be.
pub fn play(world: &World, number: usize, fault: &Fault) -> Row {
    let mut scene = Scene::new(number, fault);
    let mut eyes = Eyes::new(fault, scene.address());
    // An address of its own in each attempt.
    let name = format!("{} {} at {}", fault.part, fault.fault, scene.address());
    let watched = Watched::new(world, name, scene.address());
    eyes.until("well", Glance::is_well);
    eyes.metrics();
    let blips: Vec<_> = (0..BLIPS).map_while(|_| blip(world, &watched.name, &mut scene, &mut eyes).err()).collect();
    assert!(blips.len() < BLIPS, "each blip is more than one: {blips:#?}");

    eyes.begin();
    let seen = last(&mut scene, &mut eyes);
    let row = told(world, &watched.name, &scene, &mut eyes, seen);

    (fault.mend)(&mut scene);
    eyes.begin();
    eyes.until("well again", |glance| {
        glance.is_well() && fault.way.check().is_none_or(|check| glance.state(check) == "ok")
    });
    eyes.metrics();
    let row = Row { clears: cleared(&mut eyes), ..row };
    if is_long() {
        let is_over = |firing: &BTreeSet<String>| firing.iter().all(|alert| fault.expect.beside.contains(&&**alert));
        let quiet = || world.firing(&watched.name).filter(is_over).map(drop);
        until("quiet again", quiet, || format!("{:?}", world.firing(&watched.name)));
    }
    row
}

/// All is played, and alerts are waited for until they are over.
pub fn is_long() -> bool {
    std::env::var("AGENTHOST_TESTS").is_ok_and(|how| how == "long")
}

/// One bad look, or as many as it takes this test to undo it: neither unready, nor failed, and nobody is told.
///
/// # Errors
/// It was more.
fn blip(world: &World, name: &str, scene: &mut Scene, eyes: &mut Eyes<'_>) -> Result<(), String> {
    let (fault, begun) = (eyes.fault, Instant::now());
    (fault.inflict)(scene);
    eyes.until("a bad look", |glance| is_seen(fault, glance) || begun.elapsed() > BLIP);
    (fault.mend)(scene);
    let (lasted, mut wrong) = (begun.elapsed(), None);
    eyes.until("well after a blip", |glance| {
        if glance.ready != 200 || fault.way.check().is_some_and(|check| glance.state(check) == "failed") {
            wrong.get_or_insert_with(|| format!("after {lasted:?}: {:#}", not_ok(&glance.health)));
        }
        glance.is_well()
    });
    let firing = until("an answer of Prometheus", || world.firing(name), String::new);
    if !firing.is_empty() {
        until("quiet", || world.firing(name).filter(BTreeSet::is_empty), || format!("{:?}", world.firing(name)));
        return Err(format!("after {lasted:?}: {firing:?}"));
    }
    wrong.map_or(Ok(()), Err)
}

fn is_seen(fault: &Fault, glance: &Glance) -> bool {
    let is_bad = fault.way.check().is_some_and(|check| glance.state(check) != "ok");
    is_bad || !glance.sees_all(fault.collector)
}

/// It lasts, until it is told. Answers with the looks that it took.
fn last(scene: &mut Scene, eyes: &mut Eyes<'_>) -> u32 {
    let fault = eyes.fault;
    (fault.inflict)(scene);
    let begun = Instant::now();
    let seen = match fault.way {
        Way::Flapping(check, subject) => flap(scene, eyes, (check, subject)),
        Way::Bad(check, subject) | Way::Silence(check, subject) => {
            eyes.until("failed", |glance| glance.state((check, subject)) == "failed");
            // Looks that block are few.
            let (took, allowed) = (begun.elapsed(), fault.in_time() + LATE);
            assert!(took <= allowed, "seen after {took:?}, {allowed:?} are allowed");
            eyes.looks
        }
        Way::Shown => {
            let metrics = || get(scene.address(), "/metrics").unwrap().1;
            eyes.until("shown", |glance| is_seen(fault, glance) || shows(fault, &metrics()));
            eyes.looks.max(1) // one was after the glance
        }
    };
    assert!(seen <= fault.within(), "seen after {seen} looks, and {} are promised", fault.within());
    seen
}

/// Bad in two of three looks; and bad from then on, when it has failed. Answers with the looks until then.
fn flap(scene: &mut Scene, eyes: &mut Eyes<'_>, check: (&str, &str)) -> u32 {
    let (fault, begun) = (eyes.fault, Instant::now());
    let (mut is_bad, mut seen) = (true, None);
    loop {
        let glance = eyes.glance();
        if glance.state(check) == "failed" && seen.is_none() {
            seen = Some(eyes.looks);
            eyes.late.clear(); // until now it was fresh now and then
        }
        let wanted = seen.is_some() || eyes.looks % 3 != 2;
        if wanted != is_bad {
            if wanted {
                (fault.inflict)(scene)
            } else {
                (fault.mend)(scene)
            }
            is_bad = wanted;
        }
        if let Some(seen) = seen {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "never failed by flapping: {:#}", not_ok(&glance.health));
        std::thread::sleep(GLANCE);
    }
}

/// Whether `/metrics` is as it must be: each line stands there as it is, or a series has more than a number, or is not there.
fn shows(fault: &Fault, metrics: &str) -> bool {
    let value = |series: &str| metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    fault.expect.metrics.iter().all(|wanted| match (wanted.strip_prefix("no "), wanted.split_once(" > ")) {
        (Some(series), _) => value(series).is_none(),
        (_, Some((series, least))) => value(series).is_some_and(|now| number(now) > number(least)),
        _ => metrics.lines().any(|line| line == *wanted),
    })
}

/// Where it is told, and what.
fn page_told(place: &str, told: &str) -> String {
    let told = told.split_once(": ").filter(|_| told.starts_with('#')).map_or(told, |(_, says)| says);
    if told.is_empty() { place.to_owned() } else { format!("{place}: {told}") }
}

fn number(text: &str) -> f64 {
    text.parse().unwrap()
}

fn spelled(line: &str) -> String {
    line.strip_prefix("no ").map_or_else(|| format!("`{line}`"), |series| format!("no `{series}`"))
}

/// Waits until all is said that must be said, and writes it down.
fn told(world: &World, name: &str, scene: &Scene, eyes: &mut Eyes<'_>, seen: u32) -> Row {
    let Fault { part, fault, injected, expect, .. } = *eyes.fault;
    let wanted: BTreeSet<String> = expect.unready.iter().map(|&check| check.to_owned()).collect();
    let says = || (unready(scene.address()) == wanted).then_some(());
    until("said by /readyz", says, || format!("{:?}", unready(scene.address())));
    until(
        "metrics",
        || shows(eyes.fault, &eyes.metrics()).then_some(()),
        || get(scene.address(), "/metrics").unwrap().1,
    );
    let page = until("a page", || world.page(scene, expect.page), || world.whole_page(scene));
    let fires = |alerts: &BTreeSet<String>| expect.alerts.iter().all(|&alert| alerts.contains(alert));
    until("alerts", || world.firing(name).filter(fires), || format!("{:?}", world.firing(name)));
    let (overall, glance) = aftermath(eyes);
    if is_long() && expect.alerts.is_empty() {
        std::thread::sleep(SLOWEST_ALERT);
    }
    let firing = until("an answer of Prometheus", || world.firing(name), String::new);
    let may: BTreeSet<&str> = expect.alerts.iter().chain(expect.beside).copied().collect();
    let more: Vec<_> = firing.iter().filter(|alert| !may.contains(&***alert)).collect();
    assert!(more.is_empty(), "{more:?} fire too: {:#}", not_ok(&glance.health));
    let mut stale = eyes.stale();
    let stands: BTreeSet<String> = expect.with.iter().map(|&one| one.to_owned()).collect();
    // What a busy machine makes late is fresh again soon; what the fault hinders is not.
    for _ in 0..5 {
        if stale != stands {
            eyes.late.clear();
            aftermath(eyes);
            stale = eyes.stale();
        }
    }
    assert_eq!(stale, stands, "who is not fresh");
    Row {
        part,
        fault,
        injected,
        seen: Some(seen),
        within: eyes.fault.within(),
        readyz: readyz(&overall, &wanted),
        metric: expect.metrics.iter().map(|line| spelled(line)).collect::<Vec<_>>().join(", "),
        page: page_told(&page, expect.page),
        alert: if expect.alerts.is_empty() { "none".into() } else { expect.alerts.join(", ") },
        clears: String::new(),
        fresh: match stale.is_empty() {
            true => "all others fresh".into(),
            false => format!("fresh but for {}", Vec::from_iter(stale).join(", ")),
        },
    }
}

/// What waits longest before it fires is 15 minutes of the rules, each of which is 2 s here, and a round of them.
const SLOWEST_ALERT: Duration = Duration::from_secs(33);

/// So long after all was said nothing else is.
const AFTERMATH: Duration = Duration::from_secs(3);

/// The overall verdict that stands for most of that time, as a look may be late on a busy machine; and the last glance.
fn aftermath(eyes: &mut Eyes<'_>) -> (String, Glance) {
    let (begun, mut stood) = (Instant::now(), BTreeMap::<String, u32>::new());
    loop {
        let glance = eyes.glance();
        *stood.entry(glance.health["overall"].as_str().unwrap().to_owned()).or_default() += 1;
        if begun.elapsed() > AFTERMATH {
            let overall = stood.into_iter().max_by_key(|(_, count)| *count).unwrap().0;
            return (overall, glance);
        }
        std::thread::sleep(GLANCE);
    }
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>, mut instead: impl FnMut() -> String) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never {what}: {}", instead());
        std::thread::sleep(GLANCE * 5);
    }
}

/// The checks that `/readyz` names.
fn unready(address: SocketAddr) -> BTreeSet<String> {
    let (code, text) = get(address, "/readyz?verbose").unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("[-]"));
    let names: BTreeSet<String> = lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(code == 200, names.is_empty(), "{code}: {text}");
    names
}

fn readyz(overall: &str, unready: &BTreeSet<String>) -> String {
    let names: Vec<_> = unready.iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { format!("200, {overall}") } else { format!("503: {}", names.join(", ")) }
}

/// What its verdict went through when it was mended, by the history; and nothing is missing there.
fn cleared(eyes: &mut Eyes<'_>) -> String {
    let history = eyes.section("history");
    assert_eq!(history["unwatched"], serde_json::json!([]));
    let Some((check, subject)) = eyes.fault.way.check() else {
        assert!(eyes.looks <= 4, "{} looks until all is well again", eyes.looks);
        return "at the next look".to_owned();
    };
    let pasts = history["checks"].as_array().unwrap();
    let past = pasts.iter().find(|past| past["check"] == check && past["subject"] == subject);
    let changes = past.and_then(|past| past["changes"].as_array()).expect("the history has its check");
    let states: Vec<&str> = changes.iter().map(|change| change["to"].as_str().unwrap_or("gone")).collect();
    let failed = states.iter().rposition(|state| *state == "failed").expect("the history has its failure");
    match states[failed + 1..] {
        ["recovering", "ok"] => "recovering at the next look, ok a minute later".to_owned(),
        ["ok"] => "ok at the next answer".to_owned(),
        ref other => other.join(" → "),
    }
}
