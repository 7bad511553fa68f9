mod columns;

use std::sync::Mutex;

use prost::Message as _;
use steadfast_exposition::Kind;
use steadfast_fodc_model::columns::Decoded;
use steadfast_wire::fodc::{
    Matcher, Metric, MetricType, StreamMetricsResponse, matcher::Type as Match,
};

use super::*;
use crate::uplink::sample_store::{Visit, Visitor};

/// A store of fixed series.
#[derive(Default)]
struct Fake {
    series: Vec<FakeSeries>,
    unreadable: bool,
    /// The number of samples that were visited.
    visited: Mutex<u64>,
}

struct FakeSeries {
    name: String,
    labels: Vec<(String, String)>,
    container: Option<String>,
    samples: Vec<(i64, f64)>,
}

impl Fake {
    /// Returns `count` series with a sample in each of the seconds.
    fn regular(count: usize, seconds: std::ops::Range<i64>) -> Self {
        let series = (0..count).map(|index| FakeSeries {
            name: format!("metric_{index}"),
            labels: vec![("index".to_owned(), index.to_string())],
            container: None,
            samples: seconds
                .clone()
                .map(|second| (second * 1_000, (second * 100) as f64 + index as f64))
                .collect(),
        });
        Self {
            series: series.collect(),
            ..Self::default()
        }
    }

    fn visit(
        &self,
        visitor: &mut dyn Visitor,
        within: impl Fn(&FakeSeries, i64) -> bool,
    ) -> Result<(), StoreError> {
        for series in &self.series {
            let labels: Vec<(&str, &str)> = series
                .labels
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            match visitor.series(&Series {
                name: &series.name,
                labels: &labels,
                help: "help",
                kind: Kind::Counter,
                source: 1,
                container: series.container.as_deref(),
            }) {
                Visit::Samples => {}
                Visit::Skip => continue,
                Visit::Stop => return Ok(()),
            }
            let samples = series.samples.iter();
            let samples = samples.filter(|(time, _)| within(series, *time));
            let (times, values): (Vec<_>, Vec<_>) = samples.copied().unzip();
            for (times, values) in times.chunks(7).zip(values.chunks(7)) {
                *self.visited.lock().unwrap() += times.len() as u64;
                if visitor.samples(times, values).is_break() {
                    return Ok(());
                }
            }
        }
        if self.unreadable {
            return Err(StoreError::new("the disk is gone"));
        }
        Ok(())
    }
}

impl SampleStore for Fake {
    fn latest(&self, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        self.visit(visitor, |series, time| {
            series.samples.last().is_some_and(|last| last.0 == time)
        })
    }

    fn window(&self, from: i64, to: i64, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        self.visit(visitor, |_, time| (from..=to).contains(&time))
    }
}

/// A sink that gathers the parts.
#[derive(Default)]
struct Gathered {
    parts: Vec<StreamMetricsRequest>,
    lengths: Vec<usize>,
    lasts: usize,
    /// Calls of `must_stop_sending` until it returns true.
    checks_left: Option<Mutex<u32>>,
    stop_reading: bool,
}

impl ResponseSink for Gathered {
    fn part(&mut self, message: Bytes) -> ControlFlow<()> {
        assert_eq!(self.lasts, 0, "nothing follows the last part");
        self.lengths.push(message.len());
        let part = StreamMetricsRequest::decode(message).unwrap();
        self.parts.push(part);
        ControlFlow::Continue(())
    }

    fn last(&mut self, message: Bytes, _: bool) {
        assert!(self.part(message).is_continue());
        self.lasts += 1;
    }

    fn must_stop_reading(&self) -> bool {
        self.stop_reading || self.must_stop_sending()
    }

    fn must_stop_sending(&self) -> bool {
        self.checks_left.as_ref().is_some_and(|left| {
            let mut left = left.lock().unwrap();
            *left = left.saturating_sub(1);
            *left == 0
        })
    }
}

fn identity() -> Arc<Identity> {
    Arc::new(Identity {
        role: "ROLE_DATA".to_owned(),
        pod_name: "db-0".to_owned(),
        labels: [("type".to_owned(), "hot".to_owned())].into(),
        ..Identity::default()
    })
}

fn context(query_message: &StreamMetricsResponse) -> ResponseContext {
    let (query, fault) = Query::new(query_message);
    assert_eq!(fault, None);
    ResponseContext {
        query: Arc::new(query),
        identity: identity(),
        message_bytes: 4 << 20,
        profile: false,
        now: 1_000_000,
    }
}

/// The context of a response to a proxy with the profile, in messages of at most this many bytes.
fn cut_at(message_bytes: usize, query_message: &StreamMetricsResponse) -> ResponseContext {
    ResponseContext {
        message_bytes,
        profile: true,
        ..context(query_message)
    }
}

