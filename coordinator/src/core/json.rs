//! JSON as its author wrote it: objects can be taken apart and put together again, and every number stays
//! the text that it was. A number that is no `u64`, `i64` or `f64` (an id of twenty digits, a decimal
//! fraction) must not change because something beside it did; and texts are the same on all replicas (I13).
//! Used by `conflict` and by merge patches.
//!
//! What is given out is compact, with the names of objects in order: two texts of one document differ in
//! nothing else, unless its numbers were written differently.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// By name; of names that were given twice, the last.
    Object(BTreeMap<String, Json>),
    /// In order.
    Array(Vec<Json>),
    /// A number, string or literal, as text.
    Scalar(String),
}

impl Json {
    /// Reads a document; none if it is none, or nested deeper than `serde_json` reads (128 levels).
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        // Says that it is a document, and bounds the recursion below.
        serde_json::from_slice::<Value>(text).ok()?;
        let text = std::str::from_utf8(text).ok()?;
        Reader { rest: text }.value()
    }

    /// `null`.
    #[must_use]
    pub fn null() -> Self {
        Self::Scalar("null".to_owned())
    }

    /// RFC 7396: this document after a merge patch.
    #[must_use]
    pub fn patched(self, patch: Json) -> Self {
        let Json::Object(changes) = patch else {
            return patch;
        };
        let mut fields = match self {
            Json::Object(fields) => fields,
            Json::Array(_) | Json::Scalar(_) => BTreeMap::new(),
        };
        for (name, change) in changes {
            let before = fields.remove(&name);
            if change != Self::null() {
                let after = before.unwrap_or_else(Self::null).patched(change);
                fields.insert(name, after);
            }
        }
        Json::Object(fields)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Scalar(text) => f.write_str(text),
            Json::Array(items) => {
                f.write_str("[")?;
                for (n, item) in items.iter().enumerate() {
                    let comma = if n > 0 { "," } else { "" };
                    write!(f, "{comma}{item}")?;
                }
                f.write_str("]")
            }
            Json::Object(fields) => {
                f.write_str("{")?;
                for (n, (name, value)) in fields.iter().enumerate() {
                    let comma = if n > 0 { "," } else { "" };
                    write!(f, "{comma}{}:{value}", quoted(name))?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Reads a text that is known to be a document; none where it is not as expected.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Option<Json> {
        self.skip_space();
        match self.rest.as_bytes().first()? {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => Some(Json::Scalar(quoted(&self.string()?))),
            _ => {
                let ends = |c: char| matches!(c, ',' | ']' | '}') || c.is_ascii_whitespace();
                let end = self.rest.find(ends).unwrap_or(self.rest.len());
                Some(Json::Scalar(self.take(end)?.to_owned()))
            }
        }
    }

    fn object(&mut self) -> Option<Json> {
        let mut fields = BTreeMap::new();
        self.take(1)?;
        while !self.ends_with(b'}')? {
            let name = self.string()?;
            self.skip_space();
            self.take(1)?;
            fields.insert(name, self.value()?);
        }
        Some(Json::Object(fields))
    }

    fn array(&mut self) -> Option<Json> {
        let mut items = Vec::new();
        self.take(1)?;
        while !self.ends_with(b']')? {
            items.push(self.value()?);
        }
        Some(Json::Array(items))
    }

    /// Whether the list ends here; steps over the bracket, or over the comma before the next item.
    fn ends_with(&mut self, bracket: u8) -> Option<bool> {
        self.skip_space();
        let next = *self.rest.as_bytes().first()?;
        if next == bracket || next == b',' {
            self.take(1)?;
            self.skip_space();
        }
        Some(next == bracket)
    }

    fn string(&mut self) -> Option<String> {
        let bytes = self.rest.as_bytes();
        let mut end = 1;
        while *bytes.get(end)? != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        serde_json::from_str(self.take(end + 1)?).ok()
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn take(&mut self, bytes: usize) -> Option<&'a str> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn numbers_stay_as_they_were_written() {
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "0.1000000000000000055511151231257827",
            "1E400",
            "1.50",
            "-0",
            "7",
        ] {
            let Some(read) = Json::parse(number.as_bytes()) else {
                // What serde_json does not read at all is no document here.
                assert_eq!(number, "1E400");
                continue;
            };
            assert_eq!(read.to_string(), number);
            let nested = format!("{{\"a\":[{number},{{\"b\":{number}}}]}}");
            assert_eq!(json(&nested).to_string(), nested);
        }
        assert_ne!(json("18446744073709551616"), json("18446744073709551617"));
    }

    #[test]
    fn all_else_is_compact_and_in_order() {
        let read =
            json(" { \"b\" : [ 1 , true ] , \"a\\u0041\" : \"x\\u0041\\\"\" ,\"c\":{},\"d\":[] } ");
        let expected = "{\"aA\":\"xA\\\"\",\"b\":[1,true],\"c\":{},\"d\":[]}";
        assert_eq!(read.to_string(), expected);
        assert_eq!(json("{\"a\":1,\"a\":2}").to_string(), "{\"a\":2}");
        for no_document in ["", "{", "[1,]", "{\"a\" 1}", "01", "\"\\ud800\"", "1 2"] {
            assert_eq!(Json::parse(no_document.as_bytes()), None, "{no_document}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(Json::parse(deep.as_bytes()), None);
    }

    /// The cases of RFC 7396, appendix A.
    #[test]
    fn the_cases_of_the_rfc() {
        let cases = [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ];
        for (target, patch, expected) in cases {
            assert_eq!(json(target).patched(json(patch)), json(expected), "{patch}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// As `serde_json` has it, however it is laid out.
        #[test]
        fn documents_come_back(value in any_value()) {
            let compact = value.to_string();
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            for text in [&compact, &pretty] {
                prop_assert_eq!(json(text).to_string(), compact.clone());
            }
        }
    }
}
