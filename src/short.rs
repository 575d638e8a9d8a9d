//! Where there is too little of memory or threads to go on: it ends, and one line says so.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The threads that there are from the start: two of the runtime, and some on which collectors look.
const THREADS: usize = 4;

/// Starts as many threads as will be needed, and lets them go: the runtime would panic halfway, and wait for itself for ever.
///
/// # Errors
/// The system gives no more of them.
pub fn of_threads() -> Result<()> {
    let (held, hold) = channel::<()>();
    let hold = std::sync::Arc::new(std::sync::Mutex::new(hold));
    let start = |_| {
        let hold = hold.clone();
        // Until all are there: the first waits, and the others for it.
        std::thread::Builder::new().spawn(move || drop(hold.lock().map(|hold| hold.recv())))
    };
    let started: Result<Vec<_>, _> = (0..THREADS).map(start).collect();
    drop(held);
    let started = started.context("start a thread: memory (`ulimit -v`), or threads (`ulimit -u`), are too few")?;
    started.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

const LINE: &[u8] =
    b"agenthost-exporter: out of memory: the system refuses more (a limit such as `ulimit -v`, or all of it is taken)\n";

static SAID: AtomicBool = AtomicBool::new(false);

/// Takes no memory itself, and waits for nobody.
#[allow(unsafe_code)]
fn end() -> ! {
    unsafe extern "C" {
        fn _exit(code: std::ffi::c_int) -> !;
    }
    // More than one thread may want some at once: one says it, and the others give it the time to.
    if SAID.swap(true, Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(100));
    } else if is_taken() {
        let _ = rustix::io::write(std::io::stderr().as_fd(), LINE);
    }
    // SAFETY: it takes any number, and may be called at any time.
    unsafe { _exit(1) }
}

/// Whether somebody reads what is said: a full pipe would have to be waited for.
fn is_taken() -> bool {
    let error = std::io::stderr();
    let mut wish = [PollFd::new(&error, PollFlags::OUT)];
    poll(&mut wish, Some(&Timespec::default())).is_ok_and(|ready| ready == 1)
}

/// Ends the process where the standard library panics for want of memory: as a thread begins, where nothing can catch it.
pub fn of_stacks(panic: &std::panic::PanicHookInfo<'_>) {
    if panic.location().is_some_and(|place| place.file().ends_with("unix/stack_overflow.rs")) {
        end();
    }
}

#[cfg(not(feature = "heap-profile"))]
pub use memory::OrEnd;

#[cfg(not(feature = "heap-profile"))]
mod memory {
    use std::alloc::{GlobalAlloc, Layout, System};

    use super::end;

    /// The system's allocator; when it has no more to give, the process ends with a line.
    pub struct OrEnd;

    /// A wish of this size is no sign that there is too little: it may be of a file that says that it is endless. Who makes it
    /// is told, and says so.
    const LARGE: usize = 16 << 20;

    fn or_end(memory: *mut u8, size: usize) -> *mut u8 {
        if memory.is_null() && size < LARGE { end() } else { memory }
    }

    // SAFETY: each call is the system allocator's own, with what it was given.
    #[allow(unsafe_code)]
    unsafe impl GlobalAlloc for OrEnd {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            or_end(unsafe { System.alloc(layout) }, layout.size())
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            or_end(unsafe { System.alloc_zeroed(layout) }, layout.size())
        }

        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            or_end(unsafe { System.realloc(memory, layout, size) }, size)
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            unsafe { System.dealloc(memory, layout) }
        }
    }
}
