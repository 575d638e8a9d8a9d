//! An hour, accelerated, of a host that lives: workers, groups, channels, tasks and worktrees come and go under ever new names,
//! the configuration is read anew now and then, and everybody scrapes. The sidecar must end as it began. Groups alone have names
//! that come again: what they used and said is counted for as long as the sidecar runs, though the host has forgotten them, for a
//! sum does not fall.
//!
//! The shortest interval that a configuration may have is a second, so a whole program can be no more than 15 times as quick
//! as it is delivered: an hour is 240 looks, in four minutes. Without `AGENTHOST_TESTS=long` it is 40 looks, of fewer workers.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fixture::{Root, stamped};
use crate::lab::{Lab, Line, Running, alone, collectors, is_long, value};
use crate::vitals::{Vitals, median, quarter};

/// How much there is of everything.
struct Size {
    looks: usize,
    workers: usize,
    scrapes: usize,
}

const SHORT: Size = Size { looks: 40, workers: 200, scrapes: 1_700 };
const LONG: Size = Size { looks: 240, workers: 1_000, scrapes: 10_000 };

/// So many scrape at once.
const SCRAPERS: usize = 4;

/// Groups, tasks, channels and worktrees that there are at a time, beside those that stay.
const ALIVE: usize = 8;

/// Real processes that do nothing.
struct Crew {
    program: PathBuf,
    alive: VecDeque<Child>,
}

impl Crew {
    fn new(lab: &Lab) -> Crew {
        let program = lab.folder.path().join("soak-worker");
        std::fs::copy("/bin/busybox", &program).unwrap();
        Crew { program, alive: VecDeque::new() }
    }

