//! Building transactions: what callers of the metastore write down.

use bytes::Bytes;
use maia_common::position::Revision;
use maia_common::wire::record as wire;
use prost::Message;

/// What must hold of a key for a transaction to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key was last changed by this revision.
    At(Revision),
}

/// All preconditions hold and all operations take effect as one revision, or nothing happens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transaction(wire::Transaction);

impl Transaction {
    /// A transaction that does nothing yet. `id` is unique: a retry with the same id takes effect
    /// once. `now_unix_us`: when it is proposed.
    #[must_use]
    pub fn new(id: impl Into<String>, now_unix_us: u64) -> Self {
        Self(wire::Transaction {
            id: id.into(),
            proposed_unix_us: now_unix_us,
            ..wire::Transaction::default()
        })
    }

    /// Says which request of a client this carries out, and what to remember for the answer to its
    /// repetition: another request under the same id is refused, with [`wire::TransactionOutcome`]'s
    /// `other_digest`. `memo`: up to `limits::MAX_MEMO_BYTES`.
    #[must_use]
    pub fn carries_out(mut self, digest: [u8; 32], memo: impl Into<Bytes>) -> Self {
        self.0.digest = Bytes::copy_from_slice(&digest);
        self.0.memo = memo.into();
        self
    }

    /// Demands this of the key.
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, must: Precondition) -> Self {
        use wire::compare::Must;
        let must = match must {
            Precondition::Absent => Must::BeAbsent(true),
            Precondition::Present => Must::BePresent(true),
            Precondition::At(revision) => Must::BeAtRevision(revision.get()),
        };
        self.0.compares.push(wire::Compare {
            key: key.into(),
            must: Some(must),
        });
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn put(self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        let put = wire::Put {
            key: key.into(),
            value: value.into(),
        };
        self.operation(wire::operation::What::Put(put))
    }

    /// Sets the key to a value's JSON.
    #[must_use]
    pub fn put_json(self, key: impl Into<String>, value: &impl serde::Serialize) -> Self {
        let json = serde_json::to_vec(value).expect("metastore values are plain data");
        self.put(key, json)
    }

    /// Removes the key, if it exists.
    #[must_use]
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.operation(wire::operation::What::Delete(key.into()))
    }

    /// Adds to the number under the key; the key is absent while it is 0. Compares nothing, so that
    /// any number of transactions may add at once.
    #[must_use]
    pub fn add(self, key: impl Into<String>, delta: i64) -> Self {
        let add = wire::Add {
            key: key.into(),
            delta,
        };
        self.operation(wire::operation::What::Add(add))
    }

    /// Adds an event, kept under this transaction's revision.
    #[must_use]
    pub fn event(self, event: &impl serde::Serialize) -> Self {
        let json = serde_json::to_vec(event).expect("events are plain data");
        self.operation(wire::operation::What::Event(json.into()))
    }

    fn operation(mut self, what: wire::operation::What) -> Self {
        self.0.operations.push(wire::Operation { what: Some(what) });
        self
    }

    /// How many comparisons and operations it has.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.0.compares.len() + self.0.operations.len()
    }

    /// What it demands.
    #[cfg(test)]
    pub fn compares(&self) -> &[wire::Compare] {
        &self.0.compares
    }

    /// The form in a record's body and on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.0.encode_to_vec().into()
    }
}
