//! A follower that was away comes back under load: the same 64 clients as of [`super::appends`] write
//! without a pause to a tenant with three copies (semi-sync) while one follower is killed, misses entries, and is
//! started again; once so that the log has all of them, once so that it needs a snapshot.
//!
//! ```text
//!  ─────────── kill ── entries are missed ── start ── it answers ── it is level ──────────
//!   ├─ before ─┤             ├─── away ────┤            ├─ meanwhile ─┤─ after ─┤   rates of appends
//!     healthy                                                           healthy
//! ```
//! Appends meanwhile are held against those of the healthy group, which has three copies in step: the mean of
//! before and after. While one is away the group has two copies, which cost less; that is told, too.
//!
//! It is level when it lacks no more entries than there are clients: each has one under way. The
//! clients, the nodes and the one that comes back share the processors, so who had them is told, too.

mod watch;

use std::time::Duration;

use serde_json::{Value, json};

use super::appends::{CLIENTS, VALUE, own_pid};
use crate::cluster::{Cluster, Options, SOON};
use crate::show::{Report, sized};
use watch::{Look, Rate, Watch};

const TENANT: &str = "catch-up";
const ENTRIES: usize = 100_000;
/// Entries of the load may be under way.
const LEVEL: u64 = CLIENTS as u64;
/// How long the entries that are missed may take to be written, and dropped.
const AWAY: Duration = Duration::from_secs(300);
/// How long catching up may take.
const BACK: Duration = Duration::from_secs(180);
/// The other rates are of so long.
const BESIDE: Duration = Duration::from_secs(5);
/// So long after its first appends a group is as fast as it gets.
const WARM: Duration = Duration::from_secs(2);
const SLOWER_PERCENT: f64 = 20.0;
/// The least retention that is allowed.
const LEAST_RETENTION_BYTES: usize = 1_000_000;

/// A cluster, and who is who in it.
struct Stage {
    cluster: Cluster,
    group: Value,
    /// Regions: whose coordinator leads the group, and whose is away.
    leader: usize,
    away: usize,
}

/// What was seen of one absence.
struct Round {
    /// The newest look before the start, the first with an answer, the first that is level.
    start: Look,
    back: Look,
    level: Look,
    away_from: Look,
    rates: Rates,
    /// Whether the leader's log had no longer all that was missed.
    is_dropped: bool,
    snapshot_bytes: u64,
}

/// Appends of the healthy group, without the follower, while it catches up, and of the healthy group again.
struct Rates {
    before: Rate,
    away: Rate,
    meanwhile: Rate,
    after: Rate,
}

/// Measures, and prints.
pub async fn run(report: &mut Report) {
    let entries = sized("SHOW_CATCH_UP_ENTRIES", ENTRIES);
    absence(report, entries, None).await;
    // An eighth of what is missed: much less than the log may keep.
    let retention = (entries * VALUE.len() / 8).max(LEAST_RETENTION_BYTES);
    absence(report, entries, Some(retention)).await;
}

async fn absence(report: &mut Report, entries: usize, retention: Option<usize>) {
    let what = match retention {
        None => "a follower was away, back by the log",
        Some(_) => "a follower was away, back by a snapshot",
    };
    let mut options = Options::default();
    if let Some(bytes) = retention {
        options = options.set(&format!("replication.retention_bytes={bytes}"));
    }
    let stage = Stage::set(options).await;
    let watch = Watch::new(&stage);
    let seen = tokio::select! {
        seen = round(&stage, &watch, entries as u64, retention.is_some()) => seen,
        () = watch.run() => Err("the clients lost their connections"),
    };
    match seen {
        Ok(round) => round.tell(report, what, retention.is_some()),
        Err(why) => report.line(what, why, false),
    }
}

/// One absence of the follower, under load.
async fn round(
    stage: &Stage,
    watch: &Watch<'_>,
    entries: u64,
    past_retention: bool,
) -> Result<Round, &'static str> {
    let is_level = |look: &Look| look.answers && look.lag <= LEVEL;
    let runs = watch.first(SOON, |l| is_level(l) && l.acknowledged > LEVEL);
    let runs = runs.await.ok_or("the load does not run")?;
    let warm = watch.first(SOON, |look| look.at >= runs.at + WARM).await;
    let warm = warm.ok_or("the leader says nothing of its followers")?;
    let healthy = watch.first(SOON, |look| look.at >= warm.at + BESIDE).await;
    let healthy = healthy.ok_or("the leader says nothing of its followers")?;
    let (_, had_least) = stage.log().await;
    stage.cluster.kill_coordinator(stage.away).await;
    let gone = watch.first(SOON, |look| !look.answers).await;
    let gone = gone.ok_or("the leader does not miss the follower")?;
    let (_, had_most) = stage.log().await;
    let missed = gone.acknowledged + entries;
    let missed = watch.first(AWAY, |look| look.acknowledged >= missed).await;
    let mut start = missed.ok_or("the entries to be missed take too long")?;
    while past_retention && stage.log().await.0 <= had_most {
        let last = start.at;
        if last.duration_since(gone.at) > AWAY {
            return Err("the log is not dropped");
        }
        let next = watch.first(SOON, |look| look.at > last).await;
        start = next.ok_or("the leader says nothing of its followers")?;
    }
    let is_dropped = stage.log().await.0 > had_least.saturating_sub(LEVEL);
    let restarted = stage.cluster.restart_coordinator(stage.away);
    let caught_up = async {
        let back = watch.first(BACK, |look| look.answers && look.at > start.at);
        let back = back.await.ok_or("it does not answer the leader")?;
        let level = watch.first(BACK, is_level).await;
        level
            .map(|level| (back, level))
            .ok_or("it does not get level")
    };
    let (caught_up, ()) = tokio::join!(caught_up, restarted);
    let (back, level) = caught_up?;
    let snapshot_bytes = stage.snapshot_bytes();
    let end = level.at + BESIDE;
    let after = watch.first(SOON, |look| look.at >= end).await;
    let after = after.ok_or("the leader says nothing of its followers")?;
    let away_from = start.at.checked_sub(BESIDE).unwrap_or(gone.at).max(gone.at);
    let away_from = watch.since(away_from).unwrap_or(gone);
    if after.refused > 0 {
        return Err("appends were refused, or had no answer");
    }
    Ok(Round {
        rates: Rates {
            before: watch.rate(&warm, &healthy),
            away: watch.rate(&away_from, &start),
            meanwhile: watch.rate(&back, &level),
            after: watch.rate(&level, &after),
        },
        away_from,
        start,
        back,
        level,
        is_dropped,
        snapshot_bytes,
    })
}

