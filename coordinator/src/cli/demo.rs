//! stub
use super::args::{Demo, Global};
pub async fn run(_g: &Global, _d: &Demo) -> anyhow::Result<()> { Ok(()) }
