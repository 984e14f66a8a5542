//! `make peers`: the same work on nginx, HAProxy, bare pingora and maia-proxy, in one run, so that
//! ratios hold on a noisy machine. What is compared is processor time (user and system) of the
//! peer's processes per request served; the median of rounds in which all peers take turns.
//! Exit code 1 on a miss that does not stand in `docs/misses.md`.
//!
//! ```text
//! wrk, 64 connections ──▶ peer, one worker ──▶ origin (nginx, 1 KiB from memory)
//!                           ▲ 100 k tenants (the proxy: by its feed)
//! ```

mod client;
mod feed;
mod load;
mod process;
mod report;
mod stage;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::load::{Load, measure};
use crate::report::{Cell, Verdict, table, verdicts};
use crate::stage::{Kind, Stage};

#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds: each measures every peer once with each load.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of one measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Only with (true) or without (false) an access log.
    #[arg(long)]
    log: Option<bool>,
    /// wrk's script.
    #[arg(long, default_value = "benches/peers/load.lua")]
    script: PathBuf,
    /// Serves until it is interrupted instead of measuring; prints addresses and process ids.
    #[arg(long)]
    serve: bool,
}

#[expect(clippy::print_stdout, reason = "a bench prints its results")]
fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let own = std::env::current_exe()?;
    let programs = own.parent().map(PathBuf::from).unwrap_or_default();
    let stage = Stage::start(&programs)?;
    if arguments.serve {
        for peer in &stage.peers {
            println!(
                "{:14} log={:5} {}",
                peer.kind.as_str(),
                peer.log,
                peer.address
            );
        }
        std::thread::park();
    }
    let cells = rounds(&stage, &arguments)?;
    for log in [true, false] {
        for load in Load::ALL {
            if cells.iter().any(|c| c.log == log && c.load == load) {
                println!("\naccess log {}", if log { "on" } else { "off" });
                println!("{}", table(&cells, load, log));
            }
        }
    }
    println!();
    let mut held = true;
    for (text, verdict) in verdicts(&cells) {
        println!("{}: {text}", verdict.as_str());
        held &= verdict != Verdict::Miss;
    }
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All rounds. Whose turn it is first changes from round to round.
#[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
fn rounds(stage: &Stage, arguments: &Arguments) -> anyhow::Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for load in Load::ALL {
        for peer in &stage.peers {
            cells.push(Cell {
                kind: peer.kind,
                log: peer.log,
                load,
                samples: Vec::new(),
                rss_bytes: 0,
            });
        }
    }
    let time = Duration::from_secs(arguments.seconds);
    for round in 0..arguments.rounds {
        for log in [true, false] {
            if arguments.log.is_some_and(|only| only != log) {
                continue;
            }
            for load in Load::ALL {
                for turn in 0..Kind::ALL.len() {
                    let kind = Kind::ALL[(turn + round) % Kind::ALL.len()];
                    let wanted = |of: (Kind, bool)| of == (kind, log);
                    let Some(peer) = stage.peers.iter().find(|p| wanted((p.kind, p.log))) else {
                        continue;
                    };
                    let sample = measure(peer, load, time, &arguments.script)?;
                    let cell = cells
                        .iter_mut()
                        .find(|c| c.load == load && wanted((c.kind, c.log)));
                    if let Some(cell) = cell {
                        cell.samples.push(sample);
                        cell.rss_bytes = peer.server.rss_bytes();
                    }
                }
            }
        }
        eprintln!("round {} of {}", round + 1, arguments.rounds);
    }
    cells.retain(|cell| !cell.samples.is_empty());
    Ok(cells)
}
