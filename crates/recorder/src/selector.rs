//! Which series are asked for.

use std::{fmt, sync::Arc};

use crate::labels::{LabelsRef, NAME};

/// What the caller decides about labels.
type Filter = dyn Fn(LabelsRef<'_>) -> bool + Send + Sync;

/// Which series are asked for: all of its conditions have to hold.
///
/// As in Prometheus, a label that is not there has the empty value.
#[derive(Clone, Default)]
pub struct Selector {
    source: Option<String>,
    matchers: Vec<(String, String, bool)>,
    filter: Option<Arc<Filter>>,
}

impl Selector {
    /// Every series.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Series of this metric.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.label(NAME, name)
    }

    /// Series of this source.
    #[must_use]
    pub fn source(mut self, name: &str) -> Self {
        self.source = Some(name.to_owned());
        self
    }

    /// Series whose label has this value.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.matchers
            .push((name.to_owned(), value.to_owned(), true));
        self
    }

    /// Series whose label has any other value.
    #[must_use]
    pub fn label_not(mut self, name: &str, value: &str) -> Self {
        self.matchers
            .push((name.to_owned(), value.to_owned(), false));
        self
    }

    /// Series of which the caller says so; regular expressions, for one. Asked after everything else.
    #[must_use]
    pub fn filter(
        mut self,
        filter: impl Fn(LabelsRef<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.filter = Some(match self.filter {
            Some(first) => Arc::new(move |labels| first(labels) && filter(labels)),
            None => Arc::new(filter),
        });
        self
    }

    pub(crate) fn takes_source(&self, name: &str) -> bool {
        self.source.as_ref().is_none_or(|source| source == name)
    }

    pub(crate) fn takes(&self, labels: LabelsRef<'_>) -> bool {
        let matches = |(name, value, equal): &(String, String, bool)| {
            (labels.value(name).unwrap_or_default() == value) == *equal
        };
        self.matchers.iter().all(matches)
            && self.filter.as_ref().is_none_or(|filter| filter(labels))
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector")
            .field("source", &self.source)
            .field("matchers", &self.matchers)
            .field("filter", &self.filter.is_some())
            .finish()
    }
}
