//! curl as a client that did not come from this project.

use std::process::Stdio;

/// What curl printed.
#[derive(Debug)]
pub struct Curl {
    pub stdout: String,
    pub stderr: String,
    pub ok: bool,
}

/// Runs curl with these arguments.
///
/// # Panics
/// When curl is not installed: `make setup` installs it.
pub async fn curl(arguments: &[&str]) -> Curl {
    let output = tokio::process::Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "30",
            "--noproxy",
            "*",
        ])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("curl is installed");
    Curl {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        ok: output.status.success(),
    }
}
