//! The chart of an incident: one row per scrape.

use std::time::Duration;

use comfy_table::presets;
use jiff::{Timestamp, tz::TimeZone};

use super::window::{Window, rates};
use crate::{
    chart,
    units::{grouped, readable},
};

/// The labels of the two endpoints in the record.
pub(super) const NODE: &str = "node";
pub(super) const PROMETHEUS: &str = "prometheus";

/// An event of the tour, with its time.
#[derive(Clone, Debug)]
pub(super) struct Incident {
    pub(super) at: Timestamp,
    pub(super) what: &'static str,
}

/// The scrapes of the node exporter.
#[derive(Debug)]
pub(super) struct Chart {
    rows: Vec<Row>,
}

/// A scrape of the node exporter, and the state of Prometheus at its time.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    at: Timestamp,
    /// Time since the scrape before, if it exceeds [`GAP`].
    silence: Option<Duration>,
    /// Share of all processors, 0 to 1.
    busy: Option<f64>,
    switches: Option<f64>,
    prometheus: Option<bool>,
}

/// Longest time between two scrapes, one per second, that is not a gap.
pub(super) const GAP: Duration = Duration::from_millis(1_600);
/// Width of a full bar.
const BAR: usize = 20;

impl Chart {
    pub(super) fn new(window: &Window) -> Self {
        let idle = window.sum(
            "node_cpu_seconds_total",
            &[("mode", "idle"), ("container_name", NODE)],
        );
        let switches =
            rates(&window.sum("node_context_switches_total", &[("container_name", NODE)]));
        let prometheus = window.sum("up", &[("container_name", PROMETHEUS)]);
        let idle_rates = rates(&idle);
        let mut before: Option<Timestamp> = None;
        let rows = idle.iter().map(|(at, sum)| {
            let before = before.replace(*at);
            let apart = before.and_then(|t| Duration::try_from(at.duration_since(t)).ok());
            // The two endpoints are scraped at different instants: the newest state up to this one
            // counts.
            let up = prometheus.range(..=*at).next_back();
            Row {
                at: *at,
                silence: apart.filter(|apart| *apart > GAP),
                busy: idle_rates
                    .get(at)
                    // An idle counter per processor, each of which grows by at most a second per
                    // second.
                    .map(|rate| (1.0 - rate / f64::from(sum.series)).clamp(0.0, 1.0)),
                switches: switches.get(at).copied(),
                prometheus: up.map(|(_, up)| up.value > 0.0),
            }
        });
        Self {
            rows: rows.collect(),
        }
    }

    /// Returns the effects of the incidents that the record shows.
    pub(super) fn findings(&self) -> Findings {
        let busy = self.rows.iter().filter_map(|row| row.busy);
        let down = self.rows.iter().filter(|row| row.prometheus == Some(false));
        Findings {
            rows: self.rows.len(),
            busiest: busy.fold(0.0, f64::max),
            prometheus_down: down.count(),
            longest_silence: self.rows.iter().filter_map(|row| row.silence).max(),
        }
    }

    /// Returns the rows, each with the incidents since the one before.
    pub(super) fn table(&self, incidents: &[Incident]) -> String {
        let header = [
            "time",
            "processors busy",
            "",
            "switches/s",
            "prometheus",
            "",
        ];
        let mut table = chart::table(presets::NOTHING, &header);
        let mut before: Option<Timestamp> = None;
        for row in &self.rows {
            if let Some(silence) = row.silence {
                let text = format!("{} without a scrape", readable(silence));
                table.add_row(["…", &text]);
            }
            let before = before.replace(row.at);
            let marks = incidents
                .iter()
                .filter(|incident| incident.at <= row.at && before.is_none_or(|t| t < incident.at))
                .map(|incident| incident.what);
            let marks: Vec<_> = marks.collect();
            let share = |busy: f64| format!("{:>3.0} %", busy * 100.0);
            let bar = row
                .busy
                .map(|busy| "█".repeat((busy * BAR as f64).round() as usize));
            let switches = row.switches.map(|rate| grouped(rate as u64));
            let up = row.prometheus.map(|up| if up { "up" } else { "DOWN" });
            chart::row(
                &mut table,
                [
                    (clock(row.at), false),
                    (row.busy.map(share).unwrap_or_default(), true),
                    (bar.unwrap_or_default(), false),
                    (switches.unwrap_or_default(), true),
                    (up.unwrap_or_default().to_owned(), false),
                    (marks.join("; "), false),
                ],
            );
        }
        table.trim_fmt()
    }
}

/// The effects of the incidents in the record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Findings {
    pub(super) rows: usize,
    pub(super) busiest: f64,
    pub(super) prometheus_down: usize,
    pub(super) longest_silence: Option<Duration>,
}

/// Returns the local time of day with tenths of a second.
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
    fn each_scrape_is_a_row_and_a_gap_is_marked() {
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
        let incidents = [Incident {
            at: Timestamp::from_second(11).unwrap() + Duration::from_millis(300),
            what: "trouble",
        }];
        let chart = Chart::new(&window);
        let rows = &chart.rows;
        let busy: Vec<_> = rows.iter().map(|row| row.busy).collect();
        assert_eq!(busy, [None, Some(0.0), Some(0.5), Some(0.0)]);
        let up: Vec<_> = rows.iter().filter_map(|row| row.prometheus).collect();
        assert_eq!(up, [true, true, false, true]);
        assert_eq!(rows[3].silence, Some(Duration::from_secs(3)));
        assert!(rows[1].silence.is_none());
        let shown = chart.findings();
        assert_eq!((shown.rows, shown.prometheus_down), (4, 1));
        assert!((shown.busiest - 0.5).abs() < 1e-9);
        let text = chart.table(&incidents);
        let marked: Vec<_> = text.lines().map(|line| line.contains("trouble")).collect();
        // The header, two rows, the row of the incident, the gap and the last row.
        assert_eq!(marked, [false, false, false, true, false, false], "{text}");
        assert!(text.contains("3.0 s without a scrape"), "{text}");
        assert!(text.contains("DOWN"), "{text}");
    }
}
