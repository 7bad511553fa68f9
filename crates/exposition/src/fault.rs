//! What can be wrong with a line.

use std::fmt;

/// Why a line was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It is longer than [`Limits::line_bytes`](crate::Limits::line_bytes).
    LineTooLong,
    /// It is not UTF-8.
    InvalidUtf8,
    /// It names no metric.
    MissingName,
    /// A metric's name is not one, or stands there twice.
    InvalidName,
    /// A metric's or label's name is longer than the limit.
    NameTooLong,
    /// What stands in braces is not a list of labels.
    InvalidLabels,
    /// A label's name is not one.
    InvalidLabelName,
    /// Two labels have one name, or one has the name of the metric's name, `__name__`.
    DuplicateLabel,
    /// A label's value is longer than the limit.
    LabelValueTooLong,
    /// It has more labels than the limit.
    TooManyLabels,
    /// It has no value.
    MissingValue,
    /// Its value is not a number.
    InvalidValue,
    /// Its value is a number that no double comes near.
    ValueOutOfRange,
    /// Its timestamp is not one of its format, or none that fits.
    InvalidTimestamp,
    /// Something follows that does not belong there.
    TrailingData,
    /// What stands after `#` on a sample's line is not an exemplar.
    InvalidExemplar,
    /// A `HELP`, `TYPE` or `UNIT` line does not say what it should.
    InvalidMetadata,
    /// A `HELP`, `TYPE` or `UNIT` line contradicts an earlier one of the scrape.
    ConflictingMetadata,
    /// The limits of families or of their texts are reached.
    TooMuchMetadata,
    /// [`Limits::samples`](crate::Limits::samples) have been taken. Only the first such line is
    /// shown to the sink; all are counted.
    TooManySamples,
    /// A blank line or a comment of the writer's own, which `OpenMetrics` has not.
    NotInThisFormat,
    /// It stands after `# EOF`.
    AfterEof,
}

impl Reason {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 22] = [
        Self::LineTooLong,
        Self::InvalidUtf8,
        Self::MissingName,
        Self::InvalidName,
        Self::NameTooLong,
        Self::InvalidLabels,
        Self::InvalidLabelName,
        Self::DuplicateLabel,
        Self::LabelValueTooLong,
        Self::TooManyLabels,
        Self::MissingValue,
        Self::InvalidValue,
        Self::ValueOutOfRange,
        Self::InvalidTimestamp,
        Self::TrailingData,
        Self::InvalidExemplar,
        Self::InvalidMetadata,
        Self::ConflictingMetadata,
        Self::TooMuchMetadata,
        Self::TooManySamples,
        Self::NotInThisFormat,
        Self::AfterEof,
    ];

    /// A word for it, fit for the value of a label.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::LineTooLong => "line_too_long",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::MissingName => "missing_name",
            Self::InvalidName => "invalid_name",
            Self::NameTooLong => "name_too_long",
            Self::InvalidLabels => "invalid_labels",
            Self::InvalidLabelName => "invalid_label_name",
            Self::DuplicateLabel => "duplicate_label",
            Self::LabelValueTooLong => "label_value_too_long",
            Self::TooManyLabels => "too_many_labels",
            Self::MissingValue => "missing_value",
            Self::InvalidValue => "invalid_value",
            Self::ValueOutOfRange => "value_out_of_range",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::TrailingData => "trailing_data",
            Self::InvalidExemplar => "invalid_exemplar",
            Self::InvalidMetadata => "invalid_metadata",
            Self::ConflictingMetadata => "conflicting_metadata",
            Self::TooMuchMetadata => "too_much_metadata",
            Self::TooManySamples => "too_many_samples",
            Self::NotInThisFormat => "not_in_this_format",
            Self::AfterEof => "after_eof",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One line that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, byte {column}: {reason}: {excerpt}")]
pub struct LineFault<'a> {
    /// Which line of the page, from 1.
    pub line: u64,
    /// Which byte of the line, from 1: where what was expected was not found.
    pub column: usize,
    /// What is wrong.
    pub reason: Reason,
    /// At most 80 characters of the line from near that byte, made printable. It is what an
    /// exporter sent: show it to whoever asks, keep it out of logs.
    pub excerpt: &'a str,
}

/// How many lines were not taken, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejections([u64; Reason::ALL.len()]);

impl Rejections {
    /// Lines not taken for this reason.
    #[must_use]
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// Lines not taken.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred, and how often, in the order of declaration.
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
    fn every_reason_has_its_own_place_and_word() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
        let words: BTreeSet<_> = Reason::ALL.into_iter().map(Reason::word).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
