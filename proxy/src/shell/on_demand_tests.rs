//! Of an answer and a delta that cross, the newer one counts; one asks for all; made-up names
//! drive nobody out.

use std::sync::atomic::AtomicUsize;

use maia_common::{GroupId, Version};

use super::*;

const PRINT: Fingerprint = Fingerprint { high: 1, low: 2 };

fn entry(version: u64) -> Entry {
    Entry {
        group: GroupId::new(1),
        version: Version::new(version),
        holding: false,
        write_routing: None,
    }
}

fn answer(revision: u64, version: Option<u64>) -> Answer {
    Answer {
        revision: Revision::new(revision),
        entry: version.map(entry),
    }
}

/// For a topology that is never behind.
fn peek(cache: &OnDemand, print: Fingerprint) -> Known {
    cache.peek(print, Revision::new(u64::MAX))
}

async fn look_up(cache: &OnDemand, answer: Answer) {
    let looked_up = cache.look_up(PRINT, false, async { Ok(answer) }).await;
    looked_up.unwrap();
}

#[tokio::test]
async fn of_an_answer_and_a_delta_that_cross_the_newer_counts() {
    for (asked, told, counts) in [(5, 7, 7), (7, 5, 7)] {
        let cache = OnDemand::new(100);
        let crossing = cache.look_up(PRINT, false, async {
            let changes = [(PRINT, Some(entry(told)))];
            cache.changed(Revision::new(told), &changes).await;
            Ok(answer(asked, Some(asked)))
        });
        crossing.await.unwrap();
        assert_eq!(peek(&cache, PRINT), Known::Placed(entry(counts)));
    }
}

#[tokio::test]
async fn a_removal_that_crosses_an_answer_is_not_undone() {
    let cache = OnDemand::new(100);
    let crossing = cache.look_up(PRINT, false, async {
        cache.changed(Revision::new(7), &[(PRINT, None)]).await;
        Ok(answer(5, Some(5)))
    });
    crossing.await.unwrap();
    assert_eq!(peek(&cache, PRINT), Known::Unplaced);
}

#[tokio::test]
async fn one_asks_for_all_and_a_failure_is_the_next_ones_chance() {
    let cache = OnDemand::new(100);
    let asked = AtomicUsize::new(0);
    let ask = async |fails: bool| {
        cache
            .look_up(PRINT, false, async {
                let turn = asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                if fails && turn == 0 {
                    return Err(LookupError::TooSlow);
                }
                Ok(answer(5, Some(5)))
            })
            .await
    };
    let (one, two, three) = tokio::join!(ask(true), ask(true), ask(true));
    assert!(one.is_err() && two.is_ok() && three.is_ok());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_snapshot_makes_everything_old_even_what_is_on_its_way() {
    let cache = OnDemand::new(100);
    look_up(&cache, answer(5, Some(5))).await;
    cache.forget();
    assert_eq!(peek(&cache, PRINT), Known::Missing);
    let crossing = cache.look_up(PRINT, false, async {
        cache.forget();
        Ok(answer(6, Some(6)))
    });
    crossing.await.unwrap();
    assert_eq!(peek(&cache, PRINT), Known::Missing);
    look_up(&cache, answer(9, Some(9))).await;
    assert_eq!(peek(&cache, PRINT), Known::Placed(entry(9)));
}

#[tokio::test]
async fn made_up_names_drive_no_tenant_out_and_tenants_are_bounded() {
    let cache = OnDemand::new(50);
    look_up(&cache, answer(5, Some(5))).await;
    for low in 0..1000 {
        let made_up = Fingerprint { high: 9, low };
        let unplaced = cache.look_up(made_up, false, async { Ok(answer(5, None)) });
        unplaced.await.unwrap();
        assert_eq!(peek(&cache, made_up), Known::Unplaced);
    }
    assert_eq!(peek(&cache, PRINT), Known::Placed(entry(5)));
    for low in 0..1000 {
        let other = Fingerprint { high: 7, low };
        let placed = cache.look_up(other, false, async { Ok(answer(5, Some(5))) });
        placed.await.unwrap();
    }
    cache.placed.run_pending_tasks().await;
    assert!(cache.len() <= 50, "{}", cache.len());
}

#[tokio::test]
async fn a_tenant_that_is_placed_after_it_was_unplaced_is_seen() {
    let cache = OnDemand::new(100);
    look_up(&cache, answer(5, None)).await;
    assert_eq!(peek(&cache, PRINT), Known::Unplaced);
    let changes = [(PRINT, Some(entry(6)))];
    cache.changed(Revision::new(6), &changes).await;
    assert_eq!(peek(&cache, PRINT), Known::Placed(entry(6)));
}

/// Neither a lifetime that ends nor a flood of names makes a delta miss the lookup it crosses.
#[tokio::test]
async fn a_delta_finds_a_lookup_whose_cell_is_in_no_cache() {
    let cache = OnDemand::new(100);
    for known in [None, Some(answer(4, None)), Some(answer(4, Some(4)))] {
        if let Some(known) = known {
            look_up(&cache, known).await;
            cache.forget(); // it must be asked for again
        }
        let crossing = cache.look_up(PRINT, false, async {
            cache.asked.invalidate(&PRINT).await;
            cache.placed.invalidate(&PRINT).await;
            let changes = [(PRINT, Some(entry(7)))];
            cache.changed(Revision::new(7), &changes).await;
            Ok(answer(5, Some(5)))
        });
        crossing.await.unwrap();
        assert_eq!(peek(&cache, PRINT), Known::Placed(entry(7)), "{known:?}");
        cache.placed.invalidate(&PRINT).await;
    }
    assert!(cache.flights.cell(PRINT).is_none(), "none is left");
}

#[tokio::test]
async fn what_is_ahead_of_the_topology_is_waited_for() {
    let cache = OnDemand::new(100);
    look_up(&cache, answer(7, Some(7))).await;
    assert_eq!(cache.peek(PRINT, Revision::new(6)), Known::Missing);
    let asks = cache.look_up(PRINT, false, async { unreachable!("it is known") });
    assert_eq!(asks.await.unwrap().revision, Revision::new(7));
    let placed = Known::Placed(entry(7));
    assert_eq!(cache.peek(PRINT, Revision::new(7)), placed);
}

#[tokio::test]
async fn what_the_origin_refused_is_asked_for_again_and_nothing_older_is_taken() {
    let cache = OnDemand::new(100);
    look_up(&cache, answer(7, Some(7))).await;
    cache.doubt(PRINT, Version::new(6)).await;
    assert_eq!(peek(&cache, PRINT), Known::Placed(entry(7)), "newer");
    cache.doubt(PRINT, Version::new(7)).await;
    assert_eq!(peek(&cache, PRINT), Known::Missing);
    look_up(&cache, answer(5, Some(5))).await;
    assert_eq!(peek(&cache, PRINT), Known::Missing);
    look_up(&cache, answer(8, Some(8))).await;
    assert_eq!(peek(&cache, PRINT), Known::Placed(entry(8)));
}
