//! Slow links and crowds: what is shared, what is bounded, and that one who is slow is the one who
//! goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use maia_common::ids::TenantId;
use maia_common::limits;
use maia_common::position::Revision;
use maia_common::wire::feed::down::Kind;
use tokio::sync::mpsc;

use super::catch_up::{self, Next, Stretch};
use super::image::Contents;
use super::message::parse;
use super::stats::CutOff;
use super::stream::{End, Shared};
use super::tests::{Client, Field, placement};
use crate::core::keyspace;
use crate::core::metastore::Transaction;
use crate::metastore::Metastore;
use crate::metastore::memory::MemoryMetastore;

/// Tenants of one revision of a load.
const LOADED: u64 = 1000;

/// Places so many tenants, as a load does; returns the revisions before and after.
async fn load(field: &Field, batches: u64) -> (Revision, Revision) {
    let before = field.place("first", 1).await;
    let mut newest = before;
    for batch in 0..batches {
        let names = (0..LOADED).map(|n| format!("t{batch}-{n}"));
        let start = Transaction::new(format!("load-{batch}"), 1);
        let batch = names.fold(start, |transaction, name| {
            let value = placement(&name, 1);
            transaction.put(format!("{}{name}", keyspace::TENANTS), value)
        });
        newest = field.write(batch).await;
    }
    field.told(newest).await;
    (before, newest)
}

