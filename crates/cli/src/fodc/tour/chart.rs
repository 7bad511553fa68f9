//! The seconds around the incident, one row for each scrape.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use jiff::{Timestamp, tz::TimeZone};

use super::window::{Window, rates};
use crate::units::{grouped, humane};

/// Names of the endpoints, as the agent labels what it records of them.
pub(super) const NODE: &str = "node";
pub(super) const PROMETHEUS: &str = "prometheus";

/// What happened and when.
#[derive(Clone, Debug)]
pub(super) struct Happening {
    pub(super) at: Timestamp,
    pub(super) what: &'static str,
}

/// One row: a scrape of the node exporter, and what holds then.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    at: Timestamp,
    /// Time since the scrape before, where that is more than a scrape is apart.
    silence: Option<Duration>,
    /// Share of all processors, 0 to 1.
    busy: Option<f64>,
    switches: Option<f64>,
    prometheus: Option<bool>,
    marks: Vec<&'static str>,
}

/// Longest time between scrapes of each second that is no gap.
const GAP: Duration = Duration::from_millis(1_600);
/// Width of a full bar.
const BAR: usize = 20;

fn rows(window: &Window, happenings: &[Happening]) -> Vec<Row> {
    let idle = window.sum(
        "node_cpu_seconds_total",
        &[("mode", "idle"), ("container_name", NODE)],
    );
    let switches = rates(&window.sum("node_context_switches_total", &[("container_name", NODE)]));
    let prometheus = window.sum("up", &[("container_name", PROMETHEUS)]);
    let idle_rates = rates(&idle);
    let mut before: Option<Timestamp> = None;
    let mut rows = Vec::new();
    for (at, sum) in &idle {
        let marks = happenings
            .iter()
            .filter(|happening| happening.at <= *at && before.is_none_or(|t| t < happening.at))
            .map(|happening| happening.what);
        let apart = before.and_then(|t| Duration::try_from(at.duration_since(t)).ok());
        let up = prometheus.range(..=*at).next_back();
        rows.push(Row {
            at: *at,
            silence: apart.filter(|apart| *apart > GAP),
            busy: idle_rates
                .get(at)
                .map(|rate| (1.0 - rate / f64::from(sum.series)).clamp(0.0, 1.0)),
            switches: switches.get(at).copied(),
            prometheus: up.map(|(_, up)| up.value > 0.0),
            marks: marks.collect(),
        });
        before = Some(*at);
    }
    rows
}

/// Whether the seconds show what was done: busy processors, and that Prometheus was down.
pub(super) fn shows(window: &Window, happenings: &[Happening]) -> Shown {
    let rows = rows(window, happenings);
    let busiest = rows.iter().filter_map(|row| row.busy).fold(0.0, f64::max);
    let down = rows.iter().filter(|row| row.prometheus == Some(false));
    let silence = rows.iter().filter_map(|row| row.silence).max();
    Shown {
        rows: rows.len(),
        busiest,
        prometheus_down: down.count(),
        longest_silence: silence,
    }
}

/// The incident as the record has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) rows: usize,
    pub(super) busiest: f64,
    pub(super) prometheus_down: usize,
    pub(super) longest_silence: Option<Duration>,
}

pub(super) fn table(window: &Window, happenings: &[Happening]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "time",
        "processors busy",
        "",
        "switches/s",
        "prometheus",
        "",
    ]);
    for row in rows(window, happenings) {
        if let Some(silence) = row.silence {
            let text = format!("{} without a scrape", humane(silence));
            table.add_row(["…", &text]);
        }
        let share = |busy: f64| format!("{:>3.0} %", busy * 100.0);
        let bar = row
            .busy
            .map(|busy| "█".repeat((busy * BAR as f64).round() as usize));
        let up = row.prometheus.map(|up| if up { "up" } else { "DOWN" });
        table.add_row([
            Cell::new(clock(row.at)),
            Cell::new(row.busy.map(share).unwrap_or_default()).set_alignment(CellAlignment::Right),
            Cell::new(bar.unwrap_or_default()),
            Cell::new(
                row.switches
                    .map(|rate| grouped(rate as u64))
                    .unwrap_or_default(),
            )
            .set_alignment(CellAlignment::Right),
            Cell::new(up.unwrap_or_default()),
            Cell::new(row.marks.join("; ")),
        ]);
    }
    table.trim_fmt()
}

/// Time of day with tenths, where the machine is.
fn clock(at: Timestamp) -> String {
    let local = at.to_zoned(TimeZone::system());
    local.strftime("%H:%M:%S%.1f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode, container, and times in seconds with values.
    type Written<'a> = (&'a str, &'a str, &'a str, &'a [(i64, f64)]);

    fn window(series: &[Written<'_>]) -> Window {
        let series: Vec<_> = series
            .iter()
            .map(|(name, mode, container, data)| {
                let data: Vec<_> = data
                    .iter()
                    .map(|(at, value)| {
                        let at = Timestamp::from_second(*at).unwrap().to_string();
                        serde_json::json!({"timestamp": at, "value": value})
                    })
                    .collect();
                let labels = serde_json::json!({"mode": mode, "container_name": container});
                serde_json::json!({"name": name, "labels": labels, "data": data})
            })
            .collect();
        Window::from_json(serde_json::to_string(&series).unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn each_scrape_is_a_row_and_a_gap_is_told() {
        let cpu = "node_cpu_seconds_total";
        let window = window(&[
            (
                cpu,
                "idle",
                NODE,
                &[(10, 5.0), (11, 6.0), (12, 6.5), (15, 9.5)],
            ),
            (cpu, "idle", "other", &[(10, 5.0), (11, 5.0)]),
            ("up", "", PROMETHEUS, &[(10, 1.0), (12, 0.0), (15, 1.0)]),
        ]);
        let happenings = [Happening {
            at: Timestamp::from_second(11).unwrap() + Duration::from_millis(300),
            what: "trouble",
        }];
        let rows = rows(&window, &happenings);
        let busy: Vec<_> = rows.iter().map(|row| row.busy).collect();
        assert_eq!(busy, [None, Some(0.0), Some(0.5), Some(0.0)]);
        let up: Vec<_> = rows.iter().filter_map(|row| row.prometheus).collect();
        assert_eq!(up, [true, true, false, true]);
        assert_eq!(rows[2].marks, ["trouble"]);
        assert_eq!(rows[3].silence, Some(Duration::from_secs(3)));
        assert!(rows[1].silence.is_none() && rows[1].marks.is_empty());
        let shown = shows(&window, &happenings);
        assert_eq!((shown.rows, shown.prometheus_down), (4, 1));
        assert!((shown.busiest - 0.5).abs() < 1e-9);
        let text = table(&window, &happenings);
        assert!(text.contains("3.0 s without a scrape"), "{text}");
        assert!(text.contains("DOWN") && text.contains("trouble"), "{text}");
    }
}
