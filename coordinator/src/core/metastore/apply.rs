//! What a transaction does: checks, compares, writes. The order of the checks is part of the
//! format: every node must come to the same outcome from the same log (I13).

use std::collections::BTreeMap;

use bytes::Bytes;
use maia_common::limits;
use maia_common::position::Revision;
use maia_common::wire::record as wire;
use prost::Message;

use super::history;
use super::layout::{
    META_VERSION, current_revision, decode_value, earlier, events_mark, meta_key, number,
    revision_mark, suffix_of,
};
use crate::core::frame;
use crate::raft::{Mutations, StateCf, StateError, StateView};

const EVENT_PREFIX: &str = "event/";

/// A transaction's outcome, and what it changed, for watchers.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// For the proposer.
    pub outcome: wire::TransactionOutcome,
    /// What watchers get; none when nothing was written.
    pub change: Option<wire::MetaChange>,
}

/// Applies the encoded transaction.
///
/// # Errors
/// [`StateError`] when the view fails, and for what only newer software understands: going on would
/// make this replica another than those that do (I13). A transaction that is illegal or whose
/// comparison does not hold is an outcome.
pub fn apply(
    body: &Bytes,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<Applied, StateError> {
    let revision = current_revision(view)?;
    let transaction = match wire::Transaction::decode(body.clone()) {
        Ok(transaction) => transaction,
        Err(error) => return Ok(refused(revision, format!("not a transaction: {error}"))),
    };
    understood(&transaction).map_err(|reason| StateError { reason })?;
    if let Err(reason) = check(&transaction) {
        return Ok(refused(revision, reason));
    }
    if let Some(earlier) = earlier(view, &transaction.id)? {
        let mut outcome = succeeded(Revision::new(earlier.revision));
        outcome.other_digest = earlier.digest != transaction.digest;
        outcome.succeeded = !outcome.other_digest;
        return Ok(Applied {
            outcome,
            change: None,
        });
    }
    let mut looked_up = LookedUp::new();
    for (at, compare) in transaction.compares.iter().enumerate() {
        if !holds(compare, view, &mut looked_up)? {
            let failed_compare = u32::try_from(at).unwrap_or(u32::MAX);
            let outcome = wire::TransactionOutcome {
                succeeded: false,
                failed_compare,
                ..succeeded(revision)
            };
            return Ok(Applied {
                outcome,
                change: None,
            });
        }
    }
    // A request with an idempotency key is remembered even when it found nothing to change.
    if transaction.operations.is_empty() && transaction.digest.is_empty() {
        return Ok(Applied {
            outcome: succeeded(revision),
            change: None,
        });
    }
    write(&transaction, revision.next(), &looked_up, view, out)
}

/// What the comparisons found, by key: the revision that created it, or none. The operations need
/// not look again; most transactions change what they compared.
type LookedUp<'a> = BTreeMap<&'a str, Option<u64>>;

fn succeeded(revision: Revision) -> wire::TransactionOutcome {
    wire::TransactionOutcome {
        succeeded: true,
        revision: revision.get(),
        ..wire::TransactionOutcome::default()
    }
}

fn refused(revision: Revision, reason: String) -> Applied {
    let outcome = wire::TransactionOutcome {
        succeeded: false,
        refused: reason,
        ..succeeded(revision)
    };
    Applied {
        outcome,
        change: None,
    }
}

/// Whether this version knows what an encoded transaction asks. For the leader, before it proposes.
///
/// # Errors
/// What it does not know.
pub fn is_understood(body: &Bytes) -> Result<(), String> {
    let decoded = wire::Transaction::decode(body.clone());
    understood(&decoded.map_err(|error| format!("not a transaction: {error}"))?)
}

fn understood(transaction: &wire::Transaction) -> Result<(), String> {
    let mut compares = transaction.compares.iter();
    if compares.any(|compare| compare.must.is_none()) {
        return Err("a comparison of a kind that this version lacks".to_owned());
    }
    let mut operations = transaction.operations.iter();
    if operations.any(|operation| operation.what.is_none()) {
        return Err("an operation of a kind that this version lacks".to_owned());
    }
    Ok(())
}

fn check(transaction: &wire::Transaction) -> Result<(), String> {
    if transaction.id.is_empty() || transaction.id.len() > 128 {
        return Err("a transaction's id has 1 to 128 bytes".to_owned());
    }
    if transaction.digest.len() > 32 || transaction.memo.len() > limits::MAX_MEMO_BYTES {
        return Err("a digest or memo that is too long".to_owned());
    }
    let count = transaction.operations.len() + transaction.compares.len();
    if count > limits::MAX_TXN_OPERATIONS {
        return Err(format!(
            "{count} operations, more than {}",
            limits::MAX_TXN_OPERATIONS
        ));
    }
    let mut keys = Vec::with_capacity(transaction.operations.len());
    let mut events = 0;
    for operation in &transaction.operations {
        let (key, size) = match &operation.what {
            Some(wire::operation::What::Put(put)) => (put.key.as_str(), put.value.len()),
            Some(wire::operation::What::Delete(key)) => (key.as_str(), 0),
            Some(wire::operation::What::Event(event)) => {
                events += 1;
                (EVENT_PREFIX, event.len())
            }
            Some(wire::operation::What::Add(add)) => (add.key.as_str(), 0),
            // Refused before anything is proposed, and by `apply` for what a newer leader proposed.
            None => continue,
        };
        if size > limits::MAX_META_VALUE_BYTES {
            return Err(format!("{size} bytes under `{key}` are too many"));
        }
        if !is_legal_key(key) {
            return Err(format!("key `{}` is illegal", key.escape_default()));
        }
        if key != EVENT_PREFIX {
            keys.push(key);
        }
    }
    keys.sort_unstable();
    if let Some([twice, _]) = keys.array_windows().find(|[one, next]| one == next) {
        return Err(format!("key `{twice}` is there twice"));
    }
    if events > 1 {
        Err("more than one event".to_owned())
    } else {
        Ok(())
    }
}

fn is_legal_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= 512 && !key.bytes().any(|b| b.is_ascii_control())
}

