//! Two copies and a witness: each of the three is killed under load, several times over.

use crate::cluster::{Cluster, Options};
use crate::load::Writer;
use crate::show::{Report, sized};
use crate::witness::kill_each;

const ROUNDS: usize = 3;

/// Nothing is lost, and how long writes wait for whom.
pub async fn run(report: &mut Report) {
    // Each round begins with the leader at home.
    let home = Options::default().set("failover.stable_for=1s");
    let home = home.set("failover.inhibit_window=1s");
    let cluster = Cluster::start_with(home).await;
    let placed = cluster.place("t", 0, &[1]).await;
    let writer = Writer::new(&cluster, "t", &[0, 1], "w");
    let rounds = async {
        let mut kills = Vec::new();
        for _ in 0..sized("SHOW_ROUNDS", ROUNDS) {
            kills.extend(kill_each(&cluster, &writer, &placed["group"]).await);
        }
        kills
    };
    let kills = tokio::select! { kills = rounds => kills, () = writer.run() => Vec::new() };
    for part in ["witness", "follower", "leader"] {
        let waited = kills.iter().filter(|kill| kill.part == part);
        let worst = waited.map(|kill| kill.waited).max().unwrap_or_default();
        let figure =
            format!("{part} killed: the next write was acknowledged after at most {worst:?}");
        report.line("two copies and a witness", &figure, !worst.is_zero());
    }
    let mut missing = writer.missing(&cluster, 0).await;
    missing.extend(writer.missing(&cluster, 1).await);
    let figure = format!(
        "{} of {} acknowledged writes lost; {} without an answer or refused",
        missing.len(),
        writer.acked().len(),
        writer.refused().len()
    );
    report.line("two copies and a witness", &figure, missing.is_empty());
}
