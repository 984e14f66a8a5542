//! Streams of committed entries (Server-Sent Events): one task for each reads page after page, as the
//! API's own pages are read, and hands each on as one chunk. Owns the cap of streams, and what happens
//! with a reader that does not keep up: its stream is ended, with an event that says so, and it
//! resumes from the last position that it has.
//!
//! ```text
//!  page ─▶ chunk ─▶ Outbox (one chunk) ─▶ connection
//!            └─ waits for room, at most STREAM_PATIENCE; then the chunk in the outbox is dropped and the
//!               `end` event takes its place: what the reader has stays without a gap
//! ```
//! So a stream holds two chunks at most (I12), and its place until its connection is closed: the api
//! listener bounds how long one stays that is not read. Ends: by its reader, by the reader's slowness, by a
//! refusal (such as `not_retained`), by the node's stop.

mod outbox;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use maia_common::error_code::ErrorCode;
use maia_common::ids::GroupId;
use maia_common::limits;
use maia_common::position::GroupPosition;
use maia_common::runtime::Tasks;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::data::{DataService, EntriesPage, Followed};
use super::placements::Refusal;
use outbox::{Reader, Writer};

/// How long one page may take beyond the time that it may wait for entries.
const PAGE_PATIENCE: Duration = Duration::from_secs(4);
/// Tells a reader how soon to come back when the stream breaks off.
const PREAMBLE: &str = "retry: 1000\n\n";

/// Why this node ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// It did not keep up.
    SlowReader,
    /// Entries can't be had (any more).
    Refusal,
}

impl EndedBy {
    /// All of them, for the metric.
    pub const ALL: [EndedBy; 2] = [EndedBy::SlowReader, EndedBy::Refusal];

    /// As a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EndedBy::SlowReader => "slow_reader",
            EndedBy::Refusal => "refusal",
        }
    }
}

/// The streams of this node. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    data: DataService,
    tasks: Tasks,
    places: Arc<Semaphore>,
    ended: Arc<[AtomicU64; 2]>,
}

impl Streams {
    /// No stream yet; their tasks are owned by `tasks`.
    #[must_use]
    pub fn new(data: DataService, tasks: Tasks) -> Self {
        Self {
            data,
            tasks,
            places: Arc::new(Semaphore::new(limits::MAX_STREAMS)),
            ended: Arc::default(),
        }
    }

    /// How many there are now.
    #[must_use]
    pub fn count(&self) -> usize {
        limits::MAX_STREAMS - self.places.available_permits()
    }

    /// How many this node has ended so.
    #[must_use]
    pub fn ended(&self, by: EndedBy) -> u64 {
        self.ended[by as usize].load(Ordering::Relaxed)
    }

    /// Opens a stream after a position.
    ///
    /// # Errors
    /// [`Refusal`]: there are too many, or its first page can't be had.
    pub async fn open(
        &self,
        followed: Followed,
        after: Option<GroupPosition>,
    ) -> Result<Stream, Refusal> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let text = format!("this node serves {} streams already", limits::MAX_STREAMS);
            return Err(Refusal::new(ErrorCode::Unavailable, text));
        };
        let place = Arc::new(place);
        let mut stream = OpenStream {
            streams: self.clone(),
            followed,
            after,
            _place: Arc::clone(&place),
        };
        let first = stream.next_page(Duration::ZERO).await?;
        let (writer, reader) = outbox::pair(stopping());
        self.tasks.spawn_until_stop("entries stream", async move {
            let end = stream.run(first, &writer).await;
            if let Some((by, event)) = end {
                stream.streams.ended[by as usize].fetch_add(1, Ordering::Relaxed);
                writer.end(event);
            }
        });
        Ok(Stream {
            reader,
            _place: place,
        })
    }
}

/// A stream as its connection has it.
pub struct Stream {
    reader: Reader,
    /// Its task may have ended long before.
    _place: Arc<OwnedSemaphorePermit>,
}

impl Stream {
    /// The next chunk; none: the stream has ended.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.reader.next().await
    }
}

