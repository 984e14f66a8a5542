//! How two writes of one resource that did not know of each other become one: the outcome is the same
//! in whatever order they arrive. Pure; used by apply, for records that come out of quarantine.
//! Source: last-writer-wins registers and maps (Shapiro et al., 2011, §3.2 and §3.3).
//!
//! A resource is a [`Register`]: the newest write that replaced or deleted the whole, and above it,
//! for tenants whose conflicts are merged, the newest write of each field of a JSON object.
//!
//! ```text
//! last-write-wins   whole 7 ⊔ whole 5                     = whole 7
//! merge             {a: 1 at 5, b: 2 at 5} ⊔ {a: 9 at 7}  = {a: 9 at 7, b: 2 at 5}
//! deletion          whole 6: gone ⊔ {a: 1 at 5, b: 2 at 7} = {b: 2 at 7}
//! ```
//! Invariant: [`Register::join`] is commutative, associative and idempotent (property-tested) as long
//! as what is kept of the fields is within its bounds; beyond them the resource becomes one whole, and
//! what then arrives late and is older is lost. Of two writes with one stamp, which no healthy cluster
//! makes, the greater content wins.

use std::collections::BTreeMap;

use bytes::Bytes;
use maia_common::limits;

use super::json::Json;
use super::record::{Hlc, Record};

/// What a field's stamp takes beside its names, at most: its clock, and the lengths and tags.
const STAMP_BYTES: usize = 32;

/// When and where something was written; the greater one wins. No region is below every region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// The proposer's hybrid clock.
    pub hlc: Hlc,
    /// The region where the write entered, or nothing.
    pub region: String,
}

impl Stamp {
    /// Of a record's write.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            hlc: record.hlc,
            region: record
                .origin
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        }
    }

    /// This stamp where it is above `newest`, else the least one of its region that is: what comes
    /// later in a log is newer than what the log has, whatever its clock said.
    #[must_use]
    pub fn above(self, newest: Option<&Stamp>) -> Self {
        match newest {
            Some(newest) if *newest >= self => Self {
                hlc: Hlc::from_raw(newest.hlc.get().saturating_add(1)),
                region: self.region,
            },
            _ => self,
        }
    }
}

/// A resource's content as one thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    /// Its bytes.
    pub data: Bytes,
    /// Their media type.
    pub content_type: String,
}

/// A resource with all that tells which write of it wins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Register {
    /// The newest write that replaced all (none: that deleted it). What is written above it is laid
    /// over it, field by field.
    pub whole: Option<(Stamp, Option<Content>)>,
    /// The newest write above the whole that made it an object, with the media type.
    pub object: Option<(Stamp, String)>,
    /// Fields above the whole as JSON texts; none: removed. No field is at or below the whole.
    pub fields: BTreeMap<String, (Stamp, Option<String>)>,
}

/// What became of a write that met a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The resource is what it wrote.
    Won,
    /// Nothing of it is newer than the resource.
    Lost,
    /// Parts of both.
    Merged,
}

/// A whole JSON object, or nothing where it is none, or has more fields than are kept apart.
fn object_of(data: &[u8]) -> Option<BTreeMap<String, Json>> {
    match Json::parse(data) {
        Some(Json::Object(fields)) if fields.len() <= limits::MAX_MERGED_FIELDS => Some(fields),
        _ => None,
    }
}

impl Register {
    /// A write, or with no content a deletion, that replaces all.
    #[must_use]
    pub fn replaced(stamp: Stamp, content: Option<Content>) -> Self {
        Self {
            whole: Some((stamp, content)),
            ..Self::default()
        }
    }

    /// A write of every field of a JSON object; of anything else one that replaces all.
    #[must_use]
    pub fn by_field(stamp: Stamp, content: Content) -> Self {
        Self::default().written(stamp, content)
    }

    /// The newest stamp in it.
    #[must_use]
    pub fn newest(&self) -> Option<&Stamp> {
        self.stamps().max()
    }

    /// The oldest stamp in it: the resource has been there since.
    #[must_use]
    pub fn oldest(&self) -> Option<&Stamp> {
        self.stamps().min()
    }

