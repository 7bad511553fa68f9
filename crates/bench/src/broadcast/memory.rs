//! The resident memory of the shipped server: per idle connection, per subscription, and after all have left.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use h2::SendStream;
use steadfast_bench::figure::Figures;
use steadfast_wire::streamer::{Filter, SubscribeRequest, Value, gateway_message::Payload, value};
use tokio::{
    runtime::{self, Runtime},
    time::sleep,
};

use super::load::{self, Received};
use crate::target::{Endpoint, Target, load_runtime};

pub(super) const CONNECTIONS: u64 = 2_000;

/// Streams that hold the subscriptions, and the subscriptions of each.
const STREAMS: u64 = 100;
const SUBSCRIPTIONS: u64 = 1_000;

/// The goals: bytes per idle connection and per subscription, and the factor after all have left.
const PER_CONNECTION: f64 = 20_000.0;
const PER_SUBSCRIPTION: f64 = 400.0;
const AFTER_LEAVE: f64 = 2.0;

/// The longest wait for memory to be returned.
const RETURN: Duration = Duration::from_secs(12);

pub(crate) fn run() -> Result<Figures> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<Figures> {
    let mut figures = Figures::new();
    let mut add = |name: &str, value: f64, unit, goal: f64| {
        figures.put_less(format!("resident_{name}"), unit, value, goal);
    };
    let server = Target::product()?;
    // One connection first: a server allocates something once.
    let _first = connect(&server, 1, 1).await?;
    let start = server.resident()?;
    let clients = connect(&server, CONNECTIONS, 1).await?;
    let connected = server.resident()?;
    let each = (connected - start) / CONNECTIONS as f64;
    add("per_idle_connection", each, "bytes", PER_CONNECTION);
    drop(clients);
    let left = settle(&server, start).await?;
    add(
        "after_2000_connections_left",
        left / start,
        "of start",
        AFTER_LEAVE,
    );

    let server = Target::product()?;
    let _first = connect(&server, 1, 1).await?;
    let start = server.resident()?;
    let clients = connect(&server, STREAMS, SUBSCRIPTIONS).await?;
    let subscribed = server.resident()?;
    let each =
        (subscribed - start - STREAMS as f64 * PER_CONNECTION) / (STREAMS * SUBSCRIPTIONS) as f64;
    add("per_subscription", each, "bytes", PER_SUBSCRIPTION);
    drop(clients);
    let left = settle(&server, start).await?;
    add(
        "after_100000_subscriptions_left",
        left / start,
        "of start",
        AFTER_LEAVE,
    );
    figures.put("resident_start", "MiB", start / 1_048_576.0);
    Ok(figures)
}

/// Connections with their streams. Their tasks, which keep them open, are those of a runtime of their own.
pub(super) struct Clients {
    runtime: Option<Runtime>,
    streams: Vec<SendStream<Bytes>>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        // A runtime must not be dropped in a task.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Opens connections with one stream each, and subscribes.
pub(super) async fn connect(
    server: &Target,
    connections: u64,
    subscriptions: u64,
) -> Result<Clients> {
    let runtime = load_runtime()?;
    let streams = runtime.spawn(open(server.endpoint()?, connections, subscriptions));
    let mut clients = Clients {
        runtime: Some(runtime),
        streams: Vec::new(),
    };
    clients.streams = streams.await??;
    // The server's buffers become small again.
    sleep(Duration::from_secs(1)).await;
    Ok(clients)
}

async fn open(
    server: Endpoint,
    connections: u64,
    subscriptions: u64,
) -> Result<Vec<SendStream<Bytes>>> {
    let received = Received::default();
    let mut streams = Vec::new();
    for connection in 0..connections {
        let requests = load::connect(&server).await?;
        let mut stream = load::open_counted(&requests, &received).await?;
        let subscribe = |n| Payload::Subscribe(filtered(connection * subscriptions + n));
        load::send(&mut stream, (0..subscriptions).map(subscribe))?;
        streams.push(stream);
        received
            .wait_for_responses((connection + 1) * subscriptions)
            .await?;
    }
    Ok(streams)
}

/// Returns a subscription to the documents of one user.
fn filtered(number: u64) -> SubscribeRequest {
    let user = format!("user-{number}");
    let kind = Some(value::Kind::StringValue(user));
    let mut request = load::subscribe(format!("sub-{number:09}"), "messages");
    request.filters.push(Filter {
        field: "user".to_owned(),
        op: "==".to_owned(),
        value: Some(Value { kind }),
        path: Vec::new(),
    });
    request
}

/// Waits until memory is returned and returns what is still resident.
async fn settle(server: &Target, start: f64) -> Result<f64> {
    let step = Duration::from_millis(500);
    let mut left = f64::INFINITY;
    for _ in 0..RETURN.as_millis() / step.as_millis() {
        sleep(step).await;
        left = left.min(server.resident()?);
        if left < start * 1.2 {
            break;
        }
    }
    Ok(left)
}
