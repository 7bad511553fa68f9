//! The bytes that a hub holds, which do not depend on the allocator. Whoever makes one of them larger
//! changes the number, and says why.

use allocation_counter::measure;
use steadfast_session::Time;
use steadfast_streamer_core::{
    Bounds, Epoch, Terms,
    hub::{Action, Hub, InitialState, Input, Limits, StreamId},
};
use steadfast_wire::streamer::{
    Filter, GatewayMessage, Heartbeat, Hello, SubscribeRequest, Value, gateway_message::Payload,
    value::Kind,
};

/// A hub whose messages are sent at once.
struct Server {
    hub: Hub,
    actions: Vec<Action>,
}

impl Server {
    fn new() -> Self {
        let initial = InitialState {
            server_id: "test".to_owned(),
            terms: Terms::new(Epoch(1)),
            bounds: Bounds { first: 0, head: 0 },
            seed: [7; 32],
        };
        Self {
            hub: Hub::new(initial, Limits::default()).expect("the defaults work together"),
            actions: Vec::with_capacity(16),
        }
    }

    fn step(&mut self, input: Input) {
        self.hub.step(Time::ZERO, input, &mut self.actions);
        while let Some(action) = self.actions.pop() {
            if let Action::Send {
                stream,
                frames,
                messages,
            } = action
            {
                let bytes = frames.len();
                self.step(Input::Sent {
                    stream,
                    bytes,
                    messages,
                });
            }
        }
    }

    fn send(&mut self, stream: u64, payload: Payload) {
        self.step(Input::Message {
            stream: StreamId(stream),
            message: GatewayMessage {
                payload: Some(payload),
            },
        });
    }

    fn open(&mut self, stream: u64, is_profile: bool) {
        self.step(Input::Opened {
            stream: StreamId(stream),
        });
        if is_profile {
            let hello = Hello {
                version: 1,
                session_id: format!("0c9e4b1e-5a0f-4e4e-9c53-{stream:012}"),
                attempt: 1,
                ..Hello::default()
            };
            self.send(stream, Payload::Hello(hello));
        }
        self.send(stream, Payload::Heartbeat(Heartbeat::default()));
    }

    /// Subscribes to the documents of one user.
    fn subscribe(&mut self, stream: u64, number: u64) {
        let kind = Some(Kind::StringValue(format!("user-{number}")));
        let filter = Filter {
            field: "user".to_owned(),
            op: "==".to_owned(),
            value: Some(Value { kind }),
            path: Vec::new(),
        };
        let request = SubscribeRequest {
            subscription_id: format!("sub-{number:09}"),
            database: "default".to_owned(),
            collection: "messages".to_owned(),
            filters: vec![filter],
            credit_messages: 1_024,
            credit_bytes: 1 << 20,
            request: number,
            ..SubscribeRequest::default()
        };
        self.send(stream, Payload::Subscribe(request));
    }

    fn leave(&mut self, stream: u64) {
        self.step(Input::Ended {
            stream: StreamId(stream),
        });
    }
}

/// Returns the bytes that are held after `work`, less those that were held before it.
fn held(work: impl FnOnce()) -> i64 {
    measure(work).bytes_current
}

#[test]
fn subscription_holds_as_many_bytes_as_promised() {
    const STREAMS: u64 = 100;
    const EACH: u64 = 1_000;
    for is_profile in [false, true] {
        let mut server = Server::new();
        for stream in 0..STREAMS {
            server.open(stream, is_profile);
        }
        let bytes = held(|| {
            for number in 0..STREAMS * EACH {
                server.subscribe(number / EACH, number);
            }
        });
        let each = bytes.unsigned_abs().div_ceil(STREAMS * EACH);
        assert!(each <= 300, "{each} bytes, profile: {is_profile}");
    }
}

#[test]
fn stream_holds_as_many_bytes_as_promised() {
    const STREAMS: u64 = 2_000;
    for is_profile in [false, true] {
        let mut server = Server::new();
        let bytes = held(|| {
            for stream in 0..STREAMS {
                server.open(stream, is_profile);
            }
        });
        let each = bytes.unsigned_abs().div_ceil(STREAMS);
        assert!(each <= 720, "{each} bytes, profile: {is_profile}");
    }
}

#[test]
fn hub_gives_memory_back_when_most_have_left() {
    const STREAMS: u64 = 100;
    const EACH: u64 = 1_000;
    for is_profile in [false, true] {
        let mut server = Server::new();
        let (mut before, mut full) = (0, 0);
        let left = held(|| {
            before = held(|| {
                server.open(0, is_profile);
                server.subscribe(0, 0);
            });
            full = held(|| {
                for stream in 1..=STREAMS {
                    server.open(stream, is_profile);
                    for number in 0..EACH {
                        server.subscribe(stream, stream * EACH + number);
                    }
                }
            });
            for stream in 1..=STREAMS {
                server.leave(stream);
            }
        });
        assert!(
            left <= before + 16_384,
            "{left} of {full} bytes are left, {before} at first"
        );
    }
}
