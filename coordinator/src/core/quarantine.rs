//! What becomes of a data record that leaves a log store before this node knows that it is committed:
//! which records are kept, as what, and what is to be done with each (I3). Pure: the log store asks
//! [`leaving`], the resolver [`next_step`]; apply decides a resolution (`core/data/reconcile`).
//!
//! ```text
//!  log ──truncated, purged under a snapshot, left──▶ entry ─┬─ its position is in the group's history ─▶ dropped
//!                                                          ├─ its tenant was deleted ─────────────────▶ dropped
//!                                                          ├─ acknowledged early ─▶ a record in the tenant's
//!                                                          │                        group of today ─────▶ removed
//!                                                          └─ else ─▶ waits for the operator, and expires if
//!                                                                     nobody was told that it is safe
//! ```
//! A resolution is keyed by where the record stood, so that whoever resolves it, and however often, it
//! has one effect (I8). Entries stay on the node that had the record while it is a member of the tenant's
//! group; another hands those that wait over to one (I7, see [`custody`](super::custody)).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, IdempotencyKey, RegionName};
use maia_common::limits;
use maia_common::placement::ConflictStrategy;
use maia_common::position::{Index, Position, Revision, Term};
use maia_common::wire::record as wire;
use prost::Message;

use super::acks::may_be_early;
use super::frame::{self, FrameError};
use super::history::Standing;
use super::hlc;
use super::record::{Hlc, Idempotency, Record, RecordError, RecordFields, RecordKind};

/// The version of the persisted form.
pub const QUARANTINE_VERSION: u8 = 1;

/// Bytes of an entry's key.
pub const KEY_BYTES: usize = 24;

/// Which record an entry is: where it stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The group in whose log it stood.
    pub group: GroupId,
    /// Where in that log.
    pub position: Position,
}

impl EntryId {
    /// The key under which the entry stands: group, term, index, each u64 BE.
    #[must_use]
    pub fn key(self) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        key[..8].copy_from_slice(&self.group.get().to_be_bytes());
        key[8..16].copy_from_slice(&self.position.term.get().to_be_bytes());
        key[16..].copy_from_slice(&self.position.index.get().to_be_bytes());
        key
    }

    /// The id whose key this is.
    #[must_use]
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?));
        (key.len() == KEY_BYTES).then_some(())?;
        Some(Self::new(number(0)?, number(8)?, number(16)?))
    }

    fn new(group: u64, term: u64, index: u64) -> Self {
        Self {
            group: GroupId::new(group),
            position: Position::new(Term::new(term), Index::new(index)),
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { term, index } = self.position;
        write!(f, "{}-{term}-{index}", self.group)
    }
}

/// A text that names no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an entry's id is GROUP-TERM-INDEX, as in 3-7-120")]
pub struct EntryIdError;

impl FromStr for EntryId {
    type Err = EntryIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-').map(str::parse::<u64>);
        let mut next = || parts.next().and_then(Result::ok).ok_or(EntryIdError);
        let id = Self::new(next()?, next()?, next()?);
        parts.next().is_none().then_some(id).ok_or(EntryIdError)
    }
}

/// An enum whose values have a number on disk and a name for people.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $value:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$of])* $value = $number,)* }

        impl $name {
            /// The name in the API and in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $text,)* }
            }

            fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$value),)* _ => None }
            }
        }
    };
}

numbered! {
    /// Whether a client was told that the write is safe before it was committed.
    Acknowledged {
        /// It was not: its sync mode or its conditions wait for the commit.
        No = 1, "no";
        /// Nothing is known here: another node proposed it, or this one was started anew since.
        Perhaps = 2, "perhaps";
        /// It was, by this node.
        Yes = 3, "yes";
    }
}

impl Acknowledged {
    /// All of them, for metrics.
    pub const ALL: [Self; 3] = [Self::No, Self::Perhaps, Self::Yes];
}

numbered! {
    /// What took the record out of the log.
    Why {
        /// A newer leader has another record there.
        Truncated = 1, "truncated";
        /// A snapshot was installed that covers its place.
        UnderSnapshot = 2, "under-snapshot";
        /// The node left the group.
        Left = 3, "left";
    }
}

numbered! {
    /// Why an entry waits for the operator.
    Waiting {
        /// No client was told that it is safe: nobody misses it.
        NotAcknowledged = 1, "not-acknowledged";
        /// The tenant's conflict strategy is `reject`.
        Rejected = 2, "strategy-reject";
        /// By this node's clock, tombstones and keys of its time may have been forgotten.
        TooOld = 3, "too-old";
        /// Apply could not decide it, such as for a resource that would become too large.
        Refused = 4, "refused";
        /// Whether its resource was deleted since is not remembered any more.
        Forgotten = 5, "forgotten";
        /// By this node's clock it is of a time that has not come: it would win over all that is written until
        /// then.
        Ahead = 7, "ahead-of-clock";
        /// A node handed it over that had been removed: its word makes nothing happen by itself.
        RemovedNode = 6, "removed-node";
    }
}