/// What a stream's task works on.
struct OpenStream {
    streams: Streams,
    followed: Followed,
    after: Option<GroupPosition>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl OpenStream {
    /// Until it ends; how, unless its reader has gone.
    async fn run(&mut self, first: Bytes, writer: &Writer) -> Option<(EndedBy, Bytes)> {
        let mut chunk = [PREAMBLE.as_bytes(), &first].concat().into();
        loop {
            match tokio::time::timeout(limits::STREAM_PATIENCE, writer.send(chunk)).await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(_) => {
                    let text = "the stream's reader did not keep up: resume from its last position";
                    return Some((EndedBy::SlowReader, end_event("slow_reader", text)));
                }
            }
            let page = tokio::select! {
                page = self.next_page(limits::STREAM_HEARTBEAT) => page,
                () = writer.gone() => return None,
            };
            match page {
                Ok(page) => chunk = page,
                Err(refusal) => {
                    let event = end_event(refusal.code.as_str(), &refusal.detail);
                    return Some((EndedBy::Refusal, event));
                }
            }
        }
    }

    /// The next entries as events; when there are none for so long, where the stream is.
    async fn next_page(&mut self, wait: Duration) -> Result<Bytes, Refusal> {
        let deadline = Instant::now() + wait + PAGE_PATIENCE;
        let asked = (limits::MAX_PAGE, wait);
        let data = &self.streams.data;
        let read = data.entries(&self.followed, self.after, asked, deadline);
        let (group, page) = read.await?;
        let events = events(group, &page);
        self.after = page.upto.map(|at| GroupPosition { group, at });
        Ok(events.into())
    }
}

/// A page as events. The last one names the position up to which all was read, so that a reader which
/// sees few entries does not fall out of what is retained.
fn events(group: GroupId, page: &EntriesPage) -> String {
    let mut text = String::new();
    for (at, entry) in &page.entries {
        let id = GroupPosition { group, at: *at };
        let json = std::str::from_utf8(entry).expect("JSON is text");
        write!(text, "id: {id}\nevent: entry\ndata: {json}\n\n").expect("a string takes all");
    }
    let last = page.entries.last().map(|(at, _)| *at);
    match page.upto.filter(|upto| Some(*upto) != last) {
        Some(at) => {
            let id = GroupPosition { group, at };
            let data = format!("{{\"position\":\"{id}\"}}");
            write!(text, "id: {id}\nevent: position\ndata: {data}\n\n")
                .expect("a string takes all");
        }
        None if last.is_none() => text.push_str(": nothing yet\n\n"),
        None => {}
    }
    text
}

fn end_event(reason: &str, detail: &str) -> Bytes {
    let data = serde_json::json!({ "reason": reason, "detail": detail });
    format!("event: end\ndata: {data}\n\n").into()
}

fn stopping() -> Bytes {
    end_event("stopping", "the node is stopping: resume at another one")
}

#[cfg(test)]
mod tests {
    use maia_common::position::{Index, Position, Term};

    use super::*;

    fn at(index: u64) -> Position {
        Position::new(Term::new(1), Index::new(index))
    }

    #[test]
    fn a_page_is_its_entries_and_then_where_it_ends() {
        let group = GroupId::new(3);
        let mut page = EntriesPage {
            entries: vec![(at(4), Bytes::from_static(b"{\"a\":1}"))],
            upto: Some(at(4)),
            more: false,
        };
        let entry = "id: 3/1/4\nevent: entry\ndata: {\"a\":1}\n\n";
        assert_eq!(events(group, &page), entry);
        page.upto = Some(at(9));
        let position = "id: 3/1/9\nevent: position\ndata: {\"position\":\"3/1/9\"}\n\n";
        assert_eq!(events(group, &page), format!("{entry}{position}"));
        page.entries.clear();
        assert_eq!(events(group, &page), position);
        page.upto = None;
        assert!(
            events(group, &page).starts_with(':'),
            "a comment keeps the connection"
        );
    }
}
