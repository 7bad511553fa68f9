//! `steadfast streamer subscribe`.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};
use steadfast::session::OneLine;
use steadfast_streamer::{GapReason, ResyncReason, Snapshot, filter::Filter};
use tokio::select;
use tokio_util::sync::CancellationToken;

use super::{
    report_connection,
    start::{self, Start},
    window::{self, OrderBy},
    with_progress,
};
use crate::{
    clients::{Begin, Change, Dial, DialArgs, Item, Subscriber},
    document::{operation_name, with_data},
    output::{self, FAINT, STRONG, styled},
    settings::Settings,
};

/// Arguments of `streamer subscribe`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Database of the documents
    #[arg(long, short, value_parser = NonEmptyStringValueParser::new())]
    database: String,
    /// Collection of the documents
    #[arg(long, short, value_parser = NonEmptyStringValueParser::new())]
    collection: String,
    /// Conditions that must all hold, each `FIELD OP VALUE` in one argument;
    /// OP is one of == != > >= < <= in contains
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Print one JSON object per line, as docs/subscribe-json.md describes them
    #[arg(long)]
    json: bool,
    /// Start with the oldest change, now, after a position as --json prints it, or with the first change
    /// at a time, like 2026-03-01T08:00:00Z or 15m for the last 15 minutes [default: now]
    #[arg(
        long,
        value_name = "oldest|now|POSITION|TIME",
        value_parser = start::from_argument,
        allow_hyphen_values = true
    )]
    from: Option<Start>,
    /// Print the documents that exist first, then the changes; implies --left
    #[arg(long)]
    snapshot: bool,
    /// Tell when a document no longer matches the filters
    #[arg(long)]
    left: bool,
    /// Stop after this number of changes; with --order-by, show this number of documents
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Show only the first documents in the order of a field, --limit of them, and what enters, moves and
    /// leaves
    #[arg(
        long,
        value_name = "FIELD[:desc]",
        requires = "limit",
        conflicts_with_all = ["from", "snapshot", "left"]
    )]
    order_by: Option<OrderBy>,
    #[command(flatten)]
    dial: DialArgs,
}

const EXAMPLES: &str = "Examples:
  steadfast streamer subscribe -d debian -c packages 'section == games' 'installedSize > 100000'
  steadfast streamer subscribe -d debian -c packages 'depends contains libc6' --json --limit 10
  steadfast streamer subscribe -d debian -c packages --from 15m
  steadfast streamer subscribe -d debian -c packages --order-by installedSize:desc --limit 10";

/// Prints changes until it is interrupted, reaches the limit, or the server refuses.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let filter = filter(&args.filters, &mut settings);
    let dial = Dial::from_settings(args.dial, &mut settings);
    settings.finish()?;
    // The loop below would wait for a change before it looks at the limit.
    if args.limit == Some(0) {
        return Ok(ExitCode::SUCCESS);
    }
    let client = Subscriber::open(&dial, report_connection())?;
    if let (Some(order), Some(limit)) = (&args.order_by, args.limit) {
        let place = (&*args.database, &*args.collection);
        let what = (place, filter, order, limit);
        let outcome = show_window(&client, what, args.json, stop).await;
        client.close().await;
        return outcome.map(|()| ExitCode::SUCCESS);
    }
    let begin = Begin {
        start: args.from.unwrap_or_default(),
        snapshot: args.snapshot,
        left: args.left,
    };
    let opening = client.subscribe(&args.database, &args.collection, filter, begin);
    let opened = select! {
        () = stop.cancelled() => None,
        opened = with_progress(client.first_failure(), opening) => Some(opened?),
    };
    let Some(mut subscription) = opened else {
        client.close().await;
        return Ok(ExitCode::SUCCESS);
    };
    note_subscribed((&args.database, &args.collection));
    let mut printed = 0;
    let outcome = loop {
        let item = select! {
            biased;
            // An interrupt goes first, or a busy collection would hold it up.
            () = stop.cancelled() => break Ok(()),
            item = subscription.next() => item,
        };
        let item = match item {
            None => break Ok(()),
            Some(Err(error)) => break Err(error.into()),
            Some(Ok(item)) => item,
        };
        // The limit is one of changes: gaps and resyncs are printed beside them.
        printed += u64::from(item.change().is_some());
        if let Err(error) = print(&item, args.json) {
            break Err(error);
        }
        if args.limit.is_some_and(|limit| printed >= limit) {
            break Ok(());
        }
    };
    client.close().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Prints the first documents of an order, and their changes.
async fn show_window(
    client: &Subscriber,
    (place, filter, order, limit): ((&str, &str), Filter, &OrderBy, u64),
    as_json: bool,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    // Larger ones are refused by every server.
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let order = (order.field.clone(), order.direction);
    let opening = client.window(place, filter, order, limit);
    let opened = select! {
        () = stop.cancelled() => return Ok(()),
        opened = with_progress(client.first_failure(), opening) => opened,
    };
    let mut window = opened?;
    note_subscribed(place);
    window::print(&mut window, as_json, stop).await
}