fn holds<'a>(
    compare: &'a wire::Compare,
    view: &dyn StateView,
    looked_up: &mut LookedUp<'a>,
) -> Result<bool, StateError> {
    use wire::compare::Must;
    let stored = view.get(StateCf::Meta, &meta_key(&compare.key))?;
    let stored = stored.map(decode_value).transpose()?;
    let created = stored.as_ref().map(|stored| stored.create_revision);
    looked_up.insert(&compare.key, created);
    Ok(match (&compare.must, stored) {
        (Some(Must::BeAbsent(_)), stored) => stored.is_none(),
        (Some(Must::BePresent(_)), stored) => stored.is_some(),
        (Some(Must::BeAtRevision(revision)), Some(stored)) => stored.revision == *revision,
        (Some(Must::BeAtRevision(_)) | None, _) => false,
    })
}

fn write(
    transaction: &wire::Transaction,
    revision: Revision,
    looked_up: &LookedUp<'_>,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<Applied, StateError> {
    let mut keys = Vec::with_capacity(transaction.operations.len());
    for operation in &transaction.operations {
        match &operation.what {
            Some(wire::operation::What::Put(p)) => {
                let created = match looked_up.get(p.key.as_str()) {
                    Some(found) => *found,
                    None => creation(&p.key, view)?,
                };
                keys.push(put(&p.key, &p.value, (created, revision), out));
            }
            Some(wire::operation::What::Delete(key)) => keys.push(delete(key, out)),
            Some(wire::operation::What::Event(event)) => {
                let key = format!("{EVENT_PREFIX}{:020}", revision.get());
                keys.push(put(&key, event, (None, revision), out));
                cap_events(view, out)?;
            }
            Some(wire::operation::What::Add(sum)) => {
                keys.push(add(sum, revision, view, out)?);
            }
            None => {}
        }
    }
    let change = wire::MetaChange {
        revision: revision.get(),
        proposed_unix_us: transaction.proposed_unix_us,
        keys,
        transaction_id: transaction.id.clone(),
    };
    out.put(
        StateCf::Marks,
        revision_mark(),
        revision.get().to_be_bytes(),
    );
    history::record(&change, transaction, view, out)?;
    Ok(Applied {
        outcome: succeeded(revision),
        change: Some(change),
    })
}

/// The revision that created the key, if it exists.
fn creation(key: &str, view: &dyn StateView) -> Result<Option<u64>, StateError> {
    let stored = view.get(StateCf::Meta, &meta_key(key))?;
    let stored = stored.map(decode_value).transpose()?;
    Ok(stored.map(|stored| stored.create_revision))
}

fn put(
    key: &str,
    value: &Bytes,
    (created, revision): (Option<u64>, Revision),
    out: &mut Mutations,
) -> wire::MetaKeyChange {
    let stored = wire::MetaValue {
        create_revision: created.unwrap_or(revision.get()),
        revision: revision.get(),
        value: value.clone(),
    };
    let encoded = frame::encode(META_VERSION, &stored);
    out.put(StateCf::Meta, meta_key(key), encoded);
    wire::MetaKeyChange {
        key: key.to_owned(),
        deleted: false,
        value: value.clone(),
    }
}

fn delete(key: &str, out: &mut Mutations) -> wire::MetaKeyChange {
    out.delete(StateCf::Meta, meta_key(key));
    wire::MetaKeyChange {
        key: key.to_owned(),
        deleted: true,
        value: Bytes::new(),
    }
}

/// The number under the key and the delta together; nothing stays under the key at 0 or below, nor
/// of what is no number.
fn add(
    sum: &wire::Add,
    revision: Revision,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<wire::MetaKeyChange, StateError> {
    let stored = view.get(StateCf::Meta, &meta_key(&sum.key))?;
    let stored = stored.map(decode_value).transpose()?;
    let before = stored.as_ref().and_then(|stored| {
        let text = std::str::from_utf8(&stored.value).ok()?;
        text.parse::<i64>().ok()
    });
    let after = before.unwrap_or(0).saturating_add(sum.delta);
    if after <= 0 {
        return Ok(delete(&sum.key, out));
    }
    let created = stored.map(|stored| stored.create_revision);
    let value = after.to_string().into();
    Ok(put(&sum.key, &value, (created, revision), out))
}

/// Drops the oldest event once more than the cap are kept. The drop is no change for watchers.
fn cap_events(view: &dyn StateView, out: &mut Mutations) -> Result<(), StateError> {
    let kept = number(view, StateCf::Marks, &events_mark())? + 1;
    if kept <= limits::MAX_EVENTS {
        out.put(StateCf::Marks, events_mark(), kept.to_be_bytes());
        return Ok(());
    }
    for (oldest, _) in view.scan(StateCf::Meta, &meta_key(EVENT_PREFIX), None, 1)? {
        debug_assert!(suffix_of(&oldest).is_some());
        out.delete(StateCf::Meta, oldest);
    }
    Ok(())
}
