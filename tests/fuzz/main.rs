//! libFuzzer over one target, which the variable FUZZ_TARGET names. With FUZZ_LIST the targets and their weights are printed
//! instead, with FUZZ_WORDS the target's words as a dictionary: see `run`.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use targets::Target;

#[path = "targets/mod.rs"]
mod targets;

/// The system's, by which nobody gets much at once: no input of ours is worth that.
struct Bounded;

const MOST: usize = 64 << 20;

#[allow(unsafe_code)]
// SAFETY: all is handed to the system's allocator.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST {
            std::process::abort();
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > MOST {
            std::process::abort();
        }
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

/// An input may cost so much CPU, with all that is asserted of it.
const PATIENCE: Duration = Duration::from_millis(250);

fn wanted() -> &'static Target {
    static WANTED: OnceLock<&Target> = OnceLock::new();
    WANTED.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        targets::ALL.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("FUZZ_TARGET={name} is none"))
    })
}

/// What `run` asks for beside.
fn init() {
    if std::env::var_os("FUZZ_LIST").is_some() {
        targets::ALL.iter().for_each(|target| println!("{} {}", target.name, target.weight));
        std::process::exit(0);
    }
    if std::env::var_os("FUZZ_WORDS").is_some() {
        for word in wanted().words {
            let bytes: String = word.bytes().map(|byte| format!("\\x{byte:02X}")).collect();
            println!("\"{bytes}\"");
        }
        std::process::exit(0);
    }
}

fuzz_target!(init: init(), |data: &[u8]| targets::run(wanted(), data, PATIENCE));