fn with_profile(query_message: &StreamMetricsResponse) -> ResponseContext {
    cut_at(4 << 20, query_message)
}

/// What a proxy of ours asks with.
fn ours(from: Option<i64>, to: Option<i64>) -> StreamMetricsResponse {
    StreamMetricsResponse {
        start_time: from.map(timestamp),
        end_time: to.map(timestamp),
        request_id: 77,
        columnar: true,
        ..StreamMetricsResponse::default()
    }
}

fn plain(from: Option<i64>, to: Option<i64>) -> StreamMetricsResponse {
    StreamMetricsResponse {
        request_id: 0,
        columnar: false,
        ..ours(from, to)
    }
}

fn respond(context: &ResponseContext, store: &Fake) -> (Gathered, ResponseSummary) {
    let mut gathered = Gathered::default();
    let summary = write(context, store, &mut gathered);
    assert_eq!(gathered.lasts, 1);
    (gathered, summary)
}

fn only(gathered: &Gathered) -> &StreamMetricsRequest {
    assert_eq!(gathered.parts.len(), 1);
    &gathered.parts[0]
}

fn times(metrics: &[Metric]) -> Vec<i64> {
    let times = metrics.iter().map(|metric| {
        let time = metric.timestamp.unwrap();
        time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000
    });
    times.collect()
}

