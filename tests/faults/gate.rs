//! A way through to somebody who answers, which can be held: whoever comes then is let in, and hears nothing until it is let go.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How often those who wait look whether they are let go.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Default)]
pub struct Gate {
    held: Arc<AtomicBool>,
    /// Lines that are open now.
    open: Arc<AtomicUsize>,
}

/// What both kinds of sockets can do.
trait Line: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> std::io::Result<Self>;
    fn patience(&self, patience: Duration) -> std::io::Result<()>;
    fn over(&self);
}

macro_rules! line {
    ($kind:ty) => {
        impl Line for $kind {
            fn twin(&self) -> std::io::Result<Self> {
                self.try_clone()
            }
            fn patience(&self, patience: Duration) -> std::io::Result<()> {
                self.set_read_timeout(Some(patience))
            }
            fn over(&self) {
                let _ = self.shutdown(Shutdown::Both);
            }
        }
    };
}

line!(TcpStream);
line!(UnixStream);

impl Gate {
    /// Before one who answers at this address; the gate's own is the other.
    pub fn before(answers: SocketAddr) -> (Gate, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (gate, address) = (Gate::default(), listener.local_addr().unwrap());
        let own = gate.clone();
        std::thread::spawn(move || {
            for asker in listener.incoming().flatten() {
                let gate = own.clone();
                std::thread::spawn(move || gate.pass(asker, || TcpStream::connect(answers)));
            }
        });
        (gate, address)
    }

    /// Before one who answers at this socket; the gate's own is the other.
    pub fn at(own: &Path, answers: PathBuf) -> Gate {
        let listener = UnixListener::bind(own).unwrap();
        let gate = Gate::default();
        let held = gate.clone();
        std::thread::spawn(move || {
            for asker in listener.incoming().flatten() {
                let (gate, answers) = (held.clone(), answers.clone());
                std::thread::spawn(move || gate.pass(asker, || UnixStream::connect(answers)));
            }
        });
        gate
    }

    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// How many have come and not gone.
    pub fn lines(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn pass<L: Line>(&self, asker: L, connect: impl FnOnce() -> std::io::Result<L>) {
        self.open.fetch_add(1, Ordering::SeqCst);
        let _ = self.carry_both(asker, connect);
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    fn carry_both<L: Line>(&self, asker: L, connect: impl FnOnce() -> std::io::Result<L>) -> std::io::Result<()> {
        let answers = connect()?;
        let (back, to) = (asker.twin()?, answers.twin()?);
        let gate = self.clone();
        let backwards = std::thread::spawn(move || gate.carry(answers, back));
        self.carry(asker, to);
        let _ = backwards.join();
        Ok(())
    }

    /// Until one of both is gone.
    fn carry<L: Line>(&self, mut from: L, mut to: L) {
        let _ = from.patience(LOOK);
        let (mut waiting, mut block) = (Vec::new(), [0; 8192]);
        loop {
            match from.read(&mut block) {
                Ok(0) => break,
                Ok(length) => waiting.extend_from_slice(&block[..length]),
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
                Err(_) => break,
            }
            if !waiting.is_empty() && !self.held.load(Ordering::SeqCst) {
                if to.write_all(&waiting).is_err() {
                    break;
                }
                waiting.clear();
            }
        }
        from.over();
        to.over();
    }
}
