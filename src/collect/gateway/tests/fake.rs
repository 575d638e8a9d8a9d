//! A gateway whose manners can change, and that remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Debug, Clone)]
pub enum Manner {
    /// Status, content type, further headers, body.
    Says(u16, &'static str, String, String),
    /// Takes the connection and says nothing.
    Hangs,
    /// Answers so long after it was asked.
    Slow(Duration, Box<Manner>),
    Closes,
    /// 50 MB.
    Floods,
}

pub fn json(status: u16, body: &str) -> Manner {
    Manner::Says(status, "application/json", String::new(), body.to_owned())
}

pub fn text(status: u16, body: &str) -> Manner {
    Manner::Says(status, "text/plain; version=0.0.4", String::new(), body.to_owned())
}

pub fn html() -> Manner {
    Manner::Says(200, "text/html", String::new(), "<html>secret</html>".to_owned())
}

/// One request: its path, and its head in lower case.
pub type Asked = (String, String);

#[derive(Clone)]
pub struct Fake {
    pub url: String,
    manners: Arc<Mutex<BTreeMap<String, Manner>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Answers 404 to whatever was not agreed.
    pub fn new() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Fake { url, manners: Arc::default(), asked: Arc::default() };
        let shared = fake.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(socket.unwrap()));
            }
        });
        fake
    }

    pub fn on(&self, path: &str, manner: Manner) -> &Fake {
        self.manners.lock().unwrap().insert(path.to_owned(), manner);
        self
    }

    /// Everything from now on.
    pub fn all(&self, manner: Manner) {
        self.manners.lock().unwrap().values_mut().for_each(|one| *one = manner.clone());
    }

    pub fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == path).count()
    }

    /// The head of the latest request for this path.
    pub fn head(&self, path: &str) -> String {
        let asked = self.asked.lock().unwrap();
        asked.iter().rev().find(|(asked, _)| asked == path).map(|(_, head)| head.clone()).unwrap_or_default()
    }

    pub fn paths(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(path, _)| path.clone()).collect()
    }

    fn serve(&self, mut socket: TcpStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap_or(0) > 0 {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap_or("").to_owned();
        self.asked.lock().unwrap().push((path.clone(), head.to_lowercase()));
        let manner = self.manners.lock().unwrap().get(&path).cloned();
        behave(socket, manner.unwrap_or_else(|| json(404, "{}")));
    }
}

fn behave(mut socket: TcpStream, manner: Manner) {
    match manner {
        Manner::Says(status, kind, headers, body) => {
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{headers}Content-Length: {length}\r\n\r\n");
            let _ = socket.write_all((head + &body).as_bytes());
        }
        Manner::Hangs => std::thread::sleep(Duration::from_secs(60)),
        Manner::Slow(time, manner) => {
            std::thread::sleep(time);
            behave(socket, *manner);
        }
        Manner::Closes => {}
        Manner::Floods => {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n");
            let megabyte = vec![b' '; 1 << 20];
            while socket.write_all(&megabyte).is_ok() {}
        }
    }
}
