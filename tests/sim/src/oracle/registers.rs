//! What a resource is after writes and resolutions, by the words of the protocol, in a few lines and
//! apart from the core that is under test. What comes later in the log is newer than what the log
//! has; what was cut off is as old as its stamp says.

use std::collections::BTreeMap;

use maia_common::wire::record as wire;
use maia_common::wire::record::data_operation::What as Op;
use maia_common::wire::record::data_outcome::What;
use maia_coordinator::core::quarantine::Resolution;
use maia_coordinator::core::record::Record;
use prost::Message;

/// When and where: the greater one wins.
type Stamp = (u64, String);
/// A flat JSON object, such as clients write here: names and values as texts.
type Fields = BTreeMap<String, String>;

/// One resource.
#[derive(Debug, Default)]
struct Register {
    newest: Option<Stamp>,
    /// None: there is nothing.
    now: Option<Fields>,
    /// When it was deleted last.
    deleted: Option<Stamp>,
    /// When each field got its value, or was taken away.
    fields: BTreeMap<String, Stamp>,
}

/// All of them, by tenant and id.
#[derive(Debug, Default)]
pub struct Registers(BTreeMap<(String, String), Register>);

/// Won, lost, merged: how many of each.
type Fates = (u32, u32, u32);
const WON: Fates = (1, 0, 0);
const LOST: Fates = (0, 1, 0);
const MERGED: Fates = (0, 0, 1);

fn stamp_of(record: &Record) -> Stamp {
    let region = record.origin.as_ref().map(ToString::to_string);
    (record.hlc.get(), region.unwrap_or_default())
}

fn fields_of(json: &[u8]) -> Fields {
    let text = String::from_utf8_lossy(json);
    let inner = text.trim_matches(['{', '}']);
    let fields = inner.split(',').filter_map(|field| field.split_once(':'));
    let unquoted =
        fields.map(|(name, value)| (name.trim_matches('"').to_owned(), value.to_owned()));
    unquoted.collect()
}

fn text_of(fields: &Fields) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// The only operation of a client's record here.
pub(super) fn operation_of(record: &Record) -> Option<wire::DataOperation> {
    let body = wire::DataOperations::decode(record.body.clone()).ok()?;
    body.operations.into_iter().next()
}

impl Registers {
    fn of(&mut self, record: &Record) -> Option<(&mut Register, Op)> {
        let operation = operation_of(record)?;
        let tenant = record.tenant.as_ref()?.to_string();
        let register = self.0.entry((tenant, operation.resource_id)).or_default();
        Some((register, operation.what?))
    }

    /// A record took effect.
    pub fn write(&mut self, record: &Record, what: &What) {
        let Some((register, operation)) = self.of(record) else {
            return;
        };
        let new = match (operation, what) {
            (Op::Put(data), _) => Some(fields_of(&data)),
            (Op::MergePatch(_), What::Written(written)) => Some(fields_of(&written.data)),
            _ => None,
        };
        register.write(stamp_of(record), new);
    }

    /// A record that was cut off meets what there is now, by a resolution; none: it can't.
    pub fn resolve(&mut self, record: &Record, how: Resolution, by: &Record) -> Option<Fates> {
        let (register, operation) = self.of(record)?;
        let new = match operation {
            Op::Put(data) => Some(fields_of(&data)),
            Op::Delete(_) => None,
            Op::MergePatch(patch) => {
                let mut fields = register.now.clone()?;
                fields.extend(fields_of(&patch));
                Some(fields)
            }
        };
        Some(match how {
            Resolution::Overwrite if new.is_none() && register.now.is_none() => LOST,
            Resolution::Overwrite => {
                register.write(stamp_of(by), new);
                WON
            }
            Resolution::LastWriteWins => register.meet(stamp_of(record), new),
            Resolution::Merge => match new {
                Some(new) => register.merge(stamp_of(record), new),
                None => register.merge_deletion(stamp_of(record)),
            },
        })
    }

    /// What a reader should see where the record wrote.
    pub fn content(&mut self, record: &Record) -> Option<String> {
        let (register, _) = self.of(record)?;
        register.now.as_ref().map(text_of)
    }
}

impl Register {
    fn write(&mut self, stamp: Stamp, new: Option<Fields>) {
        let stamp = match &self.newest {
            Some(newest) if *newest >= stamp => (newest.0 + 1, stamp.1),
            _ => stamp,
        };
        let old = self.now.take().unwrap_or_default();
        match &new {
            None => {
                self.deleted = Some(stamp.clone());
                self.fields.clear();
            }
            Some(new) => {
                let names = old.keys().chain(new.keys());
                for name in names.filter(|name| old.get(*name) != new.get(*name)) {
                    self.fields.insert(name.clone(), stamp.clone());
                }
            }
        }
        (self.now, self.newest) = (new, Some(stamp));
    }

    fn meet(&mut self, stamp: Stamp, new: Option<Fields>) -> Fates {
        let arrived = (stamp, new.as_ref().map(text_of));
        let current = self.newest.clone();
        if current.is_some_and(|stamp| (stamp, self.now.as_ref().map(text_of)) >= arrived) {
            return LOST;
        }
        (self.now, self.newest) = (new, Some(arrived.0));
        WON
    }

    fn merge(&mut self, stamp: Stamp, new: Fields) -> Fates {
        let newest = Some(&stamp) > self.newest.as_ref();
        if self.deleted.as_ref() >= Some(&stamp) {
            return LOST;
        }
        let mut now = self.now.clone().unwrap_or_default();
        let mut is_changed = newest;
        for (name, value) in &new {
            let known = self.fields.get(name).map(|stamp| (stamp, now.get(name)));
            if known < Some((&stamp, Some(value))) {
                is_changed = true;
                self.fields.insert(name.clone(), stamp.clone());
                now.insert(name.clone(), value.clone());
            }
        }
        if !is_changed {
            return LOST;
        }
        let fates = if now == new { WON } else { MERGED };
        self.newest = self.newest.take().max(Some(stamp));
        self.now = Some(now);
        fates
    }

    /// What was written since stays.
    fn merge_deletion(&mut self, stamp: Stamp) -> Fates {
        if self.deleted.as_ref() >= Some(&stamp) {
            return LOST;
        }
        let is_written_since = self.now.is_some() && Some(&stamp) < self.newest.as_ref();
        self.fields.retain(|_, written| *written > stamp);
        let fields = &self.fields;
        let now = self.now.take().filter(|_| is_written_since);
        self.now = now.map(|mut now| {
            now.retain(|name, _| fields.contains_key(name));
            now
        });
        self.newest = self.newest.take().max(Some(stamp.clone()));
        self.deleted = Some(stamp);
        if is_written_since { MERGED } else { WON }
    }
}
