//! Processes that the bench starts: ended with it however it ends, and what they cost. Called by
//! the stage and the load; owns nothing but its child.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

/// A server and its children.
pub struct Server {
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The whole tree: a master that is killed would leave its workers.
        for pid in self.tree() {
            let _gone = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let _gone = self.child.wait();
    }
}

impl Server {
    /// Starts the program; standard output and error go to `<log>.out` and `<log>.err`. The kernel
    /// ends it when the bench is killed (`setpriv` of util-linux).
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> anyhow::Result<Self> {
        // Of nginx only the master is our child, and it takes its workers along; pingora would
        // drain for minutes.
        let signal = if program == Path::new("nginx") {
            "TERM"
        } else {
            "KILL"
        };
        let child = Command::new("setpriv")
            .args(["--pdeathsig", signal, "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(log.with_extension("out"))?)
            .stderr(File::create(log.with_extension("err"))?)
            .spawn()
            .with_context(|| format!("{} can't be started", program.display()))?;
        Ok(Self { child })
    }

    /// Its process and all below it.
    fn tree(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let mut at = 0;
        while at < pids.len() {
            let pid = pids[at];
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let children = children.unwrap_or_default();
            pids.extend(
                children
                    .split(' ')
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
            at += 1;
        }
        pids
    }

    /// Time on a processor, user and system, of all its threads so far.
    pub fn cpu(&self) -> Duration {
        let mut nanos = 0;
        for pid in self.tree() {
            let threads = fs::read_dir(format!("/proc/{pid}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                let spent = fs::read_to_string(thread.path().join("schedstat"));
                let spent = spent.unwrap_or_default();
                let first = spent.split(' ').next().and_then(|n| n.parse::<u64>().ok());
                nanos += first.unwrap_or(0);
            }
        }
        Duration::from_nanos(nanos)
    }

    /// Resident memory of its largest process: workers share their master's pages.
    pub fn rss_bytes(&self) -> u64 {
        let rss = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        self.tree().iter().filter_map(rss).max().unwrap_or(0) << 10
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}
