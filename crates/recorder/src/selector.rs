//! Selection of series.

use std::{fmt, sync::Arc};

use crate::labels::{LabelsRef, NAME};

/// A condition on labels that the caller decides.
type Filter = dyn Fn(LabelsRef<'_>) -> bool + Send + Sync;

/// A selection of series: those that meet all of its conditions.
///
/// As in Prometheus, a missing label has the empty value.
///
/// ```
/// use steadfast_recorder::Selector;
///
/// let slow = Selector::all()
///     .name("request_seconds")
///     .label("zone", "east")
///     .filter(|labels| labels.value("path").is_some_and(|path| path.starts_with("/api/")));
/// # drop(slow);
/// ```
#[derive(Clone, Default)]
pub struct Selector {
    source: Option<String>,
    labels: Vec<(String, String)>,
    filter: Option<Arc<Filter>>,
}

impl Selector {
    /// Selects every series.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Requires the metric's name.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.label(NAME, name)
    }

    /// Requires the source.
    #[must_use]
    pub fn source(mut self, name: &str) -> Self {
        self.source = Some(name.to_owned());
        self
    }

    /// Requires that the label has this value.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Requires that `filter` returns true, for regular expressions for example. It is called only if
    /// all other conditions hold.
    #[must_use]
    pub fn filter(
        mut self,
        filter: impl Fn(LabelsRef<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.filter = Some(match self.filter {
            // A second filter must narrow the selection, not replace the first.
            Some(first) => Arc::new(move |labels| first(labels) && filter(labels)),
            None => Arc::new(filter),
        });
        self
    }

    pub(crate) fn matches_source(&self, name: &str) -> bool {
        self.source.as_ref().is_none_or(|source| source == name)
    }

    pub(crate) fn matches(&self, labels: LabelsRef<'_>) -> bool {
        let mut wanted = self.labels.iter();
        wanted.all(|(name, value)| labels.value(name).unwrap_or_default() == value)
            && self.filter.as_ref().is_none_or(|filter| filter(labels))
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector")
            .field("source", &self.source)
            .field("labels", &self.labels)
            .field("filter", &self.filter.is_some())
            .finish()
    }
}
