//! Takes a cluster down when the test's process ends without having done so: killed by its runner,
//! or stopped by a signal.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A shell that waits for the end of a pipe which this process holds.
#[derive(Debug)]
pub struct Guard(Child);

impl Guard {
    /// A guard over the cluster of this folder, whether it is up yet or not.
    ///
    /// # Panics
    /// When no shell starts.
    #[must_use]
    pub fn over(dir: &Path) -> Self {
        let child = Command::new("sh")
            .args([
                "-c",
                "cat >/dev/null; exec \"$0\" cluster down --dir \"$1\"",
            ])
            .arg(super::binary("maiactl"))
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Self(child)
    }

    /// Closes the pipe and waits until whatever still runs is down.
    pub fn dismiss(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.dismiss();
    }
}
