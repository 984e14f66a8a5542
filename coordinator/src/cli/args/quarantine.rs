//! What `maiactl quarantine` takes.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use maia_common::ids::TenantId;

#[derive(Debug, Subcommand)]
pub enum QuarantineVerb {
    /// Lists the entries of all coordinators that are named by `--api`.
    List,
    /// Shows one, with what was written.
    Show {
        /// GROUP-TERM-INDEX, as listed.
        id: String,
    },
    /// Writes all of them, with what was written, as one JSON object a line.
    Export,
    /// Decides what becomes of one, or of all.
    #[command(allow_missing_positional = true)]
    Resolve(Resolve),
}

#[derive(Debug, ClapArgs)]
pub struct Resolve {
    /// GROUP-TERM-INDEX, as listed.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub id: Option<String>,
    /// Written over whatever is there now, or gone for good.
    #[arg(value_enum)]
    pub action: QuarantineAction,
    /// All of them, or those that the next two options leave.
    #[arg(long)]
    pub all: bool,
    /// With --all: only entries of this tenant.
    #[arg(long, requires = "all")]
    pub tenant: Option<TenantId>,
    /// With --all: only entries that were cut off the log of this group.
    #[arg(long, requires = "all", value_name = "ID")]
    pub group: Option<u64>,
    /// Only where this node has it; else all coordinators that are named by `--api` and have it.
    #[arg(long, value_name = "ID")]
    pub node: Option<u64>,
    /// Does not ask.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuarantineAction {
    Apply,
    Drop,
}

impl QuarantineAction {
    /// The name in the API, and what it does, for people.
    pub fn plan(self) -> (&'static str, &'static str) {
        match self {
            Self::Apply => ("apply", "written over whatever is there now"),
            Self::Drop => ("drop", "gone for good"),
        }
    }
}
