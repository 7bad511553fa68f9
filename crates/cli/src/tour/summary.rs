//! The counts of the tour: published, matching and received, before, between and after the cuts.

use std::time::Duration;

use comfy_table::presets;
use steadfast_chaos::judge::Verdict;

use crate::{
    chart,
    load::judge::{self, Deliveries, Sent},
    units::{grouped, readable},
};

/// The stages of the tour and their counts.
#[derive(Debug)]
pub(crate) struct Summary {
    wanted: Deliveries,
    stages: Vec<Stage>,
    recoveries: Vec<Duration>,
    verdict: Verdict,
    unacknowledged: u64,
    gaps: u64,
    complete: bool,
}

/// The documents up to a number, from the end of the stage before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stage {
    name: &'static str,
    up_to: u64,
    published: u64,
    matching: u64,
    received: u64,
}

/// Cuts of a complete tour.
const CUTS: usize = 2;

impl Summary {
    pub(crate) fn new(wanted: Deliveries) -> Self {
        Self {
            wanted,
            stages: Vec::new(),
            recoveries: Vec::new(),
            verdict: Verdict::default(),
            unacknowledged: 0,
            gaps: 0,
            complete: false,
        }
    }

    /// Ends a stage after this many documents of the tour.
    pub(crate) fn end_stage(&mut self, name: &'static str, up_to: u64) {
        self.stages.push(Stage {
            name,
            up_to,
            ..Stage::default()
        });
    }

    pub(crate) fn recovered(&mut self, took: Duration) {
        self.recoveries.push(took);
    }

    /// Counts the documents of each stage. `complete` is false if the tour was stopped early.
    pub(crate) fn close(&mut self, sent: &[Sent], deliveries: Deliveries, complete: bool) {
        self.complete = complete;
        self.unacknowledged = sent.iter().filter(|sent| !sent.acknowledged).count() as u64;
        self.gaps = deliveries.gaps;
        // Documents published while the last stage was ending belong to it.
        if let Some(last) = self.stages.last_mut() {
            last.up_to = u64::MAX;
        }
        let mut after = 0;
        for stage in &mut self.stages {
            let numbers = after + 1..=stage.up_to;
            let published = sent
                .iter()
                .filter(|sent| numbers.contains(&sent.entry.number));
            let received = deliveries
                .received
                .iter()
                .filter_map(|received| received.entry);
            stage.published = published.clone().count() as u64;
            stage.matching = published.filter(|sent| self.wanted.wants(sent)).count() as u64;
            stage.received = received
                .filter(|entry| numbers.contains(&entry.number))
                .count() as u64;
            after = stage.up_to;
        }
        self.verdict = judge::judge(sent, &[deliveries]);
    }

    pub(crate) fn passed(&self) -> bool {
        self.complete
            && self.verdict.is_clean()
            && self.verdict.delivered > 0
            && self.unacknowledged == 0
            && self.gaps == 0
            && self.recoveries.len() == CUTS
            && self
                .stages
                .iter()
                .all(|stage| stage.matching == stage.received)
    }

    pub(crate) fn to_table(&self) -> String {
        let header = ["", "published", "matching", "received"];
        let mut table = chart::table(presets::UTF8_HORIZONTAL_ONLY, &header);
        let mut row = |name: &str, counts: [u64; 3]| {
            let [published, matching, received] = counts.map(|count| (grouped(count), true));
            chart::row(
                &mut table,
                [(name.to_owned(), false), published, matching, received],
            );
        };
        let mut total = [0; 3];
        for stage in &self.stages {
            let counts = [stage.published, stage.matching, stage.received];
            row(stage.name, counts);
            total = [0, 1, 2].map(|at| total[at] + counts[at]);
        }
        row("total", total);
        table.to_string()
    }

    pub(crate) fn conclusion(&self) -> String {
        let Verdict {
            lost,
            duplicated,
            reordered,
            altered,
            ..
        } = self.verdict;
        let recoveries: Vec<_> = self.recoveries.iter().map(|took| readable(*took)).collect();
        let outcome = if self.passed() {
            "Every matching document arrived exactly once, in order"
        } else if self.complete {
            "Not every document arrived exactly once, in order"
        } else {
            "The tour was stopped before its end"
        };
        format!(
            "{outcome}: {lost} lost, {duplicated} duplicated, {reordered} out of order, {altered} altered; \
             {} of {CUTS} cuts recovered ({})",
            recoveries.len(),
            recoveries.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use steadfast_chaos::judge::EntryId;

    use super::*;
    use crate::load::judge::{Digest, Received};

    fn summary(missing: Option<u64>) -> Summary {
        let mut deliveries = Deliveries::new("d", "c", Vec::new());
        let mut summary = Summary::new(deliveries.clone());
        let sent: Vec<Sent> = (1..=10)
            .map(|sequence| Sent {
                entry: EntryId {
                    lane: 0,
                    number: sequence,
                },
                database: "d",
                collection: "c",
                id: sequence.to_string(),
                document: json!({}),
                acknowledged: true,
            })
            .collect();
        let received = sent
            .iter()
            .filter(|sent| Some(sent.entry.number) != missing);
        let received = received.map(|sent| Received {
            entry: Some(sent.entry),
            digest: Digest::of(&sent.id, &sent.document),
        });
        deliveries.received = received.collect();
        for (name, up_to) in [("first", 4), ("second", 7), ("third", 7)] {
            summary.end_stage(name, up_to);
            summary.recovered(Duration::from_millis(1));
        }
        summary.recoveries.pop();
        summary.close(&sent, deliveries, true);
        summary
    }

    #[test]
    fn stages_split_the_documents_where_they_ended() {
        let counts: Vec<_> = summary(None)
            .stages
            .iter()
            .map(|stage| (stage.published, stage.matching, stage.received))
            .collect();
        assert_eq!(counts, [(4, 4, 4), (3, 3, 3), (3, 3, 3)]);
    }

    #[test]
    fn the_tour_passes_only_if_everything_arrived() {
        assert!(summary(None).passed());
        for missing in [1, 5, 10] {
            let summary = summary(Some(missing));
            assert!(!summary.passed());
            assert!(summary.conclusion().contains("1 lost"));
        }
    }

    #[test]
    fn a_tour_that_never_recovered_has_failed() {
        let mut summary = summary(None);
        summary.recoveries.pop();
        assert!(!summary.passed());
    }
}
