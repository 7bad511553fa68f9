//! `steadfast streamer subscribe`.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use steadfast::session::OneLine;
use steadfast_streamer::{Snapshot, client::JsonLines, filter::Filter};
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
    match item {
        Item::Change(change) if !as_json => print_change(change.operation.as_str(), change),
        Item::Snapshot(Snapshot::Document(document)) if !as_json => {
            print_change("exists", document)
        }
        Item::Left(change) if !as_json => print_change("left", change),
        other => {
            let mut line = String::new();
            JsonLines::default().write(other, &mut line);
            output::json_line(&line)
        }
    }
}

fn print_change(what: &str, change: &Change) -> anyhow::Result<()> {
    output::line(&format!(
        "{what:<6} {} {}",
        styled(STRONG, &OneLine(&change.document_id).to_string()),
        OneLine(&String::from_utf8_lossy(&change.data)),
    ))
}
