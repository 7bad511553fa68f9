//! The CPU time of a hub for a change, per view that the change touches.
//!
//! The baseline of each row is the same hub with as many subscriptions of the same filters that want
//! changes only. Everything that is sent counts as sent at once; the states of documents before the
//! changes are at hand, as their reading is work of another thread.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use steadfast_bench::{
    figure::Figures,
    measure::{cpu_time, median},
};
use steadfast_session::Time;
use steadfast_streamer_core::{
    Bounds, Event, Operation, Previous, Terms,
    hub::{Action, Hub, InitialState, Input, Limits, StreamId},
};
use steadfast_wire::streamer::{
    Filter, GatewayMessage, Hello, Position, SnapshotRequest, SubscribeRequest, Value, Window,
    WindowBound, gateway_message::Payload, value::Kind, window_bound,
};

use crate::streamer::{COLLECTION, DATABASE, EPOCH};

/// The number of streams that share the views.
const STREAMS: u64 = 100;

/// The changes of one round, and the number of rounds; the median counts.
const CHANGES: u64 = 400;
const ROUNDS: usize = 7;

/// The windows of different bounds that a change touches.
const TOUCHED_WINDOWS: u64 = 10;

/// The views of a hub.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Views {
    /// Live sets, so many with each filter `n == N`. A change moves its document from one to the next.
    Sets { equal: u64 },
    /// Subscriptions of the same filters that want changes only.
    Changes { equal: u64 },
    /// Windows of different bounds over the whole collection. A change moves its document into the last
    /// ten, or out of them.
    Windows,
    /// Windows over the whole collection, so many with each order. A change moves its document into those
    /// of one order and out of those of the one before; all orders are searched.
    Orders { equal: u64 },
}

const ROWS: [(&str, Views, Views); 4] = [
    (
        "sets",
        Views::Sets { equal: 1 },
        Views::Changes { equal: 1 },
    ),
    (
        "sets_of_100_equal_filters",
        Views::Sets { equal: 100 },
        Views::Changes { equal: 100 },
    ),
    ("windows", Views::Windows, Views::Changes { equal: 10 }),
    (
        "windows_of_many_orders",
        Views::Orders { equal: 100 },
        Views::Changes { equal: 200 },
    ),
];

/// Adds a row for each kind of views.
pub(super) fn measure(count: u64, figures: &mut Figures) -> Result<()> {
    for (name, views, baseline) in ROWS {
        let (mut ours, mut plain) = (Server::new(views, count)?, Server::new(baseline, count)?);
        let (mut costs, mut ratios) = (Vec::new(), Vec::new());
        // In turn, so that a disturbance meets both; the first round is a warm-up.
        for round in 0..=ROUNDS {
            let (cost, base) = (ours.round()?, plain.round()?);
            if round > 0 {
                costs.push(cost);
                ratios.push((base, base / cost));
            }
        }
        let baseline = median(ratios.iter().map(|(base, _)| *base));
        let ratio = median(ratios.iter().map(|(_, ratio)| *ratio));
        let name = format!("live_{name}_per_touched_view");
        figures.put_against(name, "µs", median(costs), (baseline, ratio));
    }
    Ok(())
}

/// A hub in this thread.
struct Server {
    hub: Hub,
    actions: Vec<Action>,
    views: Views,
    count: u64,
    /// The last change of the only document.
    last: Option<Arc<Event>>,
    offset: u64,
}

impl Server {
    fn new(views: Views, count: u64) -> Result<Self> {
        let initial = InitialState {
            server_id: "bench".to_owned(),
            terms: Terms::new(EPOCH),
            bounds: Bounds { first: 0, head: 0 },
            seed: [7; 32],
        };
        let mut server = Self {
            hub: Hub::new(initial, Limits::default())?,
            actions: Vec::new(),
            views,
            count,
            last: None,
            offset: 0,
        };
        for stream in 0..STREAMS {
            let stream = StreamId(stream);
            server.step(Input::Opened { stream });
            let hello = Hello {
                version: 1,
                session_id: format!("bench-{}", stream.0),
                attempt: 1,
                ..Hello::default()
            };
            server.send(stream, Payload::Hello(hello));
        }
        for number in 0..count {
            let request = server.request(number);
            server.send(StreamId(number % STREAMS), Payload::Subscribe(request));
        }
        let held = server.hub.stats().gauges.subscriptions;
        ensure!(held as u64 == count, "{held} of {count} subscriptions");
        Ok(server)
    }

