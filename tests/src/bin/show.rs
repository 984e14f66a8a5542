//! `show NN`: runs what issue NN must show; see [`maia_tests::show`]. `show appends`: of issue 03 only the
//! appends beside etcd's puts, for `make peers`.

use std::process::ExitCode;

use maia_tests::show::{Report, one, three, two};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let mut report = Report::default();
    match std::env::args().nth(1).as_deref() {
        Some("01") => one::run(&mut report).await,
        Some("02") => two::run(&mut report).await,
        Some("03") => three::run(&mut report).await,
        Some("appends") => three::appends::run(&mut report).await,
        _ => report.line("which issue", "show 01 | 02 | 03 | appends", false),
    }
    if report.end() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
