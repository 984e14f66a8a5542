//! One process of a local cluster: starting it apart from this command, finding it again by its
//! recorded pid, signalling it. A pid counts only while the process's command line names our
//! configuration file, so a pid that the system gave to another process is never signalled.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use maia_common::ids::RegionName;
use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// How often a process is looked at while its end is awaited.
const POLL: Duration = Duration::from_millis(10);
/// How long a new process may take until its command line can be read: microseconds.
const START_DEADLINE: Duration = Duration::from_secs(1);
/// How much of a log is shown when its process failed.
const TAIL_BYTES: u64 = 3000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Coordinator,
    Proxy,
}

impl Role {
    /// The name of the binary.
    #[must_use]
    pub const fn binary(self) -> &'static str {
        match self {
            Role::Coordinator => "maia-coordinator",
            Role::Proxy => "maia-proxy",
        }
    }

    /// The role as people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Proxy => "proxy",
        }
    }
}

/// A process as recorded; whether it runs, [`Process::state`] finds out.
#[derive(Debug, Clone)]
pub struct Process {
    pub id: String,
    pub role: Role,
    pub region: RegionName,
    /// 0: never started.
    pub pid: u32,
    pub config: PathBuf,
    pub log: PathBuf,
    /// Where `/readyz` is.
    pub url: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    /// By SIGSTOP.
    Stopped,
    Gone,
}

impl State {
    /// The state as people and programs read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Stopped => "stopped",
            State::Gone => "gone",
        }
    }
}

impl Process {
    /// Starts it in a process group of its own (an interrupt of this command's terminal does not
    /// reach it), with its output in its log; returns the pid. `making`: the cluster is being made.
    ///
    /// # Errors
    /// When the binary or the log can't be opened.
    pub fn start(&self, making: bool) -> anyhow::Result<u32> {
        let binary = super::binary(self.role.binary())?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| self.log.display().to_string())?;
        let mut command = Command::new(&binary);
        // The files say everything; what this shell has set is for maiactl alone.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"MAIA_") && name != "MAIA_LOG" {
                command.env_remove(name);
            }
        }
        if making && self.role == Role::Coordinator {
            command.arg("--make-cluster");
        }
        let mut child = command
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| binary.display().to_string())?;
        // `spawn` returns a moment before the new program's command line can be read, and by that
        // the process is recognized.
        let started = Process {
            pid: child.id(),
            ..self.clone()
        };
        let end = Instant::now() + START_DEADLINE;
        while !started.is_ours() && child.try_wait()?.is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(child.id())
    }

    /// Whether the recorded process is there.
    #[must_use]
    pub fn state(&self) -> State {
        if self.pid == 0 || !self.is_ours() {
            return State::Gone;
        }
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        // `pid (name) state …`; the name may hold anything, so the last parenthesis counts.
        match stat
            .ok()
            .as_deref()
            .and_then(|s| s.rsplit_once(") "))
            .map(|(_, rest)| rest)
        {
            Some(rest) if rest.starts_with(['T', 't']) => State::Stopped,
            Some(rest) if rest.starts_with(['Z', 'X']) => State::Gone,
            Some(_) => State::Running,
            None => State::Gone,
        }
    }

    /// Whether the process with our pid was started with our configuration file. A dead child
    /// that nobody has waited for has no command line any more.
    fn is_ours(&self) -> bool {
        let config = self.config.as_os_str().as_encoded_bytes();
        std::fs::read(format!("/proc/{}/cmdline", self.pid))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|part| part == config))
    }

    /// Whether a process with our pid has lost its memory, and with it its command line, and may still
    /// have its files: a lock, or a port.
    fn is_ending(&self) -> bool {
        let proc = |what: &str| std::fs::read(format!("/proc/{}/{what}", self.pid));
        let has_no_line = proc("cmdline").is_ok_and(|line| line.is_empty());
        let stat = proc("stat").unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        let is_dead = stat
            .rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
        // The first thread may be dead while others still end; the last one closes the files.
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid));
        let others_live = threads.is_ok_and(|threads| threads.count() > 1);
        self.pid != 0 && has_no_line && (!is_dead || others_live)
    }

    /// Sends a signal; `false` when the process is gone.
    ///
    /// # Errors
    /// When the process is not ours to signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<bool> {
        if self.state() == State::Gone {
            return Ok(false);
        }
        let pid = i32::try_from(self.pid).context("a pid beyond the system's range")?;
        match signal::kill(Pid::from_raw(pid), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("{signal} to {}", self.name())),
        }
    }

    /// Waits until it is gone; `false` at the deadline.
    pub async fn wait_gone(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        while self.state() != State::Gone || self.is_ending() {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Waits until it stands still; `false` when it is gone, and at the deadline.
    pub async fn wait_stopped(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        while self.state() == State::Running && Instant::now() < end {
            tokio::time::sleep(POLL).await;
        }
        self.state() == State::Stopped
    }

    /// For messages.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {} ({})", self.role.as_str(), self.id, self.region)
    }

    /// The last lines of its log, indented; for a message about its end.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let tail = tail(&self.log).unwrap_or_else(|error| error.to_string());
        let lines: Vec<String> = tail.lines().map(|line| format!("    {line}")).collect();
        format!("  {}:\n{}", self.log.display(), lines.join("\n"))
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole_lines = if start > 0 {
        text.split_once('\n').map_or("", |(_, rest)| rest)
    } else {
        &text
    };
    Ok(whole_lines.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, config: &str) -> Process {
        Process {
            id: "1".into(),
            role: Role::Coordinator,
            region: RegionName::new("eu").unwrap(),
            pid,
            config: config.into(),
            log: "/nowhere".into(),
            url: String::new(),
        }
    }

    #[tokio::test]
    async fn only_the_process_that_names_our_file_is_signalled() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let stranger = process(child.id(), "/our/coordinator.toml");
        assert_eq!(stranger.state(), State::Gone);
        assert!(!stranger.signal(Signal::SIGKILL).unwrap());
        assert!(child.try_wait().unwrap().is_none(), "the stranger lives");
        let ours = process(child.id(), "1000");
        let end = Instant::now() + Duration::from_secs(5);
        while !ours.is_ours() && Instant::now() < end {
            tokio::time::sleep(POLL).await;
        }
        assert_eq!(ours.state(), State::Running);
        assert!(ours.signal(Signal::SIGKILL).unwrap());
        assert!(
            ours.wait_gone(Duration::from_secs(5)).await,
            "a zombie counts as gone"
        );
        child.wait().unwrap();
    }

    #[test]
    fn the_tail_of_a_log_begins_with_a_whole_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines: Vec<String> = (0..1000).map(|n| format!("line {n}")).collect();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        let text = tail(file.path()).unwrap();
        assert!(
            text.starts_with("line ") && text.ends_with("line 999"),
            "{text}"
        );
        assert!(text.len() <= 3000);
    }
}
