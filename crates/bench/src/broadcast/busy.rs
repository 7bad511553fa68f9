//! The delay of other peers while one collection is expensive: 100,000 filters that no index helps,
//! and 4,000 events at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use prost::Message as _;
use steadfast_bench::figure::Figures;
use steadfast_wire::streamer::{
    Filter, Heartbeat, StreamerMessage, Value, gateway_message::Payload, streamer_message, value,
};
use tokio::time::{interval, sleep};

use super::load::{self, Publisher, Received};
use crate::target::Target;

const STREAMS: u64 = 100;
const FILTERS: u64 = 1_000;
const EVENTS: usize = 4_000;

/// The interval of the light events and of the heartbeats.
const INTERVAL: Duration = Duration::from_millis(10);

/// The number of light events and heartbeats that are measured.
const SAMPLES: usize = 400;

/// The longest delay that anybody may have.
const GOAL_MS: f64 = 50.0;

pub(super) async fn measure(figures: &mut Figures) -> Result<()> {
    let server = Target::product()?;
    let endpoint = server.endpoint()?;
    let received = Received::default();
    let mut heavy = Vec::new();
    for stream in 0..STREAMS {
        let requests = load::connect(&endpoint).await?;
        let mut sender = load::open_counted(&requests, &received).await?;
        load::send(
            &mut sender,
            (0..FILTERS).map(|n| costly(stream * FILTERS + n)),
        )?;
        heavy.push(sender);
        received.wait_for_responses((stream + 1) * FILTERS).await?;
    }
    let delays = Arc::new(Delays::default());
    let requests = load::connect(&endpoint).await?;
    let noted = Arc::clone(&delays);
    let mut light = load::open_stream(&requests, move |message| noted.note(message)).await?;
    let subscribe = load::subscribe("light".to_owned(), "light");
    load::send(&mut light, [Payload::Subscribe(subscribe)])?;
    let mut publisher = Publisher::connect(&endpoint, "light").await?;
    let mut burst = Publisher::connect(&endpoint, "heavy").await?;
    sleep(Duration::from_millis(200)).await;
    // Far more than the server may acknowledge at once; the rest waits in the connection.
    burst.publish(
        "heavy",
        (0..EVENTS).map(|_| Bytes::from(r#"{"n":-1,"k":1}"#)),
    )?;
    let mut ticks = interval(INTERVAL);
    for number in 0..SAMPLES {
        ticks.tick().await;
        let now = delays.start.elapsed();
        let text = format!(r#"{{"sent":{}}}"#, now.as_micros());
        publisher.publish("light", [Bytes::from(text)])?;
        let heartbeat = Heartbeat {
            gateway_id: format!("light-{}", number % 10),
            timestamp: now.as_micros() as i64,
        };
        load::send(&mut light, [Payload::Heartbeat(heartbeat)])?;
    }
    sleep(Duration::from_secs(2)).await;
    for (name, delays) in [("event", &delays.events), ("heartbeat_ack", &delays.acks)] {
        let mut delays = delays.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(
            delays.len() >= SAMPLES / 2,
            "{name}: {} of {SAMPLES}",
            delays.len()
        );
        delays.sort_by(f64::total_cmp);
        for (which, at) in [("p99", delays.len() * 99 / 100), ("max", delays.len() - 1)] {
            figures.put_less(format!("busy_{name}_{which}"), "ms", delays[at], GOAL_MS);
        }
    }
    Ok(())
}

/// The delays of what one light peer receives, in milliseconds.
struct Delays {
    start: Instant,
    events: Mutex<Vec<f64>>,
    acks: Mutex<Vec<f64>>,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            events: Mutex::default(),
            acks: Mutex::default(),
        }
    }
}

impl Delays {
    fn note(&self, message: &[u8]) {
        // Before the message is decoded, which takes time itself.
        let now = self.start.elapsed().as_micros() as f64;
        let Ok(StreamerMessage { payload }) = StreamerMessage::decode(message) else {
            return;
        };
        let (sent, list) = match payload {
            Some(streamer_message::Payload::HeartbeatAck(ack)) => {
                (ack.timestamp as f64, &self.acks)
            }
            Some(streamer_message::Payload::Delivery(delivery)) => {
                let data = delivery.event.unwrap_or_default().document_data;
                let Ok(document) = serde_json::from_slice::<serde_json::Value>(&data) else {
                    return;
                };
                (document["sent"].as_f64().unwrap_or(f64::NAN), &self.events)
            }
            _ => return,
        };
        let delay = (now - sent) / 1e3;
        list.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(delay);
    }
}

/// Returns a subscription whose filter every event of the collection has to be evaluated with: neither
/// condition selects, and the second is false.
fn costly(number: u64) -> Payload {
    let mut request = load::subscribe(format!("heavy-{number:06}"), "heavy");
    for (field, value) in [("n", number.cast_signed()), ("k", 1)] {
        request.filters.push(Filter {
            field: field.to_owned(),
            op: "!=".to_owned(),
            value: Some(Value {
                kind: Some(value::Kind::IntValue(value)),
            }),
            path: Vec::new(),
        });
    }
    Payload::Subscribe(request)
}
