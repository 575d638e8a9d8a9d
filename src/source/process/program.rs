//! Which program a process runs: itself, or as the script or module of an interpreter that it names.
//!
//! Never by a later word of its command line: an editor, a reader of logs, a `grep` or an `ssh` names a program and does not
//! run it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An interpreter or a launcher: its command line names the program that counts.
struct Launcher {
    names: &'static [&'static str],
    /// Words before the program that are none.
    commands: &'static [&'static str],
    /// Options that take the next word.
    with_value: &'static [&'static str],
    /// Options whose next word is a program itself, so that no other is named.
    code: &'static [&'static str],
}

const NODE_OPTIONS: &[&str] = &[
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-C",
    "--conditions",
    "--env-file",
    // Of tsx.
    "--tsconfig",
    "--include",
    "--exclude",
    "--ignore",
];

const LAUNCHERS: &[Launcher] = &[
    Launcher { names: &["python", "pypy"], commands: &[], with_value: &["-X", "-W"], code: &["-c"] },
    Launcher {
        names: &["uv", "uvx", "poetry", "pdm", "hatch", "rye", "pipx"],
        commands: &["run", "tool"],
        with_value: &[
            "-p",
            "--python",
            "--with",
            "--with-editable",
            "--with-requirements",
            "--extra",
            "--group",
            "--env-file",
            "--project",
            "--directory",
            "--package",
            "--from",
            "--spec",
            "--index",
            "--config-file",
            "--cache-dir",
        ],
        code: &[],
    },
    Launcher {
        names: &["node", "nodejs", "ts-node"],
        commands: &[],
        with_value: NODE_OPTIONS,
        code: &["-e", "--eval", "-p", "--print"],
    },
    Launcher {
        names: &["tsx"],
        commands: &["watch"],
        with_value: NODE_OPTIONS,
        code: &["-e", "--eval", "-p", "--print"],
    },
    Launcher {
        names: &["bun", "deno"],
        commands: &["run", "x"],
        with_value: &["--config", "--cwd", "--preload", "--env-file"],
        code: &["-e", "--eval", "eval"],
    },
    Launcher {
        names: &["npm", "npx", "pnpm", "pnpx", "bunx", "yarn"],
        // Not `run`: it may run anything, by a name that says little.
        commands: &["exec", "x", "dlx"],
        with_value: &["-p", "--package", "--prefix", "-C", "--dir", "-w", "--workspace"],
        code: &["-c", "--call"],
    },
    Launcher {
        names: &["dotnet"],
        commands: &["exec"],
        with_value: &["--depsfile", "--runtimeconfig", "--additionalprobingpath", "--fx-version", "--roll-forward"],
        code: &[],
    },
    Launcher { names: &["java"], commands: &[], with_value: &["-cp", "-classpath", "--class-path", "-p"], code: &[] },
    Launcher {
        names: &["ruby", "perl", "php", "mono"],
        commands: &[],
        with_value: &["-I", "-d"],
        code: &["-e", "-E", "-r"],
    },
    Launcher { names: &["bash", "sh", "dash", "zsh"], commands: &[], with_value: &["-o", "-O"], code: &["-c"] },
    Launcher { names: &["env"], commands: &[], with_value: &["-u", "--unset", "-C", "--chdir"], code: &[] },
];

/// They run an image. A host is never told by them: what they run has its own process.
const CONTAINERS: &[Launcher] = &[Launcher {
    names: &["docker", "podman"],
    commands: &["run", "exec", "container", "compose"],
    with_value: &[
        "-e",
        "--env",
        "--env-file",
        "-v",
        "--volume",
        "--mount",
        "--name",
        "--network",
        "--net",
        "-p",
        "--publish",
        "-w",
        "--workdir",
        "-u",
        "--user",
        "-l",
        "--label",
        "-m",
        "--memory",
        "--cpus",
        "--entrypoint",
        "--platform",
        "--pull",
        "--add-host",
        "--security-opt",
        "--cap-add",
        "--cap-drop",
        "--context",
        "-f",
        "--file",
        "-H",
        "--host",
    ],
    code: &[],
}];