impl Waiting {
    /// All of them, for metrics.
    pub const ALL: [Self; 7] = [
        Self::NotAcknowledged,
        Self::Rejected,
        Self::TooOld,
        Self::Refused,
        Self::Forgotten,
        Self::Ahead,
        Self::RemovedNode,
    ];
}

/// A record in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stood.
    pub id: EntryId,
    /// As it stood there.
    pub record: Record,
    /// Whether a client counts on it.
    pub acknowledged: Acknowledged,
    /// When it left the log, in milliseconds since 1970 by this node's clock.
    pub at_unix_ms: u64,
    /// Why it left the log.
    pub why: Why,
    /// Why it waits, once it was looked at and does.
    pub waiting: Option<Waiting>,
}

/// Why bytes are not an entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The frame is broken.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The record in it is broken.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A number that this version does not know.
    #[error("an unknown {0}")]
    Unknown(&'static str),
}

impl Entry {
    /// As it is kept when a node hands it over that was removed from the cluster: the operator decides,
    /// whatever that node says of it.
    #[must_use]
    pub fn of_a_removed_node(self) -> Self {
        let waiting = match self.acknowledged {
            Acknowledged::No => Waiting::NotAcknowledged,
            Acknowledged::Perhaps | Acknowledged::Yes => Waiting::RemovedNode,
        };
        Self {
            waiting: Some(waiting),
            ..self
        }
    }

    /// The persisted form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let message = wire::Quarantined {
            group: self.id.group.get(),
            term: self.id.position.term.get(),
            index: self.id.position.index.get(),
            record: self.record.encode(),
            acknowledged: self.acknowledged as u32,
            at_unix_ms: self.at_unix_ms,
            why: self.why as u32,
            waiting: self.waiting.map_or(0, |waiting| waiting as u32),
        };
        frame::encode(QUARANTINE_VERSION, &message)
    }

    /// Reads the persisted form.
    ///
    /// # Errors
    /// [`EntryError`] on bytes that no encoder of this version wrote; never panics.
    pub fn decode(bytes: Bytes) -> Result<Self, EntryError> {
        let message: wire::Quarantined = frame::decode(QUARANTINE_VERSION, bytes)?;
        let waiting = match message.waiting {
            0 => None,
            number => Some(Waiting::from_number(number).ok_or(EntryError::Unknown("wait"))?),
        };
        let acknowledged = Acknowledged::from_number(message.acknowledged);
        Ok(Self {
            id: EntryId::new(message.group, message.term, message.index),
            record: Record::decode(message.record)?,
            acknowledged: acknowledged.ok_or(EntryError::Unknown("acknowledgement"))?,
            at_unix_ms: message.at_unix_ms,
            why: Why::from_number(message.why).ok_or(EntryError::Unknown("reason"))?,
            waiting,
        })
    }
}

/// The entry that a record becomes which leaves the log uncommitted; none for those of which nothing
/// is kept: control records, which their proposer repeats, and records without tenant.
#[must_use]
pub fn leaving(
    id: EntryId,
    record: &Record,
    was_acknowledged: bool,
    at_unix_ms: u64,
    why: Why,
) -> Option<Entry> {
    if record.kind != RecordKind::Data || record.tenant.is_none() {
        return None;
    }
    let acknowledged = match (was_acknowledged, may_be_early(record)) {
        (true, _) => Acknowledged::Yes,
        (false, true) => Acknowledged::Perhaps,
        (false, false) => Acknowledged::No,
    };
    Some(Entry {
        id,
        record: record.clone(),
        acknowledged,
        at_unix_ms,
        why,
        waiting: None,
    })
}

/// What is known of an entry's tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Not known just now: the metastore can't be asked, or the tenant is being moved.
    Unknown,
    /// The tenant, or the one of that name whose record it is, was deleted.
    Deleted,
    /// It is placed: the revision that created its placement, and its strategy.
    Placed(Revision, ConflictStrategy),
}

/// How a resolution treats what it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The greater stamp wins.
    LastWriteWins,
    /// Per field.
    Merge,
    /// It is written over whatever is there: an operator's decision.
    Overwrite,
}

impl Resolution {
    /// The number in a record's body.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::LastWriteWins => 1,
            Self::Merge => 2,
            Self::Overwrite => 3,
        }
    }

    /// The resolution with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::LastWriteWins),
            2 => Some(Self::Merge),
            3 => Some(Self::Overwrite),
            _ => None,
        }
    }

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LastWriteWins => "last-write-wins",
            Self::Merge => "merge",
            Self::Overwrite => "overwrite",
        }
    }
}

/// What is to be done with an entry now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It was committed: nothing is lost.
    DropCommitted,
    /// Its tenant was deleted, and its data with it.
    DropDeleted,
    /// Propose a resolution.
    Resolve(Resolution),
    /// The operator decides.
    Wait(Waiting),
    /// Nobody was told that it is safe, and nobody has asked for it in its lifetime.
    Expire,
    /// What must be known is not known yet.
    Later,
}