/// Takes a message of the snapshot every so often; returns how the stream ended, if it did before the
/// whole snapshot was taken.
async fn read_slowly(mut client: Client, every: Duration) -> Option<End> {
    loop {
        tokio::time::sleep(every).await;
        match client.inbox.recv().await.map(|message| parse(&message)) {
            Some(Kind::SnapshotEnd(_)) => return None,
            Some(_) => {}
            None => return client.end.recv().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_readers_of_three_images_do_not_keep_a_fourth_proxy_from_its_own() {
    let field = Field::start();
    load(&field, 40).await;
    let mut readers = Vec::new();
    for n in 0..limits::MAX_FEED_IMAGES as u64 {
        let floor = field.place("t", n + 1).await;
        field.told(floor).await;
        let mut client = field.join_at(&format!("slow{n}"), None, Contents::Everything, floor);
        client.next().await.expect("its snapshot starts");
        readers.push(client);
    }
    assert_eq!(field.hub.stats().images().0, limits::MAX_FEED_IMAGES as u64);
    let slow: Vec<_> = readers
        .into_iter()
        .map(|client| tokio::spawn(read_slowly(client, Duration::from_millis(900))))
        .collect();
    let floor = field.place("t", 100).await;
    field.told(floor).await;
    let mut fourth = field.join_at("fourth", None, Contents::Everything, floor);
    fourth.reach(floor).await;
    assert_eq!(fourth.tenants["t"], 100);
    let mut cut = 0;
    for reader in slow {
        let end = reader.await.unwrap();
        cut += usize::from(matches!(end, Some(End::CutOff(CutOff::Slow))));
    }
    assert_eq!(cut, 1, "one place was enough");
}

#[tokio::test(start_paused = true)]
async fn a_whole_snapshot_is_taken_in_time_or_not_at_all() {
    let field = Field::start();
    load(&field, 40).await;
    let client = field.join("slow", None, Contents::Everything);
    let end = read_slowly(client, limits::FEED_PATIENCE.mul_f64(0.9)).await;
    assert!(matches!(end, Some(End::CutOff(CutOff::Slow))), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_on_a_slow_link_holds_no_deltas_in_memory() {
    let field = Field::start();
    load(&field, 40).await;
    let mut client = field.join("slow", None, Contents::Everything);
    client.next().await.expect("its snapshot starts");
    assert_eq!(field.hub.listeners(), 0);
    client.reach(field.place("t", 1).await).await;
    while field.hub.listeners() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn all_who_stand_at_one_revision_share_one_stretch() {
    let field = Field::start();
    let (before, _) = load(&field, 3).await;
    let stretches = &field.shared.stretches;
    let asked = (0..50).map(|_| stretches.after(before));
    let answers = futures::future::join_all(asked).await;
    let got: Vec<Arc<Stretch>> = answers.into_iter().map(|next| of(next.unwrap())).collect();
    assert!(got.iter().all(|one| Arc::ptr_eq(one, &got[0])), "read once");
    let later = of(stretches.after(before).await.unwrap());
    assert!(Arc::ptr_eq(&later, &got[0]), "and kept");
    stretches.expire(Instant::now() + limits::FEED_IMAGE_IDLE);
    let anew = of(stretches.after(before).await.unwrap());
    assert!(!Arc::ptr_eq(&anew, &got[0]), "not for ever");
}

fn of(next: Next) -> Arc<Stretch> {
    match next {
        Next::Stretch(stretch) => stretch,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stretch_is_bounded_and_those_who_began_apart_meet() {
    let field = Field::start();
    let (before, newest) = load(&field, 40).await;
    let ends = |mut at: Revision| {
        let mut ends = Vec::new();
        while at < newest {
            let next = catch_up::next(&*field.store, &field.cluster.state(), at).unwrap();
            let stretch = of(next);
            assert!(stretch.tenants < limits::FEED_PIECE_TENANTS + LOADED as usize);
            at = stretch.revision;
            ends.push(at);
        }
        ends
    };
    let (one, other) = (ends(before), ends(before.next()));
    let shared = &one[3..];
    assert!(
        shared.len() > 5 && other.ends_with(shared),
        "{one:?} {other:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_catches_up_and_reads_nothing_has_two_stretches_in_memory() {
    let field = Field::start();
    let (before, _) = load(&field, 60).await;
    let mut still = field.join("still", Some(before), Contents::Everything);
    let end = still.end.recv().await.expect("it ends");
    assert!(matches!(end, End::CutOff(CutOff::Slow)), "{end:?}");
    assert_eq!(still.inbox.len(), 2);
}

/// Keeps the store from being read until the sender is dropped.
fn block(field: &Field) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (begun, begins) = std::sync::mpsc::channel();
    let store = Arc::clone(&field.store);
    std::thread::spawn(move || {
        let read = store.read(&mut |_| {
            begun.send(()).unwrap();
            let _released = released.recv();
            Ok(())
        });
        read.unwrap();
    });
    begins.recv().unwrap();
    release
}

#[tokio::test]
async fn a_read_counts_until_it_has_ended_whoever_waits_for_it() {
    let field = Field::start();
    let (before, _) = load(&field, 1).await;
    let release = block(&field);
    let stretches = Arc::clone(&field.shared.stretches);
    let reads = Arc::clone(&stretches.reads);
    let mut asked = Box::pin(stretches.after(before));
    assert!(asked.as_mut().now_or_never().is_none());
    drop(asked);
    assert_eq!(reads.available_permits(), limits::MAX_FEED_READS - 1);
    drop(release);
    let all = reads.acquire_many(limits::MAX_FEED_READS as u32);
    let all = tokio::time::timeout(Duration::from_secs(5), all).await;
    assert!(all.expect("the read ends").is_ok());
    let next = stretches.after(before).now_or_never();
    assert!(next.is_some(), "what was read is kept");
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_for_the_history_hears_that_its_stream_lives() {
    let field = Field::start();
    let (before, newest) = load(&field, 1).await;
    let reads = Arc::clone(&field.shared.stretches.reads);
    let all = reads
        .acquire_many_owned(limits::MAX_FEED_READS as u32)
        .await;
    let mut client = field.join("p", Some(before), Contents::Everything);
    for _ in 0..3 {
        let message = client.inbox.recv().await.expect("the stream goes on");
        let Kind::Alive(alive) = parse(&message) else {
            panic!("a sign of life")
        };
        assert_eq!(alive.revision, 0, "it is not up to date");
    }
    drop(all);
    while client.at < newest {
        client.next().await.expect("the stream goes on");
    }
}

#[tokio::test]
async fn a_store_that_was_emptied_knows_of_no_tenant() {
    let field = Field::start();
    let revision = field.place("t", 1).await;
    field.told(revision).await;
    let tenant = TenantId::new("t").unwrap();
    let known = field.shared.read_tenant(&tenant).unwrap();
    assert_eq!(known.tenant.unwrap().version, 1);
    let emptied = Arc::<MemoryMetastore>::default();
    let emptied = Shared::new(Arc::clone(&field.hub), emptied, field.cluster.clone());
    let refused = emptied.read_tenant(&tenant).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_never_says_what_it_wants_ends() {
    let (_open, requests) = mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let until = Instant::now() + limits::LOOKUP_PATIENCE;
    let first = super::lookup::first(requests, until).await;
    assert_eq!(first.unwrap_err().code(), tonic::Code::InvalidArgument);
}