impl Stage {
    async fn set(options: Options) -> Self {
        let cluster = Cluster::start_with(options).await;
        let placement = cluster.place(TENANT, 0, &[1, 2]).await;
        let group = placement["group"].clone();
        let leader = cluster.leader_of(&group).await;
        // The metastore's leader stays, too: its failover is not what is measured.
        let election = cluster.api_get(leader, "/admin/replication/election");
        let root = election.await["leader"].clone();
        let mut others = (0..cluster.regions().len()).filter(|i| *i != leader);
        let away = others.find(|i| root != json!(cluster.region(*i).coordinator_id));
        Self {
            away: away.expect("of two followers one does not lead the metastore"),
            cluster,
            group,
            leader,
        }
    }

    /// The first index that the leader's log has, and the last one.
    async fn log(&self) -> (u64, u64) {
        let stats = self.cluster.api_get(self.leader, "/v1/replication/stats");
        let stats = stats.await;
        let groups = stats["groups"].as_array().cloned().unwrap_or_default();
        let group = groups.iter().find(|found| found["group"] == self.group);
        let group = group.expect("the leader has the group");
        // "group/term/index"
        let oldest = group["oldest"].as_str().and_then(|text| {
            let (_, index) = text.rsplit_once('/')?;
            index.parse().ok()
        });
        let last = group["last_index"].as_u64();
        (oldest.unwrap_or_default(), last.unwrap_or_default())
    }

    /// The processes: leader, other follower, the one that is away (its newest), and this one.
    fn pids(&self) -> [i32; 4] {
        let pids: Vec<i32> = {
            let files = self.cluster.files_now();
            files.regions.iter().map(|r| r.coordinator_pid).collect()
        };
        let other = (0..pids.len()).find(|i| ![self.leader, self.away].contains(i));
        let other = other.expect("there are three regions");
        [pids[self.leader], pids[other], pids[self.away], own_pid()]
    }

    /// The length of the leader's newest snapshot of the group.
    fn snapshot_bytes(&self) -> u64 {
        let dir = self.cluster.region(self.leader).dir.join("data/snapshots");
        let prefix = format!("group-{}-", self.group);
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let ours = files.filter(|f| f.file_name().to_string_lossy().starts_with(&prefix));
        let lengths = ours.filter_map(|file| Some(file.metadata().ok()?.len()));
        lengths.max().unwrap_or_default()
    }
}

impl Round {
    fn tell(&self, report: &mut Report, what: &str, by_snapshot: bool) {
        let took = self.level.seconds_since(&self.back);
        let all = self.level.seconds_since(&self.start);
        let missed = self.back.lag;
        let meanwhile = self.level.acknowledged - self.back.acknowledged;
        let entries = (missed + meanwhile).saturating_sub(self.level.lag) as f64;
        let bytes = if by_snapshot {
            self.snapshot_bytes as f64
        } else {
            entries * VALUE.len() as f64
        };
        let mut figure = format!(
            "{missed} entries behind and {meanwhile} meanwhile, level after {took:.2} s ({all:.2} s \
             since its start)"
        );
        if by_snapshot {
            figure = format!("{figure}: snapshot of {:.1} MB", bytes / 1e6);
        } else {
            figure = format!("{figure}: {:.0} entries/s", entries / took);
        }
        figure = format!("{figure}, {:.1} MB/s", bytes / 1e6 / took);
        report.line(what, &figure, self.is_dropped == by_snapshot);
        let slower = self.rates.slower();
        report.line(
            "appends meanwhile",
            &self.rates.told(),
            slower <= SLOWER_PERCENT,
        );
        let away = self.start.processors_since(&self.away_from);
        report.note(&format!(
            "      processors in use while it was away: {away}"
        ));
        let meanwhile = self.level.processors_since(&self.back);
        report.note(&format!("      processors in use meanwhile: {meanwhile}"));
    }
}

impl Rates {
    /// By how many percent appends are slower than the healthy group's.
    fn slower(&self) -> f64 {
        let healthy = f64::midpoint(self.before.median, self.after.median);
        100.0 * (1.0 - self.meanwhile.median / healthy.max(1.0))
    }

    fn told(&self) -> String {
        format!(
            "{:.0} % slower than the healthy group with three copies in step (target {SLOWER_PERCENT} %): \
             {:.0} a second before it went and {:.0} after it was level, {:.0} meanwhile (worst window \
             {:.0}), {:.0} with two copies while it was away; medians of windows",
            self.slower(),
            self.before.median,
            self.after.median,
            self.meanwhile.median,
            self.meanwhile.worst,
            self.away.median
        )
    }
}
