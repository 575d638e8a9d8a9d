//! `doctor`: each permission taken away in turn from the real binary, and hosts that really run, to be found.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use jiff::Timestamp;
use serde_json::Value;

use crate::api::{Api, Say};
use crate::binary::{Sidecar, exporter, exporter_without_rights};
use crate::fixture::Root;

fn told(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("it ended by itself"), text(stdout), text(stderr))
}

/// A host whose files all may read, with its API, and a configuration that sends nobody to this machine's own Docker. Other
/// tests have hosts that run: it is told from them.
struct Ward {
    root: Root,
    _api: Api,
    /// Where all may write.
    folder: tempfile::TempDir,
}

impl Ward {
    fn new() -> Ward {
        let (root, api) = (Root::with_history(Timestamp::now()).with_repos(), Api::healthy());
        open(root.path());
        let folder = tempfile::tempdir().unwrap();
        mode(folder.path(), 0o755);
        let ward = Ward { root, _api: api, folder };
        let config = format!(
            "[host]\nroot = \"{}\"\nurl = \"{}\"\nprocess = \"host-of-the-ward\"\n[docker]\nsocket = \"{}\"\n[collect.gateway]\nenabled = false\n\
             [collect.containers]\nenabled = false\n[collect.mcp]\nenabled = false\n[collect.workers]\nenabled = false\n",
            ward.root.path().display(),
            ward._api.url,
            ward.folder.path().join("no.sock").display(),
        );
        ward.configure(&config);
        ward
    }

    fn configure(&self, config: &str) {
        std::fs::write(self.config(), config).unwrap();
        mode(&self.config(), 0o644);
    }

    fn add(&self, more: &str) {
        let config = std::fs::read_to_string(self.config()).unwrap();
        self.configure(&(config + more));
    }

