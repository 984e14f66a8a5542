//! What a transaction does: checks, compares, writes. The order of the checks is part of the
//! format: every node must come to the same outcome from the same log (I13).

use std::collections::BTreeSet;

use bytes::Bytes;
use maia_common::limits;
use maia_common::position::Revision;
use maia_common::wire::record as wire;
use prost::Message;

use super::layout::{
    META_VERSION, change_key, current_revision, decode_change, decode_value, dedup_key,
    events_mark, meta_key, number, revision_mark, revision_of, suffix_of,
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
/// [`StateError`] when the view fails; a transaction that is illegal or whose comparison does not
/// hold is an outcome.
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
    if let Err(reason) = check(&transaction) {
        return Ok(refused(revision, reason));
    }
    if let Some(earlier) = revision_of(view, &transaction.id)? {
        return Ok(Applied {
            outcome: succeeded(earlier),
            change: None,
        });
    }
    for (at, compare) in transaction.compares.iter().enumerate() {
        if !holds(compare, view)? {
            let failed_compare = u32::try_from(at).unwrap_or(u32::MAX);
            let outcome = wire::TransactionOutcome {
                succeeded: false,
                revision: revision.get(),
                failed_compare,
                refused: String::new(),
            };
            return Ok(Applied {
                outcome,
                change: None,
            });
        }
    }
    if transaction.operations.is_empty() {
        return Ok(Applied {
            outcome: succeeded(revision),
            change: None,
        });
    }
    write(&transaction, revision.next(), view, out)
}

fn succeeded(revision: Revision) -> wire::TransactionOutcome {
    wire::TransactionOutcome {
        succeeded: true,
        revision: revision.get(),
        failed_compare: 0,
        refused: String::new(),
    }
}

fn refused(revision: Revision, reason: String) -> Applied {
    let outcome = wire::TransactionOutcome {
        succeeded: false,
        revision: revision.get(),
        failed_compare: 0,
        refused: reason,
    };
    Applied {
        outcome,
        change: None,
    }
}

fn check(transaction: &wire::Transaction) -> Result<(), String> {
    if transaction.id.is_empty() || transaction.id.len() > 128 {
        return Err("a transaction's id has 1 to 128 bytes".to_owned());
    }
    let count = transaction.operations.len() + transaction.compares.len();
    if count > limits::MAX_TXN_OPERATIONS {
        return Err(format!(
            "{count} operations, more than {}",
            limits::MAX_TXN_OPERATIONS
        ));
    }
    let mut keys = BTreeSet::new();
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
            None => return Err("an operation of a kind that this version lacks".to_owned()),
        };
        if size > limits::MAX_META_VALUE_BYTES {
            return Err(format!("{size} bytes under `{key}` are too many"));
        }
        if !is_legal_key(key) || (key != EVENT_PREFIX && !keys.insert(key)) {
            return Err(format!(
                "key `{}` is illegal or twice",
                key.escape_default()
            ));
        }
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

fn holds(compare: &wire::Compare, view: &dyn StateView) -> Result<bool, StateError> {
    use wire::compare::Must;
    let stored = view.get(StateCf::Meta, &meta_key(&compare.key))?;
    Ok(match (&compare.must, stored) {
        (Some(Must::BeAbsent(_)), stored) => stored.is_none(),
        (Some(Must::BePresent(_)), stored) => stored.is_some(),
        (Some(Must::BeAtRevision(revision)), Some(stored)) => {
            decode_value(stored)?.revision == *revision
        }
        (Some(Must::BeAtRevision(_)) | None, _) => false,
    })
}

fn write(
    transaction: &wire::Transaction,
    revision: Revision,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<Applied, StateError> {
    let mut keys = Vec::with_capacity(transaction.operations.len());
    for operation in &transaction.operations {
        match &operation.what {
            Some(wire::operation::What::Put(p)) => {
                keys.push(put(&p.key, &p.value, revision, view, out)?);
            }
            Some(wire::operation::What::Delete(key)) => keys.push(delete(key, out)),
            Some(wire::operation::What::Event(event)) => {
                let key = format!("{EVENT_PREFIX}{:020}", revision.get());
                keys.push(put(&key, event, revision, view, out)?);
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
        StateCf::Changes,
        change_key(revision),
        frame::encode(META_VERSION, &change),
    );
    out.put(
        StateCf::Dedup,
        dedup_key(&transaction.id),
        revision.get().to_be_bytes(),
    );
    out.put(
        StateCf::Marks,
        revision_mark(),
        revision.get().to_be_bytes(),
    );
    forget(revision, view, out)?;
    Ok(Applied {
        outcome: succeeded(revision),
        change: Some(change),
    })
}

fn put(
    key: &str,
    value: &Bytes,
    revision: Revision,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<wire::MetaKeyChange, StateError> {
    let whole = meta_key(key);
    let create_revision = match view.get(StateCf::Meta, &whole)? {
        Some(stored) => decode_value(stored)?.create_revision,
        None => revision.get(),
    };
    let stored = wire::MetaValue {
        create_revision,
        revision: revision.get(),
        value: value.clone(),
    };
    out.put(StateCf::Meta, whole, frame::encode(META_VERSION, &stored));
    Ok(wire::MetaKeyChange {
        key: key.to_owned(),
        deleted: false,
        value: value.clone(),
    })
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
    let before = match view.get(StateCf::Meta, &meta_key(&sum.key))? {
        Some(stored) => {
            let value = decode_value(stored)?.value;
            let text = std::str::from_utf8(&value).ok();
            text.and_then(|text| text.parse().ok()).unwrap_or(0i64)
        }
        None => 0,
    };
    let after = before.saturating_add(sum.delta);
    if after <= 0 {
        return Ok(delete(&sum.key, out));
    }
    put(&sum.key, &after.to_string().into(), revision, view, out)
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

/// Compacts the history by one revision, and with it the id by which a retry is recognized.
fn forget(revision: Revision, view: &dyn StateView, out: &mut Mutations) -> Result<(), StateError> {
    let Some(old) = revision.get().checked_sub(limits::WATCH_HISTORY_REVISIONS) else {
        return Ok(());
    };
    let key = change_key(Revision::new(old));
    if let Some(bytes) = view.get(StateCf::Changes, &key)? {
        out.delete(
            StateCf::Dedup,
            dedup_key(&decode_change(bytes)?.transaction_id),
        );
        out.delete(StateCf::Changes, key);
    }
    Ok(())
}
