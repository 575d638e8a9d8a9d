use super::fake::{Fake, container};
use super::*;
use crate::sample::Failure;
use serde_json::json;

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// So many seconds after the first run.
fn after(seconds: u64) -> Now {
    // Far ahead of the real clock, which says when an answer came.
    let mono = Duration::from_secs(1_000_000_000 + seconds);
    Now { mono, wall: Timestamp::UNIX_EPOCH }
}

fn agent(name: &str, more: serde_json::Value) -> serde_json::Value {
    container(name, "pynchy-agent:latest", more)
}

fn text(error: Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[test]
fn a_container_is_as_it_says_and_no_more_of_it_is_kept() {
    let fake = Fake::with(vec![
        agent("one", json!({})),
        agent(
            "two",
            json!({"Status": "Exited (137) 2 hours ago", "RestartCount": 3, "HostConfig": {"CgroupParent": "/x"},
                "State": {"Status": "exited", "OOMKilled": true, "ExitCode": 137, "Health": {"Status": "unhealthy"},
                    "FinishedAt": "2026-11-21T21:00:00+02:00"}}),
        ),
    ]);
    let docker = Docker::at(fake.socket());
    let two = wait(docker.inspect("two", after(0))).unwrap().unwrap();
    assert_eq!((&*two.name, two.state, two.image.as_deref()), ("two", State::Exited, Some("pynchy-agent:latest")));
    assert_eq!((two.exit_code, two.oom_killed, two.restart_count), (Some(137), Some(true), Some(3)));
    assert_eq!(two.started_at, Some("2026-11-21T19:55:00.5Z".parse().unwrap()));
    assert_eq!(two.finished_at, Some("2026-11-21T19:00:00Z".parse().unwrap()));
    assert_eq!((two.health, two.pid, two.cgroup_parent.as_deref()), (Some(Health::Unhealthy), None, Some("/x")));
    let one = wait(docker.inspect("one", after(0))).unwrap().unwrap();
    assert_eq!((one.state, one.exit_code, one.oom_killed), (State::Running, None, Some(false)));
    assert_eq!((one.finished_at, one.health, one.cgroup_parent.as_deref()), (None, None, None));
    assert_eq!(wait(docker.inspect("thre", after(0))).unwrap(), None);
    assert!(!format!("{docker:?} {one:?}").contains("secret"));
    let asked = fake.asked();
    assert!(asked.iter().all(|line| line.starts_with("GET /containers/")), "{asked:?}");
}

#[test]
fn what_did_not_change_is_not_asked_again() {
    let containers = |last: serde_json::Value| vec![agent("a", json!({})), agent("b", json!({})), agent("c", last)];
    let fake = Fake::with(containers(json!({})));
    let docker = Docker::at(fake.socket());
    let look = |seconds| {
        let seen = wait(docker.inspect_all(after(seconds), |_| true)).unwrap();
        (seen.last().unwrap().restart_count, fake.asked().len())
    };
    assert_eq!(look(0), (Some(0), 4));
    assert_eq!(look(15), (Some(0), 1), "the list alone");
    // It was started anew: the status tells.
    fake.have(containers(json!({"Status": "Up 14 seconds", "RestartCount": 1})));
    assert_eq!(look(30), (Some(1), 2));
    // The same words again mean that it was started once more.
    fake.have(containers(json!({"Status": "Up 14 seconds", "RestartCount": 2})));
    assert_eq!(look(45), (Some(2), 2));
    fake.have(containers(json!({"Status": "Up 2 hours", "RestartCount": 3})));
    assert_eq!(look(60), (Some(3), 2));
    assert_eq!(look(75), (Some(3), 1));
    assert_eq!(look(301), (Some(3), 3), "after five minutes it is asked whatever the list says");
}

#[test]
fn what_is_listed_and_then_gone_is_not_there() {
    let fake = Fake::with(vec![agent("a", json!({}))]);
    let list = json!([{"Id": "61", "Names": ["/a"], "State": "running", "Status": "Up 1 hour"}]).to_string();
    fake.answer_with(move |path| match path.starts_with("/containers/json") {
        true => Some((200, list.clone())),
        false => Some((404, r#"{"message":"No such container: 61"}"#.into())),
    });
    assert_eq!(wait(Docker::at(fake.socket()).inspect("a", after(0))).unwrap(), None);
}

#[test]
fn one_that_cannot_be_read_costs_the_others_nothing() {
    let whole = agent("b", json!({}));
    for broken in [(500, "{}"), (404, "<html>no such page</html>"), (200, "{\"State\": 7}"), (200, "nonsense")] {
        let rows = json!([
            {"Id": "61", "Names": ["/a"], "State": "exited", "Status": "Exited (1) 2 hours ago"},
            {"Id": "62", "Names": ["/b"], "State": "running", "Status": "Up 2 hours"},
        ]);
        let (list, whole) = (rows.to_string(), whole.to_string());
        let fake = Fake::new(move |path| match path {
            "/containers/61/json" => Some((broken.0, broken.1.into())),
            "/containers/62/json" => Some((200, whole.clone())),
            _ => Some((200, list.clone())),
        });
        let seen = wait(Docker::at(fake.socket()).inspect_all(after(0), |_| true)).unwrap();
        assert_eq!(
            (seen[0].state, seen[0].exit_code, seen[0].restart_count),
            (State::Exited, None, None),
            "{broken:?}"
        );
        assert_eq!((seen[1].state, seen[1].restart_count), (State::Running, Some(0)));
    }
}

#[test]
fn words_nobody_knows_are_unknown_and_blind_to_no_other() {
    let rows = json!([
        {"Id": "1", "Names": ["/a"], "State": "hibernating", "Status": "", "Mounts": [{"Type": "new"}]},
        {"Id": "2", "Names": null, "State": "removing"},
        {"Id": "../3", "Names": ["/evil"], "State": "running"},
        {"Id": "4", "Names": ["/other/alias", "/b"]},
        {"Id": "5", "Names": ["/c"], "State": "stopped"},
        {"Id": "6", "Names": ["/d"], "State": "initialized"},
    ]);
    let fake = Fake::new(move |_| Some((200, rows.to_string())));
    let list = wait(Docker::at(fake.socket()).list(after(0))).unwrap();
    let seen: Vec<_> = list.containers.iter().map(|one| (&*one.id, &*one.name, one.state)).collect();
    let expected = [
        ("1", "a", State::Unknown),
        ("2", "", State::Removing),
        ("4", "b", State::Unknown),
        ("5", "c", State::Exited),
        ("6", "d", State::Created),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn all_who_ask_share_one_list() {
    let fake = Fake::with(vec![agent("a", json!({}))]);
    let docker = Docker::at(fake.socket());
    wait(async {
        let (one, two, three) = tokio::join!(docker.list(after(0)), docker.list(after(0)), docker.list(after(0)));
        assert!(one.is_ok() && one == two && two == three);
    });
    assert_eq!(fake.asked().len(), 1);
    let soon = Now { mono: after(0).mono + Duration::from_millis(999), ..after(0) };
    wait(docker.clone().list(soon)).unwrap();
    assert_eq!(fake.asked().len(), 0);
    wait(docker.list(after(1))).unwrap();
    assert_eq!(fake.asked().len(), 1);
}

#[test]
fn who_waits_for_an_answer_shares_its_failure_and_the_next_asks_again() {
    let fake = Fake::new(|_| Some((500, String::new())));
    let docker = Docker::at(fake.socket());
    wait(async {
        let now = Now::read();
        let (one, two) = tokio::join!(docker.list(now), docker.list(now));
        assert_eq!((&one, one.is_err()), (&two, true));
        assert_eq!(fake.asked().len(), 1);
        tokio::time::sleep(Duration::from_millis(2)).await;
        fake.have(vec![]);
        assert!(docker.list(Now::read()).await.unwrap().containers.is_empty(), "a failure is not kept");
    });
}

#[test]
fn silence_is_a_time_out_and_delays_all_who_ask_only_once() {
    let fake = Fake::new(|_| None);
    let docker = Docker::at(fake.socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = std::time::Instant::now();
    let now = Now::read();
    let (one, two) = runtime.block_on(async { tokio::join!(docker.list(now), docker.inspect("a", now)) });
    assert_eq!(one, Err(Error::TimedOut(fake.socket())));
    assert_eq!(two, Err(Error::TimedOut(fake.socket())));
    assert!(begun.elapsed() < PATIENCE + Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(Failure::from(anyhow::Error::new(one.unwrap_err())).cause, Cause::Unanswered);
}

/// Does something as a user who may not enter the folder.
fn as_a_stranger<T: Send>(folder: &Path, act: impl FnOnce() -> T + Send) -> T {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o000)).unwrap();
    let done = std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            if rustix::process::geteuid().is_root() {
                // Of this thread only, which ends with it.
                rustix::thread::set_thread_res_uid(None, rustix::thread::Uid::from_raw(65534), None).unwrap();
            }
            act()
        });
        thread.join().unwrap()
    });
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    done
}

#[test]
fn no_socket_nobody_there_and_no_permission_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let ask = || wait(Docker::at(&socket).list(after(0))).unwrap_err();
    assert_eq!(ask(), Error::Missing(socket.clone()));
    assert!(text(ask()).contains("`socket` in [docker]"));
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(ask(), Error::Refused(socket.clone()));
    let fake = Fake::with(vec![]);
    let docker = Docker::at(fake.socket());
    let denied = as_a_stranger(fake.folder(), || wait(docker.list(after(0))).unwrap_err());
    let failure = Failure::from(anyhow::Error::new(denied.clone()));
    assert_eq!((denied.cause(), failure.cause), (Cause::Denied, Cause::Denied));
    assert!(failure.error.contains("docker.sock: permission denied; run in the group"), "{}", failure.error);
}

