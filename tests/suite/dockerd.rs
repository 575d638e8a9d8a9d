//! A real Docker engine of its own: data, socket and processes in a temporary folder, no network, ended with it.

#![allow(dead_code, reason = "tests and benches each need another part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The image in which agents run; busybox is all there is in it.
pub const AGENT: &str = "pynchy-agent:latest";
const IMAGES: [&str; 3] = [AGENT, "litellm:test", "web:test"];
const START: Duration = Duration::from_secs(30);

/// A running `dockerd` with its images; ended when this is dropped, with all its containers.
pub struct Engine {
    folder: tempfile::TempDir,
    child: Child,
}

impl Engine {
    /// Starts one, or says why there can be none.
    pub fn start() -> Result<Engine, String> {
        for (program, package) in [("dockerd", "docker.io"), ("docker", "docker.io"), ("busybox", "busybox-static")] {
            if find(program).is_none() {
                return Err(format!("`{program}` is not installed (Debian: {package})"));
            }
        }
        if !rustix::process::geteuid().is_root() {
            return Err("a Docker engine needs root".to_owned());
        }
        let folder = tempfile::Builder::new().prefix("agenthost-docker-").tempdir().unwrap();
        std::fs::write(folder.path().join("daemon.json"), "{}").unwrap();
        let child = spawn(folder.path());
        let mut engine = Engine { folder, child };
        engine.wait_until_up()?;
        engine.make_images()?;
        Ok(engine)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the engine has logged of the calls that it got.
    pub fn calls(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        let calls = log.lines().filter_map(|line| line.split_once("Calling ")?.1.split('"').next());
        calls.map(str::to_owned).collect()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends the engine, and with it what runs; it knows its containers when it is started again.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = spawn(self.folder.path());
        self.wait_until_up().unwrap();
    }

    /// One command of its own client, which must succeed.
    pub fn docker(&self, line: &str) -> String {
        let output = self.try_docker(line);
        assert!(output.status.success(), "docker {line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The words of the line, but what is in single quotes is one.
    pub fn try_docker(&self, line: &str) -> Output {
        let mut docker = self.client();
        for (number, part) in line.split('\'').enumerate() {
            match number % 2 {
                0 => docker.args(part.split_whitespace()),
                _ => docker.arg(part),
            };
        }
        docker.output().unwrap()
    }

    /// Starts a container of this name that sleeps.
    pub fn sleeper(&self, name: &str, image: &str) {
        self.docker(&format!("run -d --network none --stop-timeout 1 --name {name} {image} /bin/busybox sleep 100000"));
    }

    fn client(&self) -> Command {
        let mut docker = Command::new("docker");
        docker.env("DOCKER_HOST", format!("unix://{}", self.socket().display())).env("HOME", self.folder.path());
        docker.env_remove("DOCKER_CONTEXT").stdin(Stdio::null());
        docker
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while !self.client().arg("version").output().is_ok_and(|said| said.status.success()) {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || begun.elapsed() > START {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!("dockerd does not start here: {}", last.join(" / ")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn make_images(&self) -> Result<(), String> {
        let busybox = find("busybox").ok_or("busybox is gone")?;
        let root = self.folder.path().join("image/bin");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::copy(busybox, root.join("busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("sh")).unwrap();
        IMAGES.iter().for_each(|image| self.import(image));
        let tried = self.try_docker(&format!("run --rm --network none {AGENT} /bin/busybox true"));
        match tried.status.success() {
            true => Ok(()),
            false => Err(format!("no container runs here: {}", String::from_utf8_lossy(&tried.stderr).trim())),
        }
    }

    /// Makes an image anew under this name; what had it before goes on without.
    pub fn import(&self, image: &str) {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(self.folder.path().join("image")).args(["-c", "."]).stdout(Stdio::piped());
        let mut tar = tar.spawn().unwrap();
        let mut import = self.client();
        import.args(["import", "-", image]).stdin(tar.stdout.take().unwrap());
        let imported = import.output().unwrap();
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
        assert!(tar.wait().unwrap().success());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let alive = |child: &mut Child| matches!(child.try_wait(), Ok(None));
        if alive(&mut self.child) {
            let _ = kill_process(pid, Signal::CONT);
            let all = String::from_utf8_lossy(&self.try_docker("ps -aq").stdout).replace('\n', " ");
            let _ = self.try_docker(&format!("rm -f {all}"));
            let _ = kill_process(pid, Signal::TERM);
        }
        let begun = Instant::now();
        while alive(&mut self.child) && begun.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        unmount_all(self.folder.path());
    }
}

fn spawn(folder: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    Command::new("dockerd")
        .args(["--config-file", &path("daemon.json"), "--data-root", &path("data"), "--exec-root", &path("exec")])
        .args(["--pidfile", &path("pid"), "--host", &format!("unix://{}", path("docker.sock"))])
        .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"])
        .args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--debug"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// One that was killed leaves mounts, and then the folder could not be removed.
fn unmount_all(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let within =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(folder));
    for place in within.collect::<Vec<_>>().into_iter().rev() {
        let _ = Command::new("umount").args(["-l", place]).output();
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Where Debian keeps what only root runs.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
