//! What must be remembered of workers between two looks: who they are, what they had used, when they last worked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use super::rule::{Look, Rule};
use crate::source::process::Identity;
use crate::source::process::ending::Ending;
use crate::source::process::proc::{self, Comm, Hidden, Io, Proc, Scan, Stat};

/// Over which work is measured.
pub const WINDOW: Duration = Duration::from_secs(15);
/// A look that comes a little early still ends a window: else the jitter of a pace of 15 s would double every other one.
pub const SLACK: Duration = Duration::from_millis(500);
/// So long a process may become what it will be: it executes its program, writes its title.
const SETTLES: Duration = Duration::from_secs(30);
/// A child that looks like its worker and is younger is one that is about to execute a tool.
const FORKS: Duration = Duration::from_secs(1);
/// One that ended younger than this ended within seconds of its start.
pub const EARLY: Duration = Duration::from_secs(10);
/// The end of so many is awaited at a time, each with a file descriptor.
const AWAITED: usize = 64;
const RESTARTS_WITHIN: Duration = Duration::from_secs(3600);
const EARLY_EXITS_WITHIN: Duration = Duration::from_secs(600);
/// Events of one kind that are remembered: a loop of starts must not fill the memory.
const EVENTS: usize = 10_000;
/// Read and written between two looks: less is a keep-alive. A small turn of pi has 13 KB.
const TALK: u64 = 1024;

/// All that is remembered.
pub struct Roll {
    rules: Vec<Rule>,
    sessions: bool,
    decided: BTreeMap<Identity, Decided>,
    workers: BTreeMap<Identity, Worker>,
    tallies: Vec<Tally>,
    last_look: Option<Duration>,
    /// How many young ones this look has left to await.
    awaited: usize,
    hasher: RandomState,
}

/// What a process was taken for when it was last asked, under this name.
struct Decided {
    comm: Comm,
    rule: Option<usize>,
    /// A rule wants to know its program, which is another user's.
    is_closed: bool,
    /// Asked of the children of workers only.
    is_server: Option<bool>,
    /// Of the command line of a server. Without the key, which stays here, it says nothing.
    command: Option<u64>,
}

/// One worker.
struct Worker {
    rule: usize,
    /// When it was looked at, and the CPU ticks it had used by then: those of the window, and the latest before it.
    samples: VecDeque<(Duration, u64)>,
    io: Option<Io>,
    /// When work was last seen, or when it was first looked at.
    worked: Duration,
    /// When it was last seen to have read or written anything.
    moved: Option<Duration>,
    /// Of a young one.
    ending: Option<Ending>,
    has_ended: bool,
    session: Option<String>,
}

/// What has been counted of one kind since the first look.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub cpu_ticks: u64,
    /// Read and written bytes of disks; `None` until that of one worker could be read.
    pub disk: Option<(u64, u64)>,
    pub spawns: u64,
    pub exits: u64,
    /// When those ended whose place nobody has taken yet, within the last hour.
    vacant: VecDeque<Duration>,
    restarts: VecDeque<Duration>,
    early_exits: VecDeque<Duration>,
}

impl Tally {
    /// Starts in the place of one that had ended, within the last hour.
    pub fn recent_restarts(&self) -> usize {
        self.restarts.len()
    }

    /// Ends within seconds of a start, within the last ten minutes.
    pub fn recent_early_exits(&self) -> usize {
        self.early_exits.len()
    }

    pub fn forget(&mut self, now: Duration) {
        for (events, within) in [
            (&mut self.restarts, RESTARTS_WITHIN),
            (&mut self.vacant, RESTARTS_WITHIN),
            (&mut self.early_exits, EARLY_EXITS_WITHIN),
        ] {
            while events.len() > EVENTS || events.front().is_some_and(|&at| now.saturating_sub(at) > within) {
                events.pop_front();
            }
        }
    }

    pub fn spawned(&mut self, now: Duration) {
        self.spawns += 1;
        self.forget(now);
        if self.vacant.pop_front().is_some() {
            self.restarts.push_back(now);
        }
    }

