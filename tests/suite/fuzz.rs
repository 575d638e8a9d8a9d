//! The ordinary form of tests/fuzz: each target over its kept corpus and mutations of it, the same at each run. The long form is
//! `tests/fuzz/run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use targets::Target;

/// So many mutations of each, and more by its weight.
const LEAST: u32 = 60;
const MORE: u32 = 8;

/// Nothing is optimised here: ten times as much as in the long form.
const PATIENCE: Duration = Duration::from_secs(3);

/// Kept inputs of a target; an empty one is always among them.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target.name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let kept = paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap()));
    [(PathBuf::from("(empty)"), Vec::new())].into_iter().chain(kept).collect()
}

/// xorshift64*: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides.max(1)
    }

    fn span(&mut self, length: usize) -> std::ops::Range<usize> {
        let begin = self.roll(length + 1);
        begin..begin + self.roll((length - begin).min(64) + 1)
    }
}

/// An input that is a little like one that is kept.
fn mutated(target: &Target, kept: &[(PathBuf, Vec<u8>)], dice: &mut Dice) -> Vec<u8> {
    let mut input = kept[dice.roll(kept.len())].1.clone();
    for _ in 0..=dice.roll(4) {
        let span = dice.span(input.len());
        let other = &kept[dice.roll(kept.len())].1;
        match dice.roll(8) {
            0 => drop(input.drain(span)),
            1 => input.truncate(span.end),
            2 => input.insert(span.start, dice.roll(256) as u8),
            3 if !input.is_empty() => {
                let at = dice.roll(input.len());
                input[at] ^= 1 << dice.roll(8);
            }
            4 => {
                let again = input[span.clone()].to_vec();
                input.splice(span.end..span.end, again);
            }
            5 => {
                let theirs = other[dice.span(other.len())].to_vec();
                drop(input.splice(span, theirs));
            }
            6 if !input.is_empty() => {
                let at = dice.roll(input.len());
                input[at] = b"0919-+.\"'\\\n \0\xff{["[dice.roll(16)];
            }
            _ => {
                let word = target.words[dice.roll(target.words.len())].bytes();
                let end = if dice.roll(2) == 0 { span.start } else { span.end };
                drop(input.splice(span.start..end, word));
            }
        }
    }
    input
}

/// Every target has a test of its own, so that they run side by side.
fn holds(name: &str) {
    let target = targets::ALL.iter().find(|target| target.name == name).unwrap();
    let kept = corpus(target);
    for (path, input) in &kept {
        told(path, input, || targets::run(target, input, PATIENCE));
    }
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for number in 0..LEAST + target.weight * MORE {
        let input = mutated(target, &kept, &mut dice);
        told(Path::new(&format!("mutation {number}")), &input, || targets::run(target, &input, PATIENCE));
    }
}

/// Says of which input a failure is.
fn told(name: &Path, input: &[u8], act: impl FnOnce() + std::panic::UnwindSafe) {
    if let Err(panic) = std::panic::catch_unwind(act) {
        eprintln!("{}: {:?}", name.display(), String::from_utf8_lossy(input));
        std::panic::resume_unwind(panic);
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            let all: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
            assert_eq!(all, run);
        }
    };
}

tests! {
    span stamp url container_name status_page record replay key_file pid_file host_config litellm_config web_config headers_file
    otel_environment paid_file unit_file written_config process command_line cgroup git config config_secret state_texts
    state_file database_rows database_file http_answer host_answers gateway_answers docker_answers request push_answer
}

#[test]
fn what_is_kept_is_small_and_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let mut bytes = 0;
    for target in targets::ALL {
        bytes += corpus(target).iter().map(|(_, input)| input.len()).sum::<usize>();
        let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(readme.contains(&format!("`{}`", target.name)), "README.md does not name {}", target.name);
    }
    assert!(bytes < 300_000, "{bytes} bytes are kept");
}
