//! Subscriptions of the simulated applications.

use steadfast_session::Time;
use steadfast_streamer_core::{
    client::{SubscriptionId, queue::Queue},
    filter::{Filter, FilterLimits},
};
use steadfast_wire::streamer as wire;

/// The payload of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Payload {
    pub(crate) publisher: u64,
    pub(crate) sequence: u64,
    pub(crate) value: u64,
}

/// The events that a subscription selects. The oracle evaluates it without the filter under test.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Selection {
    Everything,
    Publisher(u64),
    AtLeast(u64),
    Document(u64),
}

/// An item that an application consumed.
#[derive(Clone, Debug)]
pub(crate) enum Consumed {
    Change(Payload),
    Gap,
    Resync,
}

/// A subscription as the application sees it.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    pub(crate) selection: Selection,
    /// The offset after which its changes follow, once the server has acknowledged it.
    pub(crate) start: Option<u64>,
    pub(crate) queue: Queue,
    pub(crate) consumed: Vec<Consumed>,
    pub(crate) paused_until: Time,
    pub(crate) unsubscribed: bool,
    pub(crate) refused: Option<String>,
}

/// The number of documents.
pub(crate) const DOCUMENTS: u64 = 5;

impl Payload {
    pub(crate) fn document(self) -> u64 {
        self.value % DOCUMENTS
    }

    pub(crate) fn to_json(self) -> String {
        format!(
            r#"{{"p":{},"s":{},"v":{}}}"#,
            self.publisher, self.sequence, self.value
        )
    }

    pub(crate) fn from_json(data: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(data).ok()?;
        let field = |name: &str| value.get(name)?.as_u64();
        Some(Self {
            publisher: field("p")?,
            sequence: field("s")?,
            value: field("v")?,
        })
    }
}

impl Selection {
    pub(crate) fn matches(self, payload: Payload) -> bool {
        match self {
            Self::Everything => true,
            Self::Publisher(publisher) => payload.publisher == publisher,
            Self::AtLeast(least) => payload.value >= least,
            Self::Document(document) => payload.document() == document,
        }
    }

    pub(crate) fn filter(self) -> Filter {
        let condition = |field: &str, op: &str, kind| wire::Filter {
            field: field.to_owned(),
            op: op.to_owned(),
            value: Some(wire::Value { kind: Some(kind) }),
        };
        let int = |value: u64| wire::value::Kind::IntValue(value.cast_signed());
        let conditions = match self {
            Self::Everything => vec![],
            Self::Publisher(publisher) => vec![condition("p", "==", int(publisher))],
            Self::AtLeast(least) => vec![condition("v", ">=", int(least))],
            Self::Document(document) => {
                let id = wire::value::Kind::StringValue(format!("d{document}"));
                vec![condition("_id", "==", id)]
            }
        };
        Filter::parse(&conditions, &FilterLimits::default()).expect("the filters are valid")
    }
}

impl Subscription {
    pub(crate) fn new(id: SubscriptionId, selection: Selection) -> Self {
        Self {
            id,
            selection,
            start: None,
            queue: Queue::default(),
            consumed: Vec::new(),
            paused_until: Time::ZERO,
            unsubscribed: false,
            refused: None,
        }
    }
}
