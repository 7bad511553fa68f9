//! `steadfast streamer status`: what a server does, for a person who looks for the cause of a problem.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use comfy_table::presets;
use steadfast_streamer::server::operations::{DurationReport, LogReport, Report, SlowStream};

use crate::{
    chart,
    operations::OperationsArgs,
    output::{self, BAD, STRONG, shown, styled},
    settings::Settings,
    top::lists::List,
    units::{grouped, seconds},
};

/// Arguments of `streamer status`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    operations: OperationsArgs,
    /// Print the JSON object that docs/operations.md describes
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Exit status: 0 if the server is ready, 1 if it is not or does not answer.

Examples:
  steadfast streamer status
  steadfast streamer status --token-file admin.token
  steadfast streamer status --json | jq '.slowestStreams[0]'";

/// Longest wait for the server.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Prints the status of a server.
pub(crate) async fn run(args: Args, mut settings: Settings) -> anyhow::Result<ExitCode> {
    let operations = args.operations.resolve(&mut settings);
    settings.finish()?;
    let (body, report) = operations.status(TIMEOUT).await?;
    if args.json {
        output::line(std::str::from_utf8(&body)?)?;
    } else {
        output::text(&text(&report))?;
    }
    Ok(output::status(report.state == "ready"))
}

/// Returns the report for a person.
fn text(report: &Report) -> String {
    let mut out = String::new();
    for (name, text) in server_lines(report).into_iter().chain(peer_lines(report)) {
        writeln!(out, "{name:<14}{text}").expect("writing to a string cannot fail");
    }
    slow_streams(&mut out, report);
    expensive_filters(&mut out, report);
    out
}

/// Returns a figure by its name, with its thousands apart.
fn count(report: &Report, name: &str) -> String {
    grouped(report.figures.get(name).copied().unwrap_or(0))
}

/// Returns the lines about the server and its log, each with its name.
fn server_lines(report: &Report) -> Vec<(&'static str, String)> {
    let Report {
        address,
        version,
        state,
        log,
        ..
    } = report;
    let count = |name| count(report, name);
    let uptime = seconds(report.uptime_seconds);
    let server = format!("{address}, {state}, version {version}, up {uptime}");
    let mut lines = vec![("server", server)];
    let problems = report.problems.iter();
    lines.extend(problems.map(|it| ("", styled(BAD, &shown(it)))));
    let (first, head, epoch) = (grouped(log.first), grouped(log.head), &log.epoch);
    let mib = log.bytes as f64 / f64::from(1 << 20);
    let (opened, recovered) = (
        seconds(log.opened_in_seconds),
        grouped(log.recovered_records),
    );
    lines.extend([
        (
            "log",
            format!(
                "events after {first} up to {head}, epoch {epoch}, {mib:.1} MiB in {} files",
                log.files
            ),
        ),
        (
            "",
            format!("opened in {opened} with {recovered} records read again"),
        ),
        ("syncs", syncs(log)),
        ("commits", durations(&log.commits)),
        (
            "entries",
            format!(
                "{} appended, {} duplicate, {} refused, {} waiting; {} publishers",
                count("entries_appended"),
                count("entries_duplicate"),
                count("entries_refused"),
                count("log_queued_entries"),
                count("publishers"),
            ),
        ),
    ]);
    if let Some(puller) = &report.puller {
        let appended = count("puller_appended");
        lines.push((
            "puller",
            format!("{}, {appended} changes appended", puller.state),
        ));
    }
    lines
}

