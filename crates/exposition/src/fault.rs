//! Faults of lines.

use std::fmt;

/// Declares [`Reason`] with the word of each, so that no list of them can miss one.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)+) => {
        /// The reason for rejecting a line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// All reasons, in the order of declaration.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$name),+];

            /// Returns a word in snake case, suitable as a label's value.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

reasons! {
    /// The line is longer than [`Limits::line_bytes`](crate::Limits::line_bytes).
    LineTooLong = "line_too_long",
    /// The line is not UTF-8.
    InvalidUtf8 = "invalid_utf8",
    /// The metric's name is missing.
    MissingName = "missing_name",
    /// The metric's name is not valid, or there are two.
    InvalidName = "invalid_name",
    /// The name of a metric or label exceeds [`Limits::name_bytes`](crate::Limits::name_bytes).
    NameTooLong = "name_too_long",
    /// The braces do not contain a list of labels.
    InvalidLabels = "invalid_labels",
    /// A label's name is not valid.
    InvalidLabelName = "invalid_label_name",
    /// Two labels have the same name, or one is named `__name__`, which stands for the metric's name.
    DuplicateLabel = "duplicate_label",
    /// A label's value exceeds
    /// [`Limits::label_value_bytes`](crate::Limits::label_value_bytes).
    LabelValueTooLong = "label_value_too_long",
    /// There are more labels than
    /// [`Limits::labels_per_series`](crate::Limits::labels_per_series).
    TooManyLabels = "too_many_labels",
    /// The value is missing.
    MissingValue = "missing_value",
    /// The value is not a number.
    InvalidValue = "invalid_value",
    /// The value is too large for a double.
    ValueOutOfRange = "value_out_of_range",
    /// The timestamp is not valid in the format or does not fit.
    InvalidTimestamp = "invalid_timestamp",
    /// Something follows the end of the sample.
    TrailingData = "trailing_data",
    /// The text after `#` on a sample's line is not an exemplar.
    InvalidExemplar = "invalid_exemplar",
    /// A `HELP`, `TYPE` or `UNIT` line is not valid.
    InvalidMetadata = "invalid_metadata",
    /// A `HELP`, `TYPE` or `UNIT` line contradicts an earlier one of the scrape.
    ConflictingMetadata = "conflicting_metadata",
    /// [`Limits::families`](crate::Limits::families) or
    /// [`Limits::metadata_bytes`](crate::Limits::metadata_bytes) is reached.
    TooMuchMetadata = "too_much_metadata",
    /// [`Limits::samples`](crate::Limits::samples) is reached. All such lines are counted, but only the
    /// first one is reported to the sink.
    TooManySamples = "too_many_samples",
    /// A blank line or a free comment, which `OpenMetrics` does not allow.
    NotInThisFormat = "not_in_this_format",
    /// The line follows `# EOF`.
    AfterEof = "after_eof",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A rejected line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, byte {column}: {reason}: {excerpt}")]
pub struct LineFault<'a> {
    /// The number of the line on its page, from 1.
    pub line: u64,
    /// The byte of the line, from 1, at which something else was expected.
    pub column: usize,
    /// The reason for rejecting it.
    pub reason: Reason,
    /// At most 80 characters of the line around that byte, made printable. They are an exporter's
    /// data and may be sensitive, so keep them out of logs.
    pub excerpt: &'a str,
}

/// Numbers of rejected lines by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejections([u64; Reason::ALL.len()]);

impl Rejections {
    /// Returns the number of lines rejected for this reason.
    #[must_use]
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// Returns the number of all rejected lines.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the reasons that occurred with their numbers, in the order of declaration.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL
            .into_iter()
            .map(|reason| (reason, self.of(reason)))
            .filter(|(_, count)| *count > 0)
    }

    pub(crate) fn count(&mut self, reason: Reason) {
        self.0[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_word() {
        let words: BTreeSet<_> = Reason::ALL.into_iter().map(Reason::word).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
