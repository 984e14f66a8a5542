//! What was acknowledged is there afterwards: whatever dies, whatever the disk does.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use maia_tests::cluster::SOON;
use maia_tests::disk::{SmallDisk, free_bytes};
use maia_tests::load::Writer;
use maia_tests::{Cluster, Options, wait_until, wait_value};
use reqwest::Method;
use serde_json::Value;

const TENANT: &str = "acme";

async fn cluster() -> (Cluster, Value) {
    let cluster = Cluster::start().await;
    let placement = cluster.place(TENANT, 0, &[1, 2]).await;
    (cluster, placement["group"].clone())
}

async fn more_writes(writer: &Writer, more: usize) {
    let goal = writer.acked().len() + more;
    wait_until(SOON, "writes go on", || async {
        writer.acked().len() >= goal
    })
    .await;
}

#[tokio::test]
async fn a_leader_killed_at_any_moment_loses_nothing() {
    let (cluster, group) = cluster().await;
    let writer = Writer::new(&cluster, TENANT, &[0, 1, 2], "w");
    let kills = async {
        for _ in 0..3 {
            // Anywhere in the stream of writes: a random moment of the next ten.
            more_writes(&writer, fastrand::usize(20..30)).await;
            let leader = cluster.leader_of(&group).await;
            cluster.kill_coordinator(leader).await;
            let killed = Instant::now();
            wait_until(SOON, "writes resume", || async {
                writer.first_begun_after(killed).is_some()
            })
            .await;
            cluster.restart_coordinator(leader).await;
        }
        more_writes(&writer, 20).await;
    };
    tokio::select! { () = kills => {}, () = writer.run() => {} }
    for i in 0..3 {
        let missing = writer.missing(&cluster, i).await;
        assert!(
            missing.is_empty(),
            "acknowledged and gone in region {i}: {missing:?}"
        );
    }
}

