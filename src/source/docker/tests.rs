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
        let seen = wait(docker.inspect_all(after(seconds), &[], |_| true)).unwrap();
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

/// Two that have ended, as a list has them; the test says what each says of itself.
fn two() -> String {
    let row =
        |id, name, state| json!({"Id": id, "Names": [name], "Image": "listed", "State": state, "Status": "2 hours"});
    json!([row("61", "/a", "exited"), row("62", "/b", "running")]).to_string()
}

/// What the second of two says of itself, when the first says this.
fn beside(answer: impl Fn() -> Option<(u16, String)> + Send + 'static) -> (Fake, Vec<Arc<Container>>) {
    let whole = agent("b", json!({})).to_string();
    let fake = Fake::new(move |path| match path {
        "/containers/61/json" => answer(),
        "/containers/62/json" => Some((200, whole.clone())),
        _ => Some((200, two())),
    });
    let seen = wait(Docker::at(fake.socket()).inspect_all(after(0), &[], |_| true)).unwrap();
    (fake, seen)
}

#[test]
fn one_that_cannot_be_read_costs_the_others_nothing() {
    let word = agent("a", json!({"State": {"Status": "sk-secret"}})).to_string();
    for (status, body, says) in [
        (500, "{}", "status 500"),
        (404, "<html>no such page</html>", "status 404"),
        (200, "{\"State\": 7}", "JSON of another shape (column 11)"),
        (200, "nonsense", "no JSON (column 2)"),
        (200, "{}", "without its state"),
        (200, &word, "a word that we do not know (column"),
    ] {
        let body = body.to_owned();
        let (_fake, seen) = beside(move || Some((status, body.clone())));
        let told = (seen[0].state, seen[0].exit_code, seen[0].restart_count, seen[0].image.as_deref());
        assert_eq!(told, (State::Exited, None, None, Some("listed")), "{says}");
        let why = seen[0].unread.clone().unwrap().to_string();
        assert!(why.contains(says) && !why.contains("secret"), "{why}");
        assert_eq!((seen[1].state, seen[1].restart_count, &seen[1].unread), (State::Running, Some(0), &None));
    }
}

#[test]
fn one_that_hangs_is_told_by_the_list_and_the_others_are_read() {
    let begun = std::time::Instant::now();
    let (fake, seen) = beside(|| None);
    assert!(begun.elapsed() < PATIENCE_FOR_ONE + Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!((seen[0].state, seen[0].restart_count), (State::Exited, None));
    assert_eq!(seen[0].unread, Some(Error::TimedOut(fake.socket(), PATIENCE_FOR_ONE)));
    assert_eq!((seen[1].state, seen[1].restart_count, &seen[1].unread), (State::Running, Some(0), &None));
}

#[test]
fn seven_that_hang_leave_time_for_an_eighth() {
    let all: Vec<_> = (0..8).map(|number| agent(&format!("a{number}"), json!({}))).collect();
    let last = all[7].clone();
    let rows = fake::of(&all, "/containers/json").1;
    let fake = Fake::new(move |path| match path {
        "/containers/6137/json" => Some((200, last.to_string())),
        path => path.starts_with("/containers/json").then(|| (200, rows.clone())),
    });
    let begun = std::time::Instant::now();
    let seen = wait(Docker::at(fake.socket()).inspect_all(after(0), &[], |_| true)).unwrap();
    assert!(begun.elapsed() < PATIENCE + Duration::from_secs(1), "{:?}", begun.elapsed());
    let read: Vec<&str> = seen.iter().filter(|one| one.unread.is_none()).map(|one| &*one.name).collect();
    assert_eq!((seen.len(), read), (8, vec!["a7"]));
}

#[test]
fn what_one_said_before_of_its_image_and_place_is_true_as_long_as_it_is_there() {
    let said = agent("a", json!({"Status": "Up 2 seconds", "HostConfig": {"CgroupParent": "/x"}}));
    let fake = Fake::with(vec![said.clone()]);
    let docker = Docker::at(fake.socket());
    let look = |seconds| wait(docker.inspect("a", after(seconds))).unwrap().unwrap();
    assert_eq!((look(0).restart_count, &look(0).unread), (Some(0), &None));
    let mut row = fake::of(&[said], "/containers/json").1;
    row = row.replace("pynchy-agent:latest", "sha256:00");
    fake.answer_with(move |path| {
        if path.starts_with("/containers/json") { Some((200, row.clone())) } else { Some((500, "".into())) }
    });
    let later = look(15);
    assert!(later.unread.is_some() && later.restart_count.is_none());
    assert_eq!((later.image.as_deref(), later.cgroup_parent.as_deref()), (Some("pynchy-agent:latest"), Some("/x")));
}

#[test]
fn several_questions_go_over_one_connection() {
    let fake = Fake::with((0..50).map(|number| agent(&format!("a{number}"), json!({}))).collect());
    let docker = Docker::at(fake.socket());
    let seen = wait(docker.inspect_all(after(0), &[], |_| true)).unwrap();
    assert!(seen.len() == 50 && seen.windows(2).all(|pair| pair[0].id != pair[1].id));
    let listed: Vec<_> = wait(docker.list(after(0))).unwrap().containers.iter().map(|one| one.id.clone()).collect();
    assert_eq!(seen.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), listed, "in the order of the list");
    assert_eq!(fake.asked().len(), 51);
    assert!(fake.lines() <= 5);
    wait(docker.inspect_all(after(15), &[], |_| true)).unwrap();
    assert_eq!((fake.asked().len(), fake.lines()), (1, 1));
}

