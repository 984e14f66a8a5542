//! Between a stream's task and its connection: room for one chunk, and for the event that ends the
//! stream. The end takes the place of a chunk that was not fetched; after it there is nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

#[derive(Default)]
struct State {
    chunk: Option<Bytes>,
    /// What the reader gets last.
    end: Option<Bytes>,
    ended: bool,
    gone: bool,
}

#[derive(Default)]
struct Outbox {
    state: Mutex<State>,
    /// For the writer: the chunk was fetched, or the reader has gone.
    room: Notify,
    /// For the reader: there is something.
    ready: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's side. When it is dropped, the reader gets the end that was agreed on.
pub(super) struct Writer {
    outbox: Arc<Outbox>,
    dropped: Bytes,
}

/// The connection's side.
pub(super) struct Reader {
    outbox: Arc<Outbox>,
}

/// Both sides; `dropped`: what the reader gets last when the writer goes without a word.
pub(super) fn pair(dropped: Bytes) -> (Writer, Reader) {
    let outbox = Arc::<Outbox>::default();
    let reader = Reader {
        outbox: Arc::clone(&outbox),
    };
    (Writer { outbox, dropped }, reader)
}

impl Writer {
    /// Waits for room and puts the chunk there; false: the reader has gone.
    pub(super) async fn send(&self, chunk: Bytes) -> bool {
        loop {
            {
                let mut state = self.outbox.lock();
                if state.gone {
                    return false;
                }
                if state.chunk.is_none() {
                    state.chunk = Some(chunk);
                    self.outbox.ready.notify_one();
                    return true;
                }
            }
            self.outbox.room.notified().await;
        }
    }

    /// Returns when the reader has gone.
    pub(super) async fn gone(&self) {
        while !self.outbox.lock().gone {
            self.outbox.room.notified().await;
        }
    }

    /// The last word: a chunk that was not fetched is dropped.
    pub(super) fn end(&self, event: Bytes) {
        let mut state = self.outbox.lock();
        if !state.ended {
            (state.chunk, state.end, state.ended) = (None, Some(event), true);
        }
        self.outbox.ready.notify_one();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(self.dropped.clone());
    }
}

impl Reader {
    /// The next chunk; none: the stream has ended.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.outbox.lock();
                if let Some(chunk) = state.chunk.take() {
                    self.outbox.room.notify_one();
                    return Some(chunk);
                }
                if state.ended {
                    return state.end.take();
                }
            }
            self.outbox.ready.notified().await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.outbox.lock().gone = true;
        self.outbox.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn chunks_come_in_order_and_the_end_comes_last() {
        let (writer, mut reader) = pair(chunk("dropped"));
        let sending = async {
            for text in ["a", "b", "c"] {
                assert!(writer.send(chunk(text)).await);
            }
            drop(writer);
        };
        let reading = async {
            let mut all = Vec::new();
            while let Some(next) = reader.next().await {
                all.push(next);
            }
            all
        };
        // The last chunk may give way to the end: what was read has no gap.
        let ((), all) = tokio::join!(sending, reading);
        assert!(
            all == ["a", "b", "c", "dropped"] || all == ["a", "b", "dropped"],
            "{all:?}"
        );
    }

    #[tokio::test]
    async fn a_reader_that_does_not_fetch_holds_one_chunk_and_finds_only_the_end() {
        let (writer, mut reader) = pair(chunk("dropped"));
        assert!(writer.send(chunk("a")).await);
        let second = tokio::time::timeout(std::time::Duration::ZERO, writer.send(chunk("b")));
        assert!(second.await.is_err(), "there is room for one");
        writer.end(chunk("slow"));
        drop(writer);
        assert_eq!(reader.next().await, Some(chunk("slow")));
        assert_eq!(reader.next().await, None);
    }

    #[tokio::test]
    async fn a_writer_notices_that_the_reader_has_gone() {
        let (writer, reader) = pair(chunk("dropped"));
        assert!(writer.send(chunk("a")).await);
        drop(reader);
        writer.gone().await;
        assert!(!writer.send(chunk("b")).await);
    }
}
