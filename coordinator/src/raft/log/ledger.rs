//! How many bytes a group's log has, with the traces of its entries, and when its parts were written:
//! kept in stretches of entries, so that it costs nothing to speak of. Times are those of the records.
//! Owned by the tail; read by retention.

use std::collections::VecDeque;

use crate::core::retention::Part;

/// Bytes after which a new part begins: retention drops whole parts.
const PART_BYTES: u64 = 1 << 20;
/// Entries after which one begins.
const PART_ENTRIES: u64 = 4096;
/// Time after which one begins: else a quiet group's would never be old as a whole.
const PART_SPAN_MS: u64 = 600_000;

/// The parts of a log, in order and without gaps.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    parts: VecDeque<Part>,
    /// The first index of the newest part.
    begun: u64,
    /// When the newest part was begun; 0: not known.
    begun_ms: u64,
    bytes: u64,
}

impl Ledger {
    /// A log that was found on disk.
    pub(crate) fn found(parts: impl IntoIterator<Item = Part>) -> Self {
        let parts: VecDeque<Part> = parts.into_iter().collect();
        Self {
            begun: parts.back().map_or(0, |part| part.last),
            begun_ms: parts.back().map_or(0, |part| part.newest_ms),
            bytes: parts.iter().map(|part| part.bytes).sum(),
            parts,
        }
    }

    /// An entry was appended; `written_ms`: its record's time, if it has one.
    pub(crate) fn add(&mut self, index: u64, bytes: u64, written_ms: Option<u64>) {
        self.bytes += bytes;
        let begun = self.begun;
        if self.begun_ms == 0 {
            self.begun_ms = written_ms.unwrap_or(0);
        }
        let ends_ms = self.begun_ms.saturating_add(PART_SPAN_MS);
        let is_late = written_ms.is_some_and(|ms| ms >= ends_ms);
        match self.parts.back_mut() {
            Some(part) if part.bytes < PART_BYTES && index < begun + PART_ENTRIES && !is_late => {
                part.last = index;
                part.bytes += bytes;
                part.newest_ms = part.newest_ms.max(written_ms.unwrap_or(0));
            }
            last => {
                let before = last.map_or(0, |part| part.newest_ms);
                self.begun = index;
                self.begun_ms = written_ms.unwrap_or(0);
                self.parts.push_back(Part {
                    last: index,
                    bytes,
                    newest_ms: written_ms.unwrap_or(before),
                });
            }
        }
    }

    /// The entry, which was appended, has a trace. What is too much ends its part, as it does when
    /// entries are appended: those behind it are a part of their own, and count with the one before.
    pub(crate) fn add_trace(&mut self, index: u64, bytes: u64) {
        let at = self.parts.partition_point(|part| part.last < index);
        let is_newest = at + 1 == self.parts.len();
        let Some(part) = self.parts.get_mut(at) else {
            return;
        };
        self.bytes += bytes;
        part.bytes += bytes;
        if part.bytes >= PART_BYTES && index < part.last {
            let behind = Part { bytes: 0, ..*part };
            part.last = index;
            self.parts.insert(at + 1, behind);
            if is_newest {
                self.begun = index + 1;
            }
        }
    }

    /// Adds to a log that was found what the traces of entries `[start, end)` weigh.
    pub(crate) fn weigh_traces(&mut self, weigh: impl Fn((u64, u64)) -> u64) {
        let mut start = 0;
        for part in &mut self.parts {
            let bytes = weigh((start, part.last + 1));
            part.bytes += bytes;
            self.bytes += bytes;
            start = part.last + 1;
        }
    }

    /// The entries from this index on were cut off: their share of a part stays counted, which a few
    /// entries are not worth more than.
    pub(crate) fn truncate(&mut self, from: u64) {
        while let Some(mut part) = self.parts.pop_back() {
            let before = self.parts.back().map_or(0, |part| part.last + 1);
            if before < from {
                part.last = part.last.min(from - 1);
                self.parts.push_back(part);
                return;
            }
            self.bytes -= part.bytes;
        }
    }

    /// The entries up to this one were dropped.
    pub(crate) fn purge(&mut self, upto: u64) {
        while let Some(part) = self.parts.front()
            && part.last <= upto
        {
            self.bytes -= part.bytes;
            self.parts.pop_front();
        }
    }

    /// Bytes of all entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The parts, oldest first.
    pub(crate) fn parts(&self) -> Vec<Part> {
        self.parts.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_count_and_end_parts() {
        let mut ledger = Ledger::default();
        for index in 0..100 {
            ledger.add(index, 10, Some(1));
        }
        for index in 0..100 {
            ledger.add_trace(index, 1 << 19);
        }
        assert_eq!(ledger.bytes(), 1000 + (100 << 19));
        assert_eq!(ledger.parts().len(), 50);
        ledger.purge(49);
        assert_eq!(ledger.bytes(), 50 << 19, "what was dropped does not count");
        let mut found = Ledger::found([
            Part {
                last: 9,
                bytes: 5,
                newest_ms: 1,
            },
            Part {
                last: 19,
                bytes: 6,
                newest_ms: 2,
            },
        ]);
        found.weigh_traces(|(start, end)| end - start);
        assert_eq!((found.bytes(), found.parts()[1].bytes), (31, 16));
    }

    #[test]
    fn time_ends_a_part() {
        let mut ledger = Ledger::default();
        ledger.add(0, 1, None);
        ledger.add(1, 1, Some(5));
        ledger.add(2, 1, Some(PART_SPAN_MS));
        ledger.add(3, 1, Some(PART_SPAN_MS + 5));
        ledger.add(4, 1, None);
        let parts = ledger.parts();
        let lasts: Vec<u64> = parts.iter().map(|p| p.last).collect();
        assert_eq!(lasts, [2, 4]);
        assert_eq!(parts[1].newest_ms, PART_SPAN_MS + 5);
    }

    #[test]
    fn it_knows_what_was_appended_purged_and_cut_off() {
        let mut ledger = Ledger::default();
        for index in 0..10_000 {
            ledger.add(index, 10, Some(index));
        }
        assert_eq!(ledger.bytes(), 100_000);
        let parts = ledger.parts();
        assert_eq!(
            parts.iter().map(|p| p.last).collect::<Vec<_>>(),
            [4095, 8191, 9999]
        );
        assert_eq!(parts[0].newest_ms, 4095);
        ledger.purge(4095);
        assert_eq!(ledger.bytes(), 59_040);
        ledger.purge(4096);
        assert_eq!(ledger.bytes(), 59_040, "a part goes as a whole");
        ledger.truncate(8192);
        assert_eq!(ledger.bytes(), 40_960);
        ledger.truncate(5000);
        assert_eq!(ledger.parts().last().map(|p| p.last), Some(4999));
        ledger.add(5000, 2 << 20, Some(1));
        ledger.add(5001, 1, Some(2));
        assert_eq!(
            ledger.parts().last().map(|p| (p.last, p.bytes)),
            Some((5001, 1))
        );
    }
}
