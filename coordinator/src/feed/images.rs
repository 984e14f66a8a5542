//! The owner of the snapshot images of one kind: builds one at a time, off the runtime's threads,
//! and gives it to everyone who may have it.
//!
//! A thousand proxies that come at once wait for one build and share one image. One that registered
//! after the build began needs a later image, and shares it with all that wait by then. Images that
//! slow links still read have [`limits::MAX_FEED_IMAGES`] places: when one more is needed, the
//! streams that send one of those end. Nobody waits with the lock held, and the newest image is there
//! until the next one is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use maia_common::limits;
use maia_common::position::Revision;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;

use super::hub::Hub;
use super::image::{Contents, Image, Place};
use crate::core::metastore as core;
use crate::metastore::Metastore;
use crate::raft::StateError;
use crate::shell::cluster::Cluster;

/// An image that is a few revisions old is good for whoever may have it.
const FRESH_REVISIONS: u64 = 100;
/// One that is older by more is good for so long: what came after it is read from the history by
/// each stream that starts from it.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// And never one that is older than this.
const MAX_REVISIONS: u64 = limits::FEED_CATCH_UP_REVISIONS / 10;
/// How long a stream waits for an image before its proxy is told to try again.
const WAIT_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Kept {
    image: Arc<Image>,
    began: Instant,
    ready: Instant,
    used: Instant,
}

impl Kept {
    /// `oldest`: where the history begins, from which a stream goes on after the image.
    fn serves(&self, wanted: Revision, newest: Revision, oldest: Revision, now: Instant) -> bool {
        let revision = self.image.revision;
        let behind = newest.get().saturating_sub(revision.get());
        let young = now.saturating_duration_since(self.began) < FRESH_FOR;
        revision >= wanted
            && revision.next() >= oldest
            && (behind <= FRESH_REVISIONS || (young && behind <= MAX_REVISIONS))
    }
}

/// An image that is no longer kept, for as long as streams send it.
#[derive(Debug)]
struct Older {
    image: Weak<Image>,
    ready: Instant,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    older: Vec<Older>,
    building: bool,
}

impl State {
    /// Keeps this one, or none, in place of the one that is kept, which is returned.
    fn replace(&mut self, kept: Option<Kept>) -> Option<Kept> {
        let before = std::mem::replace(&mut self.kept, kept);
        if let Some(before) = &before {
            self.older.push(Older {
                image: Arc::downgrade(&before.image),
                ready: before.ready,
            });
        }
        before
    }

    /// Whether links that still read leave a place for one more image.
    fn has_place(&mut self) -> bool {
        self.older.retain(|older| older.image.strong_count() > 0);
        let kept = self.kept.as_ref();
        let is_read = kept.is_some_and(|kept| Arc::strong_count(&kept.image) > 1);
        self.older.len() + usize::from(is_read) < limits::MAX_FEED_IMAGES
    }

    /// Ends the streams of the image that the fewest still send, when they have had their time;
    /// returns when to look again.
    fn make_place(&self, now: Instant) -> Instant {
        let images = self.older.iter();
        let held: Vec<(usize, Instant, Arc<Image>)> = images
            .filter_map(|older| {
                let image = older.image.upgrade()?;
                let patience = image.patience(limits::FEED_CROWDED_BYTES_PER_SECOND);
                let holders = older.image.strong_count();
                Some((holders, older.ready + patience, image))
            })
            .collect();
        let late = held.iter().filter(|(_, due, _)| *due <= now);
        let slowest = late.min_by_key(|(holders, due, _)| (*holders, *due));
        let is_cut = held.iter().any(|(_, _, image)| image.cut.is_cancelled());
        if let Some((_, _, image)) = slowest
            && !is_cut
        {
            image.cut.cancel();
        }
        let next = held.iter().map(|(_, due, _)| *due).filter(|due| *due > now);
        next.min().unwrap_or(now + Duration::from_secs(1))
    }
}

/// What a look brings.
enum Found {
    Image(Arc<Image>),
    /// It is for this stream to build one.
    Turn(Turn),
    /// Look again then, or when something ends.
    Wait(Instant),
}

/// Images of one kind.
pub(super) struct Images {
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    hub: Arc<Hub>,
    contents: Contents,
    state: Mutex<State>,
    /// Wakes whoever waits when a build, or the last stream of an image, has ended.
    changed: Arc<Notify>,
}

