//! The sources of the record as queries see them: with the labels of their endpoints.

use std::{borrow::Cow, collections::HashMap};

use steadfast_recorder::Labels;

use super::{attach::Attached, recording::health_source};
use crate::scrape::Endpoint;

/// What to put on the series of which source.
#[derive(Debug)]
pub(super) struct Views {
    of: HashMap<String, View>,
    health_prefix: String,
}

/// One source.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The endpoint it is about; none if the record is of an agent that scraped others.
    pub(super) endpoint: Option<usize>,
    /// Whether it is what the agent says about the endpoint, and not what the endpoint says.
    pub(super) health: bool,
    pub(super) attached: Attached,
    /// The container that the endpoint belongs to.
    pub(super) container: Option<String>,
    /// Its series look like those of other sources without its endpoint's labels.
    needs_labels: bool,
}

impl View {
    /// The labels of a series with those of its endpoint, in the order of their names.
    pub(super) fn all<'a>(&'a self, labels: &'a Labels) -> Vec<(Cow<'a, str>, &'a str)> {
        self.attached.all(labels.iter())
    }

    /// The labels of a series as they are told where everything comes from one agent: with those of
    /// its endpoint only if another endpoint could have the same series.
    pub(super) fn told<'a>(&'a self, labels: &'a Labels) -> Vec<(Cow<'a, str>, &'a str)> {
        if self.needs_labels {
            return self.all(labels);
        }
        let labels = labels.iter();
        labels
            .map(|(name, value)| (Cow::Borrowed(name), value))
            .collect()
    }
}

impl Views {
    pub(super) fn new(endpoints: &[Endpoint]) -> Self {
        let mut of = HashMap::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let url = endpoint.source();
            for (source, health) in [(health_source(&url), true), (url, false)] {
                let view = View {
                    endpoint: Some(index),
                    health,
                    attached: Attached::new(endpoint.labels()),
                    container: endpoint.container().map(str::to_owned),
                    needs_labels: health || endpoints.len() > 1,
                };
                of.insert(source, view);
            }
        }
        Self {
            of,
            health_prefix: health_source(""),
        }
    }

    /// The view of a source. One that is not scraped any more has the labels it would have by
    /// default.
    pub(super) fn of(&self, source: &str) -> View {
        if let Some(view) = self.of.get(source) {
            return view.clone();
        }
        let about = source.strip_prefix(&self.health_prefix);
        let endpoint = Endpoint::new(about.unwrap_or(source));
        let labels = endpoint.map(|endpoint| endpoint.labels().clone());
        View {
            endpoint: None,
            health: about.is_some(),
            attached: Attached::new(&labels.unwrap_or_default()),
            container: None,
            needs_labels: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_of_an_earlier_agent_has_the_labels_of_its_url() {
        let views = Views::new(&[Endpoint::local(1).label("job", "node")]);
        let labels = |source: &str| {
            let view = views.of(source);
            let labels = view.attached.all([("__name__", "m")].into_iter());
            let labels: Vec<_> = labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
            (view.endpoint, view.health, labels.join(" "))
        };
        assert_eq!(
            labels("http://localhost:1/metrics"),
            (
                Some(0),
                false,
                "__name__=m instance=localhost:1 job=node".to_owned()
            )
        );
        assert_eq!(
            labels("health:http://localhost:1/metrics"),
            (
                Some(0),
                true,
                "__name__=m instance=localhost:1 job=node".to_owned()
            )
        );
        assert_eq!(
            labels("health:http://localhost:2/metrics"),
            (
                None,
                true,
                "__name__=m instance=localhost:2 job=steadfast".to_owned()
            )
        );
        assert_eq!(labels("odd"), (None, false, "__name__=m".to_owned()));
    }
}
