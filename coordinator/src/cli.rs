//! maiactl, the operator's tool: local clusters, placements, what the cluster says of itself.
//!
//! It talks to a cluster only as any other client does, over the HTTP API, and it starts and
//! signals processes only of clusters that it made itself (`cluster up`). It never touches the
//! engine or its files. Called by `src/bin/maiactl.rs` and by nothing else.
//!
//! Exit codes: 0 done, 1 it failed or something is not well, 2 used wrongly, 64 a configuration
//! is at fault.

mod api;
mod args;
mod cert;
mod cluster;
mod config;
mod demo;
mod load;
mod node;
mod print;
mod proxy;
mod quarantine;
mod region;
mod session;
mod tenant;
mod views;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::config::ConfigError;
use args::{Args, Verb};
use session::Session;

/// The command can't be carried out as it was given: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// The command did its work and found something that is not well: exit code 1 and no message,
/// because what it printed says it already.
#[derive(Debug, thiserror::Error)]
#[error("not well")]
struct NotWell;

/// Reads the arguments, carries out the command, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only what every process has");
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    match args.verb {
        Verb::Cluster { verb } => cluster::run(&args.global, verb).await,
        Verb::Demo(demo) => demo::run(&args.global, &demo).await,
        Verb::Cert { verb } => cert::run(&args.global, verb),
        Verb::Config { verb } => config::run(&args.global, &verb),
        Verb::Completions { shell } => {
            let mut command = Args::command();
            clap_complete::generate(shell, &mut command, "maiactl", &mut std::io::stdout());
            Ok(())
        }
        Verb::Tenant { verb } => tenant::run(&Session::open(&args.global)?, verb).await,
        Verb::Health => views::health(&Session::open(&args.global)?).await,
        Verb::Groups => views::groups(&Session::open(&args.global)?).await,
        Verb::Region { verb } => region::run(&Session::open(&args.global)?, verb).await,
        Verb::Node { verb } => node::run(&Session::open(&args.global)?, verb).await,
        Verb::Quarantine { verb } => quarantine::run(&Session::open(&args.global)?, verb).await,
        Verb::Proxy { verb } => proxy::run(&Session::open(&args.global)?, verb).await,
        Verb::Events { after, follow } => {
            views::events(&Session::open(&args.global)?, after, follow).await
        }
    }
}

fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<NotWell>() {
        return ExitCode::from(1);
    }
    print::complain(&format!("error: {error:#}"));
    if error.is::<ConfigError>() {
        ExitCode::from(64)
    } else if error.is::<Usage>() {
        ExitCode::from(2)
    } else {
        ExitCode::from(1)
    }
}
