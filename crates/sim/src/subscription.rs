//! Subscriptions of the simulated applications.

use serde::Deserialize;
use steadfast_session::Time;
use steadfast_streamer_core::{
    Window,
    client::{
        Change, Command, Item, LiveDocuments, Start, SubscribeOptions, SubscriptionId,
        WindowDocuments, queue::Queue,
    },
    filter::{Condition as FieldCondition, Filter, Op},
};

/// The payload of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Payload {
    #[serde(rename = "p")]
    pub(crate) publisher: u64,
    #[serde(rename = "s")]
    pub(crate) sequence: u64,
    #[serde(rename = "v")]
    pub(crate) value: u64,
}

/// The events that a subscription selects. The oracle evaluates it without the filter under test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selection {
    pub(crate) collection: &'static str,
    pub(crate) condition: Condition,
}

/// The condition of a selection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition {
    None,
    Publisher(u64),
    AtLeast(u64),
    Document(u64),
}

/// An item that an application consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumed {
    Change(Payload),
    Gap,
    /// The changes after the first offset, up to the second, may be missing: they left the log.
    Trimmed(u64, u64),
}

/// A subscription as the application sees it.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) id: SubscriptionId,
    pub(crate) selection: Selection,
    /// The offset after which its changes follow, once the server has acknowledged it.
    pub(crate) start: Option<u64>,
    /// The offset up to which its application consumed everything before a successor took over.
    pub(crate) end: Option<u64>,
    pub(crate) queue: Queue,
    /// Where it was to begin, and the offset up to which the server knew the log to be trimmed when it was
    /// requested; until the server has accepted it.
    pub(crate) begins: Option<(Start, u64)>,
    /// The documents held, of a subscription that begins with a snapshot.
    pub(crate) live: Option<Live>,
    pub(crate) consumed: Vec<Consumed>,
    pub(crate) paused_until: Time,
    pub(crate) unsubscribed: bool,
    pub(crate) refused: Option<String>,
}

/// The documents that an application holds.
#[derive(Clone, Debug)]
pub(crate) enum Live {
    /// All that match.
    Set(LiveDocuments),
    /// The first ones by value.
    Window(Window, Box<WindowDocuments>),
}

/// The number of documents.
pub(crate) const DOCUMENTS: u64 = 5;
/// The collections. The second has a fifth of the documents.
pub(crate) const COLLECTIONS: [&str; 2] = ["things", "others"];

impl Payload {
    pub(crate) fn document(self) -> u64 {
        self.value % DOCUMENTS
    }

    pub(crate) fn collection(self) -> &'static str {
        // A function of the document, so that a document never changes its collection.
        COLLECTIONS[usize::from(self.document() == 0)]
    }

    /// Returns the document. Its size varies, so that credit in bytes runs out as well.
    pub(crate) fn to_json(self) -> String {
        let padding = "x".repeat(self.sequence as usize % 4 * 80);
        format!(
            r#"{{"p":{},"s":{},"v":{},"padding":"{padding}"}}"#,
            self.publisher, self.sequence, self.value
        )
    }

    pub(crate) fn from_json(data: &[u8]) -> Option<Self> {
        serde_json::from_slice(data).ok()
    }
}

impl Selection {
    pub(crate) fn matches(self, payload: Payload) -> bool {
        let holds = match self.condition {
            Condition::None => true,
            Condition::Publisher(publisher) => payload.publisher == publisher,
            Condition::AtLeast(least) => payload.value >= least,
            Condition::Document(document) => payload.document() == document,
        };
        holds && payload.collection() == self.collection
    }

    pub(crate) fn filter(self) -> Filter {
        let condition = match self.condition {
            Condition::None => return Filter::all(),
            Condition::Publisher(publisher) => {
                FieldCondition::new("p", Op::Eq, publisher.cast_signed())
            }
            Condition::AtLeast(least) => FieldCondition::new("v", Op::Ge, least.cast_signed()),
            // By id and not by a field, because `_id` has its own path through the filter.
            Condition::Document(document) => {
                FieldCondition::new("_id", Op::Eq, format!("d{document}"))
            }
        };
        Filter::new([condition]).expect("the filters are valid")
    }
}

impl Live {
    /// Returns what to ask the server for.
    pub(crate) fn options(&self) -> SubscribeOptions {
        let mut options = SubscribeOptions::default();
        (options.snapshot, options.left) = (true, true);
        if let Self::Window(window, _) = self {
            options.window = Some(window.clone());
        }
        options
    }

    /// Applies an item and returns what the application asks for then.
    pub(crate) fn apply(&mut self, id: SubscriptionId, item: Item) -> Option<Command> {
        match self {
            Self::Set(documents) => {
                documents.apply(item);
                None
            }
            Self::Window(_, documents) => {
                documents.apply(item);
                documents.take_command(id)
            }
        }
    }

    /// Returns whether the documents are those after the last item.
    pub(crate) fn is_exact(&self) -> bool {
        match self {
            Self::Set(documents) => documents.is_whole() && !documents.is_refreshing(),
            Self::Window(_, documents) => documents.is_whole(),
        }
    }

    /// Returns the documents in their order.
    pub(crate) fn documents(&self) -> Vec<&Change> {
        match self {
            Self::Set(documents) => documents.iter().collect(),
            Self::Window(_, documents) => documents.iter().collect(),
        }
    }
}

impl Subscription {
    pub(crate) fn new(id: SubscriptionId, selection: Selection) -> Self {
        Self {
            id,
            selection,
            start: None,
            end: None,
            queue: Queue::default(),
            begins: None,
            live: None,
            consumed: Vec::new(),
            paused_until: Time::ZERO,
            unsubscribed: false,
            refused: None,
        }
    }
}
