//! The coordinator's process: arguments, configuration, runtime, start, serve, stop.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use maia_coordinator::config::{self, Config};
use maia_coordinator::shell::node::Node;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A region's coordinator: placements, replication, the built-in origin.
#[derive(Debug, Parser)]
#[command(name = "maia-coordinator", version)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long)]
    config: PathBuf,
    /// Checks the configuration and exits.
    #[arg(long)]
    check: bool,
    /// A blank disk of a first member makes a new cluster, together with the other first members.
    /// Only for the first start: without it a blank disk is taken for one that was lost.
    #[arg(long)]
    make_cluster: bool,
}

/// Exit code for a configuration that is refused (EX_USAGE).
const EXIT_CONFIG: u8 = 64;

#[expect(
    clippy::print_stderr,
    reason = "the log does not run before the configuration is read"
)]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match config::load(&arguments.config, std::env::vars()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("maia-coordinator: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if arguments.check {
        return ExitCode::SUCCESS;
    }
    maia_common::logging::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(config, arguments.make_cluster)),
        Err(error) => {
            tracing::error!(%error, "no runtime");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, make_cluster: bool) -> ExitCode {
    let (node_id, api, rpc) = (config.node.id, config.listen.api, config.listen.rpc);
    let node = match Node::start(config, make_cluster).await {
        Ok(node) => node,
        Err(error) => {
            tracing::error!(%error, "the coordinator does not start");
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(node = %node_id, %api, %rpc, "listening");
    let code = tokio::select! {
        () = asked_to_stop() => ExitCode::SUCCESS,
        reason = node.failed() => {
            tracing::error!(%reason, "the coordinator can't go on");
            ExitCode::FAILURE
        }
    };
    node.stop().await;
    tracing::info!("stopped");
    code
}

async fn asked_to_stop() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("signals can't be listened to");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
