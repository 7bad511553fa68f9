//! `/metrics-windows`.

use std::time::Duration;

use serde_json::json;
use steadfast_wire::fodc::{
    Columns, Metric, SeriesColumn, StreamMetricsRequest, StreamMetricsResponse, TimeColumn,
    Truncation,
};

use crate::{
    agent::{Action, Agent, at, labels, message, metric, ours, pod, seed},
    complete, config, get, metrics_stream_opens, start, start_with,
};

const HOUR: &str = "/metrics-windows?start_time=2026-01-01T00:00:00Z&end_time=2026-01-01T01:00:00Z";

/// The time for windows of many slices: nothing may be late on a busy machine.
const DEADLINE: Duration = Duration::from_secs(25);

/// 2026-01-01T00:00:00Z.
const MIDNIGHT: i64 = 1_767_225_600;

fn seconds(query: &StreamMetricsResponse) -> (i64, i64) {
    let (start, end) = (
        query.start_time.as_ref().unwrap(),
        query.end_time.as_ref().unwrap(),
    );
    // The first whole second at or after the start; the last at or before the end.
    (start.seconds + i64::from(start.nanos > 0), end.seconds)
}

/// Responds as a Go agent does: a sample per ten seconds of the window, both ends included. It has no
/// latest values.
fn every_ten_seconds(query: &StreamMetricsResponse) -> Vec<Metric> {
    if query.start_time.is_none() {
        return Vec::new();
    }
    let (start, end) = seconds(query);
    (start..=end)
        .filter(|second| second % 10 == 0)
        .map(|second| at(second, "up", &[], second as f64))
        .collect()
}

#[tokio::test]
async fn window_has_the_json_shape_of_the_releases() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "ROLE_DATA")).await;
    let own = [
        ("container_name", "data"),
        ("node_role", "ROLE_DATA"),
        ("pod_name", "db-0"),
    ];
    let mut samples = vec![
        at(MIDNIGHT + 10, "jobs", &own, 9.5),
        at(MIDNIGHT, "jobs", &own, 7.0),
    ];
    for sample in &mut samples {
        sample.description = "queued <jobs>".to_owned();
    }
    let metrics = agent.metrics(move |query| {
        if query.start_time.is_none() {
            return Action::Respond(message(vec![]));
        }
        let (start, end) = seconds(&query);
        let inside = |sample: &&Metric| {
            let at = sample.timestamp.as_ref().unwrap().seconds;
            start <= at && at <= end
        };
        Action::Respond(message(samples.iter().filter(inside).cloned().collect()))
    });
    let _metrics = metrics.await;
    let response = complete(&proxy, HOUR).await;
    assert_eq!(response.header("content-type"), Some("application/json"));
    let expected = json!([{
        "agent_id": agent.id,
        "data": [
            {"timestamp": "2026-01-01T00:00:00Z", "value": 7},
            {"timestamp": "2026-01-01T00:00:10Z", "value": 9.5},
        ],
        "description": "queued <jobs>",
        "labels": {"container_name": "data", "node_role": "ROLE_DATA", "pod_name": "db-0"},
        "name": "jobs",
        "pod_name": "db-0",
    }]);
    assert_eq!(response.json(), expected);
}

#[tokio::test]
async fn window_without_both_times_is_latest_and_may_be_empty() {
    let proxy = start().await;
    let empty = get(&proxy, HOUR).await;
    assert_eq!((empty.status, empty.body.as_str()), (200, "[]\n"));
    let agent = Agent::register(&proxy, seed("10.0.0.1", 17912, "r")).await;
    let metrics = agent.responding(vec![metric("up", &[], 1.0)]).await;
    let latest = complete(&proxy, "/metrics-windows?end_time=2026-01-01T00:00:00Z")
        .await
        .json();
    assert_eq!(
        latest[0]["data"],
        json!([{"timestamp": "2023-11-14T22:13:20Z", "value": 1}])
    );
    assert_eq!(
        (&latest[0]["ip"], &latest[0]["port"]),
        (&json!("10.0.0.1"), &json!(17912))
    );
    assert_eq!(
        metrics.queries.lock().unwrap()[0],
        StreamMetricsResponse::default()
    );
}

