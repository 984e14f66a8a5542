//! Where configuration comes from, and how a fault in it is named: `file:line: message`, or the
//! environment variable or flag that set the value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use maia_common::toml_lines::line_of;
use serde::Deserialize;

use super::{Config, KEYS};

/// What is wrong with the configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// A key or value at a place.
    #[error("{place}: {message}")]
    Fault {
        /// `file:line`, `environment MAIA_…` or `--set key`.
        place: String,
        /// What is wrong.
        message: String,
    },
}

/// The file and what is laid over it.
pub(super) struct Source {
    file: PathBuf,
    text: String,
    /// Key → (where it was set, value).
    over: BTreeMap<&'static str, (String, String)>,
}

impl Source {
    pub(super) fn read(
        file: &Path,
        environment: impl Fn(&str) -> Option<String>,
        set: &[String],
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
            file: file.display().to_string(),
            source,
        })?;
        let mut over = BTreeMap::new();
        for key in KEYS {
            let name = format!("MAIA_{}", key.replace('.', "_").to_uppercase());
            if let Some(value) = environment(&name) {
                over.insert(*key, (format!("environment {name}"), value));
            }
        }
        for pair in set {
            let place = format!("--set {pair}");
            let known = pair
                .split_once('=')
                .and_then(|(key, value)| Some((KEYS.iter().find(|k| **k == key)?, value)));
            let Some((key, value)) = known else {
                return Err(ConfigError::Fault {
                    place,
                    message: "write it as key=value with a key of the configuration".into(),
                });
            };
            over.insert(*key, (place, value.to_owned()));
        }
        Ok(Self {
            file: file.to_owned(),
            text,
            over,
        })
    }

    pub(super) fn parse(&self) -> Result<Config, ConfigError> {
        let mut table: toml::Table = toml::from_str(&self.text).map_err(|e| self.in_file(&e))?;
        // The file alone first, so that its faults are named by line.
        if self.over.is_empty() {
            return toml::from_str(&self.text).map_err(|e| self.in_file(&e));
        }
        for (key, (place, value)) in &self.over {
            lay_over(&mut table, key, value).map_err(|message| ConfigError::Fault {
                place: place.clone(),
                message,
            })?;
        }
        Config::deserialize(table).map_err(|merged| match toml::from_str::<Config>(&self.text) {
            Err(e) if !e.message().starts_with("missing field") => self.in_file(&e),
            _ => ConfigError::Fault {
                place: self.places_over(),
                message: merged.message().to_owned(),
            },
        })
    }

    /// The fault of a key whose value breaks a rule.
    pub(super) fn fault(&self, key: &str, message: String) -> ConfigError {
        let place = match self.over.get(key) {
            Some((place, _)) => place.clone(),
            None => format!("{}:{}", self.file.display(), line_of(&self.text, key)),
        };
        ConfigError::Fault {
            place,
            message: format!("{key}: {message}"),
        }
    }

    fn in_file(&self, error: &toml::de::Error) -> ConfigError {
        let offset = error.span().map_or(0, |span| span.start);
        let line = self.text[..offset.min(self.text.len())]
            .matches('\n')
            .count()
            + 1;
        ConfigError::Fault {
            place: format!("{}:{line}", self.file.display()),
            message: error.message().trim().to_owned(),
        }
    }

    fn places_over(&self) -> String {
        let places: Vec<&str> = self
            .over
            .values()
            .map(|(place, _)| place.as_str())
            .collect();
        format!("{} with {}", self.file.display(), places.join(", "))
    }
}

