//! What a client subscribes to in a schedule, and what an application makes of it.

use std::collections::VecDeque;

use steadfast_session::Time;
use steadfast_streamer_core::{
    client::{Item, SubscriptionId},
    filter::{Filter, FilterLimits},
};
use steadfast_wire::streamer as wire;

/// A payload: which publisher, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Payload {
    pub(crate) publisher: u64,
    pub(crate) sequence: u64,
    pub(crate) value: u64,
}

/// What is wanted, in a form of its own: the oracle does not use the filter under test.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish {
    Everything,
    Publisher(u64),
    AtLeast(u64),
    Document(u64),
}

/// Something an application took.
#[derive(Clone, Debug)]
pub(crate) enum Taken {
    Change(Payload),
    Gap,
    Resync,
}

/// A subscription as the application sees it.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    pub(crate) wish: Wish,
    /// Offset after which its changes follow, once the server said so.
    pub(crate) start: Option<u64>,
    pub(crate) queue: VecDeque<Item>,
    pub(crate) taken: Vec<Taken>,
    pub(crate) asleep_until: Time,
    pub(crate) unsubscribed: bool,
    pub(crate) refused: Option<String>,
}

/// Documents there are.
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

impl Wish {
    pub(crate) fn wants(self, payload: Payload) -> bool {
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
        Filter::parse(&conditions, &FilterLimits::default()).expect("the filters are well formed")
    }
}

impl Subscription {
    pub(crate) fn new(id: SubscriptionId, wish: Wish) -> Self {
        Self {
            id,
            wish,
            start: None,
            queue: VecDeque::new(),
            taken: Vec::new(),
            asleep_until: Time::ZERO,
            unsubscribed: false,
            refused: None,
        }
    }
}
