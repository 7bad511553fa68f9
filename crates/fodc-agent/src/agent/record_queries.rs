//! Queries of the record that several readers share.

use std::{ops::ControlFlow, sync::Arc};

use steadfast_fodc_model::matching::Matchers;
use steadfast_recorder::{LatestSeries, NAME, Reader, Selector, SeriesWindow};
use tracing::warn;

use super::source_views::{SourceView, SourceViews};

/// Returns the series of the newest scrape of each source. A source whose newest scrape was missed
/// has none.
pub(super) fn latest(reader: &Reader) -> Vec<LatestSeries> {
    let latest = reader.latest(&Selector::all());
    for damage in &latest.damage {
        warn!(%damage, "record is damaged");
    }
    latest.series
}

/// Visits every series that satisfies the matchers and has a sample from `from` to `to`, both
/// included, source by source. Damaged parts of the record are logged and skipped.
pub(super) fn window(
    reader: &Reader,
    source_views: &SourceViews,
    matchers: &Arc<Matchers>,
    (from, to): (i64, i64),
    mut visit: impl FnMut(&SourceView, SeriesWindow) -> ControlFlow<()>,
) {
    for source in reader.sources() {
        let view = source_views.get(&source);
        let mut selector = Selector::all().source(&source);
        // The record finds a name in its index, so only those series are decoded.
        if let Some(name) = matchers.only(NAME) {
            selector = selector.name(name);
        }
        let (matchers, labelled) = (Arc::clone(matchers), view.clone());
        let selector = selector.filter(move |labels| {
            // Matchers see what a Prometheus that scraped the endpoint would have stored.
            let labels = labelled.target_labels.merge(labels.iter());
            matchers.match_all(|name| {
                let found = labels.binary_search_by(|(label, _)| label.as_ref().cmp(name));
                found.map_or("", |index| labels[index].1)
            })
        });
        for series in reader.window(&selector, from..=to) {
            match series {
                Ok(series) => {
                    if visit(&view, series).is_break() {
                        return;
                    }
                }
                Err(damage) => warn!(%damage, "record is damaged"),
            }
        }
    }
}
