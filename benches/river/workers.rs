//! Real processes that are workers.

use super::*;
use crate::table::{Aim, row};

/// Real processes: a look at workers beside reading the `stat` of the same, and what remembering one takes.
pub fn workers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A shell that sleeps, under a name that no other process has.
    let name = folder.path().join("benchworker");
    std::fs::copy("/bin/sleep", &name).expect("a program");
    let mut running: Vec<Ended> = Vec::new();
    let mut looks = Vec::new();
    for count in [30, 300, 3000].into_iter().take(full_or(3, 2)) {
        while running.len() < count {
            let mut command = Command::new(&name);
            running.push(Ended(command.arg("3600").stdin(Stdio::null()).spawn().expect("it starts")));
        }
        let pids: Vec<u32> = running.iter().map(|worker| worker.0.id()).collect();
        let others = std::fs::read_dir("/proc").expect("processes").count().saturating_sub(count);
        let times = full_or(30_000, 3000) / count;
        let (before, begun) = (resident(std::process::id()), cpu_of_this_thread());
        let read = pids.iter().map(|pid| format!("/proc/{pid}/stat")).collect::<Vec<_>>();
        for _ in 0..times {
            read.iter().for_each(|path| drop(black_box(std::fs::read(path))));
        }
        let stat = (cpu_of_this_thread() - begun) / times as f64;
        let mut tick = worker_ticks();
        tick(); // what is asked of new processes is asked once
        let begun = cpu_of_this_thread();
        (0..times).for_each(|_| tick());
        let look = (cpu_of_this_thread() - begun) / times as f64;
        let one = 1e6 / count as f64;
        say(&format!("{count} workers, {others} others: a look, CPU for each worker"), look * one, "us");
        say(&format!("{count} workers: reading /proc/PID/stat of each, CPU"), stat * one, "us");
        say(&format!("{count} workers: ratio"), look / stat, "x");
        looks.push(look * 1e3);
        if count == 30 {
            row(
                "a look at 30 workers, CPU",
                look * 1e3,
                "ms",
                "reading `/proc/PID/stat` of each",
                stat * 1e3,
                Aim::AtMost(3.0),
            );
        }
        let grown = resident(std::process::id()).saturating_sub(before);
        say(&format!("{count} workers: memory for each, one section included"), grown as f64 / count as f64, "bytes");
    }
    for (count, looks) in ["300", "3 000"].into_iter().zip(looks.windows(2)) {
        row(format!("a look at {count} workers, CPU"), looks[1], "ms", "a tenth of them", looks[0], Aim::AtMost(10.0));
    }
}

/// Looks of one collector that knows the processes of this bench. They are no children of a host, nor is one sought.
fn worker_ticks() -> impl FnMut() {
    let subsystem = collect::ALL.iter().find(|one| one.name == "workers").expect("it is listed");
    let table = "[[rule]]\nname = \"bench\"\ncomm = \"benchworker\"\n";
    let table = toml::de::DeTable::parse(table).expect("TOML");
    let root = tempfile::tempdir().expect("a temporary folder");
    let config = host::Config {
        root: Some(root.path().to_owned()),
        pid_file: Some("pid".into()), // init's: it is above all
        ..host::Config::default()
    };
    std::fs::write(root.path().join("pid"), "1").expect("a pid file");
    let sources = Sources::default();
    let host = host::find(&config, &sources.processes, Path::new("/")).expect("a root");
    let mut collector = (subsystem.plan)(Some(table)).expect("a table")(&host, &sources).expect("a collector");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    move || {
        let _root = &root;
        let collector = collector.as_mut().expect("it has a rule");
        drop(black_box(collector.run(Now::read(), Duration::from_secs(60), runtime.handle()).expect("a reading")));
    }
}
