//! maia-proxy: reads its configuration, binds, serves, drains. Exit codes: 0 stopped by a signal,
//! 64 the configuration is wrong (file and line on standard error), 1 anything else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use maia_common::logging;
use maia_proxy::config::Config;
use maia_proxy::shell::server::{Server, StartError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE`
const WRONG_CONFIGURATION: u8 = 64;

/// The front door of a region: sends each request to where its tenant lives.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Sets one key over file and environment, such as proxy.hold_budget=2s.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Checks the configuration and ends.
    #[arg(long)]
    check: bool,
}

#[expect(
    clippy::print_stderr,
    reason = "faults of the configuration are for the person who typed the command"
)]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = |name: &str| std::env::var(name).ok();
    let config = match Config::load(&arguments.config, environment, &arguments.set) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(WRONG_CONFIGURATION);
        }
    };
    if arguments.check {
        return ExitCode::SUCCESS;
    }
    logging::start();
    match Server::bind(config).and_then(Server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(error = %e, "the proxy can't run");
            if matches!(e, StartError::Folder(_)) {
                return ExitCode::from(WRONG_CONFIGURATION);
            }
            ExitCode::FAILURE
        }
    }
}
