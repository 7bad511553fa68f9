//! The record, as those parts of the agent see it that only read.

use std::{io, ops::ControlFlow, sync::Arc};

use steadfast_exposition::Kind;
use steadfast_recorder::{Kind as Recorded, LatestSeries, NAME, Reader, Selector, SeriesWindow};
use tracing::warn;

use super::views::{View, Views};
use steadfast_fodc_model::matching::Matchers;

/// The series of the newest reading of each source, and no others. A source of which the newest
/// reading was missed has none.
pub(super) fn latest(reader: &Reader) -> Vec<LatestSeries> {
    let latest = reader.latest(&Selector::all());
    for damage in &latest.damage {
        warn!(%damage, "the record is damaged");
    }
    latest.series
}

/// Shows every series that satisfies the matchers and has a sample from `from` to `to`, both
/// included, source by source. Damaged parts of the record are told in the log, and what they spare
/// is shown.
pub(super) fn window(
    reader: &Reader,
    views: &Views,
    matchers: &Arc<Matchers>,
    (from, to): (i64, i64),
    mut show: impl FnMut(&View, SeriesWindow) -> ControlFlow<()>,
) -> io::Result<()> {
    let sources = reader.sources().map_err(io::Error::other)?;
    for source in sources {
        let view = views.of(&source);
        let mut selector = Selector::all().source(&source);
        if let Some(name) = matchers.only(NAME) {
            selector = selector.name(name);
        }
        let (matchers, seen) = (Arc::clone(matchers), view.clone());
        let selector = selector.filter(move |labels| {
            let labels = seen.attached.all(labels.iter());
            matchers.match_all(|name| {
                let place = labels.binary_search_by(|(label, _)| label.as_ref().cmp(name));
                place.map_or("", |place| labels[place].1)
            })
        });
        for series in reader.window(&selector, from..=to) {
            match series {
                Ok(series) => {
                    if show(&view, series).is_break() {
                        return Ok(());
                    }
                }
                Err(damage) => warn!(%damage, "the record is damaged"),
            }
        }
    }
    Ok(())
}

/// What the text formats call a kind that the record keeps.
#[must_use]
pub fn page_kind(kind: Recorded) -> Kind {
    match kind {
        Recorded::Counter => Kind::Counter,
        Recorded::Gauge => Kind::Gauge,
        Recorded::Histogram => Kind::Histogram,
        Recorded::Summary => Kind::Summary,
        Recorded::Info => Kind::Info,
        Recorded::StateSet => Kind::StateSet,
        Recorded::GaugeHistogram => Kind::GaugeHistogram,
        // Also what a later version of the record may know.
        _ => Kind::Unknown,
    }
}
