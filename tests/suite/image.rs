//! The image, built by a real engine from the Dockerfile that is shipped, and the health of containers as the engine tells it:
//! the sidecar's own, and a host's by its verdict.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dockerd::Engine;

const PATIENCE: Duration = Duration::from_secs(120);

/// What lasts so long is a failure here; the rest is as delivered.
const CONFIG: &str = r#"
[host]
profile = "generic"
root = "/"
url = "http://127.0.0.1:8080"
[collect.service]
interval = "1s"
[checks.service_responding]
fail_for = "3s"
recover_for = "1s"
[checks.service_up]
fail_for = "3s"
recover_for = "1s"
"#;

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// The program without libraries of its own, as `tests/run` builds it.
pub fn static_program() -> Option<PathBuf> {
    let program = std::env::var_os("AGENTHOST_STATIC").map(PathBuf::from);
    if program.is_none() {
        crate::skipped("the image", "AGENTHOST_STATIC names no static program, which tests/run builds");
    }
    program
}

/// A client that can build only the stages that are needed: Debian's has that built in, newer ones by a plugin.
fn builder(engine: &Engine) -> Command {
    let with_plugin =
        Command::new("docker").args(["buildx", "version"]).output().is_ok_and(|said| said.status.success());
    let client = if with_plugin || !Path::new("/usr/bin/docker").exists() { "docker" } else { "/usr/bin/docker" };
    let mut docker = Command::new(client);
    docker.env("DOCKER_HOST", format!("unix://{}", engine.socket().display())).env("HOME", engine.folder());
    docker.env("DOCKER_BUILDKIT", "1").stdin(Stdio::null());
    docker
}

pub fn build(engine: &Engine, file: &str, tag: &str, arguments: &[&str], context: &Path) {
    let arguments = arguments.iter().flat_map(|argument| ["--build-arg", argument]);
    let mut docker = builder(engine);
    docker.args(["build", "--tag", tag, "--file"]).arg(shipped(file)).args(arguments).arg(context);
    let output: Output = docker.output().unwrap();
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes the image that the program is taken from.
pub fn import(engine: &Engine, program: &Path) {
    let folder = engine.folder().join("program");
    fs::create_dir(&folder).unwrap();
    fs::copy(program, folder.join("agenthost-exporter")).unwrap();
    let tar = engine.folder().join("program.tar");
    let made = Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&tar).arg("agenthost-exporter").status();
    assert!(made.unwrap().success());
    engine.docker(&format!("import {} program:test", tar.display()));
}

fn inspected(engine: &Engine, what: &str) -> Value {
    let told: Value = serde_json::from_str(&engine.docker(&format!("inspect {what}"))).unwrap();
    told[0].clone()
}

fn until_health(engine: &Engine, container: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let told = inspected(engine, container);
        if told["State"]["Health"]["Status"] == wanted {
            return;
        }
        let sidecar = String::from_utf8_lossy(&engine.try_docker("logs sidecar").stderr).into_owned();
        assert!(begun.elapsed() < PATIENCE, "{container} never {wanted}: {:#}\n{sidecar}", told["State"]);
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn the_image_holds_the_program_alone_and_a_host_is_as_healthy_as_its_verdict() {
    let Some(program) = static_program() else { return };
    let engine = match Engine::start() {
        Ok(engine) => engine,
        Err(why) => return crate::skipped("the image", &why),
    };
    import(&engine, &program);
    let context = tempfile::tempdir().unwrap(); // nothing is taken from it: the program is not built here
    build(&engine, "Dockerfile", "agenthost-exporter", &["BINARY=program:test", "REVISION=abc"], context.path());

    let image = inspected(&engine, "agenthost-exporter");
    let config = &image["Config"];
    assert_eq!(config["User"], "65534:65534");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/agenthost-exporter"]));
    assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD", "/agenthost-exporter", "healthcheck"]));
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(config["Labels"]["org.opencontainers.image.revision"], "abc");
    assert!(config["ExposedPorts"]["10484/tcp"].is_object());
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1, "nothing beside the program");
    assert_eq!(image["Size"], fs::metadata(&program).unwrap().len());
    if std::env::var("AGENTHOST_TESTS").is_ok_and(|kind| kind == "long") {
        assert!(image["Size"].as_u64() <= Some(15_000_000), "{}", image["Size"]);
    }

    build(&engine, "host.Dockerfile", "host:watched", &["HOST=web:test"], context.path());
    let file = engine.folder().join("config.toml");
    fs::write(&file, CONFIG).unwrap();
    let serve = "/bin/busybox httpd -f -p 127.0.0.1:8080 -h / & echo $! > /pid";
    let often = "--health-interval 1s --health-retries 1 --health-start-period 0s";
    engine.docker(&format!(
        "run -d --network none --name host --stop-timeout 1 {often} host:watched /bin/sh -c '{serve}; exec /bin/busybox sleep 100000'"
    ));
    engine.docker(&format!(
        "run -d --network container:host --pid container:host --name sidecar --read-only --cap-drop ALL \
         --security-opt no-new-privileges {often} --volume {}:/etc/agenthost-exporter/config.toml:ro agenthost-exporter",
        file.display()
    ));
    until_health(&engine, "sidecar", "healthy");
    until_health(&engine, "host", "healthy");

    engine.docker("exec host /bin/sh -c 'read pid < /pid; kill $pid'");
    until_health(&engine, "host", "unhealthy");
    assert_eq!(inspected(&engine, "sidecar")["State"]["Health"]["Status"], "healthy", "the sidecar itself works");
    let log = inspected(&engine, "host")["State"]["Health"]["Log"].to_string();
    assert!(log.contains("readyz: service_up failed: bad"), "it says why: {log}");

    engine.docker(&format!("exec -d host /bin/sh -c '{serve}; wait'"));
    until_health(&engine, "host", "healthy");

    // A sidecar that is gone says nothing of the host.
    engine.docker("rm -f sidecar");
    let before = inspected(&engine, "host")["State"]["Health"]["Log"].as_array().unwrap().last().cloned();
    let begun = Instant::now();
    loop {
        let told = inspected(&engine, "host");
        assert_eq!(told["State"]["Health"]["Status"], "healthy");
        let last = told["State"]["Health"]["Log"].as_array().unwrap().last().cloned();
        if last != before && last.unwrap()["Output"].as_str().unwrap().contains("nothing is known") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{told:#}");
        std::thread::sleep(Duration::from_millis(300));
    }
}