/// As some proxies do.
#[test]
fn a_connection_for_each_answer_is_enough() {
    use std::io::{Read, Write};
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let all: Vec<_> = (0..9).map(|number| agent(&format!("a{number}"), json!({}))).collect();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.unwrap(), [0; 2048]);
            let length = stream.read(&mut head).unwrap();
            let path = String::from_utf8_lossy(&head[..length]).split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, body) = fake::of(&all, &path);
            let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: application/json");
            stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        }
    });
    let seen = wait(Docker::at(socket).inspect_all(after(0), &[], |_| true)).unwrap();
    assert!(seen.len() == 9 && seen.iter().all(|one| one.unread.is_none()), "{seen:?}");
}

/// With this over the row of one of the containers `a`, `b`, `own-1` and `own-2`; a filter of names does what it says.
fn with_a_new_word(name: &str, more: &serde_json::Value) -> Fake {
    let all: Vec<_> = ["a", "b", "own-1", "own-2"].map(|name| agent(name, json!({}))).into();
    let mut rows: Vec<serde_json::Value> = serde_json::from_str(&fake::of(&all, "/containers/json").1).unwrap();
    let row = rows.iter_mut().find(|row| row["Names"][0] == format!("/{name}")).unwrap();
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Fake::new(move |path| {
        if !path.starts_with("/containers/json") {
            return Some(fake::of(&all, path));
        }
        let filter = path.split_once("filters=").map(|(_, filter)| {
            let filter = percent_encoding::percent_decode_str(filter).decode_utf8().unwrap();
            let filter: serde_json::Value = serde_json::from_str(&filter).unwrap();
            regex_lite::Regex::new(filter["name"][0].as_str().unwrap()).unwrap()
        });
        let fits = |row: &&serde_json::Value| {
            filter.as_ref().is_none_or(|filter| filter.is_match(row["Names"][0].as_str().unwrap_or_default()))
        };
        let rows: Vec<_> = rows.iter().filter(fits).cloned().collect();
        Some((200, serde_json::Value::from(rows).to_string()))
    })
}

