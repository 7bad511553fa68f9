use std::{fmt::Write as _, ops::RangeInclusive};

use bytes::Bytes;
use steadfast_exposition::Format;
use steadfast_recorder::{Options, Selector};

use super::*;
use crate::scrape::{Endpoint, PageSink as _, ScrapeOutcome};

const BUDGET: u64 = 2 << 20;

/// Records one complete page.
async fn scrape(queue: &mut RecordingQueue, time_ms: i64, page: String) {
    let bytes = page.len() as u64;
    begin(queue, page).await;
    let outcome = ScrapeOutcome {
        time_ms,
        duration: Duration::from_millis(1),
        page: Ok(bytes),
        skipped: Vec::new(),
        skipped_count: 0,
    };
    queue.finish(outcome).await;
}

/// Passes a page on without its end.
async fn begin(queue: &mut RecordingQueue, page: String) {
    queue.begin(Format::Prometheus);
    queue.piece(Bytes::from(page)).await;
}

fn page(series: RangeInclusive<u64>, padding: &str, value: u64) -> String {
    series.fold(String::new(), |mut page, n| {
        writeln!(page, "m{{n=\"{n}{padding}\"}} {}", n * value).unwrap();
        page
    })
}

#[tokio::test]
async fn churn_of_one_endpoint_spares_another() {
    let config = Config::new(vec![Endpoint::local(1), Endpoint::local(2)]);
    let sources: Vec<_> = config.endpoints.iter().map(Endpoint::source).collect();
    let mut options = Options::default();
    options.budget = BUDGET;
    let recorders = Recorders::in_memory(options).unwrap();
    let status = Arc::new(AgentStatus::new(sources.clone().into_iter()));
    let (mut recording, mut queues) = Recording::start(recorders, &config, status).unwrap();
    let padding = "x".repeat(200);
    let readings = 120;
    for reading in 0..readings {
        let time_ms = i64::try_from(reading).unwrap() * 1_000;
        scrape(&mut queues[0], time_ms, page(1..=50, "", reading)).await;
        let new = reading * 2_000..=reading * 2_000 + 1_999;
        scrape(&mut queues[1], time_ms, page(new, &padding, reading)).await;
    }

    let Snapshot {
        reader,
        stats,
        endpoint_stats: shares,
        ..
    } = recording.record().snapshot().await.unwrap();
    assert!(stats.used <= BUDGET);
    assert!(shares[1].evicted_parts > 0 && shares[1].counters.series_refused > 0);
    assert_eq!(shares[0].counters.series_refused, 0);
    let wanted = Selector::all().source(&sources[0]);
    let series: Vec<_> = reader.window(&wanted, i64::MIN..=i64::MAX).collect();
    assert_eq!(series.len(), 50);
    for series in series {
        let samples = series.unwrap().samples.len() as u64;
        assert_eq!(samples, readings);
    }
    queues.clear();
    recording.end().await;
}

#[tokio::test]
async fn record_is_readable_until_recording_ends() {
    let config = Config::new(vec![Endpoint::local(1)]);
    let recorders = Recorders::in_memory(Options::default()).unwrap();
    let status = Arc::new(AgentStatus::new(
        config.endpoints.iter().map(Endpoint::source),
    ));
    let (mut recording, mut queues) = Recording::start(recorders, &config, status).unwrap();
    scrape(&mut queues[0], 1_000, page(1..=3, "", 1)).await;
    queues.clear();

    let record = recording.record();
    let snapshot = record.snapshot().await.unwrap();
    assert_eq!(snapshot.reader.span(), Some((1_000, 1_000)));
    recording.end().await;
    assert!(record.snapshot().await.is_err());
}

#[tokio::test]
async fn dropped_page_leaves_no_values_behind() {
    let config = Config::new(vec![Endpoint::local(1)]);
    let recorders = Recorders::in_memory(Options::default()).unwrap();
    let status = Arc::new(AgentStatus::new(
        config.endpoints.iter().map(Endpoint::source),
    ));
    let (mut recording, mut queues) = Recording::start(recorders, &config, status).unwrap();
    let queue = &mut queues[0];
    // Families without metadata are pending on the first page and registered on the next.
    for time_ms in [1_000, 2_000] {
        begin(queue, format!("{}\n", page(1..=9, "", 7))).await;
        scrape(queue, time_ms, page(1..=2, "", 1)).await;
    }

    let snapshot = recording.record().snapshot().await.unwrap();
    let wanted = Selector::all().source(&config.endpoints[0].source());
    let series = snapshot.reader.window(&wanted, i64::MIN..=i64::MAX);
    let mut values: Vec<Vec<f64>> = series
        .map(|series| series.unwrap().samples.iter().map(|s| s.value).collect())
        .collect();
    values.sort_by(|a, b| a[0].total_cmp(&b[0]));
    assert_eq!(values, [[1.0, 1.0], [2.0, 2.0]]);
    let status = &snapshot.status.endpoints[0];
    assert_eq!((status.samples, status.samples_refused.len()), (4, 0));
    queues.clear();
    recording.end().await;
}
