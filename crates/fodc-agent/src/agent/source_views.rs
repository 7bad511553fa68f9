//! The sources of the record as queries see them: with the labels of their endpoints.

use std::{borrow::Cow, collections::HashMap};

use steadfast_recorder::Labels;

use super::{status::StatusSnapshot, target_labels::TargetLabels};
use crate::scrape::{Endpoint, HEALTH_PREFIX};

/// The view of each source that the agent scrapes.
#[derive(Debug)]
pub(super) struct SourceViews(HashMap<String, SourceView>);

/// One source as queries see it.
#[derive(Clone, Debug)]
pub(super) struct SourceView {
    /// The index of its endpoint; `None` if only an earlier agent scraped it.
    pub(super) endpoint: Option<usize>,
    /// The source holds the health of the endpoint's scrapes, not its page.
    health: bool,
    pub(super) target_labels: TargetLabels,
    /// The container of the endpoint.
    pub(super) container: Option<String>,
    /// Its series look like those of other sources without its endpoint's labels.
    ambiguous: bool,
}

impl SourceView {
    /// Returns the labels of a series with those of its endpoint, sorted by name.
    pub(super) fn labels<'a>(&'a self, labels: &'a Labels) -> Vec<(Cow<'a, str>, &'a str)> {
        self.target_labels.merge(labels.iter())
    }

    /// Returns the labels of a series as they are exported where everything comes from this agent:
    /// with those of its endpoint only if they are needed to tell it from another series.
    pub(super) fn exported_labels<'a>(
        &'a self,
        labels: &'a Labels,
    ) -> Vec<(Cow<'a, str>, &'a str)> {
        if self.ambiguous {
            return self.labels(labels);
        }
        let labels = labels.iter();
        labels
            .map(|(name, value)| (Cow::Borrowed(name), value))
            .collect()
    }

    /// Returns true if the newest scrape in the record shows the current state of the source.
    ///
    /// Before the first scrape of this process it shows what an earlier one saw, and after a missed
    /// scrape nothing is current but its health. A page that could not be recorded is current.
    pub(super) fn is_current(&self, status: &StatusSnapshot) -> bool {
        let Some(endpoint) = self.endpoint else {
            return false;
        };
        let last = status.endpoints[endpoint].last.as_ref();
        last.is_some_and(|last| self.health || last.is_scraped)
    }
}

impl SourceViews {
    pub(super) fn new(endpoints: &[Endpoint]) -> Self {
        let mut views = HashMap::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            for (source, health) in [(endpoint.health_source(), true), (endpoint.source(), false)] {
                let view = SourceView {
                    endpoint: Some(index),
                    health,
                    target_labels: TargetLabels::new(endpoint.labels()),
                    container: endpoint.container().map(str::to_owned),
                    // A page may have an `up` of its own, which the labels tell from that of its
                    // health.
                    ambiguous: health || endpoints.len() > 1,
                };
                views.insert(source, view);
            }
        }
        Self(views)
    }

    /// Returns the view of a source. A source that is no longer scraped gets the default labels of
    /// its URL.
    pub(super) fn get(&self, source: &str) -> SourceView {
        if let Some(view) = self.0.get(source) {
            return view.clone();
        }
        let scraped = source.strip_prefix(HEALTH_PREFIX);
        let endpoint = Endpoint::new(scraped.unwrap_or(source));
        let labels = endpoint.map(|endpoint| endpoint.labels().clone());
        SourceView {
            // Only the URL is known: the settings under which it was scraped are gone.
            endpoint: None,
            health: scraped.is_some(),
            target_labels: TargetLabels::new(&labels.unwrap_or_default()),
            container: None,
            ambiguous: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_source_has_the_labels_of_its_url() {
        let source_views = SourceViews::new(&[Endpoint::local(1).label("job", "node")]);
        let labels = |source: &str| {
            let view = source_views.get(source);
            let labels = view.target_labels.merge([("__name__", "m")].into_iter());
            let labels: Vec<_> = labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
            (view.endpoint, view.health, labels.join(" "))
        };
        let (page, health) = (
            "http://localhost:1/metrics",
            "health:http://localhost:1/metrics",
        );
        let own = "__name__=m instance=localhost:1 job=node";
        assert_eq!(labels(page), (Some(0), false, own.to_owned()));
        assert_eq!(labels(health), (Some(0), true, own.to_owned()));
        let other = "__name__=m instance=localhost:2 job=steadfast";
        assert_eq!(
            labels("health:http://localhost:2/metrics"),
            (None, true, other.to_owned())
        );
        assert_eq!(labels("odd"), (None, false, "__name__=m".to_owned()));
    }
}
