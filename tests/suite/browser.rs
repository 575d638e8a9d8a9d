//! A real Chromium, driven.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::binary::Sidecar;
use crate::skipped;

/// A browser on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

struct Driver(Child);

impl Driver {
    /// It, and the port on which it listens.
    fn start() -> Option<(Driver, u16)> {
        let mut command = Command::new("chromedriver");
        let child = command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut driver = Driver(child);
        let mut lines = BufReader::new(driver.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port =
            lines.find_map(|line| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok())?;
        std::thread::spawn(move || lines.for_each(drop));
        Some((driver, port))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A browser with one window. It ends with the test.
pub struct Browser {
    _driver: Driver,
    _profile: tempfile::TempDir,
    pub runtime: tokio::runtime::Runtime,
    pub client: Client,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.client.clone().close());
    }
}

impl Browser {
    /// `None` where there is none, which is told.
    pub fn start(width: u32, flags: &[&str]) -> Option<Browser> {
        if let Err(error) = Command::new("chromedriver").arg("--version").output() {
            skipped("the page in Chromium", &format!("chromedriver does not start: {error}"));
            return None;
        }
        // It gives up if the port that it was given is taken on the other kind of loopback.
        let (driver, port) =
            std::iter::repeat_with(Driver::start).take(20).flatten().next().expect("chromedriver listens");
        let profile = tempfile::tempdir().unwrap();
        let own =
            [format!("--window-size={},900", width.max(500)), format!("--user-data-dir={}", profile.path().display())];
        let quiet = "headless no-sandbox disable-gpu disable-dev-shm-usage disable-quic no-first-run \
                     disable-background-networking disable-component-update disable-sync";
        let args = quiet.split_whitespace().map(|flag| format!("--{flag}")).chain(own);
        let args: Vec<_> = args.chain(flags.iter().map(|&flag| flag.to_owned())).collect();
        let mut options = json!({"args": args});
        if width < 500 {
            // No window is so narrow, but a phone is.
            options["mobileEmulation"] = json!({"deviceMetrics": {"width": width, "height": 740, "pixelRatio": 2.0}});
        }
        let wished = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(wished.as_object().unwrap().clone());
            builder.connect(&format!("http://127.0.0.1:{port}")).await.expect("chromedriver begins a session")
        });
        Some(Browser { _driver: driver, _profile: profile, runtime, client })
    }

    pub fn open(&self, sidecar: &Sidecar) {
        self.runtime.block_on(self.client.goto(&format!("http://{}/", sidecar.address))).unwrap();
        self.until("the first cards", "return document.querySelectorAll('.card').length > 0");
    }

    /// What a function's body returns within the page.
    pub fn ask(&self, script: &str) -> Value {
        self.runtime.block_on(self.client.execute(script, vec![])).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    pub fn until(&self, what: &str, script: &str) {
        let begun = Instant::now();
        while self.ask(script) != json!(true) {
            assert!(begun.elapsed() < PATIENCE, "never {what}; {}", self.text("body"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn text(&self, css: &str) -> String {
        self.ask(&format!("return document.querySelector({css:?})?.innerText ?? ''")).as_str().unwrap().to_owned()
    }
}
