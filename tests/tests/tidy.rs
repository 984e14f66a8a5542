//! The rules of how the code reads that a program can check. Prints each offence as `file:line`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Files stop here; an `expect(…)` of this test's own would be a line `// tidy: long file: <why>`.
const MAX_LINES: usize = 500;
const LONG_FILE: &str = "// tidy: long file:";

/// What a pure core never does: async, I/O, clock, randomness, locks.
const IMPURE: &[&str] = &[
    "tokio",
    "async ",
    "async_trait",
    ".await",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime",
    "rand::",
    "fastrand",
    "Mutex",
    "RwLock",
    "OnceLock",
    "reqwest",
    "rocksdb",
    "tracing::",
    "println!",
];

/// Names that say nothing.
const VAGUE: &[&str] = &["utils", "util", "helpers", "helper", "misc", "common_test"];

struct Source {
    /// From the workspace's folder.
    path: String,
    lines: Vec<String>,
    /// From here on the file is tests.
    tests_from: usize,
}

impl Source {
    /// Lines of code outside tests and comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines.iter().take(self.tests_from).enumerate();
        lines.filter_map(|(i, line)| {
            let code = line.split("//").next().unwrap_or_default();
            (!code.trim().is_empty()).then_some((i + 1, code))
        })
    }

    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.contains("/benches/")
            || self.path.starts_with("benches/")
            || name == "tests.rs"
            || name == "conformance.rs"
            || name.ends_with("_test.rs")
            || name.ends_with("_tests.rs")
    }

    fn is_core(&self) -> bool {
        self.path.contains("/src/core/") || self.path.ends_with("/src/core.rs")
    }
}

fn workspace() -> PathBuf {
    maia_tests::folder()
        .parent()
        .expect("the crate is in the workspace")
        .to_path_buf()
}

fn sources() -> Vec<Source> {
    let top = workspace();
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["common", "proxy", "coordinator", "benches", "tests"]
        .iter()
        .map(|name| top.join(name))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry of it").path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(read(&top, &path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        found.len() > 20,
        "the workspace's sources are where they were"
    );
    found
}

fn read(top: &Path, path: &Path) -> Source {
    let text = std::fs::read_to_string(path).expect("sources are UTF-8");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let tests_from = lines.iter().position(|line| line.trim() == "#[cfg(test)]");
    Source {
        path: path
            .strip_prefix(top)
            .expect("below the top")
            .display()
            .to_string(),
        tests_from: tests_from.unwrap_or(lines.len()),
        lines,
    }
}

/// Fails with every offence on a line of its own.
fn demand_none(rule: &str, offences: Vec<(String, usize, String)>) {
    let mut text = String::new();
    for (path, line, what) in &offences {
        let _infallible = writeln!(text, "{path}:{line}: {what}");
    }
    assert!(offences.is_empty(), "{rule}\n{text}");
}

/// Lines of code of the files that `of` selects in which one of the needles occurs.
fn occurrences(of: impl Fn(&Source) -> bool, needles: &[&str]) -> Vec<(String, usize, String)> {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| of(source)) {
        for (line, code) in source.code() {
            if let Some(needle) = needles.iter().find(|needle| code.contains(*needle)) {
                offences.push((source.path.clone(), line, format!("`{needle}`")));
            }
        }
    }
    offences
}

#[test]
fn cores_are_pure() {
    let offences = occurrences(|source| source.is_core() && !source.is_test(), IMPURE);
    demand_none(
        "core/ has no async, I/O, clock, randomness or lock",
        offences,
    );
}

#[test]
fn tasks_have_an_owner() {
    let owner = "common/src/runtime/tasks.rs";
    let spawns = [
        "tokio::spawn",
        "task::spawn(",
        "Handle::current().spawn",
        "spawn_local(",
    ];
    let offences = occurrences(|source| source.path != owner && !source.is_test(), &spawns);
    demand_none(
        "tasks are spawned by their owner (maia_common::runtime::Tasks)",
        offences,
    );
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let offences = occurrences(|source| !source.is_test(), &[".unwrap()", ".unwrap_err()"]);
    demand_none(
        "no unwrap outside tests: `expect(\"why it holds\")` or an error",
        offences,
    );
}

#[test]
fn the_proxy_and_common_never_link_rocksdb() {
    for name in ["common", "proxy"] {
        let manifest = workspace().join(name).join("Cargo.toml");
        let text = std::fs::read_to_string(manifest).expect("the crate's manifest");
        for word in ["rocksdb", "maia-coordinator"] {
            assert!(!text.contains(word), "{name}/Cargo.toml names {word}");
        }
    }
}

#[test]
fn modules_say_what_they_are_for() {
    let offences = sources().into_iter().filter_map(|source| {
        let first = source.lines.iter().find(|line| !line.trim().is_empty());
        let says = first.is_some_and(|line| line.starts_with("//!"));
        (!says).then(|| (source.path, 1, "does not open with `//!`".to_owned()))
    });
    demand_none("every module opens with `//!`", offences.collect());
}

#[test]
fn files_stop_at_500_lines() {
    let offences = sources().into_iter().filter_map(|source| {
        let reason = source.lines.iter().any(|line| line.starts_with(LONG_FILE));
        let lines = source.lines.len();
        (lines > MAX_LINES && !reason).then(|| (source.path, lines, format!("{lines} lines")))
    });
    demand_none("files stop at 500 lines", offences.collect());
}

#[test]
fn names_say_something() {
    let offences = sources().into_iter().filter_map(|source| {
        let name = source
            .path
            .strip_suffix(".rs")
            .unwrap_or(&source.path)
            .to_owned();
        let vague = name
            .split('/')
            .find(|part| VAGUE.contains(part))
            .map(str::to_owned);
        vague.map(|part| (source.path, 1, format!("`{part}` says nothing")))
    });
    demand_none("no utils, helpers, misc", offences.collect());
}

#[test]
fn entry_points_stay_short() {
    let offences = sources().into_iter().filter_map(|source| {
        let lines = source.lines.len();
        let long = source.path.ends_with("src/main.rs") && lines > 150;
        long.then(|| (source.path, lines, format!("{lines} lines")))
    });
    demand_none("main.rs stops at 150 lines", offences.collect());
}