#[test]
fn latest_values_have_no_times() {
    let (gathered, summary) = respond(&context(&plain(None, None)), &Fake::regular(3, 0..10));
    let reply = only(&gathered);
    assert_eq!(reply.timestamp, Some(timestamp(1_000_000)));
    assert_eq!(reply.metrics.len(), 3);
    for (index, metric) in reply.metrics.iter().enumerate() {
        assert_eq!(metric.timestamp, None);
        assert_eq!(metric.value.to_bits(), ((900 + index) as f64).to_bits());
        assert_eq!(metric.r#type(), MetricType::Counter);
        assert_eq!(metric.description, "help");
    }
    assert_eq!(summary.samples, 3);
    assert!(!summary.truncated);
}

#[test]
fn plain_proxy_gets_only_values_that_its_json_can_hold() {
    let mut record = Fake::regular(4, 0..10);
    for (series, value) in [(0, f64::NAN), (1, f64::INFINITY), (2, f64::NEG_INFINITY)] {
        record.series[series].samples[9].1 = value;
    }
    for (query, whole) in [(plain(None, None), 4), (plain(Some(0), None), 40)] {
        let (gathered, summary) = respond(&context(&query), &record);
        let metrics = &only(&gathered).metrics;
        assert!(metrics.iter().all(|metric| metric.value.is_finite()));
        assert_eq!((metrics.len(), summary.not_finite), (whole - 3, 3));
        assert!(!summary.truncated, "it is not a matter of space");
        let (gathered, summary) = respond(&with_profile(&query), &record);
        assert_eq!(
            (only(&gathered).metrics.len(), summary.not_finite),
            (whole, 0)
        );
    }
}

#[test]
fn window_has_both_ends_and_sample_times() {
    let record = Fake::regular(2, 0..100);
    for (from, to, count) in [
        (Some(10_000), Some(20_000), 11),
        (Some(10_001), Some(19_999), 9),
        (Some(95_000), None, 5),
        (None, Some(4_000), 5),
        (None, Some(i64::MAX), 100),
        (Some(20_000), Some(10_000), 0),
        (Some(200_000), Some(300_000), 0),
    ] {
        let (gathered, summary) = respond(&context(&plain(from, to)), &record);
        let metrics = &only(&gathered).metrics;
        assert_eq!(metrics.len(), 2 * count, "{from:?} {to:?}");
        let sent_times = times(metrics);
        let within = from.unwrap_or(i64::MIN)..=to.unwrap_or(i64::MAX);
        assert!(sent_times.iter().all(|time| within.contains(time)));
        for (metric, time) in metrics.iter().zip(sent_times) {
            let index: f64 = metric.labels["index"].parse().unwrap();
            assert_eq!(
                metric.value.to_bits(),
                ((time / 10) as f64 + index).to_bits()
            );
        }
        assert!(!summary.truncated);
    }
}

#[test]
fn profile_fields_are_sent_only_with_the_profile() {
    let record = Fake::regular(1, 0..10);
    let query_message = StreamMetricsResponse {
        columnar: false,
        ..ours(None, None)
    };
    let (gathered, _) = respond(&context(&query_message), &record);
    assert_eq!(only(&gathered).request_id, 0, "it did not show the profile");
    let (gathered, _) = respond(&with_profile(&query_message), &record);
    assert_eq!(only(&gathered).request_id, 77);

    let cut = ResponseContext {
        message_bytes: 70_000,
        ..context(&plain(None, Some(i64::MAX)))
    };
    let (gathered, summary) = respond(&cut, &Fake::regular(10, 0..10_000));
    assert!(summary.truncated);
    assert_eq!(only(&gathered).truncated, None);
}

#[test]
fn oldest_samples_are_left_out_and_reported() {
    let record = Fake::regular(10, 0..1_000);
    for message_bytes in [70_000, 100_000, 200_000] {
        let context = cut_at(message_bytes, &plain(Some(0), None));
        let (gathered, summary) = respond(&context, &record);
        let reply = only(&gathered);
        assert!(summary.truncated);
        assert!(gathered.lengths[0] <= message_bytes);
        assert!(
            gathered.lengths[0] > message_bytes * 9 / 10,
            "little is wasted"
        );
        let sent_times = times(&reply.metrics);
        let oldest = *sent_times.iter().min().unwrap();
        assert_eq!(
            sent_times.iter().max(),
            Some(&999_000),
            "the newest are there"
        );
        // From the oldest on each series has each second.
        let seconds = (999_000 - oldest) / 1_000 + 1;
        assert_eq!(Ok(reply.metrics.len()), usize::try_from(10 * seconds));
        assert_eq!(
            reply.truncated.as_ref().unwrap().from,
            Some(timestamp(oldest))
        );
        assert!(reply.truncated.as_ref().unwrap().samples > 0);
    }
}

/// A record that is another one at each look, and stays the last one.
struct Growing {
    records: Vec<Fake>,
    looks: Mutex<usize>,
}

impl SampleStore for Growing {
    fn latest(&self, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        self.records[0].latest(visitor)
    }

    fn window(&self, from: i64, to: i64, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        let mut looks = self.looks.lock().unwrap();
        let record = &self.records[(*looks).min(self.records.len() - 1)];
        *looks += 1;
        record.window(from, to, visitor)
    }
}

fn respond_from(records: Vec<Fake>) -> Vec<Metric> {
    let looks = Mutex::default();
    let mut gathered = Gathered::default();
    let context = cut_at(7_700, &plain(Some(0), None));
    write(&context, &Growing { records, looks }, &mut gathered);
    only(&gathered).metrics.clone()
}

#[test]
fn newer_samples_do_not_displace_measured_ones() {
    // A second passes with each look, for longer than anybody would weigh again.
    let ends = 1_000..1_050;
    let metrics = respond_from(ends.map(|end| Fake::regular(10, 990..end)).collect());
    let times = times(&metrics);
    assert_eq!(times.iter().max(), Some(&999_000));
    let scrapes = (999_000 - times.iter().min().unwrap()) / 1_000 + 1;
    assert_eq!(Ok(times.len()), usize::try_from(10 * scrapes));
}

#[test]
fn late_scrape_displaces_the_oldest() {
    let (first, mut second) = (Fake::regular(10, 990..1_000), Fake::regular(10, 990..1_000));
    let slow = Fake::regular(10, 998..999).series.into_iter();
    second.series.extend(slow.map(|series| FakeSeries {
        name: format!("slow_{}", series.name),
        ..series
    }));
    let metrics = respond_from(vec![first, second]);
    let oldest = *times(&metrics).iter().min().unwrap();
    assert!(oldest > 990_000);
    let slow = metrics
        .iter()
        .filter(|metric| metric.name.starts_with("slow"));
    assert_eq!(slow.count(), 10);
    let scrapes = (999_000 - oldest) / 1_000 + 1;
    assert_eq!(Ok(metrics.len() - 10), usize::try_from(10 * scrapes));
}

#[test]
fn record_that_ended_long_ago_is_not_measured_whole() {
    let store = Fake::regular(400, 0..2_000);
    let context = ResponseContext {
        message_bytes: 100_000,
        // A year later.
        now: 31_536_000_000,
        ..context(&plain(Some(0), None))
    };
    let mut gathered = Gathered::default();
    write(&context, &store, &mut gathered);
    let sent = only(&gathered).metrics.len() as u64;
    assert!(sent > 400);
    assert_eq!(
        times(&only(&gathered).metrics).iter().max(),
        Some(&1_999_000)
    );
    let visited = *store.visited.lock().unwrap();
    assert!(
        visited < 40 * sent,
        "{visited} samples visited for {sent}, of 800,000"
    );
}

#[test]
fn single_large_scrape_is_sent_in_part() {
    for query_message in [plain(None, None), plain(Some(0), None)] {
        let context = cut_at(70_000, &query_message);
        let (gathered, summary) = respond(&context, &Fake::regular(2_000, 5..7));
        let reply = only(&gathered);
        assert!(gathered.lengths[0] <= 70_000);
        assert!(reply.metrics.len() > 400);
        assert!(summary.truncated);
        let truncated = reply.truncated.as_ref().unwrap();
        assert_eq!(
            truncated.from,
            Some(timestamp(1_000_001)),
            "nothing is whole"
        );
        assert_eq!(
            truncated.samples,
            2_000 - reply.metrics.len() as u64 + {
                // Of a window the older scrape is left out as well.
                query_message.start_time.map_or(0, |_| 2_000)
            }
        );
    }
}

#[test]
fn identity_labels_never_replace_metric_labels() {
    let mut record = Fake::regular(2, 0..1);
    record.series[0].labels = [("type", "file"), ("node_type", "a"), ("pod_name", "a")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    record.series[1].container = Some("data".to_owned());
    let (gathered, _) = respond(&context(&plain(None, None)), &record);
    let metrics = &only(&gathered).metrics;
    let text = |index: usize| {
        let labels = metrics[index].labels.iter();
        let text: Vec<_> = labels
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        text.join(" ")
    };
    assert_eq!(
        text(0),
        "node_role=ROLE_DATA node_type=a pod_name=a type=file"
    );
    assert_eq!(
        text(1),
        "container_name=data index=1 node_role=ROLE_DATA node_type=hot pod_name=db-0"
    );
}

#[test]
fn any_text_in_labels_arrives_unchanged() {
    let mut record = Fake::regular(1, 0..1);
    record.series[0].labels = vec![("a".to_owned(), "x,y=\"z\"\n{日本}".to_owned())];
    let (gathered, _) = respond(&context(&plain(None, None)), &record);
    let labels = &only(&gathered).metrics[0].labels;
    assert_eq!(labels["a"], "x,y=\"z\"\n{日本}");
    assert!(!labels.contains_key("y"));
}

#[test]
fn matchers_see_the_labels_that_are_sent() {
    let record = Fake::regular(3, 0..5);
    for (name, value, count) in [
        ("index", "1", 1),
        ("node_role", "ROLE_DATA", 3),
        ("pod_name", "db-1", 0),
        ("__name__", "metric_2", 1),
    ] {
        let matcher = Matcher {
            r#type: Match::Equal.into(),
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let query_message = StreamMetricsResponse {
            matchers: vec![matcher],
            ..plain(None, None)
        };
        let (gathered, _) = respond(&context(&query_message), &record);
        assert_eq!(only(&gathered).metrics.len(), count, "{name}={value}");
    }
}

#[test]
fn no_samples_give_an_empty_response() {
    for query_message in [ours(None, None), ours(Some(0), Some(1)), plain(None, None)] {
        let (gathered, summary) = respond(&with_profile(&query_message), &Fake::default());
        let reply = only(&gathered);
        assert_eq!(reply.timestamp, Some(timestamp(1_000_000)));
        assert_eq!((reply.metrics.len(), &reply.columns), (0, &None));
        assert_eq!(reply.truncated, None);
        assert_eq!((summary.samples, summary.truncated), (0, false));
        assert!(summary.error.is_none());
    }
}

#[test]
fn response_out_of_time_ends_marked_as_truncated() {
    let record = Fake::regular(100, 0..100);
    for query_message in [
        ours(Some(0), None),
        ours(None, None),
        plain(Some(0), None),
        plain(None, None),
    ] {
        for checks_left in 1..300 {
            let context = with_profile(&query_message);
            let mut gathered = Gathered {
                checks_left: Some(Mutex::new(checks_left)),
                ..Gathered::default()
            };
            let summary = write(&context, &record, &mut gathered);
            assert_eq!(gathered.lasts, 1);
            let last = gathered.parts.last().unwrap();
            assert_eq!(last.truncated.is_some(), summary.truncated);
            if !summary.truncated {
                let wanted = if query_message.start_time.is_some() {
                    10_000
                } else {
                    100
                };
                assert_eq!(summary.samples, wanted);
            }
        }
    }
}

#[test]
fn measured_part_is_sent_when_time_runs_out() {
    let record = Fake::regular(5, 900..1_001);
    let mut gathered = Gathered {
        checks_left: Some(Mutex::new(u32::MAX)),
        ..Gathered::default()
    };
    let context = with_profile(&plain(Some(0), None));
    // In no hurry everything is sent; in a hurry nothing was looked at yet.
    write(&context, &record, &mut gathered);
    assert_eq!(only(&gathered).metrics.len(), 505);
    let mut rushed = Gathered {
        stop_reading: true,
        ..Gathered::default()
    };
    let summary = write(&context, &record, &mut rushed);
    assert!(summary.truncated);
    assert!(only(&rushed).truncated.is_some());
}

#[test]
fn unreadable_store_gives_a_truncated_response() {
    let mut record = Fake::regular(1, 0..1);
    record.unreadable = true;
    for query_message in [ours(None, None), plain(None, None), plain(Some(0), None)] {
        let (gathered, summary) = respond(&with_profile(&query_message), &record);
        assert!(summary.error.is_some());
        assert!(gathered.parts.last().unwrap().truncated.is_some());
    }
}