/// What scripts and assemblies are called besides.
const ENDINGS: [&str; 13] =
    [".py", ".pyz", ".js", ".mjs", ".cjs", ".ts", ".mts", ".dll", ".exe", ".jar", ".rb", ".pl", ".sh"];

/// `name` is what the kernel calls the process. A program may be given with a part of its path.
pub(super) fn runs(name: &str, words: &[OsString], program: &str) -> bool {
    // The kernel's name ends after fifteen bytes: it proves nothing of a longer one.
    name == program || names_program(words, program)
}

/// The word that names the program which counts, of packages and images too: of launchers what the last of them
/// launches. `None`: code or nothing.
pub(super) fn launched(words: &[OsString]) -> Option<&OsStr> {
    let mut words = words;
    while let Some(launcher) = Launcher::of(words.first()?).or_else(|| Launcher::among(CONTAINERS, &words[0])) {
        words = launcher.launched(&words[1..]);
    }
    words.first().map(OsString::as_os_str)
}

/// A loop: whoever writes over its command line can name a launcher a hundred thousand times, and a stack ends.
fn names_program(words: &[OsString], program: &str) -> bool {
    let (mut words, mut is_launched) = (words, false);
    while let Some((first, rest)) = words.split_first() {
        let bare = if is_launched { without_version(without_ending(first)) } else { first };
        if is_called(first, program) || is_called(bare, program) {
            return true;
        }
        let Some(launcher) = Launcher::of(first) else { return false };
        (words, is_launched) = (launcher.launched(rest), true);
    }
    false
}

impl Launcher {
    fn of(word: &OsStr) -> Option<&'static Launcher> {
        Launcher::among(LAUNCHERS, word)
    }

    fn among(launchers: &'static [Launcher], word: &OsStr) -> Option<&'static Launcher> {
        let name = Path::new(word).file_name().unwrap_or(word).to_string_lossy();
        // `python3.12` is a python.
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        launchers.iter().find(|launcher| launcher.names.contains(&name))
    }

    /// `-c`, `--eval=…`, or a bundle of letters with it: `bash -lc`, `perl -ne`.
    fn is_code(&self, option: &str) -> bool {
        let has = |options: &[&str], letter: char| {
            options.iter().any(|one| one.strip_prefix('-') == Some(letter.encode_utf8(&mut [0; 4])))
        };
        if let Some(bundle) = option.strip_prefix('-').filter(|bundle| !bundle.starts_with('-')) {
            // What follows a letter that takes a value is that, and `-m` names a module.
            let mut letters = bundle.chars().take_while(|&letter| letter != 'm' && !has(self.with_value, letter));
            return self.code.contains(&option) || letters.any(|letter| has(self.code, letter));
        }
        self.code.contains(&option.split('=').next().unwrap_or_default())
    }

    /// From the first word on that is neither an option nor a command of its own.
    fn launched<'a>(&self, words: &'a [OsString]) -> &'a [OsString] {
        let mut at = 0;
        while let Some(word) = words.get(at) {
            match word.to_str().unwrap_or_default() {
                option if self.is_code(option) => return &[],
                option if self.with_value.contains(&option) => at += 2,
                option if option.starts_with('-') || self.commands.contains(&option) => at += 1,
                setting if self.names.contains(&"env") && setting.contains('=') => at += 1,
                _ => return &words[at..],
            }
        }
        &[]
    }
}

/// `openclaw@latest`, as those that fetch what they run are told. The mark of a scope is none: `@org/name`.
fn without_version(word: &OsStr) -> &OsStr {
    let bytes = word.as_bytes();
    let mark = bytes.iter().rposition(|&byte| byte == b'@');
    let version = mark.filter(|&at| at > 0 && !bytes[at..].contains(&b'/'));
    version.map_or(word, |at| OsStr::from_bytes(&bytes[..at]))
}

fn without_ending(word: &OsStr) -> &OsStr {
    let bytes = word.as_bytes();
    let stem = ENDINGS.iter().find_map(|ending| bytes.strip_suffix(ending.as_bytes()));
    stem.map_or(word, OsStr::from_bytes)
}

