//! `steadfast tour`: a server, a feed, a subscription and two cuts, in half a minute.

mod source;
pub(crate) mod steps;
mod summary;

use std::{
    num::NonZeroU32,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;
use steadfast_chaos::Proxy;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    source::Source,
    steps::{Steps, Stopped, note},
    summary::Summary,
};
use crate::{
    clients::{Change, ConnectionEvent, Dial, Publisher, Subscriber},
    load::{counters::Counters, publishers::Publishers, subscribers::Subscribers},
    output::{self, BAD, FAINT, GOOD, STRONG, styled},
    server_process::ServerProcess,
    settings::Settings,
    units::{at_least_one, readable},
};

/// Arguments of `tour`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Documents per second
    #[arg(long, default_value = "600", value_name = "N", value_parser = at_least_one)]
    rate: NonZeroU32,
    /// Use the generator even if this machine has a package index
    #[arg(long)]
    generator: bool,
}

const EXAMPLES: &str =
    "Exits with status 0 if the subscription received every matching document exactly once.

Examples:
  steadfast tour
  steadfast tour --generator --rate 100";

/// Undisturbed time before, between and after the cuts.
const STAGE: Duration = Duration::from_secs(5);
/// Time between the kill of the server and its restart.
const DOWNTIME: Duration = Duration::from_millis(700);
/// Longest recovery; after it the tour has failed.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(15);
/// Connection events that may wait to be printed; more are dropped.
const EVENTS: usize = 64;
/// Time between two changes that are printed; the others are only counted.
const PRINT_INTERVAL: Duration = Duration::from_millis(350);

/// Runs the tour.
pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    settings.finish()?;
    let directory = tempfile::tempdir().context("create a directory for the log")?;
    let mut server = ServerProcess::start(directory.path().to_owned()).await?;
    let proxy = Proxy::start(server.addr()).context("start the proxy that breaks connections")?;
    let mut steps = Steps::new(stop);
    let log = directory.path().display();
    steps.begin("a server", &format!("{}, its log in {log}", server.addr()));
    let summary = tour(&args, &mut server, &proxy, &mut steps).await?;
    server.check()?;
    proxy.shutdown().await;
    server.kill().await?;
    output::line("")?;
    output::line(&summary.to_table())?;
    let style = if summary.passed() { GOOD } else { BAD };
    output::note(&styled(style, &summary.conclusion()));
    Ok(output::status(summary.passed()))
}

async fn tour(
    args: &Args,
    server: &mut ServerProcess,
    proxy: &Proxy,
    steps: &mut Steps<'_>,
) -> anyhow::Result<Summary> {
    let source = Source::open(args.generator).await?;
    let dial = Dial::with_short_timeouts(proxy.addr());
    let (sender, mut events) = mpsc::channel(EVENTS);
    let client = Subscriber::open(&dial, move |event| {
        // The session must not wait for the terminal.
        sender.try_send((Instant::now(), event)).ok();
    })?;
    let wanted = source.wanted();
    let conditions: Vec<String> = wanted.conditions.iter().map(ToString::to_string).collect();
    let counters = Arc::new(Counters::default());
    let mut subscribers = Subscribers::new(&counters);
    let columns = source.columns();
    subscribers
        .start(client, vec![wanted.clone()], printer(columns))
        .await?;
    steps.begin(
        "a subscription",
        &format!(
            "{}/{} where {}",
            wanted.database,
            wanted.collection,
            conditions.join(" and ")
        ),
    );
    steps.begin(
        "a feed",
        &format!("{} documents a second from {}", args.rate, source.origin()),
    );
    output::line(&styled(FAINT, &layout("op", "id", columns)))?;
    let mut publishers = Publishers::new(&counters);
    publishers.start(
        Publisher::open(&dial, "tour", 1, |_| {})?,
        source,
        args.rate,
    );

    let mut summary = Summary::new(wanted);
    let mut cuts = Cuts {
        server,
        proxy,
        events: &mut events,
        counters: &counters,
        summary: &mut summary,
    };
    let complete = match cuts.all(steps).await {
        Ok(()) => true,
        // An interrupted tour still shows the counts of what it published.
        Err(error) if error.is::<Stopped>() => false,
        Err(error) => return Err(error),
    };
    let sent = publishers.stop().await?;
    subscribers.catch_up(&sent).await;
    // The tour has one subscription.
    let deliveries = subscribers.stop().await?.remove(0);
    summary.close(&sent, deliveries, complete);
    Ok(summary)
}

