//! What the demo found, as a table and as JSON.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::{judge::Verdict, plan::Kind, recovery::Spread};
use crate::{
    output::{BAD, GOOD, styled},
    units::{grouped, humane},
};

/// How often a kind of fault was injected, and how often bytes were on their way when it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Injected {
    pub(crate) count: u64,
    pub(crate) in_flight: u64,
    /// Of the sessions it cut.
    pub(crate) recovery: Option<Spread>,
}

/// The outcome of a demo.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    /// Entries the server never answered for; they may have come or not.
    pub(crate) unacknowledged: u64,
    /// Gaps and resyncs the subscriptions told of. Here the server keeps everything, so there
    /// should be none.
    pub(crate) gaps: u64,
    pub(crate) subscriptions: usize,
    /// Sessions lost, of subscribers and publishers.
    pub(crate) cuts: u64,
    pub(crate) recovery: Spread,
    pub(crate) faults: BTreeMap<Kind, Injected>,
    /// Why the demo proves nothing, where it does not.
    pub(crate) void: Option<String>,
}

impl Report {
    /// Whether nothing was lost, doubled, reordered, changed or uncertain.
    pub(crate) fn passed(&self) -> bool {
        self.verdict.is_clean() && self.gaps == 0 && self.unacknowledged == 0 && self.void.is_none()
    }

    /// Notes what takes the demo its meaning: nothing published, or a kind of fault that never met
    /// data on its way.
    pub(crate) fn look_for_voids(&mut self) {
        if self.verdict.delivered == 0 {
            self.void = Some("nothing was delivered".to_owned());
        }
        let idle = self
            .faults
            .iter()
            .find(|(_, injected)| injected.in_flight == 0);
        if let Some((kind, _)) = idle {
            self.void = Some(format!("no {} met data on its way", kind.as_str()));
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let millis = |Spread { p50, p99, max }| {
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
            "published": self.verdict.published,
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
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        let mut row = |name: &str, value: String, meaning: &str| {
            let value = Cell::new(value).set_alignment(CellAlignment::Right);
            table.add_row(vec![Cell::new(name), value, Cell::new(meaning)]);
        };
        let Verdict {
            published,
            delivered,
            lost,
            duplicated,
            reordered,
            unexpected,
            altered,
        } = self.verdict;
        row("published", grouped(published), "acknowledged as durable");
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
        row("gaps", grouped(self.gaps), "told by a subscription");
        row(
            "unacknowledged",
            grouped(self.unacknowledged),
            "never answered by the server",
        );
        row(
            "cuts",
            grouped(self.cuts),
            "sessions lost, of subscribers and publishers",
        );
        let Spread { p50, p99, max } = self.recovery;
        let what = "from the fault to the session connected, all restored";
        row("recovery, median", humane(p50), what);
        row("recovery, 99 %", humane(p99), "");
        row("recovery, longest", humane(max), "");
        for (kind, injected) in &self.faults {
            let in_flight = injected.in_flight;
            let recovery = injected
                .recovery
                .map_or("nothing was cut".to_owned(), |spread| {
                    format!(
                        "recovery {}, longest {}",
                        humane(spread.p50),
                        humane(spread.max)
                    )
                });
            let meaning = format!("{in_flight} with data on its way; {recovery}");
            row(
                &format!("fault {}", kind.as_str()),
                grouped(injected.count),
                &meaning,
            );
        }
        table.to_string()
    }

    /// One line, for people.
    pub(crate) fn conclusion(&self) -> String {
        if let Some(void) = &self.void {
            return format!("{} {void}", styled(BAD, "The demo shows nothing:"));
        }
        if self.passed() {
            styled(GOOD, "Nothing lost, nothing doubled, nothing out of order.")
        } else {
            styled(
                BAD,
                "Something was lost, doubled, changed or out of order: see the table.",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let verdict = Verdict {
            published: 10,
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
    fn a_demo_without_deliveries_or_without_data_in_flight_is_void() {
        let mut idle = report();
        idle.faults.insert(
            Kind::Kill,
            Injected {
                count: 3,
                ..Injected::default()
            },
        );
        idle.look_for_voids();
        assert!(!idle.passed() && idle.conclusion().contains("kill_9"));
        let mut silent = report();
        silent.verdict.delivered = 0;
        silent.look_for_voids();
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
