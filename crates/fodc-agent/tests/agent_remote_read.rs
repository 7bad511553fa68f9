//! Remote read responses as a Prometheus would that scraped the same endpoints.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use agent_support::{
    config,
    exporter::{Exporter, respond},
    http, page_when, page_with, stop,
};
use prost::Message as _;
use steadfast_fodc_agent::{Agent, scrape::Endpoint};
use steadfast_wire::prometheus::{
    Chunk, ChunkedReadResponse, LabelMatcher, Query, QueryResult, ReadRequest, ReadResponse,
    TimeSeries, label_matcher::Type, read_request::ResponseType,
};

const STALE: u64 = 0x7ff0_0000_0000_0002;

fn matcher(name: &str, kind: Type, value: &str) -> LabelMatcher {
    LabelMatcher {
        r#type: kind.into(),
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

fn query(matchers: &[LabelMatcher]) -> Query {
    Query {
        start_timestamp_ms: 0,
        end_timestamp_ms: i64::MAX,
        matchers: matchers.to_vec(),
    }
}

fn packed(request: &ReadRequest) -> Vec<u8> {
    let bytes = request.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&bytes).unwrap()
}

async fn ask(address: SocketAddr, request: &ReadRequest) -> Vec<QueryResult> {
    let response = http::send(address, "POST", "/api/v1/read", "", &packed(request)).await;
    assert_eq!(
        response.status,
        200,
        "{}",
        String::from_utf8_lossy(&response.body)
    );
    assert_eq!(
        response.header("content-type"),
        Some("application/x-protobuf")
    );
    assert_eq!(response.header("content-encoding"), Some("snappy"));
    let bytes = snap::raw::Decoder::new()
        .decompress_vec(&response.body)
        .unwrap();
    ReadResponse::decode(bytes.as_slice()).unwrap().results
}

async fn series(address: SocketAddr, matchers: &[LabelMatcher]) -> Vec<TimeSeries> {
    let request = ReadRequest {
        queries: vec![query(matchers)],
        accepted_response_types: vec![7, ResponseType::Samples.into()],
    };
    ask(address, &request).await.remove(0).timeseries
}

fn name(series: &TimeSeries) -> String {
    let labels = series.labels.iter();
    let labels: Vec<_> = labels
        .map(|label| format!("{}={}", label.name, label.value))
        .collect();
    labels.join(",")
}

/// Values in their order, marks as `stale`.
fn values(series: &TimeSeries) -> Vec<String> {
    let samples = series.samples.iter();
    samples
        .map(|sample| match sample.value.to_bits() {
            STALE => "stale".to_owned(),
            _ => sample.value.to_string(),
        })
        .collect()
}

/// An agent that reads one endpoint, which knows how often it was asked.
struct Stage {
    agent: Agent,
    exporter: Exporter,
}

impl Stage {
    /// `None` is a response that is no page. The request's number is from 0.
    async fn new(page: impl Fn(u64) -> Option<String> + Send + Sync + 'static) -> Self {
        let exporter = Exporter::new(Arc::new(move |request, stream| {
            match page(request.number) {
                Some(page) => respond(stream, "200 OK", "", page.as_bytes()),
                None => respond(stream, "500 Not now", "", b""),
            }
        }));
        let endpoint = Endpoint::new(&exporter.url()).unwrap();
        let mut config = config([]);
        config.endpoints = vec![endpoint.label("job", "node").label("instance", "here:1")];
        // Ticks that are lost on a busy machine would be marks in the responses.
        config.interval = Duration::from_millis(500);
        let agent = Agent::start(config).await.unwrap();
        Self { agent, exporter }
    }

    /// Waits until the response with this number is recorded.
    async fn answered(&self, number: u64) {
        page_when(&self.agent, "it is asked", |_| {
            self.exporter.requests() > number + 1
        })
        .await;
    }

    async fn series(&self, matchers: &[LabelMatcher]) -> Vec<TimeSeries> {
        series(self.agent.addresses().http.unwrap(), matchers).await
    }
}

#[tokio::test]
async fn read_series_are_sorted_and_have_endpoint_labels() {
    let page = "m{z=\"1\"} 1\nm{instance=\"own\",a=\"\"} 2\nm 3\n";
    let stage = Stage::new(|_| Some(page.to_owned())).await;
    stage.answered(0).await;
    let found = stage.series(&[matcher("__name__", Type::Eq, "m")]).await;
    let names: Vec<_> = found.iter().map(name).collect();
    assert_eq!(
        names,
        [
            "__name__=m,exported_instance=own,instance=here:1,job=node",
            "__name__=m,instance=here:1,job=node",
            "__name__=m,instance=here:1,job=node,z=1",
        ]
    );
    for (kind, name, value, count) in [
        (Type::Eq, "job", "node", 3),
        (Type::Eq, "job", "other", 0),
        (Type::Neq, "z", "1", 2),
        (Type::Re, "exported_instance", "o.n", 1),
        (Type::Nre, "exported_instance", ".+", 2),
        (Type::Eq, "z", "", 2),
    ] {
        let both = [
            matcher("__name__", Type::Re, "m"),
            matcher(name, kind, value),
        ];
        assert_eq!(
            stage.series(&both).await.len(),
            count,
            "{kind:?} {name} {value}"
        );
    }
    let up = stage.series(&[matcher("__name__", Type::Eq, "up")]).await;
    assert_eq!(name(&up[0]), "__name__=up,instance=here:1,job=node");
    stop(stage.agent).await;
}

#[tokio::test]
async fn vanished_series_ends_with_a_stale_marker() {
    let stage = Stage::new(|number| match number {
        2 => Some("stays 2\n".to_owned()),
        3 => None,
        _ => Some(format!("stays {number}\nleaves {number}\n")),
    })
    .await;
    stage.answered(4).await;
    let found = stage
        .series(&[matcher("__name__", Type::Re, "stays|leaves")])
        .await;
    let (leaves, stays) = (&found[0], &found[1]);
    assert_eq!(values(leaves)[..4], ["0", "1", "stale", "4"], "{leaves:?}");
    assert_eq!(
        values(stays)[..5],
        ["0", "1", "2", "stale", "4"],
        "{stays:?}"
    );
    // The mark of the one stands where the other was still read.
    assert_eq!(leaves.samples[2].timestamp, stays.samples[2].timestamp);
    let up = stage.series(&[matcher("__name__", Type::Eq, "up")]).await;
    assert_eq!(values(&up[0])[..5], ["1", "1", "1", "0", "1"]);
    assert_eq!(up[0].samples[3].timestamp, stays.samples[3].timestamp);
    stop(stage.agent).await;
}

#[tokio::test]
async fn ranges_include_both_ends_in_each_query() {
    let stage = Stage::new(|number| Some(format!("m {number}\nn NaN\n"))).await;
    stage.answered(3).await;
    let m = [matcher("__name__", Type::Eq, "m")];
    let all = stage.series(&m).await.remove(0).samples;
    let (second, third) = (all[1].timestamp, all[2].timestamp);
    let ranged = |from, to| Query {
        start_timestamp_ms: from,
        end_timestamp_ms: to,
        matchers: m.to_vec(),
    };
    let request = ReadRequest {
        queries: vec![
            ranged(second, third),
            ranged(second + 1, third - 1),
            query(&[matcher("__name__", Type::Eq, "n")]),
            ranged(third, second),
        ],
        accepted_response_types: Vec::new(),
    };
    let results = ask(stage.agent.addresses().http.unwrap(), &request).await;
    assert_eq!(results.len(), 4);
    assert_eq!(values(&results[0].timeseries[0]), ["1", "2"]);
    assert!(results[1].timeseries.is_empty());
    let nan = &results[2].timeseries[0].samples[0];
    assert!(nan.value.is_nan() && nan.value.to_bits() != STALE);
    assert!(results[3].timeseries.is_empty());
    stop(stage.agent).await;
}

#[tokio::test]
async fn refused_read_names_the_reason() {
    let exporter = Exporter::page("m 1\n");
    let mut config = config([exporter.url()]);
    config.read.bytes = Some(100);
    let agent = Agent::start(config).await.unwrap();
    page_with(&agent, "\nm 1 ").await;
    let address = agent.addresses().http.unwrap();
    let post = async |body: Vec<u8>| {
        let response = http::send(address, "POST", "/api/v1/read", "", &body).await;
        (response.status, response.text())
    };
    let bomb = snap::raw::Encoder::new()
        .compress_vec(&vec![0; 8 << 20])
        .unwrap();
    let unknown_only = ReadRequest {
        queries: vec![query(&[])],
        accepted_response_types: vec![7],
    };
    let read = |queries: Vec<Query>| {
        packed(&ReadRequest {
            queries,
            ..ReadRequest::default()
        })
    };
    let expression = |kind, value| matcher("job", kind, value);
    let expressions = vec![expression(Type::Nre, "a"); 17];
    let not_proto = snap::raw::Encoder::new()
        .compress_vec(b"\xff\xff\xff")
        .unwrap();
    for (body, status, reason) in [
        (b"not snappy".to_vec(), 400, "not one snappy block"),
        (not_proto, 400, "not a ReadRequest"),
        (bomb, 400, "request has 8388608 bytes"),
        (packed(&unknown_only), 400, "neither samples nor"),
        (
            read(vec![query(&[expression(Type::Re, "(")])]),
            400,
            "unclosed group",
        ),
        (
            read(vec![query(&[expression(Type::Re, "a)|(b")])]),
            400,
            "unopened group",
        ),
        (
            read(vec![query(&expressions)]),
            400,
            "17 matchers with expressions",
        ),
        (read(vec![query(&[]); 65]), 400, "65 queries"),
        (read(vec![query(&[])]), 400, "longer than 100 bytes"),
        (vec![0; 2 << 20], 413, "longer than 1048576 bytes"),
    ] {
        let (got, text) = post(body).await;
        assert_eq!(got, status, "{reason}: {text}");
        assert!(text.contains(reason), "{reason}: {text}");
    }
    assert_eq!(http::get(address, "/api/v1/read").await.status, 405);
    stop(agent).await;
}

#[tokio::test]
async fn read_of_too_many_samples_names_the_limit() {
    let lines: Vec<_> = (0..20).map(|n| format!("m{{n=\"{n}\"}} 1\n")).collect();
    let exporter = Exporter::page(lines.concat());
    let mut config = config([exporter.url()]);
    config.read.samples = 10;
    let agent = Agent::start(config).await.unwrap();
    page_with(&agent, "\nm{n=\"19\"} 1 ").await;
    let address = agent.addresses().http.unwrap();
    let all = ReadRequest {
        queries: vec![query(&[])],
        ..ReadRequest::default()
    };
    let response = http::send(address, "POST", "/api/v1/read", "", &packed(&all)).await;
    assert_eq!(response.status, 400);
    let text = response.text();
    assert!(text.contains("more than 10 samples"), "{text}");
    stop(agent).await;
}

#[tokio::test]
async fn streamed_read_has_the_samples_of_the_other_form() {
    let stage = Stage::new(|n| {
        Some(format!(
            "# TYPE m counter\nm{{a=\"2\"}} {n}\nm{{a=\"1\"}} 0.5\n"
        ))
    })
    .await;
    stage.answered(4).await;
    let address = stage.agent.addresses().http.unwrap();
    let end = stage.series(&[]).await[0].samples.last().unwrap().timestamp;
    let query = |name| Query {
        end_timestamp_ms: end,
        ..query(&[matcher("__name__", Type::Eq, name)])
    };
    let mut request = ReadRequest {
        queries: vec![query("m"), query("none"), query("m")],
        ..ReadRequest::default()
    };
    let results = ask(address, &request).await;
    request.accepted_response_types = vec![
        ResponseType::StreamedXorChunks.into(),
        ResponseType::Samples.into(),
    ];
    let response = http::send(address, "POST", "/api/v1/read", "", &packed(&request)).await;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("content-type"),
        Some("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse")
    );
    assert_eq!(response.header("content-encoding"), None);
    let mut rest = &response.body[..];
    let mut streamed = Vec::new();
    while !rest.is_empty() {
        let length = prost::encoding::decode_varint(&mut rest).unwrap() as usize;
        // The checksum is tested where it is made.
        let (message, behind) = rest[4..].split_at(length);
        let frame = ChunkedReadResponse::decode(message).unwrap();
        for series in frame.chunked_series {
            let count =
                |chunk: &Chunk| usize::from(u16::from_be_bytes([chunk.data[0], chunk.data[1]]));
            let counts: usize = series.chunks.iter().map(count).sum();
            let times = series.chunks.first().zip(series.chunks.last());
            let times = times.map(|(first, last)| (first.min_time_ms, last.max_time_ms));
            streamed.push((
                frame.query_index as usize,
                series.labels,
                counts,
                times.unwrap(),
            ));
        }
        rest = behind;
    }
    let plain = results.into_iter().enumerate().flat_map(|(query, result)| {
        result.timeseries.into_iter().map(move |series| {
            let (first, last) = (&series.samples[0], series.samples.last().unwrap());
            let times = (first.timestamp, last.timestamp);
            (query, series.labels, series.samples.len(), times)
        })
    });
    let plain: Vec<_> = plain.collect();
    assert_eq!(plain.len(), 4);
    assert_eq!(streamed, plain);
    stop(stage.agent).await;
}
