//! Operators and their spellings.

use std::{fmt, str::FromStr};

/// An operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Equal.
    Eq,
    /// Present and not equal: a missing field satisfies no condition.
    Ne,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Equal to an element of the value, which must be a list.
    In,
    /// A list with an element equal to the value, or an object with the value as a key.
    Contains,
}

/// The spelling of operators on the wire. Plain servers understand one spelling and refuse the other;
/// we read both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// `== != > >= < <= in contains`.
    #[default]
    Symbols,
    /// `eq ne gt gte lt lte in contains`, the older spelling.
    Words,
}

/// A text that is not an operator in either spelling.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported operator: {0}")]
pub struct UnknownOp(pub String);

impl Op {
    /// All operators.
    pub const ALL: [Self; 8] = [
        Self::Eq,
        Self::Ne,
        Self::Gt,
        Self::Ge,
        Self::Lt,
        Self::Le,
        Self::In,
        Self::Contains,
    ];

    /// Returns the operator's index in [`ALL`](Self::ALL).
    pub(crate) const fn index(self) -> u8 {
        self as u8
    }

    /// Returns the operator in the given spelling.
    #[must_use]
    pub const fn spelled(self, spelling: Spelling) -> &'static str {
        let (symbol, word) = match self {
            Self::Eq => ("==", "eq"),
            Self::Ne => ("!=", "ne"),
            Self::Gt => (">", "gt"),
            Self::Ge => (">=", "gte"),
            Self::Lt => ("<", "lt"),
            Self::Le => ("<=", "lte"),
            Self::In => ("in", "in"),
            Self::Contains => ("contains", "contains"),
        };
        match spelling {
            Spelling::Symbols => symbol,
            Spelling::Words => word,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spelled(Spelling::Symbols))
    }
}

impl FromStr for Op {
    type Err = UnknownOp;

    /// Reads both spellings; case matters.
    fn from_str(text: &str) -> Result<Self, UnknownOp> {
        Self::ALL
            .into_iter()
            .find(|op| {
                // Gateways of two versions may use one server, and a request may mix the spellings.
                [Spelling::Symbols, Spelling::Words]
                    .into_iter()
                    .any(|spelling| op.spelled(spelling) == text)
            })
            .ok_or_else(|| UnknownOp(text.to_owned()))
    }
}
