//! Medians, ratios, and whether the targets of `quality.md` hold. Pure but for printing.

use comfy_table::Table;

use crate::load::{Load, Sample};
use crate::stage::Kind;

/// `maia-proxy ≤ factor × peer`, for a load; and up to which factor a miss stands accepted in
/// `docs/misses.md`, with an access log and without.
const TARGETS: [(Load, Kind, f64, [f64; 2]); 3] = [
    (Load::Read, Kind::Bare, 1.05, [1.2, 1.2]),
    (Load::Misrouted, Kind::Haproxy, 1.0, [1.0, 1.35]),
    (Load::MisroutedBody, Kind::Haproxy, 1.0, [1.0, 1.0]),
];

/// What came of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It does not, and `docs/misses.md` says by how much and why.
    Accepted,
    /// It does not.
    Miss,
}

impl Verdict {
    fn of(seen: f64, factor: f64, accepted: f64) -> Self {
        if seen <= factor {
            Verdict::Pass
        } else if seen <= accepted {
            Verdict::Accepted
        } else {
            Verdict::Miss
        }
    }

    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Accepted => "miss, accepted in docs/misses.md",
            Verdict::Miss => "MISS",
        }
    }
}

/// One peer under one load, with or without an access log.
pub struct Cell {
    /// Which.
    pub kind: Kind,
    /// Whether it wrote an access log.
    pub log: bool,
    /// Under what.
    pub load: Load,
    /// One per round.
    pub samples: Vec<Sample>,
    /// Its memory at the end.
    pub rss_bytes: u64,
}

impl Cell {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        let mut values: Vec<f64> = self.samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn cpu_us(&self) -> f64 {
        self.median(|s| s.cpu_us)
    }
}

fn find(cells: &[Cell], kind: Kind, log: bool, load: Load) -> Option<&Cell> {
    cells
        .iter()
        .find(|c| c.kind == kind && c.log == log && c.load == load)
}

/// CPU per request of one over that of the other: the median of the ratios within each round,
/// which what else runs on the machine disturbs least.
fn ratio(one: &Cell, other: &Cell) -> f64 {
    let mut ratios: Vec<f64> = one
        .samples
        .iter()
        .zip(&other.samples)
        .map(|(a, b)| a.cpu_us / b.cpu_us)
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// The table of one load.
pub fn table(cells: &[Cell], load: Load, log: bool) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header([
        load.as_str(),
        "CPU µs/request",
        "× bare pingora",
        "× HAProxy",
        "× nginx",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "RSS MB",
    ]);
    for cell in cells.iter().filter(|c| c.load == load && c.log == log) {
        let against = |kind| {
            find(cells, kind, log, load)
                .map_or_else(String::new, |o| format!("{:.2}", ratio(cell, o)))
        };
        table.add_row([
            cell.kind.as_str().to_owned(),
            format!("{:.1}", cell.cpu_us()),
            against(Kind::Bare),
            against(Kind::Haproxy),
            against(Kind::Nginx),
            format!("{:.0}", cell.median(|s| s.rate)),
            format!("{:.2}", cell.median(|s| s.p50_us) / 1e3),
            format!("{:.2}", cell.median(|s| s.p99_us) / 1e3),
            format!("{:.0}", cell.rss_bytes as f64 / 1e6),
        ]);
    }
    table
}

/// Each target with what was seen, and what came of it.
pub fn verdicts(cells: &[Cell]) -> Vec<(String, Verdict)> {
    let mut verdicts = Vec::new();
    for log in [true, false] {
        for (load, kind, factor, accepted) in TARGETS {
            let of = |kind| find(cells, kind, log, load);
            let (Some(ours), Some(theirs)) = (of(Kind::Maia), of(kind)) else {
                continue;
            };
            let (seen, name) = (ratio(ours, theirs), kind.as_str());
            let (log, accepted) = if log {
                ("on", accepted[0])
            } else {
                ("off", accepted[1])
            };
            let text = format!(
                "{}: {seen:.3} × {name}, target ≤ {factor:.2} (access log {log} for all)",
                load.as_str()
            );
            verdicts.push((text, Verdict::of(seen, factor, accepted)));
        }
    }
    verdicts
}
