//! A resource's version as an HTTP entity tag.

use maia_common::wire::record as wire;

/// The version of a resource as an entity tag: `"group-term-index"`.
#[must_use]
pub fn etag(version: Option<&wire::Version>) -> String {
    let version = version.copied().unwrap_or_default();
    format!("\"{}-{}-{}\"", version.group, version.term, version.index)
}

/// Reads what [`etag`] wrote.
#[must_use]
pub fn parse_etag(text: &str) -> Option<wire::Version> {
    let inner = text.trim().strip_prefix('"')?.strip_suffix('"')?;
    let mut parts = inner.split('-').map(str::parse::<u64>);
    let mut next = || parts.next()?.ok();
    let (group, term, index) = (next()?, next()?, next()?);
    parts
        .next()
        .is_none()
        .then_some(wire::Version { group, term, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_read_back() {
        let version = wire::Version {
            group: 1,
            term: 2,
            index: 3,
        };
        assert_eq!(etag(Some(&version)), "\"1-2-3\"");
        assert_eq!(parse_etag("\"1-2-3\""), Some(version));
        for bad in [
            "1-2-3",
            "\"1-2\"",
            "\"1-2-3-4\"",
            "W/\"1-2-3\"",
            "\"a-b-c\"",
            "",
        ] {
            assert_eq!(parse_etag(bad), None, "{bad}");
        }
    }
}