    /// Returns a request that continues, so that no documents are read.
    fn request(&self, number: u64) -> SubscribeRequest {
        let mut request = SubscribeRequest {
            subscription_id: format!("view-{number:06}"),
            database: DATABASE.to_owned(),
            collection: COLLECTION.to_owned(),
            resume: Some(Position {
                epoch: EPOCH.0,
                offset: 0,
            }),
            credit_messages: u64::MAX >> 1,
            credit_bytes: u64::MAX >> 1,
            request: 1 + number,
            ..SubscribeRequest::default()
        };
        if !matches!(self.views, Views::Changes { .. }) {
            // An invalid cursor would begin a snapshot; none continues after a whole one.
            request.left = true;
        }
        match self.views {
            Views::Sets { equal } | Views::Changes { equal } => {
                let kind = Kind::IntValue((number / equal).cast_signed());
                request.filters.push(Filter {
                    field: "n".to_owned(),
                    op: "==".to_owned(),
                    value: Some(Value { kind: Some(kind) }),
                    path: Vec::new(),
                });
            }
            Views::Windows => {
                request.window = Some(Box::new(window("n".to_owned(), false, number)));
            }
            Views::Orders { equal } => {
                let field = format!("order-{}", number / equal);
                // Descending, so that a document without the field is beyond every bound.
                request.window = Some(Box::new(window(field, true, 0)));
            }
        }
        request.snapshot = request.window.is_some().then(SnapshotRequest::default);
        request
    }

    /// Returns the document's field and its value after a change.
    fn field(&self, change: u64) -> (String, u64) {
        match self.views {
            Views::Sets { equal } | Views::Changes { equal } => {
                ("n".to_owned(), change % (self.count / equal))
            }
            // Within the bounds of the last ten, and beyond all bounds.
            Views::Windows if change.is_multiple_of(2) => ("n".to_owned(), self.count),
            Views::Windows => ("n".to_owned(), self.count - TOUCHED_WINDOWS),
            Views::Orders { equal } => (format!("order-{}", change % (self.count / equal)), 0),
        }
    }

    /// Makes changes and returns the CPU microseconds for each view that they touched.
    fn round(&mut self) -> Result<f64> {
        let before = self.hub.stats().counters.delivered_ids;
        let began = cpu_time();
        for _ in 0..CHANGES {
            self.change();
        }
        let seconds = cpu_time() - began;
        let touched = self.hub.stats().counters.delivered_ids - before;
        let each = match self.views {
            // Those that the document enters, and those that it leaves.
            Views::Sets { equal } | Views::Orders { equal } => 2 * equal,
            Views::Changes { equal } => equal,
            // It enters or leaves them.
            Views::Windows => TOUCHED_WINDOWS,
        };
        // Of the very first change there is nothing that it could leave.
        let expected = CHANGES * each;
        ensure!(
            touched + each >= expected && touched <= expected,
            "{touched} views were touched, not {expected}"
        );
        Ok(seconds * 1e6 / touched as f64)
    }

    fn change(&mut self) {
        self.offset += 1;
        let (field, value) = self.field(self.offset);
        let padding = "x".repeat(128);
        let event = Arc::new(Event {
            offset: self.offset,
            database: DATABASE.into(),
            collection: COLLECTION.into(),
            document_id: "order".into(),
            operation: Operation::Update,
            data: Bytes::from(format!(r#"{{"{field}":{value},"text":"{padding}"}}"#)),
            timestamp: 0,
            previous: self.last.take().map_or(Previous::Nothing, Previous::Read),
        });
        self.last = Some(Arc::new(Event {
            previous: Previous::Unknown,
            ..Event::clone(&event)
        }));
        self.step(Input::Committed {
            events: vec![event],
        });
    }

    fn send(&mut self, stream: StreamId, payload: Payload) {
        let message = GatewayMessage {
            payload: Some(payload),
        };
        self.step(Input::Message { stream, message });
    }

    /// Steps the hub until it has nothing to do now.
    fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        loop {
            let input = inputs.pop().unwrap_or(Input::Tick);
            let due = self.hub.step(Time::ZERO, input, &mut self.actions);
            inputs.extend(self.actions.drain(..).filter_map(|action| match action {
                Action::Send {
                    stream,
                    frames,
                    messages,
                } => Some(Input::Sent {
                    stream,
                    bytes: frames.len(),
                    messages,
                }),
                _ => None,
            }));
            if inputs.is_empty() && due.is_none_or(|due| due > Time::ZERO) {
                return;
            }
        }
    }
}

/// Returns a window over a field, with a place up to which its client has documents.
fn window(field: String, descending: bool, bound: u64) -> Window {
    Window {
        field,
        descending,
        limit: 10,
        bound: Some(WindowBound {
            document_id: "order".to_owned(),
            value: Some(window_bound::Value::IntValue(bound.cast_signed())),
        }),
        ..Window::default()
    }
}