    fn config(&self) -> std::path::PathBuf {
        self.folder.path().join("config.toml")
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    /// As another user than the one who owns everything.
    fn stranger(&self) -> (i32, Value) {
        self.by(exporter_without_rights(self.folder.path()))
    }

    fn by(&self, mut command: Command) -> (i32, Value) {
        let config = format!("--config.file={}", self.config().display());
        let (code, out, err) = told(command.args(["doctor", "--json", &config]));
        (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything below may be read by everybody, as if the host's user had a generous mask.
fn open(folder: &Path) {
    let done = Command::new("chmod").args(["-R", "a+rX"]).arg(folder).status().unwrap();
    assert!(done.success());
}

fn row<'a>(checkup: &'a Value, collector: &str) -> &'a Value {
    checkup["collectors"].as_array().unwrap().iter().find(|row| row["collector"] == collector).unwrap()
}

fn lines(row: &Value, key: &str) -> String {
    row[key].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Who may do nothing can only be told apart from root by root.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        crate::skipped("permissions taken away by doctor's tests", "only root can step down to another user");
    }
    is_root
}

#[test]
fn a_host_that_all_may_read_is_whole_though_it_is_of_another() {
    if !is_root() {
        return;
    }
    let ward = Ward::new();
    let (code, checkup) = ward.stranger();
    for name in ["messages", "usage", "tasks", "host_jobs", "groups", "repos", "deploy", "queue", "channels"] {
        let row = row(&checkup, name);
        assert_eq!(row["access"], "full", "git and the database are of another user, and may be read: {row:#}");
        assert!(row["fix"].as_array().unwrap().is_empty() && row["cannot"].as_array().unwrap().is_empty(), "{row:#}");
        assert!(!row["costs"].as_str().unwrap().is_empty() && row["interval_seconds"].as_f64().unwrap() > 0.0);
    }
    for (name, access) in [("gateway", "off"), ("workers", "off"), ("sql", "absent"), ("http", "absent")] {
        assert_eq!(row(&checkup, name)["access"], access, "{name}");
    }
    assert!(row(&checkup, "messages")["found"].as_str().unwrap().contains("waiting to be sent"), "{checkup:#}");
    assert_eq!((code, checkup["profile"].as_str()), (0, Some("pynchy")), "{checkup:#}");
    assert!(checkup["us"].as_str().unwrap().starts_with("user 65534 (nobody), groups "), "{checkup:#}");
    // The same for people.
    let config = format!("--config.file={}", ward.config().display());
    let (code, out, err) = told(exporter_without_rights(ward.folder.path()).args(["doctor", &config]));
    assert!(code == 0 && err.is_empty(), "{code} {err}");
    assert!(out.contains("\nfull     messages ") && out.contains("\noff      gateway     switched off\n"), "{out}");
    assert!(out.contains(" full, ") && out.contains(" absent, 4 off\n"), "{out}");
}

#[test]
fn each_permission_that_is_taken_away_is_named_with_what_gives_it_back() {
    if !is_root() {
        return;
    }
    let ward = Ward::new();
    let database = ward.root.database();
    mode(&database, 0o640);
    let (code, checkup) = ward.stranger();
    assert_eq!(code, 1);
    for name in ["messages", "usage", "tasks", "host_jobs", "groups"] {
        let row = row(&checkup, name);
        assert_eq!(row["access"], "denied", "{row:#}");
        assert!(lines(row, "cannot").contains(&format!("{}: permission denied", database.display())), "{row:#}");
        let exact = format!(
            "{} is of user 0 (root) and group 0 (root), mode 0640: run in group 0 (root) (--group-add 0, SupplementaryGroups=0), \
             or as user 0 (root)",
            database.display()
        );
        assert!(lines(row, "fix").contains(&exact), "{row:#}");
    }
    assert_eq!(row(&checkup, "deploy")["access"], "partial", "git without its database: {checkup:#}");
    assert_eq!(row(&checkup, "repos")["access"], "full");
    mode(&database, 0o644);

    mode(&ward.path("data/repos/acme/web/.git"), 0o700);
    let (code, checkup) = ward.stranger();
    let repos = row(&checkup, "repos");
    assert_eq!((code, repos["access"].as_str()), (1, Some("denied")), "{repos:#}");
    let exact = format!(
        "{} is of user 0 (root) and group 0 (root), mode 0700: run as user 0 (root), or `setfacl -m u:65534:",
        ward.path("data/repos/acme/web/.git").display()
    );
    assert!(lines(repos, "fix").contains(&exact), "{repos:#}");
    assert!(lines(repos, "fix").contains("no safe.directory is needed"), "{repos:#}");
    assert_eq!(row(&checkup, "messages")["access"], "full", "the others see as before");
    mode(&ward.path("data/repos/acme/web/.git"), 0o755);

    std::fs::remove_file(&database).unwrap();
    let (code, checkup) = ward.stranger();
    let messages = row(&checkup, "messages");
    assert_eq!((code, messages["access"].as_str()), (1, Some("unknown")), "not there is not denied: {messages:#}");
    assert!(
        lines(messages, "fix").contains("data has no `messages.db`: if it is elsewhere, mount it here"),
        "{messages:#}"
    );
}

#[test]
fn a_socket_of_docker_that_is_not_ours_is_named_with_its_group() {
    if !is_root() {
        return;
    }
    let ward = Ward::new();
    let socket = ward.folder.path().join("docker.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::chown(&socket, Some(0), Some(4321)).unwrap();
    mode(&socket, 0o660);
    let config = format!(
        "[host]\nroot = \"{}\"\nurl = \"{}\"\nprocess = \"host-of-the-ward\"\n[docker]\nsocket = \"{}\"\n",
        ward.root.path().display(),
        ward._api.url,
        socket.display()
    );
    ward.configure(&config);
    let (code, checkup) = ward.stranger();
    assert_eq!(code, 1);
    for name in ["containers", "mcp"] {
        let row = row(&checkup, name);
        assert_eq!(row["access"], "denied", "{row:#}");
        let fix = lines(row, "fix");
        assert!(fix.contains("run in group 4321 (--group-add 4321, SupplementaryGroups=4321)"), "{fix}");
        assert!(fix.contains("proxy"), "{fix}");
    }
}

#[test]
fn processes_and_tokens_of_others_are_named() {
    if !is_root() {
        return;
    }
    let ward = Ward::new();
    let worker = ward.folder.path().join("pi");
    std::fs::copy("/bin/sleep", &worker).unwrap();
    mode(&worker, 0o755);
    let started =
        std::iter::repeat_with(|| Command::new(&worker).arg("600").stdin(Stdio::null()).spawn()).take(100_000);
    let mut pi = started.flatten().next().expect("the copy stays busy");
    ward.configure(
        &std::fs::read_to_string(ward.config())
            .unwrap()
            .replace("[collect.workers]\nenabled = false\n", "[collect.workers]\npresets = [\"pi\"]\n")
            .replace("[collect.gateway]\nenabled = false\n", ""),
    );
    ward._api.say("/status", Say::Status(401));
    let other = Api::new();
    other.say("/numbers", Say::Status(401));
    let key = ward.folder.path().join("key");
    std::fs::write(&key, "sk-secret-of-the-test\n").unwrap();
    mode(&key, 0o600);
    let heart = ward.folder.path().join("closed/heart");
    std::fs::create_dir(heart.parent().unwrap()).unwrap();
    std::fs::write(&heart, "").unwrap();
    mode(heart.parent().unwrap(), 0o700);
    ward.add(&format!(
        "[collect.gateway]\nkind = \"openai\"\nurl = \"{}\"\nkey_file = \"{}\"\n\
         [[collect.http]]\nname = \"numbers\"\nurl = \"{}/numbers\"\nvalues = {{ depth = \"/depth\" }}\n\
         [[collect.heartbeat]]\nname = \"heart\"\npath = \"{}\"\n",
        other.url,
        key.display(),
        other.url,
        heart.display()
    ));
    let (code, checkup) = ward.stranger();
    let (_, own) = ward.by(exporter());
    pi.kill().unwrap();
    pi.wait().unwrap();
    assert_eq!(code, 1);
    let workers = row(&checkup, "workers");
    assert_eq!(workers["access"], "partial", "{workers:#}");
    assert!(lines(workers, "cannot").contains("are not ours to see"), "{workers:#}");
    assert!(lines(workers, "fix").contains("CAP_SYS_PTRACE"), "{workers:#}");
    assert_eq!(row(&own, "workers")["access"], "full", "to root nothing is hidden: {own:#}");
    let http = row(&checkup, "http");
    assert_eq!(http["access"], "denied", "{http:#}");
    assert!(lines(http, "fix").contains("`token_file` in that `[[collect.http]]`"), "{http:#}");
    let heartbeat = row(&checkup, "heartbeat");
    assert_eq!(heartbeat["access"], "partial", "{heartbeat:#}");
    assert!(lines(heartbeat, "fix").contains("closed is of user 0 (root)"), "{heartbeat:#}");
    let gateway = row(&checkup, "gateway");
    assert_eq!(gateway["access"], "partial", "{gateway:#}");
    assert!(lines(gateway, "fix").contains(&format!("{} is of user 0 (root)", key.display())), "{gateway:#}");
    for name in ["queue", "channels"] {
        let row = row(&checkup, name);
        assert_eq!(row["access"], "denied", "{row:#}");
        assert!(
            lines(row, "cannot").contains("status 401") && lines(row, "fix").contains("`token_file` in [host]"),
            "{row:#}"
        );
    }
    assert!(!checkup.to_string().contains("sk-secret"));
}

#[test]
fn what_it_would_not_start_with_is_2_and_a_look_writes_nothing() {
    let ward = Ward::new();
    let state = ward.folder.path().join("state.db");
    ward.add(&format!("[state]\npath = \"{}\"\n", state.display()));
    let (code, _) = ward.by(exporter());
    assert!(code < 2 && !state.exists(), "verdicts of a look are nobody's");
    ward.add("[hots]\n");
    let config = format!("--config.file={}", ward.config().display());
    let (code, out, err) = told(exporter().args(["doctor", &config]));
    assert!(code == 2 && out.is_empty() && err.contains("did you mean `host`"), "{code} {out} {err}");
    let (code, _, err) = told(exporter().args(["doctor", "--host.root=/nonexistent"]));
    assert!(code == 2 && err.contains("[host] root"), "{err}");
}

#[test]
fn access_is_a_fact_and_stands_in_the_status() {
    if !is_root() {
        return;
    }
    let ward = Ward::new();
    mode(&ward.root.database(), 0o600);
    let mut config = std::fs::read_to_string(ward.config()).unwrap();
    config += "[collect.messages]\ninterval = \"1s\"\n[collect.deploy]\ninterval = \"1s\"\n";
    ward.configure(&config);
    let sidecar = Sidecar::spawn_by(exporter_without_rights(ward.folder.path()), &ward.config(), []);
    let access = |status: &Value, name: &str| status["collectors"][name]["access"].as_str().map(str::to_owned);
    let status = sidecar.until("denied", |status| access(status, "messages").as_deref() == Some("denied"));
    sidecar.until("all three", |status| {
        let is = |name: &str, what: &str| access(status, name).as_deref() == Some(what);
        is("deploy", "partial") && is("messages", "denied") && is("service", "full")
    });
    assert!(status["collectors"]["messages"]["gaps"].is_null());
    let gaps = &sidecar.status()["collectors"]["deploy"]["gaps"];
    assert!(gaps[0].as_str().unwrap().contains("messages.db: permission denied"), "{gaps}");
    let metrics = sidecar.get("/metrics").1;
    let value = |collector: &str, access: &str| {
        let series = format!("agenthost_collector_access{{access=\"{access}\",collector=\"{collector}\"}} ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&series).map(str::to_owned))
            .unwrap_or_else(|| panic!("no {series}"))
    };
    for (collector, holds) in [("messages", "denied"), ("deploy", "partial"), ("service", "full")] {
        for one in ["full", "partial", "denied", "unknown"] {
            assert_eq!(value(collector, one), if one == holds { "1" } else { "0" }, "{collector} {one}");
        }
    }
    mode(&ward.root.database(), 0o644);
    sidecar.until("full", |status| access(status, "messages").as_deref() == Some("full"));
}

/// A host that runs in its folder: its program is a copy of `sleep` that is called as it should be.
struct Host {
    child: std::process::Child,
    _folder: tempfile::TempDir,
    root: std::path::PathBuf,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("data")).unwrap();
        std::fs::write(root.join("data/messages.db"), "").unwrap();
        std::fs::write(root.join("config.toml"), "[server]\nport = 7321\n").unwrap();
        std::fs::copy("/bin/sleep", root.join("pynchy")).unwrap();
        let start = || Command::new(root.join("pynchy")).arg("600").current_dir(&root).stdin(Stdio::null()).spawn();
        let child = std::iter::repeat_with(start).take(100_000).flatten().next().expect("the copy stays busy");
        Host { child, _folder: folder, root }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn hosts_that_run_are_found_and_one_becomes_a_configuration() {
    let host = Host::new();
    let root = host.root.display().to_string();
    // Other tests have hosts too: it is found among them, and there may be too many to choose.
    let json = |words: &[&str]| told(exporter().arg("doctor").arg("--json").args(words));
    let mut found = Value::Null;
    for _ in 0..600 {
        let (_, out, _) = json(&[]);
        let seen: Value = serde_json::from_str(&out).unwrap();
        // With no other host beside it the look itself is printed.
        let mine = seen["hosts"].as_array().and_then(|hosts| hosts.iter().find(|one| one["root"] == *root).cloned());
        if seen["root"] == *root || mine.is_some() {
            found = mine.unwrap_or(seen);
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(found["profile"], "pynchy", "it was not found");
    if found["pid"].is_number() {
        assert_eq!(found["pid"], host.child.id());
    }

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etc/made/config.toml");
    let write = |more: &[&str]| {
        let words = [format!("--host.root={root}"), format!("--write={}", file.display())];
        told(exporter().arg("doctor").args(words).args(more))
    };
    let (code, out, err) = write(&["--web.listen-address=0.0.0.0:7654"]);
    assert_eq!((code, out), (0, format!("wrote {}\n", file.display())), "{err}");
    let text = std::fs::read_to_string(&file).unwrap();
    let config = agenthost_exporter::config::Config::parse(&text, "x").unwrap();
    assert_eq!(config.host.root.as_deref(), Some(&*host.root));
    assert_eq!(config.web.listen, ["0.0.0.0:7654".parse().unwrap()]);
    assert!(text.contains("# url = \"http://127.0.0.1:7321\""), "{text}");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file) & 0o644, mode(&file), "no more than others may read");
    let config_file = format!("--config.file={}", file.display());
    assert_eq!(told(exporter().args(["config", "check", &config_file])).0, 0, "it passes");

    std::fs::write(&file, "mine\n").unwrap();
    let (code, _, err) = write(&[]);
    assert!(code != 0 && err.contains("--force overwrites it"), "{err}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine\n");
    assert_eq!(write(&["--force"]).0, 0);
    assert!(std::fs::read_to_string(&file).unwrap().contains("profile = \"pynchy\""));
    assert_eq!(mode(&file), 0o644);
    assert_eq!(std::fs::read_to_string(file.with_extension("toml.bak")).unwrap(), "mine\n");
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 2, "nothing else is left there");
}

#[test]
fn a_folder_with_a_name_of_its_own_mind_is_written_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap().join("a \"b\"\n\\ #\u{7f} é");
    std::fs::create_dir_all(root.join("data")).unwrap();
    std::fs::write(root.join("data/messages.db"), "").unwrap();
    let file = folder.path().join("config.toml");
    let words = [format!("--host.root={}", root.display()), format!("--write={}", file.display())];
    let (code, out, err) = told(exporter().arg("doctor").args(words));
    assert_eq!(code, 0, "{out} {err}");
    let config = agenthost_exporter::config::Config::load(Some(&file)).unwrap();
    assert_eq!(config.host.root, Some(root));
}

/// What the sidecar may spend, a look of somebody who wants to know what it costs may not.
#[test]
fn a_look_is_never_billed() {
    for more in ["status_poll = \"60s\"\n", "[collect.channels]\ninterval = \"30s\"\n"] {
        let (root, api) = (Root::with_history(Timestamp::now()), Api::healthy());
        let litellm = "[server]\nport = 1\n[gateway]\nlitellm_config = \"litellm.yaml\"\n";
        std::fs::write(root.path().join("config.toml"), litellm).unwrap();
        std::fs::write(root.path().join("litellm.yaml"), "model_list: []\n").unwrap();
        let config = root.path().join("x.toml");
        let text = format!("[host]\nroot = \"{}\"\nurl = \"{}\"\n{more}", root.path().display(), api.url);
        std::fs::write(&config, text).unwrap();
        let (code, out, err) = told(exporter().arg("doctor").arg(format!("--config.file={}", config.display())));
        assert!(code < 2 && out.contains("channels"), "{code} {out}{err}");
        assert_eq!(api.asked("/status"), 0, "{more}{out}");
    }
}