    pub fn exited(&mut self, now: Duration, was_early: bool) {
        self.exits += 1;
        self.vacant.push_back(now);
        if was_early {
            self.early_exits.push_back(now);
        }
    }
}

/// One worker as a look found it.
pub struct Seen {
    pub stat: Stat,
    pub rule: usize,
    /// Living ones.
    pub children: usize,
    /// `None`: seen once.
    pub is_busy: Option<bool>,
    pub idle: Option<Duration>,
    /// Share of one core since the last look.
    pub cpu_percent: Option<f64>,
    /// What it reads, writes and is connected to is not ours to see.
    pub is_closed: bool,
    /// When it was last seen to have read or written anything.
    pub moved: Option<Duration>,
    pub session: Option<String>,
    /// Of a server: the process that needs it, and its command.
    pub server: Option<(u32, u64)>,
}

impl Roll {
    pub fn new(rules: Vec<Rule>, sessions: bool) -> Roll {
        Roll {
            tallies: rules.iter().map(|_| Tally::default()).collect(),
            rules,
            sessions,
            decided: BTreeMap::new(),
            workers: BTreeMap::new(),
            last_look: None,
            awaited: 0,
            hasher: RandomState::new(),
        }
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// In the order of the rules.
    pub fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// Processes of which nobody can say whether a rule by `exe` means them.
    pub fn doubtful(&self) -> usize {
        self.decided.values().filter(|known| known.is_closed).count()
    }

    /// How many ends are awaited that have not come.
    #[cfg(test)]
    pub fn awaits(&self) -> usize {
        let endings = self.workers.values().filter_map(|worker| worker.ending.as_ref());
        endings.filter(|ending| ending.lifetime().is_none()).count()
    }

    /// Looks at all workers of a scan. `now` is on the clock that counts since boot.
    pub fn look(&mut self, proc: &Proc, scan: &Scan, now: Duration) -> Vec<Seen> {
        self.decide(proc, scan, now);
        let found = self.found(scan, now);
        let children = self.children(proc, scan, &found, now);
        self.bury(scan, &found, now);
        self.awaited = 0;
        let mut networks = Networks::default();
        let mut seen = Vec::with_capacity(found.len());
        for (&pid, &rule) in &found {
            let Some(stat) = scan.get(pid) else { continue };
            let children = children.get(&pid).map_or(&[][..], Vec::as_slice);
            let mut one = self.observe(proc, stat, rule, children, &mut networks, now);
            one.server = self.server(scan, stat);
            seen.push(one);
        }
        self.tallies.iter_mut().for_each(|tally| tally.forget(now));
        self.last_look = Some(now);
        seen
    }

    /// Takes each process for what it is: asked when it is new, while it settles, and when it has another name.
    fn decide(&mut self, proc: &Proc, scan: &Scan, now: Duration) {
        self.decided.retain(|identity, _| scan.get(identity.pid).is_some_and(|stat| stat.identity == *identity));
        for stat in scan.all().iter().filter(|stat| !stat.is_kernel) {
            let settles = now.saturating_sub(stat.started()) < SETTLES;
            let known = self.decided.get(&stat.identity).filter(|known| known.comm == stat.comm);
            let is_told = |known: &Decided| known.rule.is_some_and(|rule| !self.rules[rule].is_beyond_name());
            let stands = known.is_some_and(|known| is_told(known) || !settles || stat.is_zombie());
            if stands {
                continue;
            }
            let had = known.is_some_and(|known| known.rule.is_some());
            let (decided, is_blind) = self.ask(proc, scan, stat);
            // What cannot be seen any more proves nothing: it may be about to end.
            if !(had && decided.rule.is_none() && is_blind) {
                self.decided.insert(stat.identity, decided);
            }
        }
    }

    fn ask(&self, proc: &Proc, scan: &Scan, stat: &Stat) -> (Decided, bool) {
        let look = Look::at(proc, scan, stat);
        let rule = self.rules.iter().position(|rule| rule.matches(&look));
        let is_mcp = rule.is_some_and(|rule| self.rules[rule].is_mcp());
        let words = is_mcp.then(|| look.words()).flatten();
        let command = words.map(|words| self.hasher.hash_one(words.line()));
        let is_closed = rule.is_none() && look.is_closed();
        (Decided { comm: stat.comm, rule, is_closed, is_server: None, command }, look.is_blind())
    }

    /// The workers of a scan, with their rules; without forks on their way, and without launchers of servers.
    fn found(&self, scan: &Scan, now: Duration) -> BTreeMap<u32, usize> {
        let mut found = BTreeMap::new();
        let mut launchers = BTreeSet::new();
        for stat in scan.all() {
            let Some(rule) = self.rule(stat) else { continue };
            let parent = scan.get(stat.parent).filter(|parent| self.rule(parent) == Some(rule));
            let launcher = self.launcher(scan, stat).filter(|_| self.rules[rule].is_mcp() && !stat.is_zombie());
            let is_young = now.saturating_sub(stat.started()) < FORKS;
            if parent.is_some() && is_young && !stat.is_zombie() {
                continue;
            }
            launchers.extend(launcher.map(Stat::pid));
            found.insert(stat.pid(), rule);
        }
        found.retain(|pid, _| !launchers.contains(pid));
        found
    }

    fn rule(&self, stat: &Stat) -> Option<usize> {
        self.decided.get(&stat.identity)?.rule
    }

    /// The living children of workers, and whether each is more than a server that waits for questions.
    fn children(
        &mut self,
        proc: &Proc,
        scan: &Scan,
        found: &BTreeMap<u32, usize>,
        now: Duration,
    ) -> BTreeMap<u32, Vec<(u32, bool)>> {
        let mut children: BTreeMap<u32, Vec<(u32, bool)>> = BTreeMap::new();
        for stat in scan.all().iter().filter(|stat| !stat.is_zombie() && found.contains_key(&stat.parent)) {
            let Some(decided) = self.decided.get_mut(&stat.identity) else { continue };
            let settles = now.saturating_sub(stat.started()) < SETTLES;
            if decided.is_server.is_none() || (settles && decided.rule.is_none()) {
                decided.is_server = Some(Look::at(proc, scan, stat).is_surely_server());
            }
            let works = decided.is_server != Some(true);
            children.entry(stat.parent).or_default().push((stat.pid(), works));
        }
        children
    }

    fn observe(
        &mut self,
        proc: &Proc,
        stat: &Stat,
        rule: usize,
        children: &[(u32, bool)],
        networks: &mut Networks,
        now: Duration,
    ) -> Seen {
        let mut worker = self.take(stat, rule, now);
        let (used, cpu_percent) = worker.use_cpu(stat, now);
        self.tallies[rule].cpu_ticks += used;
        let io = proc.io(stat.pid());
        let talked = worker.talk(io, &mut self.tallies[rule], now);
        let has_tool = children.iter().any(|&(_, works)| works);
        let mut is_busy = if has_tool { Some(true) } else { worker.works(self.rules[rule].work, now) };
        // Asked last, as it costs most.
        if is_busy == Some(false) && talked {
            is_busy = networks.is_connected(proc, stat.pid()).or(is_busy);
        }
        if is_busy == Some(true) {
            worker.worked = now;
        }
        if self.sessions && self.rules[rule].is_pi() {
            worker.learn_session(proc, children);
        }
        if stat.is_zombie() {
            let was_early = worker.ended_early(stat.started(), now);
            self.end(&mut worker, now, was_early);
        } else {
            self.attend(proc, &mut worker, stat, now);
        }
        let seen = Seen {
            stat: *stat,
            rule,
            children: children.len(),
            is_busy: is_busy.filter(|_| !stat.is_zombie()),
            idle: is_busy.filter(|_| !stat.is_zombie()).map(|_| now.saturating_sub(worker.worked)),
            cpu_percent,
            is_closed: io == Err(Hidden::Denied) && !stat.is_zombie(),
            moved: worker.moved,
            session: worker.session.clone(),
            server: None,
        };
        self.workers.insert(stat.identity, worker);
        seen
    }

    /// What is known of a worker; a new one is counted.
    fn take(&mut self, stat: &Stat, rule: usize, now: Duration) -> Worker {
        match self.workers.remove(&stat.identity) {
            Some(worker) if worker.rule == rule => return worker,
            // It became another kind by executing another program.
            Some(mut worker) => self.end(&mut worker, now, false),
            None => {}
        }
        if self.last_look.is_some() {
            self.tallies[rule].spawned(now);
        }
        // What an older one used before we looked was not used under our eyes.
        let is_new = self.last_look.is_some_and(|last| stat.started() > last);
        if is_new {
            self.tallies[rule].cpu_ticks += stat.cpu_ticks;
        }
        let nothing = Io { read_chars: 0, written_chars: 0, read_bytes: 0, written_bytes: 0 };
        Worker {
            rule,
            samples: VecDeque::new(),
            io: is_new.then_some(nothing),
            worked: now,
            moved: None,
            ending: None,
            has_ended: false,
            session: None,
        }
    }

    fn end(&mut self, worker: &mut Worker, now: Duration, was_early: bool) {
        if !std::mem::replace(&mut worker.has_ended, true) && self.last_look.is_some() {
            self.tallies[worker.rule].exited(now, was_early);
        }
    }

    /// Waits for the end of a young one, so that it is known whether it was early.
    fn attend(&mut self, proc: &Proc, worker: &mut Worker, stat: &Stat, now: Duration) {
        let left = EARLY.saturating_sub(now.saturating_sub(stat.started()));
        if left.is_zero() {
            worker.ending = None;
        } else if worker.ending.is_none() && self.awaited < AWAITED {
            worker.ending = proc.await_end(stat.identity, left);
        }
        self.awaited += usize::from(worker.ending.is_some());
    }

    /// Counts those that are gone, and forgets them. One that lives on and is no worker any more has become something
    /// else.
    fn bury(&mut self, scan: &Scan, found: &BTreeMap<u32, usize>, now: Duration) {
        let stays = |identity: &Identity| {
            found.contains_key(&identity.pid) && scan.get(identity.pid).is_some_and(|stat| stat.identity == *identity)
        };
        let gone: Vec<Identity> = self.workers.keys().filter(|identity| !stays(identity)).copied().collect();
        for identity in gone {
            let Some(worker) = self.workers.remove(&identity) else { continue };
            let was_early = worker.ended_early(identity.started(), now) && !scan.lives(identity);
            let tally = &mut self.tallies[worker.rule];
            match self.decided.get(&identity) {
                // It launched a server, which was counted as another start.
                Some(known) if known.rule == Some(worker.rule) => tally.exits += 1,
                _ if worker.has_ended => {}
                _ => tally.exited(now, was_early),
            }
        }
    }

    /// Of a server: the first process above it that is none, and its command.
    fn server(&self, scan: &Scan, stat: &Stat) -> Option<(u32, u64)> {
        let command = self.decided.get(&stat.identity)?.command?;
        // The table was not read at one moment, so a loop is thinkable.
        let launchers = std::iter::successors(Some(stat), |stat| self.launcher(scan, stat)).take(1000);
        let above = scan.get(launchers.last()?.parent)?;
        Some((above.pid(), command))
    }

    /// The server above that launched this one: its parent, or the one that did it by a shell, as `npx` does.
    fn launcher<'a>(&self, scan: &'a Scan, stat: &Stat) -> Option<&'a Stat> {
        let is_server = |stat: &&Stat| self.decided.get(&stat.identity).is_some_and(|known| known.command.is_some());
        let parent = scan.get(stat.parent)?;
        let is_shell = ["sh", "dash", "bash"].iter().any(|name| parent.comm.is(name));
        let above = if is_shell && !is_server(&parent) { scan.get(parent.parent)? } else { parent };
        Some(above).filter(is_server)
    }
}