fn note_subscribed((database, collection): (&str, &str)) {
    let subscribed = format!("subscribed to {database}/{collection}");
    output::note(&styled(FAINT, &subscribed));
}

/// Parses each text by itself, so that the faults of all are reported at once.
fn filter(texts: &[String], settings: &mut Settings) -> Filter {
    let mut faulty = false;
    for text in texts {
        if let Err(invalid) = Filter::from_text([text]) {
            faulty = true;
            let what = format!("column {}: {}", invalid.column, invalid.fault);
            settings.fault(format_args!("filter {text:?}"), what);
        }
    }
    if faulty {
        return Filter::all();
    }
    Filter::from_text(texts).unwrap_or_else(|invalid| {
        settings.fault("filters", invalid.to_string());
        Filter::all()
    })
}

fn print(item: &Item, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json_line(&json_line(item));
    }
    match item {
        Item::Change(change) => print_change(operation_name(change.operation), change),
        Item::Snapshot(Snapshot::Document(document)) => print_change("exists", document),
        Item::Left(change) => print_change("left", change),
        other => output::json_line(&to_json(other).to_string()),
    }
}

fn print_change(what: &str, change: &Change) -> anyhow::Result<()> {
    output::line(&format!(
        "{what:<6} {} {}",
        styled(STRONG, &OneLine(&change.document_id).to_string()),
        OneLine(&String::from_utf8_lossy(&change.data)),
    ))
}

/// Returns the line of an item.
fn json_line(item: &Item) -> String {
    match item {
        Item::Change(change) | Item::Snapshot(Snapshot::Document(change)) => {
            with_data(to_json(item), &change.data)
        }
        other => to_json(other).to_string(),
    }
}

fn to_json(item: &Item) -> Value {
    let mut object = match item {
        Item::Change(change) => change_to_json("change", change),
        Item::Snapshot(Snapshot::Begin) => json!({ "type": "snapshotBegin" }),
        Item::Snapshot(Snapshot::Document(document)) => change_to_json("document", document),
        Item::Snapshot(Snapshot::End(_)) => json!({ "type": "snapshotEnd" }),
        Item::Left(change) => head_to_json("left", change),
        Item::Gap(gap) => json!({ "type": "gap", "gap": gap_to_json(gap.reason) }),
        Item::Resync(resync) => json!({
            "type": "resync",
            "resync": {
                "reason": resync_reason(resync.reason),
                "lostFrom": resync.lost_from.to_string(),
                "snapshotFollows": resync.snapshot_follows,
            },
        }),
        other => json!({ "type": "other", "item": format!("{other:?}") }),
    };
    if let Some(position) = item.position() {
        object["position"] = position.to_string().into();
    }
    object
}

fn gap_to_json(reason: GapReason) -> Value {
    let reason = match reason {
        GapReason::Disconnected => "disconnected",
        GapReason::Overflow { dropped } => {
            return json!({ "reason": "overflow", "dropped": dropped });
        }
        GapReason::Evicted => "evicted",
        GapReason::LeftProfile => "leftProfile",
        GapReason::TooLarge => "tooLarge",
        other => return json!({ "reason": format!("{other:?}") }),
    };
    json!({ "reason": reason })
}

fn resync_reason(reason: ResyncReason) -> &'static str {
    match reason {
        ResyncReason::Epoch => "epoch",
        ResyncReason::Trimmed => "trimmed",
        ResyncReason::Future => "future",
        ResyncReason::Damaged => "damaged",
        ResyncReason::Refused => "refused",
        ResyncReason::Rights => "rights",
        // Also what a later version of the library adds.
        _ => "unstated",
    }
}

/// Returns what is told of a change besides its data.
fn head_to_json(kind: &str, change: &Change) -> Value {
    json!({
        "type": kind,
        "op": operation_name(change.operation),
        "database": &*change.database,
        "collection": &*change.collection,
        "id": &*change.document_id,
        "eventId": &*change.event_id,
        "timestamp": change.timestamp,
    })
}

fn change_to_json(kind: &str, change: &Change) -> Value {
    head_to_json(kind, change)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the description of the format.
    const PAGE: &str = include_str!("../../../../docs/subscribe-json.md");

    fn examples(kind: &str) -> Vec<Value> {
        let lines = PAGE.lines().filter(|line| line.starts_with('{'));
        let all = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|it| it["type"] == kind).collect()
    }

    #[test]
    fn reasons_are_printed_as_the_page_describes_them() {
        let gaps = [
            GapReason::Disconnected,
            GapReason::Overflow { dropped: 43_476 },
            GapReason::Evicted,
            GapReason::LeftProfile,
            GapReason::TooLarge,
        ];
        let printed = gaps.map(|it| json!({ "type": "gap", "gap": gap_to_json(it) }));
        assert_eq!(examples("gap"), printed);
        let reasons = [
            ResyncReason::Unstated,
            ResyncReason::Epoch,
            ResyncReason::Trimmed,
            ResyncReason::Future,
            ResyncReason::Damaged,
            ResyncReason::Refused,
            ResyncReason::Rights,
        ];
        for reason in reasons.map(resync_reason) {
            assert!(PAGE.contains(&format!("`{reason}`")), "{reason}");
        }
    }
}
