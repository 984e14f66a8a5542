//! A process as the system sees it: its resident memory, and how it is made to end.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What `sysconf(_SC_CLK_TCK)` says on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Resident memory in bytes; 0 for a process that is gone.
pub fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Processor time of these processes so far, user's and system's. Of one that is gone none.
pub fn cpu_time(pids: &[i32]) -> Duration {
    let ticks = |pid: &i32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
        let (user, system) = (fields.next()?, fields.next()?);
        Some(user.parse::<u32>().ok()? + system.parse::<u32>().ok()?)
    };
    pids.iter().filter_map(ticks).map(|t| TICK * t).sum()
}

/// How long the machine's processors had nothing to do so far, all of them together.
pub fn idle_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next().unwrap_or_default();
    // "cpu user nice system idle iowait …"
    let idle = all.split_whitespace().skip(4).take(2);
    let ticks = idle.filter_map(|ticks| ticks.parse::<u32>().ok());
    ticks.map(|ticks| TICK * ticks).sum()
}

/// Whether it still runs.
pub fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|s| s.starts_with(" Z")))
}

/// Asks it to end.
pub fn terminate(pid: i32) {
    // It may have ended by itself in this moment.
    let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
}
