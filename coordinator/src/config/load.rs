//! Reading: file text and environment into a checked [`Config`], or an error with file and line.

use std::path::Path;

use maia_common::toml_lines;

use super::sections::Config;

/// Why a configuration is refused; `main` exits with 64.
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
    /// Not TOML, an unknown key, a wrong type or an illegal value.
    #[error("{file}:{line}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Values that don't go together, or files that can't be used.
    #[error("{}", faults.join("; "))]
    Faults {
        /// `file:line: key: sentence`, the line that sets the key, or the first.
        faults: Vec<String>,
    },
}

/// Reads the file, then lets `environment` override it.
///
/// # Errors
/// [`ConfigError`] with file and line.
pub fn load(
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        file: file.clone(),
        source,
    })?;
    let overrides: Vec<(String, String)> = environment
        .filter_map(|(name, value)| {
            let key = name.strip_prefix("MAIA_")?;
            key.contains("__")
                .then(|| (key.to_lowercase().replace("__", "."), value))
        })
        .collect();
    if overrides.is_empty() {
        let config = parse(&text, &file)?;
        return with_files(config, &text, &file);
    }
    // The file alone first, so that its own errors keep their lines.
    read(&text, &file)?;
    let mut table: toml::Table = text.parse().map_err(|e| syntax(&text, &file, &e))?;
    for (key, value) in overrides {
        set(&mut table, &key, &value);
    }
    let merged = toml::to_string(&table).map_err(|e| ConfigError::Faults {
        faults: vec![format!("{file}: environment: {e}")],
    })?;
    let file = format!("{file} with MAIA_… from the environment");
    let config = parse(&merged, &file)?;
    with_files(config, &merged, &file)
}

/// The configuration, if the files that it names for TLS can be used.
fn with_files(config: Config, text: &str, file: &str) -> Result<Config, ConfigError> {
    match config.rpc.check(config.party()) {
        Ok(()) => Ok(config),
        Err(fault) => Err(faults(text, file, &[fault.to_string()])),
    }
}

/// Each `key: sentence` with the line that sets the key.
fn faults(text: &str, file: &str, faults: &[String]) -> ConfigError {
    let place = |fault: &String| {
        let key = fault.split(':').next().unwrap_or_default();
        format!("{file}:{}: {fault}", toml_lines::line_of(text, key))
    };
    ConfigError::Faults {
        faults: faults.iter().map(place).collect(),
    }
}

/// Reads and checks a configuration's text; `file` is for messages.
///
/// # Errors
/// [`ConfigError`] with file and line.
pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
    let config = read(text, file)?;
    match config.faults() {
        found if found.is_empty() => Ok(config),
        found => Err(faults(text, file, &found)),
    }
}

fn read(text: &str, file: &str) -> Result<Config, ConfigError> {
    toml::from_str(text).map_err(|error| syntax(text, file, &error))
}

fn syntax(text: &str, file: &str, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start).min(text.len());
    ConfigError::Syntax {
        file: file.to_owned(),
        line: text[..offset].matches('\n').count() + 1,
        message: error.message().to_owned(),
    }
}

/// Sets `a.b.c` to a value, read as TOML where it is a number or a boolean, else as text.
pub fn set(table: &mut toml::Table, key: &str, value: &str) {
    let parsed = match value.parse::<toml::Value>() {
        Ok(plain @ (toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Float(_))) => {
            plain
        }
        _ => toml::Value::String(value.to_owned()),
    };
    let mut place = table;
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            place.insert(part.to_owned(), parsed);
            return;
        }
        let next = place
            .entry(part.to_owned())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        match next {
            toml::Value::Table(inner) => place = inner,
            _ => return,
        }
    }
}