/// What time it is, by a node's clock and by the group.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// How far clocks may be apart.
    pub max_clock_offset: Duration,
    /// The greatest reading of the tenant's group, as far as this node has it.
    pub group: Hlc,
}

/// Decides by what is known now. `standing` is of the entry's position in its group's history as far
/// as a member has it; none where there is no such group any more: then apply looks.
#[must_use]
pub fn next_step(entry: &Entry, standing: Option<Standing>, home: Home, now: Now) -> Step {
    let now_ms = now.unix_ms;
    if standing == Some(Standing::Applied) {
        return Step::DropCommitted;
    }
    let strategy = match home {
        Home::Unknown => return Step::Later,
        Home::Deleted => return Step::DropDeleted,
        Home::Placed(created, _) if created > entry.record.placement => return Step::DropDeleted,
        Home::Placed(_, strategy) => strategy,
    };
    match entry.waiting {
        Some(Waiting::NotAcknowledged) => return not_acknowledged(entry, now_ms),
        // By the clock, which may have been wrong: looked at anew.
        Some(Waiting::TooOld | Waiting::Ahead) | None => {}
        Some(waiting) => return Step::Wait(waiting),
    }
    if standing == Some(Standing::NotYet) {
        return Step::Later;
    }
    if entry.acknowledged == Acknowledged::No {
        return not_acknowledged(entry, now_ms);
    }
    let resolution = match strategy {
        ConflictStrategy::LastWriteWins => Resolution::LastWriteWins,
        ConflictStrategy::Merge => Resolution::Merge,
        ConflictStrategy::Reject => return Step::Wait(Waiting::Rejected),
    };
    if is_too_old(entry, now_ms) {
        return Step::Wait(Waiting::TooOld);
    }
    // Two clocks that are well may both be off, to either side. What the group has come up to, however that
    // came, wins over nothing there.
    let is_ahead = hlc::is_ahead(entry.record.hlc, now_ms, now.max_clock_offset * 2);
    if is_ahead && entry.record.hlc > now.group {
        return Step::Wait(Waiting::Ahead);
    }
    Step::Resolve(resolution)
}

fn not_acknowledged(entry: &Entry, now_ms: u64) -> Step {
    let age_ms = now_ms.saturating_sub(entry.at_unix_ms);
    if u128::from(age_ms) >= limits::UNACKNOWLEDGED_LIFETIME.as_millis() {
        Step::Expire
    } else {
        Step::Wait(Waiting::NotAcknowledged)
    }
}

/// Whether what would tell that the write is outdated may have been forgotten.
fn is_too_old(entry: &Entry, now_ms: u64) -> bool {
    let lifetime_ms = limits::IDEMPOTENCY_KEY_LIFETIME.min(limits::TOMBSTONE_LIFETIME);
    let age_ms = now_ms.saturating_sub(entry.record.hlc.physical_ms());
    u128::from(age_ms) >= lifetime_ms.as_millis()
}

/// Why an entry waits whose resolution apply has refused; none when it may be tried again.
#[must_use]
pub fn waits_for(code: ErrorCode) -> Option<Waiting> {
    match code {
        ErrorCode::PreconditionFailed => Some(Waiting::Forgotten),
        ErrorCode::InvalidRequest
        | ErrorCode::BodyTooLarge
        | ErrorCode::DivergedHistory
        | ErrorCode::IdempotencyConflict => Some(Waiting::Refused),
        _ => None,
    }
}

/// The record that resolves an entry in the tenant's group of today, under the placement that was
/// created at `placement`. The same entry always has the same idempotency key, an operator's decision on
/// it one of its own; apply keeps both apart from the keys of clients.
#[must_use]
pub fn resolution(
    entry: &Entry,
    how: Resolution,
    placement: Revision,
    (hlc, origin): (Hlc, RegionName),
) -> Record {
    let record = entry.record.encode();
    let EntryId { group, position } = entry.id;
    let Position { term, index } = position;
    let body_hash = *blake3::hash(&record).as_bytes();
    // An operator's decision is another one than what was resolved before: that had an outcome of its own.
    let which = match how {
        Resolution::Overwrite => "/overwrite",
        Resolution::LastWriteWins | Resolution::Merge => "",
    };
    let key = IdempotencyKey::new(format!("reconcile/{group}/{term}/{index}{which}"));
    let body = wire::Reconcile {
        group: group.get(),
        term: term.get(),
        index: index.get(),
        strategy: how.number(),
        record,
    };
    Record::new(RecordFields {
        kind: RecordKind::Reconcile,
        tenant: entry.record.tenant.clone(),
        sync_mode: None,
        hlc,
        origin: Some(origin),
        idempotency: Some(Idempotency {
            key: key.expect("digits and slashes are visible"),
            body_hash,
        }),
        placement,
        migration: None,
        body: body.encode_to_vec().into(),
    })
}

#[cfg(test)]
#[path = "quarantine_test.rs"]
mod tests;
