//! Identifiers and names: one private-field newtype each, so that no raw string or integer crosses
//! a function boundary as an id. Names are validated where they are made (construction and
//! deserialization); whoever holds one may trust it. Called by everything; never does I/O.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a text is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("illegal {kind} `{}`: {rule}", shorten(.text))]
pub struct NameError {
    /// What the text was to name, such as `tenant`.
    pub kind: &'static str,
    /// The text as it was given.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// The head of a text that may come from an attacker, fit for a message.
fn shorten(text: &str) -> String {
    let head: String = text
        .chars()
        .take(48)
        .flat_map(char::escape_default)
        .collect();
    if text.chars().count() > 48 {
        format!("{head}…")
    } else {
        head
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks the text and takes it as a name.
            ///
            /// # Errors
            /// [`NameError`] with the rule that the text breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                if Self::is_legal(&text) {
                    Ok(Self(text))
                } else {
                    Err(NameError { kind: $kind, text, rule: $rule })
                }
            }

            /// Whether the text is a legal name, without allocating.
            #[must_use]
            pub fn is_legal(text: &str) -> bool {
                let check: fn(&[u8]) -> bool = $check;
                !text.is_empty() && text.len() <= $max && check(text.as_bytes())
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A named place with a public URL, such as `us-west-1`. Also a host label and a metric label.
    RegionName, "region", limits::MAX_REGION_NAME_BYTES,
    "1 to 32 of a-z, 0-9 and -, the first a letter, the last no -",
    |b| b[0].is_ascii_lowercase()
        && b[b.len() - 1] != b'-'
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
);
name!(
    /// The name of a cluster: in every certificate of its processes, and nowhere else.
    ClusterName, "cluster", limits::MAX_CLUSTER_NAME_BYTES,
    "1 to 63 of a-z, 0-9 and -, the first a letter, the last no -",
    |b| b[0].is_ascii_lowercase()
        && b[b.len() - 1] != b'-'
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
);
name!(
    /// The owner of requests and resources.
    TenantId, "tenant", limits::MAX_TENANT_ID_BYTES,
    "1 to 128 of A-Z, a-z, 0-9 and - _ . : @ ~, the first a letter or digit",
    |b| b[0].is_ascii_alphanumeric()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.:@~".contains(c))
);
name!(
    /// The type of a resource, such as `notes`.
    ResourceType, "resource type", limits::MAX_RESOURCE_TYPE_BYTES,
    "1 to 64 of A-Z, a-z, 0-9 and - _ . , the first a letter or digit",
    |b| b[0].is_ascii_alphanumeric()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
);
name!(
    /// The id of a resource within its type: any text without control characters.
    ResourceId, "resource id", limits::MAX_RESOURCE_ID_BYTES,
    "1 to 256 bytes of UTF-8 without control characters",
    |b| !b.iter().any(u8::is_ascii_control)
);
name!(
    /// What makes a retry of a write recognizable as the same write (I8).
    IdempotencyKey, "idempotency key", limits::MAX_IDEMPOTENCY_KEY_BYTES,
    "1 to 128 visible ASCII characters",
    |b| b.iter().all(u8::is_ascii_graphic)
);
name!(
    /// The stable id under which a proxy registers.
    ProxyId, "proxy id", limits::MAX_PROXY_ID_BYTES,
    "1 to 64 of A-Z, a-z, 0-9 and - _ . , the first a letter or digit",
    |b| b[0].is_ascii_alphanumeric()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The value as one of its kind.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The plain value, for encoders and displays.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}
pub(crate) use number;

number!(
    /// One coordinator process. Never used twice: a wiped disk is a new node.
    NodeId
);
number!(
    /// A Raft group: 0 is the metastore, 1… are placement groups. Never reused.
    GroupId
);

impl GroupId {
    /// Group 0, the metastore.
    pub const METASTORE: GroupId = GroupId(0);

    /// Whether this is group 0.
    #[must_use]
    pub const fn is_metastore(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for ok in ["us-west-1", "a", "eu"] {
            assert!(RegionName::new(ok).is_ok(), "{ok}");
        }
        for bad in ["", "-a", "A", "a-", "a_b", "1a", &"a".repeat(33)] {
            assert!(RegionName::new(bad).is_err(), "{bad}");
        }
        for bad in ["", "a b", "ä", ".a", "a/b", "a\r\nb", &"a".repeat(129)] {
            assert!(TenantId::new(bad).is_err(), "{bad}");
        }
        assert!(ResourceId::new("naïve/id").is_ok());
        assert!(ResourceId::new("a\0b").is_err());
    }

    #[test]
    fn an_error_never_echoes_control_characters_or_the_whole_text() {
        let error = TenantId::new(format!("a\r\n{}", "x".repeat(9000)))
            .unwrap_err()
            .to_string();
        assert!(error.len() < 300 && !error.contains('\n'), "{error}");
    }

    #[test]
    fn deserializing_validates() {
        assert!(serde_json::from_str::<RegionName>("\"us-1\"").is_ok());
        assert!(serde_json::from_str::<RegionName>("\"US\"").is_err());
    }
}