#[tokio::test]
async fn a_follower_that_was_away_catches_up() {
    let (cluster, group) = cluster().await;
    let leader = cluster.leader_of(&group).await;
    let follower = (leader + 1) % 3;
    let writer = Writer::new(&cluster, TENANT, &[leader], "w");
    cluster.kill_coordinator(follower).await;
    tokio::select! { () = more_writes(&writer, 300) => {}, () = writer.run() => {} }
    cluster.restart_coordinator(follower).await;
    let missing = writer.missing(&cluster, follower).await;
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn all_killed_at_once_and_started_again() {
    let (cluster, _) = cluster().await;
    let writer = Writer::new(&cluster, TENANT, &[0, 1, 2], "w");
    tokio::select! { () = more_writes(&writer, 200) => {}, () = writer.run() => {} }
    for i in 0..3 {
        cluster.kill_coordinator(i).await;
    }
    for region in cluster.regions() {
        let id = region.coordinator_id.to_string();
        cluster
            .run(&["cluster", "restart", "--no-wait", "--node", &id])
            .await;
    }
    wait_value(
        Duration::from_secs(60),
        "everything is ready again",
        || async {
            let status = cluster.maiactl(&["cluster", "status"]).await;
            status.status.success().then_some(())
        },
    )
    .await;
    for i in 0..3 {
        let missing = writer.missing(&cluster, i).await;
        assert!(missing.is_empty(), "{missing:?}");
    }
    let writer = Writer::new(&cluster, TENANT, &[0, 1, 2], "after");
    tokio::select! { () = more_writes(&writer, 20) => {}, () = writer.run() => {} }
}

#[tokio::test]
async fn a_leader_that_stands_still_is_replaced_and_comes_back_as_a_follower() {
    let (cluster, group) = cluster().await;
    let leader = cluster.leader_of(&group).await;
    let id = cluster.region(leader).coordinator_id.to_string();
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let writer = Writer::new(&cluster, TENANT, &others, "w");
    let events = async {
        more_writes(&writer, 50).await;
        cluster.run(&["cluster", "stop", "--node", &id]).await;
        let stopped = Instant::now();
        wait_until(SOON, "writes resume", || async {
            writer.first_begun_after(stopped).is_some()
        })
        .await;
        cluster.run(&["cluster", "cont", "--node", &id]).await;
        more_writes(&writer, 50).await;
    };
    tokio::select! { () = events => {}, () = writer.run() => {} }
    for i in 0..3 {
        let missing = writer.missing(&cluster, i).await;
        assert!(missing.is_empty(), "region {i}: {missing:?}");
    }
}

/// The files of a node's log store that hold records, largest first.
fn log_files(cluster: &Cluster, i: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![cluster.region(i).dir.join("data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the node") {
            let path = entry.expect("an entry of it").path();
            let in_raft = path.components().any(|part| part.as_os_str() == "raft");
            let ending = path.extension().and_then(|e| e.to_str());
            if path.is_dir() {
                folders.push(path);
            } else if in_raft && matches!(ending, Some("log" | "sst")) {
                found.push(path);
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.metadata().map_or(0, |m| m.len())));
    found
}

#[tokio::test]
async fn a_corrupt_log_is_said_clearly_and_the_others_go_on() {
    let (cluster, group) = cluster().await;
    let writer = Writer::new(&cluster, TENANT, &[0, 1, 2], "w");
    tokio::select! { () = more_writes(&writer, 200) => {}, () = writer.run() => {} }
    let leader = cluster.leader_of(&group).await;
    let victim = (leader + 1) % 3;
    cluster.kill_coordinator(victim).await;
    let file = log_files(&cluster, victim)
        .into_iter()
        .next()
        .expect("a log on disk");
    let mut bytes = std::fs::read(&file).expect("the log");
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 64] {
        *byte ^= 0x5a;
    }
    std::fs::write(&file, bytes).expect("the log is damaged");

    let id = cluster.region(victim).coordinator_id.to_string();
    cluster
        .run(&["cluster", "restart", "--no-wait", "--node", &id])
        .await;
    wait_value(SOON, "the node says that its log is corrupt", || async {
        let log = cluster.coordinator_log(victim).to_lowercase();
        log.contains("corrupt").then_some(())
    })
    .await;
    // Nothing acknowledged is gone, and the other two go on.
    let healthy: Vec<usize> = (0..3).filter(|i| *i != victim).collect();
    let after = Writer::new(&cluster, TENANT, &healthy, "after");
    tokio::select! { () = more_writes(&after, 50) => {}, () = after.run() => {} }
    for i in healthy {
        let missing = writer.missing(&cluster, i).await;
        assert!(missing.is_empty(), "{missing:?}");
    }
}

const GIB: u64 = 1 << 30;

#[tokio::test]
async fn without_room_writes_are_refused_and_nothing_acknowledged_is_lost() {
    let free = free_bytes(&std::env::temp_dir());
    if free < 8 * GIB {
        println!("skipped: less than 8 GiB free");
        return;
    }
    // A reserve a little below what is free now; a large file then takes the room.
    let reserve = format!("replication.min_free_bytes={}", free - 2 * GIB);
    let cluster = Cluster::start_with(Options::default().set(&reserve)).await;
    cluster.place(TENANT, 0, &[1, 2]).await;
    let writer = Writer::new(&cluster, TENANT, &[0, 1, 2], "w");
    tokio::select! { () = more_writes(&writer, 50) => {}, () = writer.run() => {} }
    let large = cluster.dir().join("large");
    let size = (4 * GIB).to_string();
    let made = std::process::Command::new("fallocate")
        .args(["-l", &size])
        .arg(&large)
        .status();
    assert!(made.is_ok_and(|status| status.success()), "a large file");

    let put = cluster
        .through(0, TENANT, Method::PUT, "/v1/data/notes/full")
        .body("1");
    let refused = wait_value(SOON, "a write is refused", || async {
        let answer = cluster.client.follow(&put).await;
        (!answer.is_success()).then_some(answer)
    })
    .await;
    refused.expect_problem(507, "disk_full");
    for i in 0..3 {
        let missing = writer.missing(&cluster, i).await;
        assert!(missing.is_empty(), "reads go on: {missing:?}");
    }
    std::fs::remove_file(&large).expect("the large file goes");
    wait_value(SOON, "writes are accepted again", || async {
        cluster.client.follow(&put).await.is_success().then_some(())
    })
    .await;
}

/// A megabyte that does not compress, always the same for the same number.
fn noise(n: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(n);
    let mut bytes = vec![0; 1 << 20];
    random.fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_disk_that_really_fills_up_refuses_and_keeps_what_was_acknowledged() {
    let Some(disk) = SmallDisk::mount(2400) else {
        println!("skipped: no right to mount a small file system");
        return;
    };
    let filler = disk.path().join("filler");
    let made = std::process::Command::new("fallocate")
        .args(["-l", "1200M"])
        .arg(&filler)
        .status();
    assert!(made.is_ok_and(|status| status.success()), "a large file");
    // The reserve is off: the disk itself says no.
    let options = Options {
        dir: Some(disk.path().join("cluster")),
        ..Options::default()
    };
    let cluster = Cluster::start_with(options.set("replication.min_free_bytes=0")).await;
    cluster.place(TENANT, 0, &[1, 2]).await;
    let mut acked = Vec::new();
    let mut refused = None;
    for n in 0..1000 {
        let path = format!("/v1/data/blobs/{n}");
        let put = cluster
            .through(0, TENANT, Method::PUT, &path)
            .body(noise(n));
        match cluster.client.try_follow(&put).await {
            Ok(answer) if answer.is_success() => acked.push(n),
            other => {
                refused = Some(other.map_or_else(|error| error.to_string(), |a| a.text()));
                break;
            }
        }
    }
    let refused = refused.expect("1200 MB hold no three copies of 1000 MB");
    println!("{} MB acknowledged, then: {refused}", acked.len());
    cluster.run(&["cluster", "down"]).await;
    // An operator makes room: the nodes start again with all that was acknowledged.
    std::fs::remove_file(&filler).expect("the large file goes");
    cluster.run(&["cluster", "up"]).await;
    for n in acked {
        let read = cluster.through(0, TENANT, Method::GET, &format!("/v1/data/blobs/{n}"));
        wait_value(SOON, "what was acknowledged is there", || async {
            let answer = cluster.client.try_follow(&read).await.ok()?;
            (answer.body == noise(n)).then_some(())
        })
        .await;
    }
}
