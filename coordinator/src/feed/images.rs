//! The owner of the snapshot images of one kind: builds one at a time, off the runtime's threads,
//! and gives it to everyone who may have it.
//!
//! A thousand proxies that come at once wait for one build and share one image. One that registered
//! after the build began needs a later image, and shares it with all that wait by then. At most
//! [`limits::MAX_FEED_IMAGES`] exist at a time: who needs one more waits until a slow link has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::limits;
use maia_common::position::Revision;
use tokio::sync::{Mutex, Semaphore};
use tonic::Status;

use super::hub::Hub;
use super::image::{Contents, Image};
use crate::metastore::Metastore;
use crate::shell::cluster::Cluster;

/// An image that is a few revisions old is good for whoever may have it.
const FRESH_REVISIONS: u64 = 100;
/// One that is older by more is good for so long: what came after it is read from the history by
/// each stream that starts from it.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// And never one that is older than this.
const MAX_REVISIONS: u64 = limits::FEED_CATCH_UP_REVISIONS / 10;
/// How long a stream waits for a place for one more image.
const PLACE_PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Kept {
    image: Arc<Image>,
    built: Instant,
    used: Instant,
}

impl Kept {
    fn serves(&self, wanted: Revision, newest: Revision, now: Instant) -> bool {
        let behind = newest.get().saturating_sub(self.image.revision.get());
        let young = now.saturating_duration_since(self.built) < FRESH_FOR;
        self.image.revision >= wanted
            && (behind <= FRESH_REVISIONS || (young && behind <= MAX_REVISIONS))
    }
}

/// Images of one kind.
pub(super) struct Images {
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    hub: Arc<Hub>,
    contents: Contents,
    places: Arc<Semaphore>,
    /// Locked while an image is built: whoever comes meanwhile waits, and then finds it here.
    kept: Arc<Mutex<Option<Kept>>>,
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
            places: Arc::new(Semaphore::new(limits::MAX_FEED_IMAGES)),
            kept: Arc::default(),
        }
    }

    /// An image of this revision or a later one. A build that nobody waits for any more ends, and is
    /// found by the next who asks.
    pub(super) async fn at_least(&self, wanted: Revision) -> Result<Arc<Image>, Status> {
        let mut kept = Arc::clone(&self.kept).lock_owned().await;
        let newest = *self.store.revisions().borrow();
        let now = Instant::now();
        if let Some(kept) = kept.as_mut().filter(|k| k.serves(wanted, newest, now)) {
            kept.used = now;
            return Ok(Arc::clone(&kept.image));
        }
        // Its place is free at once unless a stream still sends it.
        *kept = None;
        let place = Arc::clone(&self.places).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(PLACE_PATIENCE, place).await else {
            let text = "slow links hold all snapshots: try again";
            return Err(Status::unavailable(text));
        };
        let (store, cluster) = (Arc::clone(&self.store), self.cluster.state());
        let (hub, contents) = (Arc::clone(&self.hub), self.contents);
        let build = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let mut image = Image::build(&*store, &cluster, contents)?;
            image.place = Some(place);
            let image = Arc::new(image);
            hub.stats().image_built(began.elapsed());
            *kept = Some(Kept {
                image: Arc::clone(&image),
                built: began,
                used: Instant::now(),
            });
            Ok::<_, crate::raft::StateError>(image)
        });
        match build.await {
            Ok(Ok(image)) if image.revision >= wanted => Ok(image),
            Ok(Ok(_)) => Err(Status::failed_precondition(
                "this coordinator is behind what the proxy has",
            )),
            Ok(Err(error)) => Err(Status::internal(error.to_string())),
            Err(_) => Err(Status::unavailable("the coordinator is stopping")),
        }
    }

    /// Drops an image that nobody has asked for lately.
    pub(super) fn expire(&self, now: Instant) {
        if let Ok(mut kept) = self.kept.try_lock() {
            let idle = |kept: &Kept| now.saturating_duration_since(kept.used);
            if kept
                .as_ref()
                .is_some_and(|k| idle(k) >= limits::FEED_IMAGE_IDLE)
            {
                *kept = None;
            }
        }
    }
}
