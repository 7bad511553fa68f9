//! What the tour shows at its end: as much came as was published, before, between and after.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::{
    demo::judge::{self, Ledger, Received, Sent, Verdict},
    units::{grouped, humane},
};

/// The stages and their counts.
#[derive(Debug)]
pub(crate) struct Account {
    ledger: Ledger,
    newest: Arc<AtomicU64>,
    stages: Vec<Stage>,
    recoveries: Vec<Duration>,
    verdict: Verdict,
    unacknowledged: u64,
    whole: bool,
}

/// The documents up to a number, from where the stage before ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stage {
    name: &'static str,
    up_to: u64,
    published: u64,
    matching: u64,
    received: u64,
}

/// The tour cuts twice.
const CUTS: usize = 2;

impl Account {
    pub(crate) fn new(ledger: Ledger, newest: Arc<AtomicU64>) -> Self {
        Self {
            ledger,
            newest,
            stages: Vec::new(),
            recoveries: Vec::new(),
            verdict: Verdict::default(),
            unacknowledged: 0,
            whole: false,
        }
    }

    /// Ends a stage here.
    pub(crate) fn mark(&mut self, name: &'static str) {
        let up_to = self.newest.load(Ordering::Relaxed);
        self.stages.push(Stage {
            name,
            up_to,
            ..Stage::default()
        });
    }

    pub(crate) fn recovered(&mut self, took: Duration) {
        self.recoveries.push(took);
    }

    /// Counts. `whole` tells whether the tour went to its end.
    pub(crate) fn close(&mut self, sent: &[Sent], received: Vec<Received>, whole: bool) {
        self.whole = whole;
        self.unacknowledged = sent.iter().filter(|sent| !sent.acknowledged).count() as u64;
        // What was published while the last stage was ending belongs to it.
        if let Some(last) = self.stages.last_mut() {
            last.up_to = u64::MAX;
        }
        let mut after = 0;
        for stage in &mut self.stages {
            let numbers = after + 1..=stage.up_to;
            let published = sent
                .iter()
                .filter(|sent| numbers.contains(&sent.mark.sequence));
            let came = received.iter().filter_map(|received| received.mark);
            stage.published = published.clone().count() as u64;
            stage.matching = published.filter(|sent| self.ledger.wants(sent)).count() as u64;
            stage.received = came.filter(|mark| numbers.contains(&mark.sequence)).count() as u64;
            after = stage.up_to;
        }
        self.ledger.received = received;
        self.verdict = judge::judge(sent, std::slice::from_ref(&self.ledger));
    }

    pub(crate) fn passed(&self) -> bool {
        self.whole
            && self.verdict.is_clean()
            && self.verdict.delivered > 0
            && self.unacknowledged == 0
            && self.recoveries.len() == CUTS
            && self
                .stages
                .iter()
                .all(|stage| stage.matching == stage.received)
    }

    pub(crate) fn to_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["", "published", "matching", "received"]);
        let mut row = |name: &str, counts: [u64; 3]| {
            let counts = counts.map(|count| Cell::new(grouped(count)));
            let counts = counts.map(|cell| cell.set_alignment(CellAlignment::Right));
            table.add_row(
                [Cell::new(name)]
                    .into_iter()
                    .chain(counts)
                    .collect::<Vec<_>>(),
            );
        };
        let mut total = [0; 3];
        for stage in &self.stages {
            let counts = [stage.published, stage.matching, stage.received];
            row(stage.name, counts);
            total = [0, 1, 2].map(|at| total[at] + counts[at]);
        }
        row("together", total);
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
        let recoveries: Vec<_> = self.recoveries.iter().map(|took| humane(*took)).collect();
        let outcome = if self.passed() {
            "Every matching document came exactly once, in order"
        } else if self.whole {
            "Not everything came exactly once, in order"
        } else {
            "The tour was stopped before its end"
        };
        format!(
            "{outcome}: {lost} lost, {duplicated} doubled, {reordered} out of order, {altered} altered; \
             {} of {CUTS} cuts recovered ({})",
            recoveries.len(),
            recoveries.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::demo::judge::{Digest, Mark};

    fn account(missing: Option<u64>) -> Account {
        let newest = Arc::new(AtomicU64::new(4));
        let ledger = Ledger {
            database: "d",
            collection: "c",
            ..Ledger::default()
        };
        let mut account = Account::new(ledger, Arc::clone(&newest));
        let sent: Vec<Sent> = (1..=10)
            .map(|sequence| Sent {
                mark: Mark {
                    publisher: 0,
                    sequence,
                },
                database: "d",
                collection: "c",
                id: sequence.to_string(),
                document: json!({}),
                acknowledged: true,
            })
            .collect();
        let came = sent
            .iter()
            .filter(|sent| Some(sent.mark.sequence) != missing);
        let received = came.map(|sent| Received {
            mark: Some(sent.mark),
            digest: Digest::of(&sent.id, &sent.document),
        });
        let received = received.collect();
        account.mark("first");
        newest.store(7, Ordering::Relaxed);
        account.mark("second");
        account.mark("third");
        account.recovered(Duration::from_millis(1));
        account.recovered(Duration::from_millis(2));
        account.close(&sent, received, true);
        account
    }

    #[test]
    fn stages_split_the_documents_where_they_were_marked() {
        let counts: Vec<_> = account(None)
            .stages
            .iter()
            .map(|stage| (stage.published, stage.matching, stage.received))
            .collect();
        assert_eq!(counts, [(4, 4, 4), (3, 3, 3), (3, 3, 3)]);
    }

    #[test]
    fn the_tour_passes_only_when_everything_came() {
        assert!(account(None).passed());
        for missing in [1, 5, 10] {
            let account = account(Some(missing));
            assert!(!account.passed());
            assert!(account.conclusion().contains("1 lost"));
        }
    }

    #[test]
    fn a_tour_that_never_recovered_has_failed() {
        let mut account = account(None);
        account.recoveries.pop();
        assert!(!account.passed());
    }
}
