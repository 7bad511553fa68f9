//! The result of a demo, as a table and as JSON.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::presets;
use serde_json::{Value, json};
use steadfast_chaos::judge::Verdict;

use crate::{
    chart,
    load::{fault::Kind, outages::Percentiles},
    output::{BAD, GOOD, styled},
    units::{grouped, readable},
};

/// The injections of one kind of fault, and those with bytes in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Injected {
    pub(crate) count: u64,
    pub(crate) in_flight: u64,
    /// Recovery times of the sessions it cut.
    pub(crate) recovery: Option<Percentiles>,
}

/// The outcome of a demo.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    /// Acknowledged entries.
    pub(crate) published: u64,
    /// Entries without a response; they may have been delivered or not.
    pub(crate) unacknowledged: u64,
    /// Gaps and resyncs of all subscriptions.
    pub(crate) gaps: u64,
    pub(crate) subscriptions: usize,
    /// Sessions lost, of subscribers and publishers.
    pub(crate) cuts: u64,
    pub(crate) recovery: Percentiles,
    pub(crate) faults: BTreeMap<Kind, Injected>,
    /// The reason, if the demo proves nothing.
    pub(crate) inconclusive: Option<String>,
}

impl Report {
    /// Returns true if every delivery was right and every entry acknowledged.
    pub(crate) fn passed(&self) -> bool {
        self.verdict.is_clean()
            && self.gaps == 0
            && self.unacknowledged == 0
            && self.inconclusive.is_none()
    }

