//! What a process does: everything, or one of the roles that scale apart.

use std::fmt;

/// A role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Duty {
    /// Everything.
    All,
    /// Agents' sockets, with gate, answers and replay.
    Edge,
    /// Commands and admin writes over HTTP.
    CommandApi,
    /// A loop for every partition that is dealt to it, and its timers.
    Projectors,
    /// Answers over HTTP.
    QueryApi,
}

impl Duty {
    /// Its name on the command line.
    pub fn text(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Edge => "edge",
            Self::CommandApi => "command-api",
            Self::Projectors => "projectors",
            Self::QueryApi => "query-api",
        }
    }

    /// Whether agents connect to it.
    pub fn is_edge(self) -> bool {
        matches!(self, Self::All | Self::Edge)
    }

    /// Whether it takes commands over HTTP, and may create tenants.
    pub fn takes_commands(self) -> bool {
        matches!(self, Self::All | Self::CommandApi)
    }

    /// Whether it projects what is dealt to it.
    pub fn projects(self) -> bool {
        matches!(self, Self::All | Self::Projectors)
    }

    /// Whether it answers over HTTP.
    pub fn answers(self) -> bool {
        matches!(self, Self::All | Self::QueryApi)
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.text())
    }
}
