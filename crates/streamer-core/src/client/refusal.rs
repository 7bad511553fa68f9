//! The refusals of a plain peer, which are known by their texts only.

/// The meaning of a plain peer's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalKind {
    /// Another stream, perhaps a dead one, holds the id.
    IdTaken,
    /// The peer does not know an operator, at least not in this spelling.
    UnknownOperator,
    /// The filters are wrong and stay wrong.
    Permanent,
    /// Any other refusal may pass.
    Temporary,
}

impl RefusalKind {
    /// Classifies a text of the Go server (docs/protocol.md, "Plain peers").
    pub(super) fn classify(error: &str) -> Self {
        // `contains`, because the server wraps these texts into others, as in PERMANENT.
        if error.contains("subscription ID already exists") {
            Self::IdTaken
        } else if error.contains("unsupported operator") {
            Self::UnknownOperator
        } else if PERMANENT.iter().any(|text| error.contains(text)) {
            Self::Permanent
        } else {
            Self::Temporary
        }
    }
}

const PERMANENT: [&str; 5] = [
    "failed to compile filters",
    "value is nil",
    "filter is nil",
    "unsupported proto value type",
    "CEL compile error",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_refusal_is_classified() {
        for (error, kind) in [
            ("subscription ID already exists", RefusalKind::IdTaken),
            (
                "failed to compile filters: unsupported operator: ==",
                RefusalKind::UnknownOperator,
            ),
            (
                "failed to compile filters: value is nil",
                RefusalKind::Permanent,
            ),
            (
                "failed to compile filters: CEL compile error: ERROR",
                RefusalKind::Permanent,
            ),
            ("too many subscriptions", RefusalKind::Temporary),
            ("", RefusalKind::Temporary),
        ] {
            assert_eq!(RefusalKind::classify(error), kind, "{error}");
        }
    }
}
