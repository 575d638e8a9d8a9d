//! The architecture, held to its word: which way imports point, who may ask the clock, where a crate may be named.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    gather(&root().join("src"), &mut files);
    files
}

fn gather(folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = path.strip_prefix(root().join("src")).unwrap().display().to_string();
            files.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

/// A file's code without its unit tests, which may look anywhere.
fn code(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap()
}

/// The room of a file: `collect/usage.rs` is of `collect`.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn rooms_in_order() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).map(str::to_owned).collect()
}

#[test]
fn imports_point_only_upstream() {
    let order = rooms_in_order();
    let place = |room: &str| order.iter().position(|known| known == room);
    for (file, text) in sources() {
        let Some(own) = place(room(&file)) else { continue };
        for imported in code(&text).split("crate::").skip(1) {
            let names = match imported.strip_prefix('{') {
                Some(list) => outermost(list).iter().map(|path| first_segment(path)).collect(),
                None => vec![first_segment(imported)],
            };
            for name in names.iter().filter(|name| !name.is_empty()) {
                let target = place(name)
                    .unwrap_or_else(|| panic!("src/{file} imports crate::{name}, which lib.rs does not list"));
                assert!(target <= own, "src/{file} imports `{name}`, which is downstream of `{}`", order[own]);
            }
        }
    }
}

/// The paths of a use list, up to its closing brace: `a::{b, c}, d}` is `a::{b, c}` and `d`.
fn outermost(list: &str) -> Vec<String> {
    let (mut depth, mut paths) = (0, vec![String::new()]);
    for letter in list.chars() {
        match letter {
            '}' if depth == 0 => break,
            ',' if depth == 0 => paths.push(String::new()),
            letter => {
                depth += i32::from(letter == '{') - i32::from(letter == '}');
                paths.last_mut().unwrap().push(letter);
            }
        }
    }
    paths.into_iter().map(|path| path.trim().to_owned()).collect()
}

fn first_segment(path: &str) -> String {
    path.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

#[test]
fn nobody_in_the_library_imports_the_configuration() {
    for (file, text) in sources() {
        assert!(file == "cli.rs" || file == "main.rs" || !code(&text).contains("crate::config"), "src/{file}");
    }
}

#[test]
fn only_the_loops_ask_the_clock() {
    let clocks = ["Now::read", "Timestamp::now", "SystemTime::now", "Instant::now", "Zoned::now"];
    let may = ["sample.rs", "pulse.rs", "snapshot.rs", "serve.rs", "log.rs", "main.rs", "notify.rs", "run.rs"];
    for (file, text) in sources() {
        // A source may time its own question, a test anything.
        let free = may.contains(&file.as_str()) || file.starts_with("tool/") || file.starts_with("source/");
        let free = free || file.ends_with("tests.rs");
        let asked = clocks.iter().find(|clock| code(&text).contains(**clock));
        assert!(free || asked.is_none(), "src/{file} asks the clock: {}", asked.unwrap());
    }
}

#[test]
fn a_sources_crate_is_named_only_in_its_source() {
    for (file, text) in sources() {
        for name in ["rusqlite", "sysinfo", "git2", "bollard", "webpki_roots"] {
            // The demo is a host and writes; a fixture is one for tests.
            let free = file.starts_with("source/") || file.starts_with("tool/demo") || file == "collect/fixture.rs";
            assert!(free || !code(&text).contains(&format!("{name}::")), "src/{file} names {name}");
        }
    }
}

#[test]
fn no_renderer_names_a_collector() {
    for (file, text) in sources().into_iter().filter(|(file, _)| file.starts_with("show")) {
        for subsystem in agenthost_exporter::collect::ALL {
            assert!(!code(&text).contains(&format!("\"{}\"", subsystem.name)), "src/{file} names {}", subsystem.name);
        }
    }
}

#[test]
fn what_cargo_asks_for_reaches_the_build_of_the_image() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let (manifest, sent) = (read("Cargo.toml"), read(".dockerignore"));
    let named: Vec<&str> = manifest.lines().filter_map(|line| line.strip_prefix("path = ")).collect();
    assert!(named.len() > 3, "{named:?}");
    for path in named.iter().map(|path| path.trim_matches('"')) {
        assert!(sent.lines().any(|line| line.strip_prefix('!').is_some_and(|kept| path.starts_with(kept))), "{path}");
    }
}
