//! The tour's subscriber: writes everything down, shows some of it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use steadfast_streamer::Operation;
use tokio::{
    select,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    demo::{
        judge::{Ledger, Received, Sent},
        workload,
    },
    output::{self, FAINT, STRONG, styled},
    streamer::operation_name,
    wiring::{Change, Item, Subscription},
};

/// The running subscriber.
pub(crate) struct Reader {
    task: AbortOnDropHandle<anyhow::Result<Vec<Received>>>,
    stop: CancellationToken,
    count: watch::Receiver<u64>,
    ledger: Ledger,
}

/// One change is shown in this time; the others are counted.
const SHOW_EVERY: Duration = Duration::from_millis(350);
const CATCH_UP: Duration = Duration::from_secs(15);
/// Time in which a duplicate that is still on its way arrives.
const QUIET: Duration = Duration::from_millis(300);

impl Reader {
    pub(crate) fn start(
        subscription: Subscription,
        ledger: Ledger,
        columns: [&'static str; 3],
    ) -> Self {
        let stop = CancellationToken::new();
        let (counted, count) = watch::channel(0);
        let task = tokio::spawn(read(subscription, columns, counted, stop.clone()));
        Self {
            task: AbortOnDropHandle::new(task),
            stop,
            count,
            ledger,
        }
    }

    /// Waits until as much came as is owed for what was sent, then ends.
    pub(crate) async fn stop(mut self, sent: &[Sent]) -> anyhow::Result<Vec<Received>> {
        let owed = |sent: &&Sent| sent.acknowledged && self.ledger.wants(sent);
        let owed = sent.iter().filter(owed).count() as u64;
        // Without success the account shows what is missing.
        timeout(CATCH_UP, self.count.wait_for(|count| *count >= owed))
            .await
            .ok();
        tokio::time::sleep(QUIET).await;
        self.stop.cancel();
        self.task.await.context("the subscriber's task")?
    }
}

async fn read(
    mut subscription: Subscription,
    columns: [&'static str; 3],
    counted: watch::Sender<u64>,
    stop: CancellationToken,
) -> anyhow::Result<Vec<Received>> {
    let mut all = Vec::new();
    let mut shown = Instant::now();
    output::line(&styled(FAINT, &layout("op", "id", columns)))?;
    loop {
        let item = select! {
            () = stop.cancelled() => return Ok(all),
            item = subscription.next() => item,
        };
        match item.transpose()? {
            None => bail!("the subscription ended although nobody ended it"),
            Some(Item::Change(change)) => {
                let deleted = change.operation == Operation::Delete;
                let received = workload::read(&change.document_id, deleted, &change.data);
                if shown.elapsed() >= SHOW_EVERY || all.is_empty() {
                    shown = Instant::now();
                    output::line(&row(&change, columns))?;
                }
                all.push(received);
                counted.send_replace(all.len() as u64);
            }
            Some(other) => bail!("the subscription tells of missing changes: {other:?}"),
        }
    }
}

fn row(change: &Change, columns: [&str; 3]) -> String {
    let document: Value = serde_json::from_slice(&change.data).unwrap_or_default();
    let cells = columns.map(|column| text(&document[column]));
    let cells = [cells[0].as_str(), &cells[1], &cells[2]];
    layout(operation_name(change.operation), &change.document_id, cells)
}

fn layout(operation: &str, id: &str, cells: [&str; 3]) -> String {
    let id = styled(STRONG, &fit(id, 26));
    let [first, second, third] = cells;
    let (first, second, third) = (fit(first, 10), fit(second, 20), fit(third, 34));
    format!("   {operation:<6}  {id}  {first}  {second}  {third}")
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// The text, cut or filled to that many characters.
fn fit(text: &str, width: usize) -> String {
    let mut fitted: String = text.chars().take(width).collect();
    if text.chars().count() > width {
        fitted.pop();
        fitted.push('…');
    }
    format!("{fitted:<width$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_has_its_width_whatever_stands_in_it() {
        assert_eq!(fit("abc", 5), "abc  ");
        assert_eq!(fit("abcdef", 5), "abcd…");
        assert_eq!(fit("äöüäöü", 6), "äöüäöü");
    }
}
