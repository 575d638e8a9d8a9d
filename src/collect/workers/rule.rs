//! Which processes are workers, and of which kind: presets with measured marks, and rules of the operator.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex_lite::Regex;
use serde::{Deserialize, Deserializer, de};

use crate::source::process::Words;
use crate::source::process::proc::{Hidden, Input, Proc, Scan, Stat};

/// A kind of worker that is known. What each looks like was measured on real processes of mid to late 2026.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// `pi --mode rpc`. It writes `pi` over its command line, so its name is all that tells.
    Pi,
    /// Claude Code without a terminal.
    Claude,
    /// `codex app-server`, `codex exec`: without a terminal.
    Codex,
    /// `opencode serve`.
    Opencode,
    /// The gateway of openclaw.
    Openclaw,
    /// Servers of the Model Context Protocol that speak over standard input and output.
    Mcp,
    /// Containers of nanoclaw. Docker tells of them: no process is one by its own marks.
    Nanoclaw,
}

/// CPU seconds in 15 s that are work. Measured: pi idles at 0, but for one burst of up to 0.14 s by its garbage
/// collector, and streams at 0.40; codex idles at 0.01.
const WORK: f64 = 0.15;
/// Claude Code idles at 0.09 CPU seconds in 15 s: twice that. Nobody measured opencode, which is taken for like it.
pub const WORK_OF_CLAUDE: f64 = 0.18;
/// The gateway of openclaw idles at 0.19.
const WORK_OF_OPENCLAW: f64 = 0.38;

impl Preset {
    pub const ALL: [Preset; 7] =
        [Preset::Pi, Preset::Claude, Preset::Codex, Preset::Opencode, Preset::Openclaw, Preset::Mcp, Preset::Nanoclaw];

    pub fn name(self) -> &'static str {
        match self {
            Preset::Pi => "pi",
            Preset::Claude => "claude",
            Preset::Codex => "codex",
            Preset::Opencode => "opencode",
            Preset::Openclaw => "openclaw",
            Preset::Mcp => "mcp",
            Preset::Nanoclaw => "nanoclaw",
        }
    }

    fn work(self) -> f64 {
        match self {
            Preset::Pi | Preset::Codex | Preset::Mcp => WORK,
            Preset::Claude | Preset::Opencode | Preset::Nanoclaw => WORK_OF_CLAUDE,
            Preset::Openclaw => WORK_OF_OPENCLAW,
        }
    }

    /// Servers live as long as those whom they serve, however little there is to do.
    fn is_reaped(self) -> bool {
        matches!(self, Preset::Pi | Preset::Claude | Preset::Codex | Preset::Nanoclaw)
    }

    fn matches(self, look: &Look<'_>) -> bool {
        match self {
            Preset::Pi => look.is_pi(),
            Preset::Claude => look.stat.comm.is("claude") && look.is_headless(),
            Preset::Codex => look.stat.comm.is("codex") && look.is_headless(),
            Preset::Opencode => look.stat.comm.is("opencode") && look.has_word(b"serve"),
            Preset::Openclaw => look.stat.comm.is("openclaw-gateway"),
            Preset::Mcp => look.is_server(),
            Preset::Nanoclaw => false,
        }
    }
}

/// `[[collect.workers.rule]]`: all that is given must hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Written")]
pub struct Own {
    name: Arc<str>,
    /// As the kernel calls it, whole; longer names are cut to 15 bytes as the kernel does.
    comm: Option<String>,
    /// Its program file: a path, or the last part of one.
    exe: Option<String>,
    /// Found anywhere in the command line, its words joined by a space; `^` and `$` are its begin and end.
    cmdline: Option<Pattern>,
    /// The name of a process above it, as `comm`.
    ancestor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    comm: Option<String>,
    exe: Option<String>,
    cmdline: Option<Pattern>,
    ancestor: Option<String>,
}

impl TryFrom<Written> for Own {
    type Error = String;

    fn try_from(written: Written) -> Result<Own, String> {
        let Written { name, comm, exe, cmdline, ancestor } = written;
        if name.is_empty() {
            return Err("a rule needs a `name`, which is the kind of its workers".to_owned());
        }
        if comm.is_none() && exe.is_none() && cmdline.is_none() {
            return Err(format!("the rule `{name}` needs one of `comm`, `exe`, `cmdline`"));
        }
        let empty = [("comm", &comm), ("exe", &exe), ("ancestor", &ancestor)];
        if let Some((key, _)) = empty.into_iter().find(|(_, value)| value.as_deref() == Some("")) {
            return Err(format!("`{key}` of the rule `{name}` is empty, it would match nothing"));
        }
        Ok(Own { name: name.into(), comm, exe, cmdline, ancestor })
    }
}