#[test]
fn answers_that_are_none_are_broken_and_not_quoted() {
    for (status, body, says) in [
        (500, "sk-secret", "status 500"),
        (404, r#"{"message":"page not found"}"#, "status 404"),
        (200, "<html>sk-secret", "something that is no JSON (line 1 column 1)"),
        (200, r#"{"sk-secret": 1}"#, "JSON of another shape"),
        (200, r#"[{"Id": "1", "Names": "sk-secret"}]"#, "JSON of another shape"),
        (200, "[{\"Id\": \"1\"", "something that is no JSON"),
    ] {
        let fake = Fake::new(move |_| Some((status, body.into())));
        let error = wait(Docker::at(fake.socket()).inspect("a", after(0))).unwrap_err();
        let said = text(error.clone());
        assert!(matches!(error, Error::Broken(_)) && said.contains(says) && !said.contains("secret"), "{said}");
    }
    for status in [401, 403] {
        let fake = Fake::new(move |_| Some((status, "sk-secret".into())));
        let failure = Failure::from(anyhow::Error::new(wait(Docker::at(fake.socket()).list(after(0))).unwrap_err()));
        assert!(failure.cause == Cause::Denied && failure.error.contains("a proxy before it"), "{failure:?}");
    }
    let huge = Fake::new(|_| Some((200, " ".repeat(BODY_LIMIT + 1))));
    let error = wait(Docker::at(huge.socket()).list(after(0))).unwrap_err();
    assert_eq!(error, Error::Broken("the answer is too large".into()));
}

#[test]
fn the_configuration_names_the_socket_then_the_environment() {
    let config = |text: &str| toml::from_str::<Config>(text);
    let given = config("socket = \"unix:///run/user/1/docker.sock\"").unwrap();
    assert_eq!(given.socket, Some("/run/user/1/docker.sock".into()));
    let of = |config: &Config, host: Option<&str>| Docker::new(config, host.map(OsString::from)).socket;
    assert_eq!(of(&given, Some("tcp://x:2375")), given.socket);
    assert_eq!(of(&Config::default(), Some("unix:///x/y")), Some("/x/y".into()));
    assert_eq!(of(&Config::default(), Some("")), Some(SOCKET.into()));
    assert_eq!(of(&Config::default(), None), Some(SOCKET.into()));
    for host in ["tcp://127.0.0.1:2375", "ssh://me@there", "unix://here"] {
        let docker = Docker::new(&Config::default(), Some(host.into()));
        assert_eq!(wait(docker.list(after(0))).unwrap_err(), Error::Elsewhere, "{host}");
    }
    for text in ["socket = \"docker.sock\"", "socket = \"tcp://127.0.0.1:2375\"", "socket = \"\"", "sockt = 1"] {
        assert!(config(text).is_err(), "{text}");
    }
}
