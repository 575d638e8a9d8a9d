//! A host that may be down: its port, and its process.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::api::Api;

/// The host's port, which is open only while it serves.
pub struct Door {
    pub address: SocketAddr,
    api: SocketAddr,
    served: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Door {
    pub fn before(api: &Api) -> Door {
        // An address of its own: nobody else is given its port while it is closed.
        static DOORS: AtomicU8 = AtomicU8::new(0);
        let number = DOORS.fetch_add(1, Ordering::Relaxed);
        let address = TcpListener::bind((format!("127.77.{number}.1"), 0)).unwrap().local_addr().unwrap();
        Door { address, api: api.url.trim_start_matches("http://").parse().unwrap(), served: None }
    }

    pub fn open(&mut self) {
        let (listener, ends, api) =
            (TcpListener::bind(self.address).unwrap(), Arc::new(AtomicBool::new(false)), self.api);
        listener.set_nonblocking(true).unwrap();
        let ended = ends.clone();
        let serve = move || {
            while !ended.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((asker, _)) => drop(std::thread::spawn(move || pass(asker, api))),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(2)),
                    Err(_) => {}
                }
            }
        };
        self.served = Some((ends, std::thread::spawn(serve)));
    }

    pub fn close(&mut self) {
        if let Some((ends, thread)) = self.served.take() {
            ends.store(true, Ordering::SeqCst);
            thread.join().unwrap();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

/// One question, and its answer.
fn pass(mut asker: TcpStream, api: SocketAddr) -> Option<()> {
    asker.set_nonblocking(false).ok()?;
    let mut head = [0; 4096];
    let length = asker.read(&mut head).ok()?;
    let mut stream = TcpStream::connect(api).ok()?;
    stream.write_all(&head[..length]).ok()?;
    std::io::copy(&mut stream, &mut asker).ok().map(drop)
}

/// The process; it ends with the test.
pub struct Process(pub Child);

impl Process {
    pub fn start(root: &Path) -> Process {
        Process::start_as(root, None)
    }

    /// Of another user, if there is one.
    pub fn start_as(root: &Path, user: Option<u32>) -> Process {
        let mut command = Command::new("sleep");
        command.arg0("pynchy").arg("100000").current_dir(root).stdin(Stdio::null());
        if let Some(user) = user.filter(|_| rustix::process::geteuid().is_root()) {
            command.uid(user).gid(user); // of another group nobody sees its folder
        }
        Process(command.spawn().unwrap())
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