#[tokio::test]
async fn nan_and_infinities_are_json_strings() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5];
    let samples: Vec<Metric> = (0..)
        .zip(values)
        .map(|(n, v)| at(MIDNIGHT + n, "up", &[], v))
        .collect();
    let mut once = Some(samples);
    let _metrics = agent
        .metrics(move |query| match query.start_time {
            Some(_) => Action::Respond(message(once.take().unwrap_or_default())),
            None => Action::Respond(message(vec![])),
        })
        .await;
    metrics_stream_opens(&proxy).await;
    let data = get(&proxy, HOUR).await.data();
    let values: Vec<_> = data.iter().map(|one| &one["value"]).collect();
    let expected = [json!("NaN"), json!("+Inf"), json!("-Inf"), json!(1.5)];
    assert_eq!(values, expected.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn reversed_and_malformed_times_query_no_agent() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let metrics = agent.responding(vec![]).await;
    for query in [
        "start_time=2026-01-01T01:00:00Z&end_time=2026-01-01T00:00:00Z",
        "start_time=yesterday",
        "end_time=2026-13-01T00:00:00Z",
    ] {
        let response = get(&proxy, &format!("/metrics-windows?{query}")).await;
        assert_eq!(response.status, 400, "{query}");
        assert_eq!(
            response.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    assert_eq!(metrics.query_count(), 0);
}

#[tokio::test]
async fn slices_are_merged_without_loss_or_repetition() {
    let mut config = config();
    config.max_message_bytes = 64 << 10;
    config.window_deadline = DEADLINE;
    let proxy = start_with(config).await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let metrics = agent
        .metrics(|query| match query.start_time {
            Some(_) => {
                let mut samples = every_ten_seconds(&query);
                for sample in &mut samples {
                    sample.description = "x".repeat(400);
                }
                Action::Respond(message(samples))
            }
            None => Action::Respond(message(vec![])),
        })
        .await;
    complete(&proxy, "/metrics").await;
    let data = complete(&proxy, HOUR).await.data();
    let times = data
        .iter()
        .map(|one| one["value"].as_i64().unwrap() - MIDNIGHT);
    let times: Vec<i64> = times.collect();
    assert_eq!(times, (0..=360).map(|ten| 10 * ten).collect::<Vec<_>>());
    assert!(
        metrics.query_count() > 5,
        "361 samples of 400 bytes are more than one message"
    );
}

#[tokio::test]
async fn missing_slice_is_reported() {
    let mut config = config();
    config.window_deadline = Duration::from_secs(1);
    let proxy = start_with(config).await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let mut count = 0;
    let _metrics = agent
        .metrics(move |query| {
            count += 1;
            match count {
                // The latest values, and the first slice.
                1 | 2 => Action::Respond(message(every_ten_seconds(&query))),
                _ => Action::Ignore,
            }
        })
        .await;
    metrics_stream_opens(&proxy).await;
    let response = get(&proxy, HOUR).await;
    assert_eq!(response.missing(), Some("1; db-0=late(partly)"));
    assert!(!response.data().is_empty());
}

#[tokio::test]
async fn window_beyond_the_memory_budget_is_partly_missing() {
    let mut config = config();
    (config.max_message_bytes, config.response_bytes) = (64 << 10, 64 << 10);
    config.window_deadline = DEADLINE;
    let proxy = start_with(config).await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let metrics = agent.metrics(|query| {
        let samples = if query.start_time.is_none() {
            vec![metric("up", &[], 1.0)]
        } else {
            let (start, end) = seconds(&query);
            let every_second = (start..=end).map(|second| at(second, "up", &[], 1.0));
            every_second.collect()
        };
        Action::Respond(message(samples))
    });
    let _metrics = metrics.await;
    metrics_stream_opens(&proxy).await;
    let response = get(&proxy, HOUR).await;
    assert_eq!(response.missing(), Some("1; db-0=no room(partly)"));
    let data = response.data();
    assert!((500..3_601).contains(&data.len()), "{} samples", data.len());
    // What is there is the newest, and its memory comes back.
    assert_eq!(data.last().unwrap()["timestamp"], "2026-01-01T01:00:00Z");
    let minute = HOUR.replace("T00:00:00Z", "T00:59:00Z");
    let response = get(&proxy, &minute).await;
    assert_eq!((response.missing(), response.data().len()), (None, 61));
}

#[tokio::test]
async fn profile_agent_responds_in_columns_and_reports_truncation() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, ours("db-0", "one")).await;
    let metrics = agent
        .metrics(|query| {
            assert!(query.columnar && query.request_id > 0);
            let part = |first: i64, values: Vec<f64>| {
                let steps = (1..values.len()).map(|_| 500);
                let count = u32::try_from(values.len()).unwrap();
                StreamMetricsRequest {
                    request_id: query.request_id,
                    columns: Some(Columns {
                        times: vec![TimeColumn {
                            deltas: std::iter::once(MIDNIGHT * 1_000 + first)
                                .chain(steps)
                                .collect(),
                        }],
                        series: vec![SeriesColumn {
                            name: "up".to_owned(),
                            labels: labels(&[("a", "b")]),
                            runs: vec![steadfast_wire::fodc::Run { first: 0, count }],
                            values,
                            ..SeriesColumn::default()
                        }],
                    }),
                    ..StreamMetricsRequest::default()
                }
            };
            let mut stray = part(0, vec![99.0]);
            stray.request_id += 1;
            let mut one = part(0, vec![1.0, 2.0]);
            one.more = true;
            let mut two = part(1_000, vec![3.0]);
            two.truncated = Some(Truncation {
                from: query.start_time,
                samples: 7,
            });
            Action::RespondInParts(vec![stray, one, two])
        })
        .await;
    metrics_stream_opens(&proxy).await;
    let response = get(&proxy, HOUR).await;
    assert_eq!(response.missing(), Some("1; db-0=truncated(partly)"));
    let data = [
        json!({"timestamp": "2026-01-01T00:00:00Z", "value": 1}),
        json!({"timestamp": "2026-01-01T00:00:00.5Z", "value": 2}),
        json!({"timestamp": "2026-01-01T00:00:01Z", "value": 3}),
    ];
    assert_eq!(response.data(), data, "{response:?}");
    assert_eq!(metrics.query_count(), 1, "one query for the whole window");
}

