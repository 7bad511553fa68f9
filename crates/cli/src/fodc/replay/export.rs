//! The samples of a window, as text or JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use serde_json::json;
use steadfast_exposition::{Numbers, Writer};
use steadfast_recorder::{NAME, Reader, Selector, SeriesInfo, SeriesWindow};

use super::timestamp;
use crate::output;

/// The label with the URL of the endpoint.
const SOURCE: &str = "source";

/// Prints the samples of the window, family by family. Damaged parts are skipped; the caller
/// reports them.
pub(super) fn window(
    reader: &Reader,
    selector: &Selector,
    range: RangeInclusive<i64>,
    json: bool,
) -> anyhow::Result<()> {
    let series = reader.series(selector);
    let mut families: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in &series {
        let family = families.entry(family(one)).or_default();
        family.insert(one.labels.name());
    }
    let mut out = Out::new(json);
    // A page must have the samples of a family together; the record has them by source.
    for (family, names) in families {
        for name in names {
            let of_name = selector.clone().name(name);
            for one in reader.window(&of_name, range.clone()).flatten() {
                out.series(family, &one)?;
            }
        }
    }
    out.end()
}

/// Returns the name that carries the type of the series on a page.
fn family(series: &SeriesInfo) -> &str {
    series.meta.kind.prometheus_family(series.labels.name())
}

/// The state of the output.
enum Out {
    Text(Writer),
    /// True after the first element.
    Json(bool),
}

impl Out {
    fn new(json: bool) -> Self {
        if json {
            Self::Json(false)
        } else {
            Self::Text(Writer::new(Numbers::Shortest))
        }
    }

    fn series(&mut self, family: &str, one: &SeriesWindow) -> anyhow::Result<()> {
        match self {
            Self::Text(page) => {
                let help = Some(one.meta.help.as_str()).filter(|help| !help.is_empty());
                page.family(family, one.meta.kind, help);
                for sample in &one.samples {
                    let labels = one.labels.iter().filter(|(name, _)| *name != NAME);
                    // As Prometheus renames a label that the target's own labels have, too.
                    let labels = labels.map(|(name, value)| match name {
                        SOURCE => ("exported_source", value),
                        name => (name, value),
                    });
                    let labels = [(SOURCE, &*one.source)].into_iter().chain(labels);
                    page.sample(
                        one.labels.name(),
                        labels,
                        sample.value,
                        Some(sample.time_ms),
                    );
                }
                output::text(&page.take())
            }
            Self::Json(some) => {
                let before = if *some { "," } else { "[" };
                *some = true;
                output::line(&format!("{before}{}", element(one)))
            }
        }
    }

    fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Text(_) => Ok(()),
            Self::Json(true) => output::line("]"),
            Self::Json(false) => output::line("[]"),
        }
    }
}

/// Returns a series in the form of the proxy's `/metrics-windows`.
fn element(one: &SeriesWindow) -> serde_json::Value {
    let labels: BTreeMap<_, _> = one
        .labels
        .iter()
        .filter(|(name, _)| *name != NAME)
        .collect();
    let data: Vec<_> = one
        .samples
        .iter()
        .map(
            |sample| json!({"timestamp": timestamp(sample.time_ms), "value": number(sample.value)}),
        )
        .collect();
    json!({
        "name": one.labels.name(),
        "labels": labels,
        "description": one.meta.help,
        "source": *one.source,
        "data": data,
        "absent": one.absences.iter().map(|time| timestamp(*time)).collect::<Vec<_>>(),
    })
}

/// Returns a text for NaN and infinities, which JSON has no numbers for.
fn number(value: f64) -> serde_json::Value {
    if value.is_nan() {
        json!("NaN")
    } else if value.is_infinite() {
        json!(if value > 0.0 { "+Inf" } else { "-Inf" })
    } else {
        json!(value)
    }
}