impl Images {
    pub(super) fn new(
        store: Arc<dyn Metastore>,
        cluster: Cluster,
        hub: Arc<Hub>,
        contents: Contents,
    ) -> Self {
        Self {
            store,
            cluster,
            hub,
            contents,
            state: Mutex::default(),
            changed: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An image of this revision or a later one. A build that nobody waits for any more ends, and is
    /// found by the next who asks.
    ///
    /// # Errors
    /// `failed_precondition` when this coordinator has not got so far, `unavailable` when there is no
    /// image in time, `internal` when the state can't be read.
    pub(super) async fn at_least(self: &Arc<Self>, wanted: Revision) -> Result<Arc<Image>, Status> {
        let deadline = Instant::now() + WAIT_PATIENCE;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look: what is waited for may happen between the two.
            changed.as_mut().enable();
            let again = match self.look(wanted).map_err(internal)? {
                Found::Image(image) => return Ok(image),
                Found::Turn(turn) => return self.build(turn, wanted).await,
                Found::Wait(again) => again,
            };
            if Instant::now() >= deadline {
                let text = "slow links hold all snapshots: try again";
                return Err(Status::unavailable(text));
            }
            let _either = tokio::time::timeout_at(again.min(deadline), changed).await;
        }
    }

    fn look(self: &Arc<Self>, wanted: Revision) -> Result<Found, StateError> {
        let (newest, now) = (*self.store.revisions().borrow(), Instant::now());
        let mut oldest = Revision::default();
        self.store.read(&mut |view| {
            oldest = core::oldest_change(view)?;
            Ok(())
        })?;
        let mut state = self.state();
        let kept = state.kept.as_mut();
        if let Some(kept) = kept.filter(|k| k.serves(wanted, newest, oldest, now)) {
            kept.used = now;
            return Ok(Found::Image(Arc::clone(&kept.image)));
        }
        if state.building {
            return Ok(Found::Wait(now + WAIT_PATIENCE));
        }
        if !state.has_place() {
            return Ok(Found::Wait(state.make_place(now)));
        }
        state.building = true;
        Ok(Found::Turn(Turn(Arc::clone(self))))
    }

    async fn build(&self, turn: Turn, wanted: Revision) -> Result<Arc<Image>, Status> {
        let cluster = self.cluster.state();
        let build = tokio::task::spawn_blocking(move || {
            let (images, began) = (&*turn.0, Instant::now());
            let mut image = Image::build(&*images.store, &cluster, images.contents)?;
            image.place = Some(Place(Arc::clone(&images.changed)));
            let image = Arc::new(image);
            images.hub.stats().image_built(began.elapsed());
            let kept = Kept {
                image: Arc::clone(&image),
                began,
                ready: Instant::now(),
                used: Instant::now(),
            };
            let before = images.state().replace(Some(kept));
            drop(before);
            Ok::<_, StateError>(image)
        });
        match build.await {
            Ok(Ok(image)) if image.revision >= wanted => Ok(image),
            Ok(Ok(_)) => Err(Status::failed_precondition(
                "this coordinator is behind what the proxy has",
            )),
            Ok(Err(error)) => Err(internal(error)),
            Err(_) => Err(Status::unavailable("the coordinator is stopping")),
        }
    }

    /// Drops an image that nobody has asked for lately.
    pub(super) fn expire(&self, now: std::time::Instant) {
        let mut state = self.state();
        let idle = |kept: &Kept| Instant::from_std(now).saturating_duration_since(kept.used);
        let kept = state.kept.as_ref();
        if kept.is_some_and(|kept| idle(kept) >= limits::FEED_IMAGE_IDLE) {
            let before = state.replace(None);
            drop((state, before));
        }
    }
}

fn internal(error: StateError) -> Status {
    Status::internal(error.to_string())
}

/// The right to build; whoever waits for it looks again when this is dropped.
struct Turn(Arc<Images>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state().building = false;
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_the_history_does_not_reach_is_not_handed_out() {
        let (now, revision) = (Instant::now(), Revision::new);
        let image = Arc::new(Image {
            revision: revision(5),
            tenants: 0,
            messages: Vec::new(),
            cut: tokio_util::sync::CancellationToken::new(),
            place: None,
        });
        let kept = Kept {
            image,
            began: now,
            ready: now,
            used: now,
        };
        assert!(kept.serves(revision(5), revision(9), revision(6), now));
        assert!(!kept.serves(revision(5), revision(9), revision(7), now));
        assert!(!kept.serves(revision(6), revision(9), revision(6), now));
    }
}