/// A regular expression, refused where it is written.
#[derive(Debug, Clone)]
struct Pattern(Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
        let text = String::deserialize(deserializer)?;
        Regex::new(&text).map(Pattern).map_err(|error| de::Error::custom(format!("no regular expression: {error}")))
    }
}

impl Own {
    pub fn name(&self) -> &str {
        &self.name
    }

    fn matches(&self, look: &Look<'_>) -> bool {
        let given = |comm: &Option<String>, holds: &dyn Fn(&str) -> bool| comm.as_deref().is_none_or(holds);
        given(&self.comm, &|name| look.stat.comm.is(name))
            && given(&self.exe, &|path| look.exe().is_some_and(|exe| is_program(exe, path)))
            && self
                .cmdline
                .as_ref()
                .is_none_or(|pattern| look.words().is_some_and(|words| pattern.0.is_match(&words.line())))
            && given(&self.ancestor, &|name| look.scan.ancestors(look.stat).any(|above| above.comm.is(name)))
    }
}

/// One that was replaced on disk while it runs is still the same program.
fn is_program(exe: &Path, wanted: &str) -> bool {
    let exe = exe.to_string_lossy();
    let exe = exe.strip_suffix(" (deleted)").unwrap_or(&exe);
    exe == wanted || (!wanted.contains('/') && exe.rsplit('/').next() == Some(wanted))
}

/// How workers of one kind are told, and when they work.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The label of their facts.
    pub kind: Arc<str>,
    marks: Marks,
    /// CPU seconds in 15 s that are work.
    pub work: f64,
    /// Idle for long means that nobody needs it any more.
    pub is_reaped: bool,
}

#[derive(Debug, Clone)]
enum Marks {
    Preset(Preset),
    Own(Own),
}

impl Rule {
    pub fn is_mcp(&self) -> bool {
        matches!(self.marks, Marks::Preset(Preset::Mcp))
    }

    pub fn is_pi(&self) -> bool {
        matches!(self.marks, Marks::Preset(Preset::Pi))
    }

    /// Whether it asks for more than the name, so that another program of the same name may be none.
    pub fn is_beyond_name(&self) -> bool {
        match &self.marks {
            Marks::Preset(preset) => matches!(preset, Preset::Mcp | Preset::Opencode),
            Marks::Own(own) => own.exe.is_some() || own.cmdline.is_some(),
        }
    }

    pub fn matches(&self, look: &Look<'_>) -> bool {
        match &self.marks {
            Marks::Preset(preset) => preset.matches(look),
            Marks::Own(own) => own.matches(look),
        }
    }
}

impl From<Preset> for Rule {
    fn from(preset: Preset) -> Rule {
        Rule {
            kind: preset.name().into(),
            marks: Marks::Preset(preset),
            work: preset.work(),
            is_reaped: preset.is_reaped(),
        }
    }
}

impl From<Own> for Rule {
    fn from(own: Own) -> Rule {
        Rule { kind: own.name.clone(), marks: Marks::Own(own), work: WORK, is_reaped: true }
    }
}

/// One process, asked only for what a rule needs to know.
pub struct Look<'a> {
    proc: &'a Proc,
    scan: &'a Scan,
    stat: &'a Stat,
    words: OnceCell<Result<Words, Hidden>>,
    exe: OnceCell<Result<PathBuf, Hidden>>,
}

