//! `proxy.unknown_tenant`: `reject`, or a placement under which a tenant is placed at its first
//! write; as a TOML table, or as JSON in a string (for the environment and `--set`).

use std::sync::Arc;

use maia_common::placement::PlacementSpec;
use serde::de::{Deserialize, Deserializer, Error};

/// What happens to a write of a tenant without a placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownTenant {
    /// `unknown_tenant`, 404.
    Reject,
    /// Placed by this, as JSON.
    Place(Arc<str>),
}

impl UnknownTenant {
    /// The placement as JSON, if tenants are to be placed.
    #[must_use]
    pub fn placement(&self) -> Option<&str> {
        match self {
            UnknownTenant::Reject => None,
            UnknownTenant::Place(json) => Some(json),
        }
    }
}

impl<'de> Deserialize<'de> for UnknownTenant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "`reject`, or a placement such as { primary_region = \"a\" }";
        let spec = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) if text == "reject" => return Ok(UnknownTenant::Reject),
            toml::Value::String(json) => serde_json::from_str::<PlacementSpec>(&json)
                .map_err(|e| Error::custom(format!("{EXPECTED}: {e}")))?,
            toml::Value::Table(table) => PlacementSpec::deserialize(table)
                .map_err(|e| Error::custom(format!("{EXPECTED}: {}", e.message())))?,
            _ => return Err(Error::custom(EXPECTED)),
        };
        let json = serde_json::to_string(&spec).expect("names and choices always serialize");
        Ok(UnknownTenant::Place(json.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Section {
        unknown_tenant: UnknownTenant,
    }

    fn of(text: &str) -> Result<UnknownTenant, String> {
        let section = toml::from_str::<Section>(&format!("unknown_tenant = {text}"));
        section
            .map(|s| s.unknown_tenant)
            .map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_placement_is_a_table_or_json() {
        assert_eq!(of("\"reject\""), Ok(UnknownTenant::Reject));
        let table = of("{ primary_region = \"a\", replicas = [\"b\"] }").unwrap();
        let json = of("'{\"primary_region\":\"a\",\"replicas\":[\"b\"]}'").unwrap();
        assert_eq!(table, json);
        assert!(
            table
                .placement()
                .is_some_and(|p| p.contains("\"primary_region\":\"a\""))
        );
        for bad in [
            "\"accept\"",
            "1",
            "{ primary = \"a\" }",
            "{ primary_region = \"A\" }",
        ] {
            let error = of(bad).unwrap_err();
            assert!(error.contains("`reject`, or a placement"), "{error}");
        }
    }
}