    fn stamps(&self) -> impl Iterator<Item = &Stamp> {
        let whole = self.whole.iter().map(|(stamp, _)| stamp);
        let object = self.object.iter().map(|(stamp, _)| stamp);
        let fields = self.fields.values().map(|(stamp, _)| stamp);
        whole.chain(object).chain(fields)
    }

    /// After a write that knew this state, field by field: what it left as it was keeps its stamp, so
    /// that a change of it elsewhere still wins.
    #[must_use]
    pub fn written(mut self, stamp: Stamp, content: Content) -> Self {
        let stamp = stamp.above(self.newest());
        let Some(new) = object_of(&content.data) else {
            return Self::replaced(stamp, Some(content));
        };
        let old = self.as_object().unwrap_or_default();
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            self.fields.insert(name.clone(), (stamp.clone(), None));
        }
        for (name, value) in new {
            if old.get(&name) != Some(&value) {
                self.fields
                    .insert(name, (stamp.clone(), Some(value.to_string())));
            }
        }
        if self.is_too_large() {
            return Self::replaced(stamp, Some(content));
        }
        self.object = Some((stamp, content.content_type));
        self
    }

    /// Whether more would have to be kept of the fields than may be. By what they are and not by how
    /// they are stored: all replicas must decide alike.
    fn is_too_large(&self) -> bool {
        let of_field = |(name, (stamp, _)): (&String, &(Stamp, Option<String>))| {
            name.len() + stamp.region.len() + STAMP_BYTES
        };
        let bytes: usize = self.fields.iter().map(of_field).sum();
        self.fields.len() > limits::MAX_MERGED_FIELDS || bytes > limits::MAX_FIELD_STAMPS_BYTES
    }

    /// Both, whichever came first; where that would be too large, as one write of what is seen then.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let mut fields = self.fields;
        for (name, theirs) in other.fields {
            let field = fields.entry(name).or_insert_with(|| theirs.clone());
            if theirs > *field {
                *field = theirs;
            }
        }
        let mut joined = Self {
            whole: self.whole.max(other.whole),
            object: self.object.max(other.object),
            fields,
        };
        if let Some((floor, _)) = &joined.whole {
            joined.object = joined.object.filter(|(stamp, _)| stamp > floor);
            joined.fields.retain(|_, (stamp, _)| *stamp > *floor);
        }
        if joined.is_too_large() {
            let newest = joined.newest().cloned().unwrap_or_default();
            return Self::replaced(newest, joined.content());
        }
        joined
    }

    /// What a reader sees; none: there is nothing.
    #[must_use]
    pub fn content(&self) -> Option<Content> {
        let Some((_, content_type)) = &self.object else {
            return self.whole.as_ref()?.1.clone();
        };
        let fields = Json::Object(self.as_object().unwrap_or_default());
        Some(Content {
            data: fields.to_string().into(),
            content_type: content_type.clone(),
        })
    }

    /// The fields that a reader sees, if it is an object.
    fn as_object(&self) -> Option<BTreeMap<String, Json>> {
        let below = self
            .whole
            .as_ref()
            .and_then(|(_, content)| content.as_ref());
        let below = below.and_then(|content| object_of(&content.data));
        if self.object.is_none() {
            return below;
        }
        let mut seen = below.unwrap_or_default();
        for (name, (_, value)) in &self.fields {
            match value
                .as_deref()
                .and_then(|text| Json::parse(text.as_bytes()))
            {
                Some(value) => drop(seen.insert(name.clone(), value)),
                None => drop(seen.remove(name)),
            }
        }
        Some(seen)
    }
}

/// What a resource is once a write that did not know it has arrived, and what became of the write.
#[must_use]
pub fn resolve(current: Register, arrived: Register) -> (Register, Fate) {
    let written = arrived.content();
    let joined = current.clone().join(arrived);
    let fate = if joined == current {
        Fate::Lost
    } else if joined.content() == written {
        Fate::Won
    } else {
        Fate::Merged
    };
    (joined, fate)
}

#[cfg(test)]
#[path = "conflict_test.rs"]
mod tests;