#[test]
fn a_new_word_about_a_stranger_blinds_nobody_and_one_about_our_own_makes_it_unknown() {
    for more in [
        json!({"State": "hibernating"}),
        json!({"State": "stopped"}),
        json!({"Mounts": 7}),
        json!({"Ports": [{"PrivatePort": 1, "Type": "quic"}]}),
        json!({"Id": "../a"}),
        json!({"Id": null}),
    ] {
        let fake = with_a_new_word("a", &more);
        let docker = Docker::at(fake.socket());
        let own = |seconds| wait(docker.inspect_all(after(seconds), &["own-"], |name| name.starts_with("own-")));
        assert!(matches!(wait(docker.list(after(0))), Err(Error::Unreadable(_))), "{more}");
        let seen = own(2).unwrap();
        assert_eq!(seen.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["own-1", "own-2"], "{more}");
        assert_eq!((fake.asked().len(), seen[0].restart_count), (5, Some(0)), "three lists and two containers");
        own(17).unwrap();
        assert_eq!(fake.asked().len(), 2, "what did not change is not asked again then either");
        assert_eq!(wait(docker.inspect("b", after(40))).unwrap().unwrap().state, State::Running);
        assert_eq!(wait(docker.inspect("own", after(60))), Ok(None), "a good list has none");
        assert!(matches!(wait(docker.inspect("a", after(80))), Err(Error::Unreadable(_))), "{more}");

        let fake = with_a_new_word("own-1", &more);
        let docker = Docker::at(fake.socket());
        let own = wait(docker.inspect_all(after(0), &["own-"], |name| name.starts_with("own-")));
        assert!(matches!(own, Err(Error::Unreadable(_))), "{more}: {own:?}");
        assert_eq!(wait(docker.inspect("own-2", after(20))).unwrap().unwrap().state, State::Running);
    }
}

#[test]
fn names_that_are_asked_for_are_no_patterns() {
    assert_eq!(escaped("pynchy-a.b_c+"), "pynchy-a\\.b_c\\+");
}

#[test]
fn what_a_list_may_leave_out_is_unknown() {
    let rows = json!([
        {"Id": "1", "Names": ["/a"], "State": "", "Mounts": [{"Type": "of another age"}], "Ports": [{"PrivatePort": 1, "Type": ""}]},
        {"Id": "2", "Names": null, "State": "removing"},
        {"Id": "4", "Names": ["/other/alias", "/b"]},
        {"Id": "5", "Names": ["/c"], "State": "stopping"},
    ]);
    let fake = Fake::new(move |_| Some((200, rows.to_string())));
    let list = wait(Docker::at(fake.socket()).list(after(0))).unwrap();
    let seen: Vec<_> = list.containers.iter().map(|one| (&*one.id, &*one.name, one.state)).collect();
    let expected = [
        ("1", "a", State::Unknown),
        ("2", "", State::Removing),
        ("4", "b", State::Unknown),
        ("5", "c", State::Running),
    ];
    assert_eq!(seen, expected);
}

/// Of the answers and with them of the environments in them, which bollard gives to `log`.
#[test]
fn nothing_can_be_logged_by_the_library() {
    assert_eq!(log::STATIC_MAX_LEVEL, log::LevelFilter::Off);
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
    assert_eq!(one, Err(Error::TimedOut(fake.socket(), PATIENCE)));
    assert_eq!(two, Err(Error::TimedOut(fake.socket(), PATIENCE)));
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
        (200, "<html>sk-secret", "something that is no JSON (column 1)"),
        (200, r#"{"sk-secret": 1}"#, "JSON of another shape"),
        (200, r#"[{"Id": "1", "Names": "sk-secret"}]"#, "JSON of another shape"),
        (200, "[{\"Id\": \"1\"", "something that is no JSON"),
    ] {
        let fake = Fake::new(move |_| Some((status, body.into())));
        let error = wait(Docker::at(fake.socket()).inspect("a", after(0))).unwrap_err();
        let said = text(error.clone());
        assert!(
            matches!(error, Error::Broken(_) | Error::Unreadable(_)) && said.contains(says) && !said.contains("secret"),
            "{said}"
        );
    }
    for status in [401, 403] {
        let fake = Fake::new(move |_| Some((status, "sk-secret".into())));
        let failure = Failure::from(anyhow::Error::new(wait(Docker::at(fake.socket()).list(after(0))).unwrap_err()));
        assert!(failure.cause == Cause::Denied && failure.error.contains("a proxy before it"), "{failure:?}");
    }
    let huge = Fake::new(|_| Some((200, " ".repeat(line::ANSWER_LIMIT + 1))));
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
