//! What a tenant has of rows that go when they are old (idempotency keys, tombstones): how many there are, and
//! from which index on. Both rows of a kind stand in the order of the records that wrote them, and the oldest go
//! first; so the database keeps a stretch of deleted keys in front of the live ones, and a scan from the
//! beginning would walk all of it with every record until the files are compacted. It begins at the lowest
//! index that may be alive instead. Part of the state, so all replicas scan alike (I13).

use maia_common::position::Index;

use crate::raft::{Mutations, Rows, StateCf, StateError, StateView};

/// Old rows go with every record that adds some, and else with every so-manieth record of the group: a tenant
/// that adds none must not keep what it had for ever, and what it writes must not be looked up for each time.
const TIDY_EVERY: u64 = 16;
/// Rows that such a record looks at: bounds the apply step.
const TIDY_ROWS: usize = 8;

/// How many old rows the record at this index looks at, which adds so many.
pub(super) fn looks_at(index: Index, added: usize) -> usize {
    match added {
        0 if index.get().is_multiple_of(TIDY_EVERY) => TIDY_ROWS,
        added => 2 * added,
    }
}

/// The rows of one kind of a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) count: u64,
    /// No row is of a record before this index.
    first: u64,
}

impl Order {
    /// As it stands under the mark: u64 BE each.
    pub(super) fn read(mark: &[u8], view: &dyn StateView) -> Result<Self, StateError> {
        let Some(bytes) = view.get(StateCf::Marks, mark)? else {
            return Ok(Self::default());
        };
        let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| StateError {
            reason: "the count of a tenant's rows is damaged".to_owned(),
        })?;
        let both = u128::from_be_bytes(bytes);
        let (count, first) = ((both >> 64) as u64, both as u64);
        Ok(Self { count, first })
    }

    pub(super) fn write(self, mark: Vec<u8>, out: &mut Mutations) {
        let value = [self.count, self.first].map(u64::to_be_bytes).concat();
        out.put(StateCf::Marks, mark, value);
    }

    /// Up to so many of the oldest rows, whose keys are `prefix`, index u64 BE, and more.
    pub(super) fn oldest(
        &self,
        prefix: &[u8],
        most: usize,
        view: &dyn StateView,
    ) -> Result<Rows, StateError> {
        if self.count == 0 || most == 0 {
            return Ok(Rows::new());
        }
        let after = self.first.checked_sub(1).map(|before| {
            // Above every key of that index: what follows the index in a key is text, or ones.
            [prefix, &before.to_be_bytes(), &[u8::MAX]].concat()
        });
        view.scan(StateCf::Dedup, prefix, after.as_deref(), most)
    }

    /// The record at `now` has looked at `seen` of the `most` oldest rows that it asked for, of which the first
    /// `gone` are no more.
    pub(super) fn looked(
        &mut self,
        prefix: &[u8],
        seen: &Rows,
        (most, gone): (usize, usize),
        now: Index,
    ) {
        if most == 0 {
            return;
        }
        let of = |(key, _): &(Vec<u8>, Vec<u8>)| {
            let index = key.strip_prefix(prefix)?.get(..8)?;
            Some(u64::from_be_bytes(index.try_into().ok()?))
        };
        let kept = seen
            .get(gone)
            .or_else(|| seen.last().filter(|_| seen.len() == most));
        self.first = kept.map_or(Some(now.get()), of).unwrap_or(self.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(prefix: &[u8], indexes: &[u64]) -> Rows {
        let key = |index: &u64| [prefix, &index.to_be_bytes(), b"r"].concat();
        indexes
            .iter()
            .map(|index| (key(index), Vec::new()))
            .collect()
    }

    #[test]
    fn the_lowest_index_is_that_of_the_first_row_that_may_be_alive() {
        let cases: [(&[u64], usize, u64); 5] = [
            (&[3, 5], 0, 3),
            (&[3, 5], 1, 5),
            // There may be more of that index.
            (&[3, 5], 2, 5),
            // There was nothing else, but for what the record itself adds.
            (&[3], 1, 9),
            (&[], 0, 9),
        ];
        for (seen, gone, expected) in cases {
            let mut order = Order { count: 7, first: 2 };
            order.looked(b"p", &rows(b"p", seen), (2, gone), Index::new(9));
            assert_eq!(order.first, expected, "{seen:?} {gone}");
        }
        let mut order = Order { count: 7, first: 2 };
        order.looked(b"p", &Rows::new(), (0, 0), Index::new(9));
        assert_eq!(order.first, 2, "it did not look");
    }
}
