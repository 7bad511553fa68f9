//! What a record holds: its sources, and its series.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::json;
use steadfast_recorder::{NAME, OpenReport, Reader, Selector, SeriesInfo};

use super::written;
use crate::{
    output::{self, FAINT, styled},
    units::grouped,
};

/// The series, one a line.
pub(super) fn series(reader: &Reader, selector: &Selector, json: bool) -> anyhow::Result<()> {
    let mut all = reader.series(selector).context("list the series")?;
    all.sort_by(|a, b| {
        (&a.source, a.labels.name(), &a.labels).cmp(&(&b.source, b.labels.name(), &b.labels))
    });
    for one in &all {
        let line = if json {
            let labels: BTreeMap<_, _> = one.labels.iter().collect();
            json!({"source": *one.source, "labels": labels, "help": one.meta.help}).to_string()
        } else {
            format!("{} {}", one.source, findings(one))
        };
        output::line(&line)?;
    }
    Ok(())
}

/// Name and labels as people write them.
fn findings(series: &SeriesInfo) -> String {
    let labels: Vec<_> = series
        .labels
        .iter()
        .filter(|(name, _)| *name != NAME)
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    format!("{}{{{}}}", series.labels.name(), labels.join(","))
}

/// The sources with their numbers, and from when to when there is data.
pub(super) fn overview(
    reader: &Reader,
    opened: &OpenReport,
    selector: &Selector,
    json: bool,
) -> anyhow::Result<()> {
    let mut count: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for one in reader.series(selector).context("list the series")? {
        *count.entry(one.source).or_default() += 1;
    }
    let span = reader.span();
    if json {
        let sources: Vec<_> = count
            .iter()
            .map(|(source, series)| json!({"source": **source, "series": series}))
            .collect();
        let time = |time: Option<i64>| time.map(written);
        return output::line(
            &json!({
                "oldest": time(span.map(|span| span.0)),
                "newest": time(span.map(|span| span.1)),
                "sources": sources,
                "unfinished_bytes": opened.unfinished,
                "damaged_places": opened.damage.len(),
            })
            .to_string(),
        );
    }
    let Some((oldest, newest)) = span else {
        return output::line("The record is empty.");
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["source", "series"]);
    for (source, series) in &count {
        table.add_row([
            Cell::new(source),
            Cell::new(grouped(*series)).set_alignment(CellAlignment::Right),
        ]);
    }
    output::line(&table.trim_fmt())?;
    output::line("")?;
    output::line(&format!("oldest  {}", written(oldest)))?;
    output::line(&format!("newest  {}", written(newest)))?;
    if opened.unfinished > 0 {
        output::note(&styled(
            FAINT,
            &format!(
                "{} bytes at the end belong to a scrape that was not finished",
                opened.unfinished
            ),
        ));
    }
    Ok(())
}