#[tokio::test]
async fn names_are_sent_to_profile_agents_and_filtered_for_others() {
    let proxy = start().await;
    let samples = || {
        ["jobs", "up", "u."]
            .map(|name| at(MIDNIGHT, name, &[], 1.0))
            .to_vec()
    };
    let ours = Agent::register(&proxy, ours("db-0", "one")).await;
    // It responds with all metrics, one of which tells the matcher.
    let ours = ours.metrics(move |query| {
        let [matcher] = &*query.matchers else {
            panic!("{query:?}")
        };
        assert_eq!(matcher.name, "__name__");
        let matcher_text = format!("{} {}", matcher.r#type().as_str_name(), matcher.value);
        let mut all = samples();
        all.push(at(MIDNIGHT, "up", &[("matcher", &matcher_text)], 1.0));
        Action::Respond(StreamMetricsRequest {
            request_id: query.request_id,
            ..message(all)
        })
    });
    let _ours = ours.await;
    let plain = Agent::register(&proxy, pod("db-1", "r")).await;
    let plain = plain.metrics(move |query| {
        assert!(query.matchers.is_empty(), "it would not understand them");
        let has_samples = query.start_time.is_some() && seconds(&query).0 == MIDNIGHT;
        Action::Respond(message(if has_samples { samples() } else { Vec::new() }))
    });
    let _plain = plain.await;
    for (query, expected) in [
        ("name=up", "db-0 up , db-0 up TYPE_EQUAL up, db-1 up "),
        (
            "name=up&name=u.",
            r"db-0 u. , db-0 up , db-0 up TYPE_MATCHES u\.|up, db-1 u. , db-1 up ",
        ),
    ] {
        let response = complete(&proxy, &format!("{HOUR}&{query}")).await.json();
        let mut seen: Vec<String> = response
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
                let (pod, name) = (text(&one["pod_name"]), text(&one["name"]));
                format!("{pod} {name} {}", text(&one["labels"]["matcher"]))
            })
            .collect();
        seen.sort();
        assert_eq!(seen.join(", "), expected);
    }
}

#[tokio::test]
async fn repeated_value_of_a_time_is_shown_once() {
    let proxy = start().await;
    let agent = Agent::register(&proxy, pod("db-0", "r")).await;
    let metrics = agent.metrics(|query| {
        if query.start_time.is_none() {
            return Action::Respond(message(vec![]));
        }
        let values = [1.0, 2.0, 1.0, 2.0, 3.0];
        let samples = values.map(|value| at(MIDNIGHT, "jobs", &[], value));
        Action::Respond(message(samples.to_vec()))
    });
    let _metrics = metrics.await;
    let data = complete(&proxy, HOUR).await.data();
    let values: Vec<_> = data
        .iter()
        .map(|point| point["value"].as_f64().unwrap())
        .collect();
    assert_eq!(values, [1.0, 2.0, 3.0]);
}
