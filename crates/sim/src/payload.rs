//! The events of the simulated publishers, and what selects them.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use steadfast_streamer_core::filter::{Condition as FieldCondition, Filter, Op};

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

/// The condition of a selection, or of a grant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Condition {
    None,
    Publisher(u64),
    AtLeast(u64),
    Document(u64),
}

/// The number of documents.
pub(crate) const DOCUMENTS: u64 = 5;
/// The collections. The second has a fifth of the documents.
pub(crate) const COLLECTIONS: [&str; 2] = ["things", "others"];

impl Payload {
    pub(crate) fn document(self) -> u64 {
        self.value % DOCUMENTS
    }

    /// Returns the id of the document.
    pub(crate) fn id(self) -> String {
        format!("d{}", self.document())
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
        self.condition.holds(payload) && payload.collection() == self.collection
    }
}

impl Condition {
    pub(crate) fn draw(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..4) {
            0 => Self::None,
            1 => Self::Publisher(rng.random_range(0..3)),
            2 => Self::AtLeast(rng.random_range(0..20)),
            _ => Self::Document(rng.random_range(0..DOCUMENTS)),
        }
    }

    pub(crate) fn holds(self, payload: Payload) -> bool {
        match self {
            Self::None => true,
            Self::Publisher(publisher) => payload.publisher == publisher,
            Self::AtLeast(least) => payload.value >= least,
            Self::Document(document) => payload.document() == document,
        }
    }

    pub(crate) fn filter(self) -> Filter {
        let condition = match self {
            Self::None => return Filter::all(),
            Self::Publisher(publisher) => FieldCondition::new("p", Op::Eq, publisher.cast_signed()),
            Self::AtLeast(least) => FieldCondition::new("v", Op::Ge, least.cast_signed()),
            // By id and not by a field, because `_id` has its own path through the filter.
            Self::Document(document) => FieldCondition::new("_id", Op::Eq, format!("d{document}")),
        };
        Filter::new([condition]).expect("the filters are valid")
    }
}
