//! Labels and metadata of a series.

use std::fmt;

pub use steadfast_exposition::Kind;

use crate::bytes::{Input, Malformed, put_count};

/// The label that holds a metric's name.
pub const NAME: &str = "__name__";

/// The maximum total length of all names and values of one series.
pub const LABELS_BYTES_MAX: usize = 64 << 10;

/// The labels of a series, its name included as `__name__`: sorted by label name, each name once.
///
/// An empty value is stored and is not the same as a missing label. Callers to whom both mean the same
/// leave the label out, as Prometheus does.
///
/// ```
/// use steadfast_recorder::{Labels, NAME};
///
/// let labels = Labels::new([("zone", "east"), (NAME, "requests_total")])?;
/// assert_eq!((labels.name(), labels.value("zone")), ("requests_total", Some("east")));
/// # Ok::<(), steadfast_recorder::LabelsError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    key: Box<[u8]>,
}

/// Borrowed [`Labels`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LabelsRef<'a> {
    key: &'a [u8],
}

/// An error from [`Labels::new`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelsError {
    /// Two labels have the same name.
    #[error("label {0:?} occurs twice")]
    Duplicate(String),
    /// Names and values together are longer than [`LABELS_BYTES_MAX`].
    #[error("the labels have {bytes} bytes; the limit is {LABELS_BYTES_MAX}")]
    TooLong {
        /// The length of all names and values.
        bytes: usize,
    },
}

impl Labels {
    /// Creates labels from pairs in any order.
    ///
    /// # Errors
    ///
    /// If a name occurs twice, or names and values together exceed [`LABELS_BYTES_MAX`].
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
                    return Err(LabelsError::Duplicate(pair[0].0.as_ref().to_owned()));
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

    /// Borrows the labels.
    #[must_use]
    pub fn borrowed(&self) -> LabelsRef<'_> {
        LabelsRef { key: &self.key }
    }

    /// Iterates over the pairs of name and value, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.borrowed().iter()
    }

    /// Returns the value of a label.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.borrowed().value(name)
    }

    /// Returns the metric's name, empty if the series has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.value(NAME).unwrap_or_default()
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }
}

impl<'a> LabelsRef<'a> {
    /// Checks that stored bytes are complete pairs of UTF-8 texts.
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

    /// Iterates over the pairs of name and value, sorted by name.
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

    /// Returns the value of a label.
    #[must_use]
    pub fn value(self, name: &str) -> Option<&'a str> {
        self.iter()
            .find(|(candidate, _)| *candidate == name)
            .map(|(_, value)| value)
    }

    /// Returns the metric's name, empty if the series has none.
    #[must_use]
    pub fn name(self) -> &'a str {
        self.value(NAME).unwrap_or_default()
    }

    /// Copies the labels.
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

/// The byte of a kind in a catalog is its index here.
const KINDS: [Kind; 8] = [
    Kind::Unknown,
    Kind::Counter,
    Kind::Gauge,
    Kind::Histogram,
    Kind::Summary,
    Kind::Info,
    Kind::StateSet,
    Kind::GaugeHistogram,
];

pub(crate) fn kind_to_byte(kind: Kind) -> u8 {
    let index = KINDS.iter().position(|known| *known == kind);
    index.expect("every kind is listed") as u8
}

pub(crate) fn kind_from_byte(byte: u8) -> Result<Kind, Malformed> {
    KINDS.get(usize::from(byte)).copied().ok_or(Malformed)
}

/// The maximum length of a help text in bytes. Longer texts are cut between two characters.
pub const HELP_BYTES_MAX: usize = 1 << 10;

/// The metadata of a metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// The metric's type.
    pub kind: Kind,
    /// The help text, unescaped; empty if there is none. At most [`HELP_BYTES_MAX`] bytes are stored.
    pub help: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_round_trip() {
        let labels = Labels::new([("b", "2"), (NAME, "up"), ("A", "")]).unwrap();
        let pairs: Vec<_> = labels.iter().collect();
        assert_eq!(pairs, [("A", ""), (NAME, "up"), ("b", "2")]);
        assert_eq!(labels.name(), "up");
        assert_eq!(labels.value("c"), None);
        assert_eq!(LabelsRef::checked(labels.key()).unwrap().to_owned(), labels);
    }

    #[test]
    fn duplicate_and_too_long_labels_are_rejected() {
        let twice = Labels::new([("b", "1"), ("a", ""), ("b", "1")]);
        assert_eq!(twice, Err(LabelsError::Duplicate("b".to_owned())));
        let twice_in_order = Labels::new([("b", "1"), ("b", "1")]);
        assert_eq!(twice_in_order, Err(LabelsError::Duplicate("b".to_owned())));
        let long = Labels::new([("b", "x".repeat(LABELS_BYTES_MAX))]);
        assert_eq!(
            long,
            Err(LabelsError::TooLong {
                bytes: LABELS_BYTES_MAX + 1
            })
        );
    }

    #[test]
    fn invalid_label_bytes_are_malformed() {
        for bytes in [&[1, b'a'][..], &[1, 0xff, 0], &[9], &[0]] {
            assert_eq!(LabelsRef::checked(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