    fn come(&mut self, count: usize) {
        for _ in 0..count {
            let mut worker = Command::new(&self.program);
            worker.arg0("sleep").arg("100000").env_clear().current_dir("/");
            self.alive.push_back(worker.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        }
    }

    fn go(&mut self, count: usize) {
        for mut worker in self.alive.drain(..count.min(self.alive.len())) {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.go(usize::MAX);
    }
}

/// The host, and how often it has turned.
struct World {
    lab: Lab,
    crew: Crew,
    size: Size,
    turn: usize,
}

impl World {
    fn new(size: Size) -> World {
        let lab = Lab::beside(Root::with_history(Timestamp::now()).with_repos(), 2);
        let crew = Crew::new(&lab);
        let world = World { lab, crew, size, turn: 0 };
        world.configure("4s");
        world
    }

    fn configure(&self, recover_for: &str) {
        let rule = "presets = []\n[[collect.workers.rule]]\nname = \"soaked\"\ncomm = \"soak-worker\"\n";
        let text = self.lab.text(&[("workers", rule), ("repos", "status_interval = \"1s\"")]);
        self.lab.configure(&text.replace("recover_for = \"4s\"", &format!("recover_for = \"{recover_for}\"")));
    }

    /// A second of ours, a look of the sidecar's: some come, as many go.
    fn turn(&mut self, sidecar: &Running) {
        self.turn += 1;
        let (come, go) = match self.size.workers - self.crew.alive.len() {
            0 => (self.size.workers / 20, self.size.workers / 20),
            missing => (missing.min(self.size.workers * 5 / self.size.looks), 0),
        };
        self.crew.go(go);
        self.crew.come(come);
        self.rows();
        self.channels();
        if self.turn.is_multiple_of(4) {
            self.worktrees();
        }
        if self.turn.is_multiple_of(10) {
            self.reload(sidecar);
        }
    }

    fn rows(&self) {
        let (new, old) = (self.turn, self.turn.saturating_sub(ALIVE));
        let [group, gone] = [new, old].map(|turn| turn % (2 * ALIVE));
        let rows = format!(
            "INSERT INTO registered_groups (jid, name, folder, trigger_pattern, added_at, is_admin)
                 VALUES ('soak:{group}', 'Soak', 'soak-{group}', '@bot', '{{+0s}}', 0);
             INSERT OR REPLACE INTO chats (jid, name, last_message_time) VALUES ('soak:{group}', 'Soak', '{{+0s}}');
             INSERT INTO scheduled_tasks (id, group_folder, chat_jid, prompt, schedule_type, schedule_value, next_run, status, created_at)
                 VALUES ('soak-{new}', 'soak-{group}', 'soak:{group}', 'p', 'interval', '60000', '{{+2h}}', 'active', '{{+0s}}');
             INSERT INTO outbound_ledger (chat_jid, content, timestamp, source) VALUES ('soak:{group}', 'a', '{{+0s}}', 'agent');
             INSERT INTO outbound_deliveries (ledger_id, channel_name, delivered_at)
                 SELECT max(id), 'connection.soak.{new}', '{{+0s}}' FROM outbound_ledger;
             DELETE FROM registered_groups WHERE folder = 'soak-{gone}';
             DELETE FROM scheduled_tasks WHERE id = 'soak-{old}';
             DELETE FROM outbound_deliveries WHERE channel_name = 'connection.soak.{old}';"
        );
        let message = |number: usize, jid: &str| {
            format!(
                "INSERT INTO messages (id, chat_jid, sender, sender_name, content, timestamp, is_from_me, message_type)
                     VALUES ('s{new}-{number}', '{jid}', 'U', 'u', 'words', '{{+0s}}', {}, 'user');",
                number % 2
            )
        };
        let messages = (0..10).map(|number| message(number, if number < 5 { "slack:C1" } else { "100@g.us" }));
        let own = format!("soak:{group}");
        let messages: String = messages.chain((10..14).map(|number| message(number, &own))).collect();
        let pruned = format!("DELETE FROM messages WHERE id LIKE 's{old}-%';");
        let mut database = Connection::open(self.lab.root.database()).unwrap();
        database.busy_timeout(Duration::from_secs(60)).unwrap();
        let transaction = database.transaction().unwrap();
        transaction.execute_batch(&stamped(&(rows + &messages + &pruned), Timestamp::now())).unwrap();
        transaction.commit().unwrap();
    }

    fn channels(&self) {
        let mut status: Value = serde_json::from_str(&self.lab.api.said("/status")).unwrap();
        let lately = self.turn.saturating_sub(ALIVE)..self.turn;
        status["channels"] = json!({"connection.slack.acme": true, "connection.whatsapp.personal": true});
        for number in lately {
            status["channels"][format!("connection.soak.{number}")] = json!(number % 3 > 0);
        }
        self.lab.api.json("/status", status);
    }

    fn worktrees(&self) {
        let (new, old) = (self.turn, self.turn.saturating_sub(4 * ALIVE));
        let script = format!(
            "git worktree add -q --no-track -b soak/{new} ../../../worktrees/acme/web/soak-{new}
             git worktree remove --force ../../../worktrees/acme/web/soak-{old} 2>/dev/null && git branch -q -D soak/{old} || true"
        );
        let mut git = Command::new("sh");
        git.args(["-euc", &script]).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let done = git.current_dir(self.lab.root.path().join("data/repos/acme/web")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Another policy, now and then one that is refused.
    fn reload(&self, sidecar: &Running) {
        match self.turn / 10 % 3 {
            0 => self.lab.configure("[nonsense]\n"),
            other => self.configure(["3s", "5s"][other - 1]),
        }
        sidecar.signal(Signal::HUP);
    }
}

/// What all scrapes found.
#[derive(Default)]
struct Scraped {
    /// Counters by their series, as they were last.
    counters: BTreeMap<String, f64>,
    fallen: Vec<String>,
    series: Vec<f64>,
    bytes: Vec<usize>,
}

impl Scraped {
    /// As everybody asks: with and without gzip, over a connection that is kept or is new.
    fn of(sidecar: SocketAddr, number: usize, pace: Duration, ended: &AtomicBool, count: &AtomicUsize) -> Scraped {
        let asks = [
            ("/metrics", ""),
            ("/metrics", "Accept-Encoding: gzip\r\n"),
            ("/status", ""),
            ("/", ""),
            ("/status", "Accept-Encoding: gzip\r\n"),
            ("/readyz?verbose", ""),
        ];
        let (mut scraped, begun) = (Scraped::default(), Instant::now());
        let mut line = Line::to(sidecar).unwrap();
        for (turn, (path, headers)) in asks.into_iter().cycle().skip(number).enumerate() {
            if ended.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep((begun + pace * turn as u32).saturating_duration_since(Instant::now()));
            if turn.is_multiple_of(100) {
                line = Line::to(sidecar).unwrap();
            }
            let (code, body) = line.ask(path, headers).unwrap();
            assert!(code == 200 || path.starts_with("/readyz"), "{path}: {code}");
            count.fetch_add(1, Ordering::SeqCst);
            if (path, headers) == ("/metrics", "") {
                scraped.read(std::str::from_utf8(&body).unwrap());
            }
        }
        scraped
    }

    fn read(&mut self, metrics: &str) {
        let lines = metrics.lines().filter(|line| !line.starts_with('#'));
        for (name, now) in lines.filter_map(|line| line.rsplit_once(' ')).filter(|(name, _)| name.contains("_total")) {
            let now: f64 = now.parse().unwrap();
            let before = self.counters.insert(name.to_owned(), now);
            if before.is_some_and(|before| before > now) {
                self.fallen.push(format!("{name}: {before:?} to {now}"));
            }
        }
        self.series.extend(value(metrics, "agenthost_series"));
        self.bytes.push(metrics.len());
    }
}

/// The most of it in a quarter.
fn most<T: Copy>(of: &[T], number: usize, value: impl Fn(T) -> f64) -> f64 {
    quarter(of, number).iter().map(|one| value(*one)).fold(0.0, f64::max)
}

/// What is the same in the last quarter as in the second may have so many more.
fn stays(what: &str, [second, last]: [f64; 2], more: f64) {
    println!("{what}: {second} in the second quarter, {last} in the last");
    assert!(last <= second + more, "{what}: {second} in the second quarter, {last} in the last");
}

#[test]
fn an_hour_of_a_host_that_lives_leaves_nothing_behind() {
    let _alone = alone();
    let size = if is_long() { LONG } else { SHORT };
    let pace = Duration::from_secs(size.looks as u64) / size.scrapes as u32 * SCRAPERS as u32;
    let mut world = World::new(size);
    let sidecar = world.lab.start_kept();
    sidecar.until("workers are looked for", |status| status["workers"].is_object());
    let (ended, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let scrape = |number: usize| {
        let (address, ended, count) = (sidecar.address, ended.clone(), count.clone());
        std::thread::spawn(move || Scraped::of(address, number, pace, &ended, &count))
    };
    let scrapers: Vec<_> = (0..SCRAPERS).map(scrape).collect();
    let (begun, mut vitals) = (Instant::now(), Vec::new());
    // A busy machine may take longer for as many scrapes.
    while vitals.len() < world.size.looks || count.load(Ordering::SeqCst) < world.size.scrapes {
        world.turn(&sidecar);
        vitals.push(sidecar.vitals());
        assert!(vitals.len() < world.size.looks * 5, "{} scrapes", count.load(Ordering::SeqCst));
        std::thread::sleep(
            (begun + Duration::from_secs(vitals.len() as u64)).saturating_duration_since(Instant::now()),
        );
    }
    ended.store(true, Ordering::SeqCst);
    let scraped: Vec<_> = scrapers.into_iter().map(|scraper| scraper.join().unwrap()).collect();
    vitals.iter().step_by(world.size.looks / 8).for_each(|vitals| println!("{vitals}"));
    println!("{} scrapes in {:?}", count.load(Ordering::SeqCst), begun.elapsed());

    let fallen: Vec<_> = scraped.iter().flat_map(|scraped| &scraped.fallen).collect();
    assert!(fallen.is_empty(), "counters never fall: {fallen:?}");
    let [scraped, ..] = &scraped[..] else { panic!("nobody scrapes") };
    let kibs = |of: fn(&Vitals) -> u64| [1, 3].map(|number| median(quarter(&vitals, number).iter().map(of)) as f64);
    // Windows of ten minutes fill, and each stack grows once to what the deepest look needs: that is done in the first minutes,
    // which is all that the short form has. The heap keeps what a full house needed once.
    let settling = if is_long() { 4096.0 } else { 6144.0 };
    stays("KiB that are the heap's", kibs(|vitals| vitals.heap), settling);
    stays("anonymous KiB", kibs(|vitals| vitals.anon), settling);
    let most_of = |of: fn(Vitals) -> f64| [1, 3].map(|number| most(&vitals, number, of));
    stays("files", most_of(|vitals| vitals.fds as f64), 24.0);
    stays("threads", most_of(|vitals| vitals.threads as f64), 6.0);
    let series = [1, 3].map(|number| most(&scraped.series, number, |series| series));
    // Worktrees are as many as they will be after 32 looks.
    let coming = if is_long() { 0.05 } else { 0.25 };
    stays("series", series, series[0] * coming);
    let bytes = [1, 3].map(|number| most(&scraped.bytes, number, |bytes| bytes as f64));
    stays("bytes of /metrics", bytes, bytes[0] * coming);

    let workers = world.size.workers as u64;
    let status = sidecar.until("all workers", |status| status["workers"]["kinds"]["soaked"]["alive"] == workers);
    let soaked = &status["workers"]["kinds"]["soaked"];
    assert_eq!(soaked["spawns_total"].as_u64().unwrap() - soaked["exits_total"].as_u64().unwrap(), workers, "{soaked}");
    assert_eq!((collectors(&status, false), world.lab.logged("panic")), (vec![], 0));
    let subjects = status["health"]["checks"].as_array().unwrap().len();
    assert!(sidecar.terminate().0.success());
    let file = Connection::open(world.lab.state()).unwrap();
    let count = |table: &str| {
        let all = format!("SELECT count(*) FROM {table}");
        file.query_row(&all, [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs() as usize
    };
    println!("{subjects} subjects, {} in the state file, {} changes in it", count("windows"), count("changes"));
    // Those that have gone leave with their last observation: the critical ones within `unknown_for`, 20 s here.
    assert!(subjects < 300 && count("windows") <= subjects + 20, "{subjects}: {}", count("windows"));
    assert!(count("changes") <= 10_000);
}