impl Worker {
    /// Ticks since the last look, and their share of one core.
    fn use_cpu(&mut self, stat: &Stat, now: Duration) -> (u64, Option<f64>) {
        let last = self.samples.back().copied();
        while let (Some(&(longer, _)), Some(&(shorter, _))) = (self.samples.front(), self.samples.get(1))
            && is_nearer(now.saturating_sub(shorter), now.saturating_sub(longer))
        {
            self.samples.pop_front();
        }
        self.samples.push_back((now, stat.cpu_ticks));
        let Some((at, ticks)) = last else { return (0, None) };
        let used = stat.cpu_ticks.saturating_sub(ticks);
        let elapsed = now.saturating_sub(at).as_secs_f64();
        let percent = (elapsed > 0.0).then(|| proc::ticks(used).as_secs_f64() / elapsed * 100.0);
        (used, percent)
    }

    /// Whether it used as much CPU as is work in the time between two readings. Until that is a window it needs all of
    /// it: what a garbage collector burns at once would be work for a second.
    fn works(&self, work: f64, now: Duration) -> Option<bool> {
        let &(at, before) = self.samples.front()?;
        let &(_, ticks) = self.samples.back()?;
        let elapsed = now.saturating_sub(at);
        let share = if elapsed + SLACK < WINDOW { 1.0 } else { elapsed.as_secs_f64() / WINDOW.as_secs_f64() };
        let needed = work * share;
        (elapsed > Duration::ZERO).then(|| proc::ticks(ticks.saturating_sub(before)).as_secs_f64() >= needed)
    }

