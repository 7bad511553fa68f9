//! The page of metrics: what each endpoint showed when it was last read, and the agent's own.

use steadfast_recorder::NAME;

use super::{Face, exposition::Families, own};
use crate::agent::{record, recording::Snapshot};

/// Builds the page.
///
/// Of each endpoint that is scraped, exactly what its last reading showed, at the time of that
/// reading: what was not there then, or could not be read then, is not on the page. With several
/// endpoints each series carries its endpoint's labels; with one it looks as it did there.
pub(super) fn page(face: &Face, snapshot: &Snapshot) -> String {
    let state = &snapshot.state;
    let mut families = Families::new();
    for series in record::latest(&snapshot.reader) {
        let view = face.views.of(&series.source);
        if !state.shows(&view) {
            continue;
        }
        let kind = record::page_kind(series.meta.kind);
        let metric = (series.labels.name(), kind, series.meta.help.as_str());
        let labels = view.told(&series.labels);
        let labels = labels.iter().map(|(name, value)| (name.as_ref(), *value));
        let labels = labels.filter(|(name, _)| *name != NAME);
        families.add(
            metric,
            labels,
            series.sample.value,
            Some(series.sample.time_ms),
        );
    }
    own::add(
        &mut families,
        state,
        &face.labels,
        (&snapshot.stats, &snapshot.shares),
    );
    families.write()
}
