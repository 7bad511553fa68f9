//! Spans and metrics of a link, as an application receives them.
#![cfg(all(feature = "grpc", feature = "opentelemetry", feature = "metrics"))]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use std::{collections::BTreeMap, time::Duration};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use opentelemetry::{
    Context,
    global::BoxedTracer,
    trace::{SpanId, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use steadfast::{
    Link, LinkOptions,
    session::{Config, State},
    testing::{DialOutcome, Peer, ScriptedConnection, ScriptedTransport},
};
use support::{
    note::{Notes, note_sink},
    server::talk,
    until,
};
use tokio::time::sleep;

fn listening() -> ScriptedTransport {
    ScriptedTransport::new(async |peer: Peer| {
        peer.send_headers();
        peer.receive_until_end().await;
    })
}

fn start(world: &ScriptedTransport, options: LinkOptions) -> Link<Notes, ScriptedConnection> {
    let (sink, _events) = note_sink();
    let link = options
        .spawn(talk(), world.clone(), Notes::sending(1), sink)
        .unwrap();
    link.start().unwrap();
    link
}

async fn live(link: &Link<Notes, ScriptedConnection>, streams: u64) {
    until("live", &mut link.watch(), |status| {
        status.state == State::Connected && status.streams_established == streams
    })
    .await;
}

fn options() -> LinkOptions {
    let mut config = Config::default();
    config.initial_backoff = Duration::from_secs(1);
    LinkOptions::from(config).name("orders").seed(7)
}

fn attribute(span: &SpanData, key: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key.as_str() == key);
    found.map(|pair| pair.value.to_string()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn attempts_and_outages_are_spans_that_the_peer_joins() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let tracer = provider.tracer("test");
    let application = Context::current_with_span(tracer.start("application"));
    let root = application.span().span_context().clone();
    let world = listening();
    let link = {
        let _current = application.attach();
        start(&world, options().tracer(BoxedTracer::new(Box::new(tracer))))
    };
    live(&link, 1).await;
    sleep(Duration::from_secs(40)).await;
    world.set_dial_outcome(DialOutcome::Refused);
    world.connections()[0].cut();
    sleep(Duration::from_millis(1_500)).await;
    world.set_dial_outcome(DialOutcome::Connected);
    live(&link, 2).await;
    link.close().await;

    let spans = exporter.get_finished_spans().unwrap();
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    let (attempt, outage) = ("steadfast.attempt", "steadfast.outage");
    // The last ended with the link, which held its context.
    assert_eq!(names, [attempt, attempt, attempt, outage, "application"]);
    let outage = &spans[3];
    assert_eq!(outage.parent_span_id, root.span_id());
    assert_eq!(
        (outage.status.clone(), attribute(outage, "reason")),
        (Status::Ok, "lost".to_owned())
    );
    assert_eq!(attribute(outage, "attempts"), "2");
    assert!(attribute(outage, "redial_ms").parse::<u64>().unwrap() > 1_000);
    let failed = &spans[1];
    assert_eq!(attribute(failed, "reason"), "unreachable");
    assert!(
        matches!(&failed.status, Status::Error { description } if description.contains("script"))
    );
    let parents: Vec<SpanId> = spans[..4].iter().map(|span| span.parent_span_id).collect();
    let lost = outage.span_context.span_id();
    assert_eq!(parents, [root.span_id(), lost, lost, root.span_id()]);
    // The failed attempt opened no stream.
    let sent = world.streams().into_iter().map(|stream| {
        let parent = stream.call.metadata.get("traceparent");
        parent.unwrap().to_owned()
    });
    let expected = [&spans[0], &spans[2]].map(|span| {
        let id = span.span_context.span_id();
        format!("00-{}-{id}-01", root.trace_id())
    });
    assert_eq!(sent.collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn counters_of_a_link_reach_the_recorder_until_it_closes() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let world = listening();
    let link = start(&world, options().metrics_interval(Duration::from_secs(10)));
    live(&link, 1).await;
    // Several copies, of which only the first has something new.
    sleep(Duration::from_secs(31)).await;
    let values = || -> BTreeMap<String, u64> {
        let snapshot = snapshotter.snapshot().into_vec().into_iter();
        let values = snapshot.map(|(key, _, _, value)| {
            let (name, labels) = key.key().clone().into_parts();
            let labels: Vec<_> = labels
                .iter()
                .map(|label| label.value().to_owned())
                .collect();
            let value = match value {
                DebugValue::Counter(total) => total,
                DebugValue::Gauge(value) => value.into_inner() as u64,
                DebugValue::Histogram(_) => unreachable!("a link records none"),
            };
            (format!("{} {}", name.as_str(), labels.join(" ")), value)
        });
        values.collect()
    };
    let while_live = values();
    assert_eq!(while_live["steadfast_link_connected orders"], 1);
    assert_eq!(while_live["steadfast_link_attempts_total orders"], 1);
    assert_eq!(while_live["steadfast_link_messages_out_total orders"], 1);
    link.close().await;
    let closed = values();
    assert_eq!(closed["steadfast_link_connected orders"], 0);
    assert_eq!(closed["steadfast_link_ends_total orders left"], 1);

    let interval = || options().metrics_interval(Duration::from_secs(10));
    let links = [start(&world, interval()), start(&world, interval())];
    for link in &links {
        live(link, 1).await;
    }
    sleep(Duration::from_secs(11)).await;
    let of_both = values();
    // The recorder of tests counts from the last look.
    assert_eq!(of_both["steadfast_link_attempts_total orders"], 2);
    for link in links {
        link.close().await;
    }
    assert_eq!(values()["steadfast_link_ends_total orders left"], 2);
}