    /// Notes that the demo proves nothing if nothing was delivered, or if a kind of fault was never
    /// injected while data was in flight.
    pub(crate) fn check_conclusive(&mut self) {
        if self.verdict.delivered == 0 {
            self.inconclusive = Some("nothing was delivered".to_owned());
        }
        // A fault that met no data in flight could lose nothing, so that it proves nothing.
        let idle = self
            .faults
            .iter()
            .find(|(_, injected)| injected.in_flight == 0);
        if let Some((kind, _)) = idle {
            self.inconclusive = Some(format!(
                "no {} was injected while data was in flight",
                kind.as_str()
            ));
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let millis = |Percentiles { p50, p99, max }| {
            let millis = |duration: Duration| duration.as_millis() as u64;
            json!({ "p50": millis(p50), "p99": millis(p99), "max": millis(max) })
        };
        let by_fault = self
            .faults
            .iter()
            .filter_map(|(kind, injected)| Some((kind.as_str(), millis(injected.recovery?))));
        let by_fault: BTreeMap<&str, Value> = by_fault.collect();
        let faults = |of: fn(&Injected) -> u64| -> BTreeMap<&str, u64> {
            self.faults
                .iter()
                .map(|(kind, injected)| (kind.as_str(), of(injected)))
                .collect()
        };
        json!({
            "published": self.published,
            "delivered": self.verdict.delivered,
            "lost": self.verdict.lost,
            "duplicated": self.verdict.duplicated,
            "reordered": self.verdict.reordered,
            "unexpected": self.verdict.unexpected,
            "altered": self.verdict.altered,
            "unacknowledged": self.unacknowledged,
            "gaps": self.gaps,
            "subscriptions": self.subscriptions,
            "cuts": self.cuts,
            "recovery_ms": millis(self.recovery),
            "recovery_by_fault_ms": by_fault,
            "faults": faults(|injected| injected.count),
            "faults_in_flight": faults(|injected| injected.in_flight),
            "passed": self.passed(),
        })
    }

    pub(crate) fn to_table(&self) -> String {
        let mut table = chart::table(presets::UTF8_BORDERS_ONLY, &[]);
        let mut row = |name: &str, value: String, meaning: &str| {
            let cells = [
                (name.to_owned(), false),
                (value, true),
                (meaning.to_owned(), false),
            ];
            chart::row(&mut table, cells);
        };
        let Verdict {
            delivered,
            lost,
            // An explained loss comes with a gap, which has a row of its own.
            explained: _,
            duplicated,
            reordered,
            unexpected,
            altered,
        } = self.verdict;
        row(
            "published",
            grouped(self.published),
            "acknowledged as durable",
        );
        let over = format!("over {} subscriptions", self.subscriptions);
        row("delivered", grouped(delivered), &over);
        row(
            "lost",
            grouped(lost),
            "acknowledged, matching, never delivered",
        );
        row(
            "duplicated",
            grouped(duplicated),
            "delivered again to the same subscription",
        );
        row(
            "reordered",
            grouped(reordered),
            "after a later entry of the same publisher",
        );
        row(
            "unexpected",
            grouped(unexpected),
            "never published, or excluded by the filter",
        );
        row(
            "altered",
            grouped(altered),
            "another payload than was published",
        );
        row("gaps", grouped(self.gaps), "reported by a subscription");
        row(
            "unacknowledged",
            grouped(self.unacknowledged),
            "without a response of the server",
        );
        row(
            "cuts",
            grouped(self.cuts),
            "sessions lost, of subscribers and publishers",
        );
        let Percentiles { p50, p99, max } = self.recovery;
        let what = "from the fault to the session connected, all restored";
        row("recovery, median", readable(p50), what);
        row("recovery, 99 %", readable(p99), "");
        row("recovery, longest", readable(max), "");
        for (kind, injected) in &self.faults {
            let in_flight = injected.in_flight;
            let recovery = injected
                .recovery
                .map_or("nothing was cut".to_owned(), |percentiles| {
                    format!(
                        "recovery {}, longest {}",
                        readable(percentiles.p50),
                        readable(percentiles.max)
                    )
                });
            let meaning = format!("{in_flight} with data in flight; {recovery}");
            row(
                &format!("fault {}", kind.as_str()),
                grouped(injected.count),
                &meaning,
            );
        }
        table.to_string()
    }

    /// Returns the result in one line.
    pub(crate) fn conclusion(&self) -> String {
        if let Some(reason) = &self.inconclusive {
            return format!("{} {reason}", styled(BAD, "The demo proves nothing:"));
        }
        if self.passed() {
            styled(
                GOOD,
                "Nothing lost, nothing duplicated, nothing out of order.",
            )
        } else {
            styled(
                BAD,
                "Something was lost, duplicated, altered or out of order: see the table.",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let verdict = Verdict {
            delivered: 30,
            ..Verdict::default()
        };
        let faults = [(
            Kind::Reset,
            Injected {
                count: 2,
                in_flight: 1,
                recovery: None,
            },
        )]
        .into();
        Report {
            verdict,
            published: 10,
            faults,
            ..Report::default()
        }
    }

    #[test]
    fn a_clean_report_passes_and_each_fault_in_it_fails_it() {
        assert!(report().passed());
        let spoils: [fn(&mut Report); 7] = [
            |report| report.verdict.lost = 1,
            |report| report.verdict.duplicated = 1,
            |report| report.verdict.reordered = 1,
            |report| report.verdict.unexpected = 1,
            |report| report.verdict.altered = 1,
            |report| report.gaps = 1,
            |report| report.unacknowledged = 1,
        ];
        for spoil in spoils {
            let mut report = report();
            spoil(&mut report);
            assert!(!report.passed(), "{report:?}");
        }
    }

    #[test]
    fn a_demo_without_deliveries_or_data_in_flight_is_inconclusive() {
        let mut idle = report();
        idle.faults.insert(
            Kind::Kill,
            Injected {
                count: 3,
                ..Injected::default()
            },
        );
        idle.check_conclusive();
        assert!(!idle.passed() && idle.conclusion().contains("kill_9"));
        let mut silent = report();
        silent.verdict.delivered = 0;
        silent.check_conclusive();
        assert!(!silent.passed());
    }

    #[test]
    fn the_json_has_whole_numbers_under_the_promised_names() {
        let json = report().to_json();
        for name in [
            "published",
            "delivered",
            "lost",
            "duplicated",
            "reordered",
            "cuts",
        ] {
            assert!(json[name].is_u64(), "{name}");
        }
        for name in ["p50", "p99", "max"] {
            assert!(json["recovery_ms"][name].is_u64(), "{name}");
        }
        assert_eq!(json["faults"], json!({ "reset": 2 }));
    }
}
