//! The bytes that a hub and a reader of the log hold, which do not depend on the allocator. Whoever makes one
//! of them larger changes the number, and says why.

use allocation_counter::measure;
use steadfast_session::Time;
use steadfast_streamer::log::{
    DocumentKey, DocumentQuery, Log as _, SegmentLog, StoreOptions, Submission,
};
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

#[test]
fn reading_all_documents_takes_the_memory_of_a_page() {
    const DOCUMENTS: u64 = 60_000;
    let data = "x".repeat(200);
    let submission = |sequence| {
        // Ids mix two ranges of the log, as those of numbers with different lengths do.
        let document = DocumentKey::new("db", "c", format!("order-{sequence:04}"));
        Submission::new("p", sequence, document, format!(r#"{{"text":"{data}"}}"#))
    };
    let directory = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(Epoch(7));
    (options.cache_bytes, options.segment_bytes) = (1 << 20, 8 << 20);
    let open = || SegmentLog::open(directory.path(), &options).unwrap();
    let mut log = open();
    for first in (1..DOCUMENTS).step_by(1_000) {
        let batch = (first..first + 1_000).map(submission);
        log.append(batch.collect(), 0).unwrap();
    }
    log.maintain(100_000).unwrap();
    drop(log);
    // What is in its older files is not known before they are read.
    let reader = open().reader();
    let (mut read, mut after) = (0, None);
    let memory = measure(|| {
        loop {
            let page = reader.documents(DocumentQuery {
                database: "db",
                collection: Some("c"),
                after: after.as_ref(),
                max_documents: 1_000,
                max_bytes: 1 << 20,
            });
            let page = page.unwrap();
            assert_eq!(page.as_of, DOCUMENTS);
            read += page.documents.len() as u64;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    });
    assert_eq!(read, DOCUMENTS);
    // Of a page of 1,000 documents, and the pages of the index that are held with it.
    assert!(memory.bytes_max <= 820_000, "{memory:?}");
}
