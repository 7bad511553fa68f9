//! What a series is called and what is said about it.

use std::fmt;

use crate::bytes::{Input, Malformed, put_count};

/// The label that carries a metric's name.
pub const NAME: &str = "__name__";

/// Most bytes all names and values of one series may have together.
pub const LABELS_BYTES_MAX: usize = 64 << 10;

/// The labels of a series, its name included as `__name__`: sorted by label name, each name once.
///
/// Values are kept as they are given; an empty value is not the same as a missing label here, so
/// whoever means the same by both leaves the label out.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    key: Box<[u8]>,
}

/// Labels that belong to somebody else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LabelsRef<'a> {
    key: &'a [u8],
}

/// Why pairs are not the labels of a series.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelsError {
    /// A name stands there twice.
    #[error("label {0:?} is given twice")]
    Twice(String),
    /// Names and values together are longer than [`LABELS_BYTES_MAX`].
    #[error("the labels have {bytes} bytes, the limit is {LABELS_BYTES_MAX}")]
    TooLong {
        /// Bytes of all names and values.
        bytes: usize,
    },
}

impl Labels {
    /// Takes pairs in any order.
    pub fn new<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, LabelsError>
    where
        N: AsRef<str>,
        V: AsRef<str>,
    {
        let mut pairs: Vec<(N, V)> = pairs.into_iter().collect();
        if !pairs.is_sorted_by(|a, b| a.0.as_ref() < b.0.as_ref()) {
            pairs.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
            for pair in pairs.windows(2) {
                if pair[0].0.as_ref() == pair[1].0.as_ref() {
                    return Err(LabelsError::Twice(pair[0].0.as_ref().to_owned()));
                }
            }
        }
        let bytes = pairs
            .iter()
            .map(|(name, value)| name.as_ref().len() + value.as_ref().len())
            .sum();
        if bytes > LABELS_BYTES_MAX {
            return Err(LabelsError::TooLong { bytes });
        }
        let mut key = Vec::with_capacity(bytes + 4 * pairs.len());
        for (name, value) in &pairs {
            for text in [name.as_ref(), value.as_ref()] {
                put_count(&mut key, text.len());
                key.extend_from_slice(text.as_bytes());
            }
        }
        Ok(Self { key: key.into() })
    }

    /// The same labels, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> LabelsRef<'_> {
        LabelsRef { key: &self.key }
    }

    /// Every (name, value), sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.borrowed().iter()
    }

    /// The value of a label, if it is there.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.borrowed().value(name)
    }

    /// The metric's name; empty when the series has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.value(NAME).unwrap_or_default()
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }
}

impl<'a> LabelsRef<'a> {
    /// Labels as they were kept, once looked through: every text is UTF-8 and complete.
    pub(crate) fn checked(key: &'a [u8]) -> Result<Self, Malformed> {
        let mut input = Input::new(key);
        while !input.is_empty() {
            for _ in 0..2 {
                let length = input.count()?;
                str::from_utf8(input.take(length)?).map_err(|_| Malformed)?;
            }
        }
        Ok(Self { key })
    }

    /// Every (name, value), sorted by name.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut input = Input::new(self.key);
        std::iter::from_fn(move || {
            if input.is_empty() {
                return None;
            }
            let mut text = || {
                let length = input.count().ok()?;
                str::from_utf8(input.take(length).ok()?).ok()
            };
            Some((text()?, text()?))
        })
    }

    /// The value of a label, if it is there.
    #[must_use]
    pub fn value(self, name: &str) -> Option<&'a str> {
        self.iter()
            .find(|(candidate, _)| *candidate == name)
            .map(|(_, value)| value)
    }

    /// The metric's name; empty when the series has none.
    #[must_use]
    pub fn name(self) -> &'a str {
        self.value(NAME).unwrap_or_default()
    }

    /// The same labels, kept.
    #[must_use]
    pub fn to_owned(self) -> Labels {
        Labels {
            key: self.key.into(),
        }
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrowed().fmt(f)
    }
}

impl fmt::Debug for LabelsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// What kind of metric a series belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Nothing was said, or `untyped`.
    #[default]
    Unknown,
    /// Only grows, but for resets.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Part of a histogram: a bucket, the sum or the count.
    Histogram,
    /// Part of a summary: a quantile, the sum or the count.
    Summary,
    /// `OpenMetrics` info.
    Info,
    /// `OpenMetrics` stateset.
    StateSet,
    /// `OpenMetrics` gauge histogram.
    GaugeHistogram,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Counter,
        Self::Gauge,
        Self::Histogram,
        Self::Summary,
        Self::Info,
        Self::StateSet,
        Self::GaugeHistogram,
    ];

    pub(crate) fn to_byte(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_byte(byte: u8) -> Result<Self, Malformed> {
        Self::ALL.get(usize::from(byte)).copied().ok_or(Malformed)
    }
}

/// Most bytes of help that are kept; what is longer is cut at a character.
pub const HELP_BYTES_MAX: usize = 1 << 10;

/// What an exporter says about a metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Its kind.
    pub kind: Kind,
    /// Its help text, unescaped; empty when there is none. At most [`HELP_BYTES_MAX`] are kept.
    pub help: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_read_back() {
        let labels = Labels::new([("b", "2"), (NAME, "up"), ("A", "")]).unwrap();
        let pairs: Vec<_> = labels.iter().collect();
        assert_eq!(pairs, [("A", ""), (NAME, "up"), ("b", "2")]);
        assert_eq!(labels.name(), "up");
        assert_eq!(labels.value("c"), None);
        assert_eq!(LabelsRef::checked(labels.key()).unwrap().to_owned(), labels);
    }

    #[test]
    fn a_label_given_twice_or_too_long_is_refused() {
        let twice = Labels::new([("b", "1"), ("a", ""), ("b", "1")]);
        assert_eq!(twice, Err(LabelsError::Twice("b".to_owned())));
        let twice_in_order = Labels::new([("b", "1"), ("b", "1")]);
        assert_eq!(twice_in_order, Err(LabelsError::Twice("b".to_owned())));
        let long = Labels::new([("b", "x".repeat(LABELS_BYTES_MAX))]);
        assert_eq!(
            long,
            Err(LabelsError::TooLong {
                bytes: LABELS_BYTES_MAX + 1
            })
        );
    }

    #[test]
    fn bytes_that_are_not_labels_are_malformed() {
        for bytes in [&[1, b'a'][..], &[1, 0xff, 0], &[9], &[0]] {
            assert_eq!(LabelsRef::checked(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
