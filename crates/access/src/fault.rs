//! The faults of a policy file.

use std::fmt;

use crate::{KeyFault, PatternFault, TemplateFault};

/// One fault of a policy file, or of a file that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The character within the line, from 1.
    pub column: usize,
    /// The fault.
    pub kind: FaultKind,
}

/// The kind of a fault at a place of a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// The text is not TOML.
    #[error("{0}")]
    Syntax(String),
    /// The key has no meaning here.
    #[error("`{key}` has no meaning here; there are {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The keys that have one.
        known: String,
    },
    /// A key is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// The value has another type, or is out of range.
    #[error("`{key}` must be {wanted}")]
    Value {
        /// The key.
        key: String,
        /// The expected form.
        wanted: String,
    },
    /// The text is not a pattern.
    #[error("{text:?} is not a pattern: {fault}")]
    Pattern {
        /// The text.
        text: String,
        /// The reason.
        fault: PatternFault,
    },
    /// A condition of a filter has a variable where none can stand.
    #[error(transparent)]
    Template(#[from] TemplateFault),
    /// A condition of a filter is not understood.
    #[error("{0}")]
    Filter(String),
    /// A principal does not begin with a kind of credentials.
    #[error(
        "{0:?} is not a principal; write token:NAME, jwt:NAME, certificate:NAME (NAME may have stars), or \
         anonymous"
    )]
    Principal(String),
    /// No grant has this role.
    #[error("no grant has the role {0:?}")]
    UnknownRole(String),
    /// A filter stands beside an action that it would not restrict.
    #[error("a filter restricts `subscribe` only; put other actions into a grant without one")]
    FilterOfAction,
    /// Nodes stand beside actions that do not concern them.
    #[error("only the action `register` concerns nodes; name it, or remove this")]
    NodesOfAction,
    /// Two entries are the same token.
    #[error("another entry has the same token")]
    SameToken,
    /// The file with the keys cannot be read.
    #[error("the key set {path} cannot be read: {error}")]
    KeyFile {
        /// The file.
        path: String,
        /// The reason.
        error: String,
    },
    /// The file with the keys cannot be used.
    #[error("the key set {path} cannot be used: {fault}")]
    Keys {
        /// The file.
        path: String,
        /// The reason.
        fault: KeyFault,
    },
    /// The policy file itself cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

/// All faults of a policy file, in the order of their lines. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Fault {
    /// Returns file, line and column.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.file, self.line, self.column)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.kind)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