    /// Whether it read or wrote more than a keep-alive since the last look. A garbage collector wakes its own threads
    /// by pipes: what it writes it reads.
    fn talk(&mut self, io: Result<Io, Hidden>, tally: &mut Tally, now: Duration) -> bool {
        let Ok(io) = io else { return false };
        let disk = tally.disk.get_or_insert_default();
        let Some(last) = self.io.replace(io) else { return false };
        disk.0 += io.read_bytes.saturating_sub(last.read_bytes);
        disk.1 += io.written_bytes.saturating_sub(last.written_bytes);
        let read = io.read_chars.saturating_sub(last.read_chars);
        let written = io.written_chars.saturating_sub(last.written_chars);
        if read != written {
            self.moved = Some(now);
        }
        read != written && read.saturating_add(written) >= TALK
    }

    /// The tools that pi runs are told their session's file; between tools it is remembered.
    fn learn_session(&mut self, proc: &Proc, children: &[(u32, bool)]) {
        for &(child, _) in children {
            if let Ok(Some(path)) = proc.variable(child, "PI_SESSION_FILE") {
                let name = PathBuf::from(path).file_name().map(|name| name.to_string_lossy().into_owned());
                self.session = name.or(self.session.take());
            }
        }
    }

    /// Whether it is known to have ended within seconds of its start: at the latest by now, or when the kernel said so.
    ///
    /// That it was young when it was last seen proves nothing: a job of 12 s is always young then, if looks are 15 s
    /// apart, and where it is started at a steady pace it has the same age each time, however often it comes. Nor does it
    /// that each look finds another one: so it is with jobs that follow each other. So a loop is told by those that a
    /// look happens to catch, and of each of them the end is awaited to the moment. There are 40 looks in ten minutes at
    /// the default interval: if one is alive for an eighth of the time, they catch the five that it takes.
    fn ended_early(&self, started: Duration, now: Duration) -> bool {
        let known = self.ending.as_ref().and_then(Ending::lifetime);
        now.saturating_sub(started) < EARLY || known.is_some_and(|lifetime| lifetime < EARLY)
    }
}

/// Whether the shorter of two spans is a window, and closer to one.
pub fn is_nearer(shorter: Duration, longer: Duration) -> bool {
    shorter + SLACK >= WINDOW && shorter.abs_diff(WINDOW) < longer.abs_diff(WINDOW)
}

/// Established connections, read once a look for each network.
#[derive(Default)]
struct Networks(BTreeMap<PathBuf, Result<BTreeSet<u64>, Hidden>>);

impl Networks {
    /// `None`: not ours to see.
    fn is_connected(&mut self, proc: &Proc, pid: u32) -> Option<bool> {
        let own = proc.sockets(pid).ok()?;
        if own.is_empty() {
            return Some(false);
        }
        let network = proc.network(pid).ok()?;
        let established = self.0.entry(network).or_insert_with(|| proc.established(pid));
        established.as_ref().ok().map(|established| !own.is_disjoint(established))
    }
}
