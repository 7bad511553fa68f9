//! The sources and the series of a record.

use std::{collections::BTreeMap, sync::Arc};

use comfy_table::presets;
use serde_json::json;
use steadfast_recorder::{Damage, NAME, OpenReport, Reader, Selector, SeriesInfo};

use super::timestamp;
use crate::{
    chart,
    output::{self, FAINT, styled},
    units::grouped,
};

/// Prints the series, one per line.
pub(super) fn series(reader: &Reader, selector: &Selector, json: bool) -> anyhow::Result<()> {
    let mut all = reader.series(selector);
    // They come in the order of their definitions.
    all.sort_by(|a, b| {
        (&a.source, a.labels.name(), &a.labels).cmp(&(&b.source, b.labels.name(), &b.labels))
    });
    for one in &all {
        let line = if json {
            let labels: BTreeMap<_, _> = one.labels.iter().collect();
            json!({"source": *one.source, "labels": labels, "help": one.meta.help}).to_string()
        } else {
            format!("{} {}", one.source, text_of(one))
        };
        output::line(&line)?;
    }
    Ok(())
}

/// Returns name and labels in the notation of a query.
fn text_of(series: &SeriesInfo) -> String {
    let labels: Vec<_> = series
        .labels
        .iter()
        .filter(|(name, _)| *name != NAME)
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    format!("{}{{{}}}", series.labels.name(), labels.join(","))
}

/// Prints the sources with their numbers of series, and the time span.
pub(super) fn overview(
    reader: &Reader,
    opened: &OpenReport,
    damage: &[Damage],
    (selector, json): (&Selector, bool),
) -> anyhow::Result<()> {
    let mut count: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for one in reader.series(selector) {
        *count.entry(one.source).or_default() += 1;
    }
    let span = reader.span();
    if json {
        let sources: Vec<_> = count
            .iter()
            .map(|(source, series)| json!({"source": **source, "series": series}))
            .collect();
        let time = |time: Option<i64>| time.map(timestamp);
        return output::line(
            &json!({
                "oldest": time(span.map(|span| span.0)),
                "newest": time(span.map(|span| span.1)),
                "sources": sources,
                "unfinished_bytes": opened.unfinished,
                "damage": damage.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
            .to_string(),
        );
    }
    let Some((oldest, newest)) = span else {
        return output::line("The record is empty.");
    };
    let mut table = chart::table(presets::NOTHING, &["source", "series"]);
    for (source, series) in &count {
        chart::row(
            &mut table,
            [(source.to_string(), false), (grouped(*series), true)],
        );
    }
    output::line(&table.trim_fmt())?;
    output::line("")?;
    output::line(&format!("oldest  {}", timestamp(oldest)))?;
    output::line(&format!("newest  {}", timestamp(newest)))?;
    if opened.unfinished > 0 {
        output::note(&styled(
            FAINT,
            &format!(
                "{} bytes at the end belong to an unfinished scrape",
                opened.unfinished
            ),
        ));
    }
    Ok(())
}