/// Sets `section.key` in the table. The text is taken as TOML where it is (numbers, booleans,
/// lists), else as a string; a list may also be written as `a,b`.
fn lay_over(table: &mut toml::Table, key: &str, text: &str) -> Result<(), String> {
    let value = if key == "feed.coordinators" && !text.trim_start().starts_with('[') {
        let items = text.split(',').map(|item| item.trim().to_owned().into());
        toml::Value::Array(items.collect())
    } else {
        toml::from_str::<toml::Table>(&format!("v = {text}"))
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| toml::Value::String(text.to_owned()))
    };
    let (table, leaf) = match key.split_once('.') {
        None => (table, key),
        Some((section, leaf)) => {
            let section = table
                .entry(section)
                .or_insert_with(|| toml::Table::new().into());
            let section = section.as_table_mut();
            (
                section.ok_or("the file has a value where a section should be")?,
                leaf,
            )
        }
    };
    table.insert(leaf.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GOOD: &str = r#"id = "proxy-a"
region = "a"
dir = "/tmp"
cluster_key_file = "KEY"
[listen]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[feed]
coordinators = ["127.0.0.1:7002"]
[rpc]
plaintext = true
[origin]
url = "http://127.0.0.1:7001"
[proxy]
hold_budget = "2s"
"#;

    fn load(text: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        let file = dir.path().join("proxy.toml");
        std::fs::write(&file, text.replace("KEY", &key.display().to_string())).unwrap();
        let environment = |name: &str| {
            let found = env.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        Config::load(&file, environment, &set).map_err(|e| {
            let at = format!("{}", file.display());
            e.to_string().replace(&at, "FILE")
        })
    }

    #[test]
    fn environment_is_laid_over_the_file_and_flags_over_both() {
        let plain = load(GOOD, &[], &[]).unwrap();
        assert_eq!(plain.proxy.hold_budget, Duration::from_secs(2));
        assert_eq!(plain.proxy.max_body_bytes, 16 << 20, "a default");
        let env = [
            ("MAIA_PROXY_HOLD_BUDGET", "3s"),
            ("MAIA_FEED_COORDINATORS", "a:1,b:2"),
        ];
        let over = load(GOOD, &env, &[]).unwrap();
        assert_eq!(over.proxy.hold_budget, Duration::from_secs(3));
        assert_eq!(over.feed.coordinators, ["a:1", "b:2"]);
        let set = load(GOOD, &env, &["proxy.hold_budget=4s", "threads=2"]).unwrap();
        assert_eq!(
            (set.proxy.hold_budget, set.threads),
            (Duration::from_secs(4), 2)
        );
    }

    #[test]
    fn faults_are_named_by_their_place() {
        let unknown = GOOD.replace("hold_budget", "hold_bugdet");
        let text = GOOD.replace("\"2s\"", "\"2 parsecs\"");
        let https = GOOD.replace("http://", "https://");
        let missing = GOOD.replace("region = \"a\"", "");
        let silent = GOOD.replace("plaintext = true\n", "");
        let files = "ca_file = \"/nowhere\"\ncertificate_file = \"c\"\nkey_file = \"k\"";
        let absent = GOOD.replace("plaintext = true", files);
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str], &'a str);
        let cases: &[Case<'_>] = &[
            (&unknown, &[], &[], "FILE:15: unknown field `hold_bugdet`"),
            (&text, &[], &[], "FILE:15: `2 parsecs` is no duration"),
            (&https, &[], &[], "FILE:13: origin.url: `https://"),
            (&missing, &[], &[], "missing field `region`"),
            (
                GOOD,
                &[],
                &["proxy.hold_budget=2m"],
                "--set proxy.hold_budget=2m: proxy.hold_budget",
            ),
            (
                GOOD,
                &[],
                &["proxy.nonsense=1"],
                "--set proxy.nonsense=1: write it as",
            ),
            (
                GOOD,
                &[("MAIA_ORIGIN_URL", "x")],
                &[],
                "environment MAIA_ORIGIN_URL: origin.url",
            ),
            (
                GOOD,
                &[("MAIA_THREADS", "many")],
                &[],
                "environment MAIA_THREADS",
            ),
            ("id = [", &[], &[], "FILE:1: "),
            (
                GOOD,
                &[],
                &["rpc.ca_file=/nowhere"],
                "--set rpc.ca_file=/nowhere: rpc.ca_file: no files with",
            ),
            (&silent, &[], &[], "rpc.ca_file: is missing"),
            (&absent, &[], &[], "FILE:11: rpc.ca_file: /nowhere: "),
        ];
        for (text, env, set, expected) in cases {
            let error = load(text, env, set).unwrap_err();
            assert!(error.contains(expected), "{error}\n  lacks {expected}");
        }
    }

    #[test]
    fn every_key_can_be_set() {
        for key in KEYS {
            let mut table = toml::Table::new();
            lay_over(&mut table, key, "1").unwrap();
            let error = toml::from_str::<Config>(&toml::to_string(&table).unwrap()).unwrap_err();
            assert!(!error.message().contains("unknown field"), "{key}: {error}");
        }
    }
}
