//! The page of metrics: the last scrape of each endpoint, and the agent's own metrics.

use steadfast_exposition::Kind;
use steadfast_net::Tls;
use steadfast_recorder::NAME;

use super::{exposition::Families, negotiation::Names, own, uplink};
use crate::agent::{app_state::AppState, record_queries, recording::Snapshot};

/// Builds the page.
///
/// It holds exactly the samples of each endpoint's last scrape, with the time of that scrape. If the
/// scrape was missed, it holds none of that endpoint. With several endpoints each series carries the
/// labels of its endpoint; with one it is as on the endpoint's page.
pub(super) fn page(state: &AppState, snapshot: &Snapshot, names: Names) -> String {
    let status = &snapshot.status;
    let mut families = Families::new(names);
    for series in record_queries::latest(&snapshot.reader) {
        let view = state.views.get(&series.source);
        if !view.is_current(status) {
            continue;
        }
        let meta = &series.meta;
        let metric = (series.labels.name(), meta.kind, meta.help.as_str());
        let labels = view.exported_labels(&series.labels);
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
        status,
        &state.labels,
        (&snapshot.stats, &snapshot.endpoint_stats),
    );
    own::add_refusals(&mut families, &state.refused, &state.rights);
    if let Some(uplink) = &state.uplink {
        uplink::add(&mut families, uplink);
    }
    for (name, help, value) in state.pressure.iter().flat_map(|counters| counters.all()) {
        families.add((name, Kind::Counter, help), [], value as f64, None);
    }
    for figure in state.tls.iter().flat_map(Tls::figures) {
        let name = format!("steadfast_agent_{}", figure.name);
        let kind = if figure.is_counter {
            Kind::Counter
        } else {
            Kind::Gauge
        };
        let labels = figure.reason.map(|reason| ("reason", reason));
        families.add((&name, kind, figure.help), labels, figure.value, None);
    }
    families.write()
}