impl<'a> Look<'a> {
    pub fn at(proc: &'a Proc, scan: &'a Scan, stat: &'a Stat) -> Look<'a> {
        Look { proc, scan, stat, words: OnceCell::new(), exe: OnceCell::new() }
    }

    pub fn words(&self) -> Option<&Words> {
        self.words.get_or_init(|| self.proc.words(self.stat.pid())).as_ref().ok()
    }

    fn exe(&self) -> Option<&Path> {
        self.exe.get_or_init(|| self.proc.exe(self.stat.pid())).as_deref().ok()
    }

    /// A rule asked for its program, which is not ours to see.
    pub fn is_closed(&self) -> bool {
        matches!(self.exe.get(), Some(Err(Hidden::Denied)))
    }

    fn has_word(&self, wanted: &[u8]) -> bool {
        // Of a corpse the name is all there is, and of one whose main thread has ended.
        self.stat.is_zombie()
            || self.words().is_some_and(|words| words.is_empty() || words.iter().any(|word| word == wanted))
    }

    /// Nobody sits before it. Without a terminal it has none as its input; with one, its input must be seen.
    fn is_headless(&self) -> bool {
        !self.stat.has_terminal || matches!(self.proc.input(self.stat.pid()), Ok(Input::Pipe | Input::Other))
    }

    fn is_pi(&self) -> bool {
        if self.stat.comm.is("pi-rpc") {
            return true;
        }
        (self.stat.comm.is("pi") || self.is_pi_that_starts()) && self.is_headless()
    }

    /// Before it writes over its name and command line: 0.4 to 1.6 s.
    fn is_pi_that_starts(&self) -> bool {
        if !["node", "MainThread", "bun"].iter().any(|name| self.stat.comm.is(name)) {
            return false;
        }
        let Some(words) = self.words() else { return false };
        let words: Vec<&[u8]> = words.iter().collect();
        let script = words.get(1).and_then(|path| path.rsplit(|&byte| byte == b'/').next());
        match script {
            Some(b"rpc-entry.js") => true,
            Some(b"pi" | b"cli.js") => words.windows(2).any(|pair| *pair == [&b"--mode"[..], b"rpc"]),
            _ => false,
        }
    }

    /// Its program is named after the protocol, and its input is a pipe, as far as can be seen. Of a launcher (`npx -y
    /// mcp-server-git`) what it launches counts, not its options.
    pub fn is_server(&self) -> bool {
        self.names_the_protocol() && matches!(self.proc.input(self.stat.pid()), Ok(Input::Pipe) | Err(_))
    }

    /// The same, and its input is seen to be a pipe: where it is not ours to see, it may as well be a tool.
    pub fn is_surely_server(&self) -> bool {
        self.names_the_protocol() && matches!(self.proc.input(self.stat.pid()), Ok(Input::Pipe))
    }

    fn names_the_protocol(&self) -> bool {
        self.words().is_some_and(|words| words.program().is_some_and(|word| names_the_protocol(&word)))
    }

    /// Whether what a rule wants to know could not be seen: it ends just now, or executes a program of another user.
    pub fn is_blind(&self) -> bool {
        matches!(self.exe.get(), Some(Err(_)))
            || self.words.get().is_some_and(|words| words.as_ref().map_or(true, Words::is_empty))
    }
}

/// `mcp` as a word of its own, or the protocol's full name; a document about it is no program.
fn names_the_protocol(word: &[u8]) -> bool {
    let word = word.to_ascii_lowercase();
    let document = [&b".json"[..], b".jsonc", b".md", b".toml", b".yaml", b".yml", b".txt", b".log"];
    if document.iter().any(|ending| word.ends_with(ending)) {
        return false;
    }
    let is_apart = |at: Option<&u8>| at.is_none_or(|byte| !byte.is_ascii_alphanumeric());
    let found = |at: usize| {
        word[at..].starts_with(b"mcp")
            && is_apart(at.checked_sub(1).and_then(|i| word.get(i)))
            && is_apart(word.get(at + 3))
    };
    (0..word.len()).any(found) || word.windows(20).any(|part| part == b"modelcontextprotocol")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_after_its_protocol() {
        for name in [
            "mcp-server-git",
            "/usr/bin/github-mcp-server",
            "mcp_server_fetch",
            "@modelcontextprotocol/server-github",
            "/x/node_modules/@modelcontextprotocol/server-files/dist/index.js",
            "mcp/github",
            "/opt/MCP/index.js",
        ] {
            assert!(names_the_protocol(name.as_bytes()), "{name}");
        }
        for name in ["", "mc", "tmcpd", "mcp2", "amcp", "/srv/mcp.json", "notes-mcp.md", "pi", "mcp-servers.toml"] {
            assert!(!names_the_protocol(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_rule_is_refused_where_it_would_match_nothing_or_everything() {
        let refusal = |text: &str| toml::from_str::<Own>(text).unwrap_err().to_string();
        assert!(refusal("name = \"x\"").contains("the rule `x` needs one of `comm`, `exe`, `cmdline`"));
        assert!(refusal("name = \"x\"\nancestor = \"y\"").contains("needs one of"));
        assert!(refusal("name = \"x\"\ncomm = \"\"").contains("`comm` of the rule `x` is empty"));
        assert!(refusal("comm = \"x\"").contains("missing field `name`"));
        assert!(refusal("name = \"\"\ncomm = \"x\"").contains("needs a `name`"));
        assert!(refusal("name = \"x\"\ncmd = \"x\"").contains("unknown field `cmd`"));
        let error = refusal("name = \"x\"\ncmdline = \"(\"");
        assert!(error.contains("no regular expression") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_program_is_a_path_or_its_last_part() {
        let exe = Path::new("/opt/x/worker (deleted)");
        assert!(is_program(exe, "/opt/x/worker") && is_program(exe, "worker"));
        assert!(!is_program(exe, "/opt/worker") && !is_program(exe, "x/worker") && !is_program(exe, "ork"));
    }
}
