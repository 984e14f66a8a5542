//! A short run of faults with a fixed seed, and proof that a run can fail; the long ones are in `make
//! soak` and `make show-03`. `faults SEED SECONDS` runs another one.

use std::path::PathBuf;
use std::time::Duration;

use maia_tests::Options;
use maia_tests::cluster::SOON;
use maia_tests::faults::{Mode, Stage, run, run_then};
use maia_tests::wait_until;

const SEED: u64 = 7;
/// Under faults; starting, healing and reading back come on top.
const LASTING: Duration = Duration::from_secs(20);
const SET_BACK_AFTER: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_breaks() {
    let stage = Stage::start(Options::default()).await;
    let found = run(&stage, SEED, LASTING).await;
    println!("{}", found.told());
    println!("refused: {:?}", found.refusals);
    let violations = found.violations.join("\n\n");
    assert!(found.violations.is_empty(), "{violations}");
    assert_eq!(found.undecided, 0);
    let acknowledged = found.acknowledged.values().copied();
    assert!(acknowledged.min() > Some(20), "the load did little");
}

async fn stop_all(stage: &Stage) {
    for i in 0..3 {
        stage.cluster.kill_coordinator(i).await;
    }
}

async fn start_all(stage: &Stage) {
    for region in stage.cluster.regions() {
        let id = region.coordinator_id.to_string();
        let restart = ["cluster", "restart", "--no-wait", "--node", &id];
        stage.cluster.run(&restart).await;
    }
    wait_until(SOON, "all are ready", || async {
        let status = stage.cluster.maiactl(&["cluster", "status"]).await;
        status.status.success()
    })
    .await;
}

fn copy(from: PathBuf, to: PathBuf) {
    drop(std::fs::remove_dir_all(&to));
    let done = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status();
    assert!(done.is_ok_and(|status| status.success()), "a copy");
}

/// Where the data of each node is, and where its copy goes.
fn folders(stage: &Stage) -> Vec<(PathBuf, PathBuf)> {
    let data = |i| stage.data(i);
    let each = (0..3).map(|i| (data(i), stage.cluster.dir().join(format!("older-{i}"))));
    each.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_forget_are_found_out() {
    let stage = Stage::start(Options::default()).await;
    stop_all(&stage).await;
    for (data, older) in folders(&stage) {
        copy(data, older);
    }
    start_all(&stage).await;
    let set_back = async {
        stop_all(&stage).await;
        for (data, older) in folders(&stage) {
            copy(older, data);
        }
        start_all(&stage).await;
    };
    let found = run_then(&stage, SEED, SET_BACK_AFTER, set_back).await;
    println!("{}", found.told());
    for mode in [Mode::Async, Mode::SemiSync, Mode::Sync] {
        let (lost, acknowledged) = (found.lost[&mode], found.acknowledged[&mode]);
        assert!(
            lost > 0 && lost <= acknowledged,
            "{mode:?}: {lost} of {acknowledged}"
        );
    }
    let unexplained = found.violations.iter();
    let unexplained = unexplained
        .filter(|text| text.contains("no order explains"))
        .count();
    assert!(unexplained > 0, "{:?}", found.violations);
}