/// Returns the lines about subscribers, each with its name.
fn peer_lines(report: &Report) -> [(&'static str, String); 5] {
    let count = |name| count(report, name);
    let figure = |name: &str| report.figures.get(name).copied().unwrap_or(0) as f64;
    let per_event = |name| figure(name) / figure("events").max(1.0);
    let connections = format!(
        "{} of {}; {} streams, {} with the resume profile",
        count("connections"),
        count("connections_limit"),
        count("streams"),
        count("streams_profile"),
    );
    let subscriptions = format!(
        "{}: {} document, {} collection, {} filter; {} with left, {} with snapshot; {} behind",
        count("subscriptions"),
        count("subscriptions_document"),
        count("subscriptions_collection"),
        count("subscriptions_filter"),
        count("subscriptions_left"),
        count("subscriptions_snapshot"),
        count("subscriptions_behind"),
    );
    let matching = format!(
        "{} events, each with {:.1} candidates, {:.1} matches and a cost of {:.1}; {} waiting, {} \
         collections overloaded",
        count("events"),
        per_event("candidate_filters"),
        per_event("matched_subscriptions"),
        per_event("match_cost"),
        count("unmatched_events"),
        count("overloaded_collections"),
    );
    let delivery = format!(
        "{} messages to {} subscriptions; {} bytes queued",
        count("deliveries"),
        count("delivered_subscriptions"),
        count("queued_bytes"),
    );
    let recovery = format!(
        "{} subscriptions taken over, {} fell behind, {} caught up, {} lost events; streams: {} \
         fenced, {} evicted, {} silent",
        count("subscriptions_taken_over"),
        count("subscriptions_fell_behind"),
        count("subscriptions_caught_up"),
        count("resyncs"),
        count("streams_fenced"),
        count("streams_evicted"),
        count("streams_silent"),
    );
    [
        ("connections", connections),
        ("subscriptions", subscriptions),
        ("matching", matching),
        ("delivery", delivery),
        ("recovery", recovery),
    ]
}

fn slow_streams(out: &mut String, report: &Report) {
    heading(out, "slowest streams");
    if report.slowest_streams.is_empty() {
        writeln!(out, "{}", List::Streams.empty()).expect("writing to a string cannot fail");
        return;
    }
    let header = [
        "lag",
        "behind",
        "no credit",
        "queued",
        "blocked",
        "peer",
        "principal or session",
        "cause",
        "slowest subscription",
    ];
    let mut table = chart::table(presets::NOTHING, &header);
    for stream in &report.slowest_streams {
        let SlowStream {
            lag,
            behind,
            subscriptions,
            without_credit,
            queued_bytes,
            ..
        } = stream;
        let who = stream.principal.as_ref().or(stream.session.as_ref());
        let who = who.unwrap_or(&stream.kind);
        let slowest = stream.slowest.as_ref().map(|it| {
            format!(
                "{} of {}/{}",
                shown(&it.id),
                shown(&it.database),
                shown(&it.collection)
            )
        });
        chart::row(
            &mut table,
            [
                (grouped(*lag), true),
                (format!("{behind} of {subscriptions}"), true),
                (without_credit.to_string(), true),
                (format!("{} B", grouped(*queued_bytes as u64)), true),
                (seconds(stream.blocked_seconds), true),
                (stream.peer.clone().unwrap_or_default(), false),
                (shown(who), false),
                (stream.cause().to_owned(), false),
                (slowest.unwrap_or_default(), false),
            ],
        );
    }
    out.push_str(&table.trim_fmt());
    let others = &report.other_streams;
    let (streams, behind, lag) = (others.streams, others.behind, grouped(others.lag));
    let rest =
        format!("\nall {streams} others: {behind} subscriptions behind, lags of {lag} events\n");
    out.push_str(&rest);
}

fn expensive_filters(out: &mut String, report: &Report) {
    heading(out, "most expensive filters");
    let rows = List::Filters.rows(Some(report), None);
    if rows.is_empty() {
        writeln!(out, "{}", List::Filters.empty()).expect("writing to a string cannot fail");
        return;
    }
    let columns = List::Filters.columns();
    let header: Vec<_> = columns.iter().map(|column| column.title).collect();
    let mut table = chart::table(presets::NOTHING, &header);
    for row in rows {
        let cells = row.cells.into_iter().zip(columns);
        let cells = cells.map(|(cell, column)| (cell.text, column.is_figure));
        chart::row(&mut table, cells);
    }
    out.push_str(&table.trim_fmt());
    out.push('\n');
}

fn heading(out: &mut String, text: &str) {
    out.push('\n');
    out.push_str(&styled(STRONG, text));
    out.push('\n');
}

fn syncs(log: &LogReport) -> String {
    let text = durations(&log.syncs);
    match log.sync_interval_seconds {
        None => text,
        Some(interval) => format!(
            "{text}; only every {}: a power failure loses what was acknowledged in this time",
            seconds(interval)
        ),
    }
}

pub(crate) fn durations(report: &DurationReport) -> String {
    let DurationReport {
        count,
        mean_seconds,
        p50_seconds,
        p99_seconds,
        ..
    } = *report;
    let at_most = |quantile: Option<f64>| quantile.map_or("—".to_owned(), seconds);
    format!(
        "{}, {} on average, half within {}, 99 % within {}",
        grouped(count),
        seconds(mean_seconds),
        at_most(p50_seconds),
        at_most(p99_seconds),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_streams_have_a_name_and_a_cause_in_words() {
        let text = text(&crate::top::tests::report("a", 1));
        for (lag, words) in [
            ("4 211", ["jwt:billing", "its application takes nothing"]),
            (
                "96",
                ["7c0d\\u{1b}8", "it catches up, and the lag falls by itself"],
            ),
        ] {
            let mut lines = text.lines().map(str::trim_start);
            let line = lines.find(|it| it.starts_with(lag)).unwrap();
            assert!(words.iter().all(|it| line.contains(it)), "{text}");
        }
    }

    #[test]
    fn control_characters_of_peers_do_not_reach_the_terminal() {
        assert_eq!(shown("é\u{1b}[31m\n"), "é\\u{1b}[31m\\n");
    }
}
