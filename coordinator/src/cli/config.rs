//! `maiactl config check`: a coordinator's file, checked exactly as its start would check it.

use super::args::{ConfigVerb, Global, Output};
use super::print;
use crate::config;

/// Carries out a `config` verb.
///
/// # Errors
/// [`config::ConfigError`] with file and line; the caller exits with 64.
pub fn run(global: &Global, verb: &ConfigVerb) -> anyhow::Result<()> {
    let ConfigVerb::Check { file } = verb;
    let config = config::load(file, std::env::vars())?;
    if global.output == Output::Json {
        print::json(&serde_json::json!({"file": file, "node": config.node.id, "ok": true}));
    } else {
        print::line(&format!("{}: in order", file.display()));
    }
    Ok(())
}
