//! The allocations of delivering, which do not depend on the load of the machine.

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use bytes::Bytes;
use steadfast_session::Time;
use steadfast_streamer_core::{
    Bounds, Epoch, Event, Operation, Terms,
    hub::{Action, Hub, InitialState, Input, Limits, StreamId},
};
use steadfast_wire::streamer::{GatewayMessage, Hello, SubscribeRequest, gateway_message::Payload};

const STREAMS: u64 = 100;

/// A hub whose streams all subscribe to one collection.
struct Broadcast {
    hub: Hub,
    actions: Vec<Action>,
    offset: u64,
}

impl Broadcast {
    fn new(subscriptions: u64, profile: bool) -> Self {
        let initial = InitialState {
            server_id: "test".to_owned(),
            terms: Terms::new(Epoch(1)),
            bounds: Bounds { first: 0, head: 0 },
            seed: [7; 32],
        };
        let mut broadcast = Self {
            hub: Hub::new(initial, Limits::default()).expect("the defaults work together"),
            actions: Vec::new(),
            offset: 0,
        };
        for stream in 0..STREAMS {
            broadcast.step(Input::Opened {
                stream: StreamId(stream),
            });
            if profile {
                broadcast.send(
                    stream,
                    Payload::Hello(Hello {
                        version: 1,
                        session_id: format!("session-{stream}"),
                        attempt: 1,
                        ..Hello::default()
                    }),
                );
            }
            for n in 0..subscriptions {
                broadcast.send(
                    stream,
                    Payload::Subscribe(SubscribeRequest {
                        subscription_id: format!("{stream:03}-{n:04}"),
                        database: "default".to_owned(),
                        collection: "broadcast".to_owned(),
                        credit_messages: 1 << 20,
                        credit_bytes: 1 << 40,
                        ..SubscribeRequest::default()
                    }),
                );
            }
        }
        broadcast.take_all();
        broadcast
    }

    fn step(&mut self, input: Input) {
        self.hub.step(Time::ZERO, input, &mut self.actions);
    }

    fn send(&mut self, stream: u64, payload: Payload) {
        self.step(Input::Message {
            stream: StreamId(stream),
            message: GatewayMessage {
                payload: Some(payload),
            },
        });
    }

    fn events(&mut self, number: u64) -> Vec<Arc<Event>> {
        let events = (0..number).map(|n| {
            Arc::new(Event {
                previous: steadfast_streamer_core::Previous::Unknown,
                offset: self.offset + 1 + n,
                database: "default".into(),
                collection: "broadcast".into(),
                document_id: "document-007".into(),
                operation: Operation::Update,
                data: Bytes::from(format!(r#"{{"text":"{}"}}"#, "x".repeat(189))),
                timestamp: 1_700_000_000_000,
            })
        });
        let events = events.collect();
        self.offset += number;
        events
    }

    /// Commits a burst and returns what it allocated, and the bytes and messages that are sent.
    fn burst(&mut self, number: u64) -> (AllocationInfo, usize, usize) {
        let events = self.events(number);
        let mut events = Some(events);
        let info = measure(|| {
            self.step(Input::Committed {
                events: events.take().unwrap_or_default(),
            });
            // Many matches take several slices.
            for _ in 0..100 {
                self.step(Input::Tick);
            }
        });
        let (bytes, messages) = self.take_all();
        (info, bytes, messages)
    }

    /// Reports everything as sent.
    fn take_all(&mut self) -> (usize, usize) {
        let (mut all_bytes, mut all_messages) = (0, 0);
        for action in std::mem::take(&mut self.actions) {
            let Action::Send {
                stream,
                frames,
                messages,
            } = action
            else {
                panic!("unexpected {action:?}");
            };
            let bytes = frames.len();
            all_bytes += bytes;
            all_messages += messages;
            self.step(Input::Sent {
                stream,
                bytes,
                messages,
            });
        }
        self.actions = Vec::with_capacity(2 * STREAMS as usize);
        (all_bytes, all_messages)
    }
}

#[test]
fn burst_allocates_twice_per_stream_whatever_its_size() {
    for profile in [false, true] {
        for burst in [1, 8, 32] {
            let mut broadcast = Broadcast::new(1, profile);
            // Buffers are a little larger than the last burst needed.
            broadcast.burst(burst);
            let (info, bytes, messages) = broadcast.burst(burst);
            assert_eq!(messages as u64, burst * STREAMS);
            let per_event = 32 * burst;
            assert!(
                info.count_total <= 2 * STREAMS + per_event,
                "{} allocations for {messages} deliveries in bursts of {burst}",
                info.count_total
            );
            // Each byte is written once, into memory of its size.
            let overhead = 64 * STREAMS + 3_000 * burst;
            assert!(
                info.bytes_total <= bytes as u64 * 5 / 4 + overhead,
                "{} bytes allocated for {bytes} bytes in bursts of {burst}",
                info.bytes_total
            );
        }
    }
}

#[test]
fn ids_of_one_message_cost_no_allocation_each() {
    let mut broadcast = Broadcast::new(1_000, true);
    broadcast.burst(1);
    let (info, bytes, messages) = broadcast.burst(1);
    assert_eq!(messages as u64, STREAMS);
    let ids = 1_000 * STREAMS;
    assert!(
        info.count_total * 100 < ids,
        "{} allocations for {ids} ids",
        info.count_total
    );
    // The matches are collected, grouped and reversed before they are written.
    let matches = 80 * ids;
    assert!(
        info.bytes_total <= bytes as u64 + matches,
        "{} bytes allocated for {bytes} bytes",
        info.bytes_total
    );
}
