//! How many bytes a group's log has, and when its parts were written: kept in stretches of entries, so
//! that it costs nothing to speak of. Times are those of the records. Owned by the tail; read by
//! retention.

use std::collections::VecDeque;

use crate::core::retention::Part;

/// Bytes after which a new part begins: retention drops whole parts.
const PART_BYTES: u64 = 1 << 20;
/// Entries after which one begins.
const PART_ENTRIES: u64 = 4096;

/// The parts of a log, in order and without gaps.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    parts: VecDeque<Part>,
    /// The first index of the newest part.
    begun: u64,
    bytes: u64,
}

impl Ledger {
    /// A log that was found on disk.
    pub(crate) fn found(parts: impl IntoIterator<Item = Part>) -> Self {
        let parts: VecDeque<Part> = parts.into_iter().collect();
        Self {
            begun: parts.back().map_or(0, |part| part.last),
            bytes: parts.iter().map(|part| part.bytes).sum(),
            parts,
        }
    }

    /// An entry was appended; `written_ms`: its record's time, if it has one.
    pub(crate) fn add(&mut self, index: u64, bytes: u64, written_ms: Option<u64>) {
        self.bytes += bytes;
        let begun = self.begun;
        match self.parts.back_mut() {
            Some(part) if part.bytes < PART_BYTES && index < begun + PART_ENTRIES => {
                part.last = index;
                part.bytes += bytes;
                part.newest_ms = part.newest_ms.max(written_ms.unwrap_or(0));
            }
            last => {
                let before = last.map_or(0, |part| part.newest_ms);
                self.begun = index;
                self.parts.push_back(Part {
                    last: index,
                    bytes,
                    newest_ms: written_ms.unwrap_or(before),
                });
            }
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