fn is_called(word: &OsStr, name: &str) -> bool {
    // One that writes a title over its command line pads it.
    let word = word.as_bytes().trim_ascii_end();
    word.strip_suffix(name.as_bytes()).is_some_and(|folder| folder.is_empty() || folder.ends_with(b"/"))
        // An option such as `--root=/srv/name` is not a program.
        && !word.starts_with(b"-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's name, and the command line.
    fn seen(name: &str, line: &str, program: &str) -> bool {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        runs(name, &words, program)
    }

    #[test]
    fn a_program_runs_as_itself_or_as_the_script_or_module_of_an_interpreter() {
        for (name, line, program) in [
            ("pynchy", "pynchy", "pynchy"),
            ("pynchy", "/srv/bin/pynchy --debug", "pynchy"),
            ("pynchy", "/usr/bin/python3.12 /srv/.venv/bin/pynchy", "pynchy"),
            ("python", "python -X dev -m pynchy", "pynchy"),
            ("python3", "/usr/bin/python3 -u /srv/host/pynchy.py --port 8484", "pynchy"),
            ("uv", "uv run pynchy", "pynchy"),
            ("uv", "uv run --python 3.12 --frozen pynchy", "pynchy"),
            ("uv", "uv --directory /srv/p run -- python -m pynchy", "pynchy"),
            ("uvx", "uvx --from pynchy-host pynchy", "pynchy"),
            ("env", "env HOME=/srv PYTHONUNBUFFERED=1 python -m pynchy", "pynchy"),
            ("netclawd", "/opt/netclaw/netclawd", "netclawd"),
            ("dotnet", "dotnet /opt/netclaw/netclawd.dll --urls http://127.0.0.1:5199", "netclawd"),
            ("dotnet", "/usr/bin/dotnet exec --depsfile a.json netclawd.dll", "netclawd"),
            ("openclaw-gatewa", "openclaw-gateway   ", "openclaw-gateway"),
            ("node", "node --require ./hook.js /x/dist/cli.js gateway", "dist/cli.js"),
            ("node", "node /x/dist/openclaw.mjs gateway", "openclaw"),
            ("MainThread", "node /srv/bot/index.js", "bot/index.js"),
            ("node", "nodejs /srv/bot/index.js", "bot/index.js"),
            ("node", "/usr/bin/nodejs18 --env-file .env /srv/bot.js", "bot"),
            ("tsx", "tsx src/bot.ts", "bot"),
            ("tsx", "tsx watch --tsconfig t.json src/bot.ts --port 8080", "src/bot.ts"),
            ("node", "node /srv/node_modules/.bin/tsx watch src/bot.ts", "bot"),
            ("node", "node --require /x/preflight.cjs --import file:///x/loader.mjs src/bot.ts", "bot"),
            ("npx", "npx openclaw gateway", "openclaw"),
            ("npm exec opencl", "npm exec openclaw@latest gateway", "openclaw"),
            ("npx", "npx -y @org/claw@1.2.3", "claw"),
            ("npx", "npx -y @org/claw", "@org/claw"),
            ("npx", "npx tsx watch src/bot.ts", "bot"),
            ("pnpm", "pnpm dlx claw", "claw"),
            ("bunx", "bunx --bun claw", "claw"),
            ("bun", "bun x claw@2", "claw"),
            ("uvx", "uvx claw@2.1", "claw"),
            ("python", "python /srv/a@b/claw.py", "claw"),
            ("bun", "bun --preload ./hook.ts run bot.ts", "bot"),
            ("bun", "bun run /srv/bot.ts", "bot"),
            ("java", "java -Xmx1g -cp /a:/b -jar /opt/claw.jar", "claw"),
            ("bash", "bash /srv/bin/claw.sh", "claw"),
            // It writes a title over its command line; the kernel's name stays.
            ("clawd", "clawd: serving on 8080", "clawd"),
        ] {
            assert!(seen(name, line, program), "{line}");
        }
    }

    #[test]
    fn whoever_only_names_a_program_does_not_run_it() {
        for (name, line, program) in [
            ("journalctl", "journalctl -fu netclawd", "netclawd"),
            ("systemctl", "systemctl --user status netclawd", "netclawd"),
            ("vim", "vim netclawd", "netclawd"),
            ("vim", "vim netclaw.toml", "netclaw"),
            ("tail", "tail -f pynchy.log", "pynchy"),
            ("tail", "tail -F /var/log/netclawd", "netclawd"),
            ("grep", "grep -r pynchy .", "pynchy"),
            ("ssh", "ssh host netclawd", "netclawd"),
            ("less", "less /srv/bin/pynchy", "pynchy"),
            ("gdb", "gdb --args netclawd", "netclawd"),
            ("docker", "docker exec -it box netclawd", "netclawd"),
            ("agenthost-expor", "agenthost-exporter --host.process netclawd", "netclawd"),
            ("agenthost-expor", "agenthost-exporter --host.root=/srv/pynchy", "pynchy"),
            ("python", "python -m pytest src/pynchy", "pynchy"),
            ("python", "python deploy.py pynchy", "pynchy"),
            ("python", "python run pynchy", "pynchy"),
            ("python", "python -c code pynchy", "pynchy"),
            ("python", "python --root=/srv/pynchy", "pynchy"),
            ("python", "python notpynchy", "pynchy"),
            ("uv", "uv run pytest src/pynchy", "pynchy"),
            ("uv", "uv run --with pynchy pytest", "pynchy"),
            ("node", "node -e code netclawd", "netclawd"),
            ("nodejs", "nodejs -p code netclawd", "netclawd"),
            ("tsx", "tsx watch build.ts netclawd", "netclawd"),
            ("tsx", "tsx --ignore netclawd.ts build.ts", "netclawd"),
            ("node", "node watch netclawd", "netclawd"),
            ("npx", "npx -p netclawd cowsay", "netclawd"),
            ("npx", "npx -c netclawd", "netclawd"),
            ("npm", "npm install netclawd", "netclawd"),
            ("npm", "npm run netclawd", "netclawd"),
            ("npx", "npx netclawd-tools@netclawd", "netclawd"),
            ("docker", "docker run netclawd", "netclawd"),
            ("node", "node /x/watch.js netclawd", "netclawd"),
            ("bash", "bash -c pynchyd", "pynchy"),
            ("bash", "bash /srv/stop.sh netclawd", "netclawd"),
            ("dotnet", "dotnet run netclawd", "netclawd"),
            ("env", "env NAME=netclawd sleep", "netclawd"),
            ("openclaw-gatewa", "openclaw-gateway-watch", "openclaw-gateway"),
            ("", "", "pynchy"),
        ] {
            assert!(!seen(name, line, program), "{line}");
        }
        assert!(!runs("", &[], "pynchy"));
        let launchers = vec![OsString::from("env"); 200_000];
        assert!(!runs("env", &launchers, "pynchy") && launched(&launchers).is_none(), "a stack would end");
    }

    #[test]
    fn what_is_launched_is_never_code_nor_the_value_of_an_option() {
        for (line, program) in [
            ("npx -y mcp-x /repo", Some("mcp-x")),
            ("npx --package y -- mcp-x", Some("mcp-x")),
            ("npm exec mcp-x", Some("mcp-x")),
            ("npm run mcp-x", Some("run")),
            ("docker run -i --rm -e TOKEN mcp/x", Some("mcp/x")),
            ("docker build mcp", Some("build")),
            ("env A=b npx -y mcp-x", Some("mcp-x")),
            ("bunx mcp-x", Some("mcp-x")),
            ("python3 -m mcp_x", Some("mcp_x")),
            ("python3 -mc x", Some("x")),
            ("python3 -Xtracemalloc x.py", Some("x.py")),
            ("node --import tsx /mcp/x.ts", Some("/mcp/x.ts")),
            ("bash /mcp/run.sh", Some("/mcp/run.sh")),
            ("vim mcp", Some("vim")),
            ("bash -c mcp", None),
            ("bash -lc mcp", None),
            ("bash -euxc mcp", None),
            ("python3 -Ic mcp", None),
            ("perl -lane code mcp", None),
            ("node --eval=code mcp", None),
            ("node -pe code mcp", None),
            ("npx -c mcp", None),
            ("bash", None),
            ("npx", None),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(launched(&words).and_then(OsStr::to_str), program, "{line}");
        }
        assert_eq!(launched(&[]), None);
    }
}