/// The two interruptions of the tour.
struct Cuts<'a> {
    server: &'a mut ServerProcess,
    proxy: &'a Proxy,
    events: &'a mut mpsc::Receiver<(Instant, ConnectionEvent)>,
    counters: &'a Counters,
    summary: &'a mut Summary,
}

impl Cuts<'_> {
    async fn all(&mut self, steps: &mut Steps<'_>) -> anyhow::Result<()> {
        steps.pause(STAGE).await?;
        steps.begin("a cut", "every connection is reset");
        self.end_stage("until the reset");
        let at = Instant::now();
        self.proxy.reset();
        self.recover(at).await;
        steps.pause(STAGE).await?;
        steps.begin(
            "a crash",
            "the server is killed with SIGKILL and restarted on the same log",
        );
        self.end_stage("until the kill");
        let at = Instant::now();
        let refusal = self.server.kill_behind(self.proxy).await?;
        sleep(DOWNTIME).await;
        self.server.restart_behind(self.proxy, refusal).await?;
        self.recover(at).await;
        let rest = steps.pause(STAGE).await;
        self.end_stage("after the kill");
        Ok(rest?)
    }

    fn end_stage(&mut self, name: &'static str) {
        self.summary
            .end_stage(name, self.counters.sent.load(Ordering::Relaxed));
    }

    /// Prints the events of the connection until it is connected again.
    async fn recover(&mut self, cut: Instant) {
        let mut lost = false;
        while let Ok(Some((at, event))) =
            timeout_at(cut + RECOVERY_TIMEOUT, self.events.recv()).await
        {
            match event {
                // An event from before the cut that was still in the queue.
                _ if at < cut => {}
                ConnectionEvent::Lost { reason } => {
                    lost = true;
                    note(&format!("lost after {}: {reason}", readable(at - cut)));
                }
                ConnectionEvent::Connected if lost => {
                    self.summary.recovered(at - cut);
                    let text = format!(
                        "connected again {} after the cut, resuming",
                        readable(at - cut)
                    );
                    note(&styled(GOOD, &text));
                    return;
                }
                ConnectionEvent::Connected => {}
            }
        }
        let text = format!("not connected again within {}", readable(RECOVERY_TIMEOUT));
        note(&styled(BAD, &text));
    }
}

/// Returns an observer that prints the first change and then one per interval.
fn printer(columns: [&'static str; 3]) -> impl FnMut(&Change) -> anyhow::Result<()> + Clone {
    let mut printed: Option<Instant> = None;
    move |change| {
        if printed.is_some_and(|at| at.elapsed() < PRINT_INTERVAL) {
            return Ok(());
        }
        printed = Some(Instant::now());
        let document: Value = serde_json::from_slice(&change.data).unwrap_or_default();
        let cells = columns.map(|column| text(&document[column]));
        let cells = [cells[0].as_str(), &cells[1], &cells[2]];
        output::line(&layout(
            change.operation.as_str(),
            &change.document_id,
            cells,
        ))
    }
}

fn layout(operation: &str, id: &str, [first, second, third]: [&str; 3]) -> String {
    let id = styled(STRONG, &fit(id, 26));
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

/// Returns the text, cut or padded to that many characters.
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
    fn a_column_has_its_width_for_any_text() {
        assert_eq!(fit("abc", 5), "abc  ");
        assert_eq!(fit("abcdef", 5), "abcd…");
        assert_eq!(fit("äöüäöü", 6), "äöüäöü");
    }
}
