//! Subscriptions and events for the measurements of the matcher, the same in every run.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use steadfast_streamer_core::{
    Event, Operation,
    filter::{Condition, Filter, Op, Value},
    matcher::{Matcher, SubscriptionKey},
};

/// Distinct events, more than the caches hold.
const EVENTS: usize = 100_000;

const USERS: u64 = 1_000_000;
const ROOMS: u64 = 50_000;
const TAGS: u64 = 20_000;
const SKUS: u64 = 200_000;

/// A kind of subscriptions.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// The name in the output.
    pub name: &'static str,
    /// The conditions of a subscription by its number.
    conditions: fn(u64) -> Vec<Condition>,
    /// Sizes at which it is measured.
    pub sizes: &'static [u64],
    /// Events in a round; fewer where each matches many.
    pub events: usize,
}

/// All workloads. An index gains little in the last three: what most events satisfy is bounded by the
/// output, and of a box over two fields only one is indexed.
pub const WORKLOADS: [Workload; 7] = [
    Workload {
        name: "one-equality",
        conditions: |n| vec![condition("user", Op::Eq, user(n))],
        sizes: &[10_000, 100_000, 1_000_000],
        events: EVENTS,
    },
    Workload {
        name: "two-equalities-one-shared",
        conditions: |n| {
            vec![
                condition("kind", Op::Eq, "message"),
                condition("user", Op::Eq, user(n)),
            ]
        },
        sizes: &[1_000_000],
        events: EVENTS,
    },
    Workload {
        name: "narrow-range",
        conditions: |n| {
            let low = (n % 1_000_000) as f64 / 1_000.0;
            vec![
                condition("price", Op::Ge, low),
                condition("price", Op::Lt, low + 0.01),
            ]
        },
        sizes: &[1_000_000],
        events: EVENTS,
    },
    Workload {
        name: "mixed",
        conditions: mixed,
        sizes: &[10_000, 100_000, 1_000_000],
        events: 2_000,
    },
    Workload {
        name: "losing-one-sided-range",
        conditions: |n| vec![condition("price", Op::Gt, (n % 1_000_000) as f64 / 1_000.0)],
        sizes: &[1_000_000],
        events: 64,
    },
    Workload {
        name: "losing-not-equal-only",
        conditions: |n| vec![condition("user", Op::Ne, user(n))],
        sizes: &[100_000],
        events: 64,
    },
    Workload {
        name: "losing-box",
        conditions: |n| {
            let (x, y) = (
                (n * 7_919 % 1_000) as f64,
                (n / 1_000 * 7_919 % 1_000) as f64,
            );
            vec![
                condition("x", Op::Ge, x),
                condition("x", Op::Lt, x + 3.0),
                condition("y", Op::Ge, y),
                condition("y", Op::Lt, y + 3.0),
            ]
        },
        sizes: &[1_000_000],
        events: 2_000,
    },
];

/// The mix of an application: mostly one user's or one room's documents, some tags, articles and
/// prices, and a few that no index helps.
fn mixed(n: u64) -> Vec<Condition> {
    // A multiplicative hash: the kinds are mixed, and alike in every run.
    let draw = n * 0x9e37_79b9 % 1_000;
    match draw {
        0..550 => match n % 3 {
            0 => vec![condition("user", Op::Eq, user(n % USERS))],
            1 => vec![
                condition("user", Op::Eq, user(n % USERS)),
                condition("status", Op::Eq, "open"),
            ],
            _ => vec![
                condition("user", Op::Eq, user(n % USERS)),
                condition("price", Op::Gt, (n % 1_000) as f64),
            ],
        },
        550..750 => {
            let mut conditions = vec![condition("room", Op::Eq, format!("room{}", n % ROOMS))];
            if n.is_multiple_of(4) {
                conditions.push(condition("user", Op::Ne, user(n % USERS)));
            }
            conditions
        }
        750..850 => vec![
            condition("tags", Op::Contains, format!("tag{}", n % TAGS)),
            condition("status", Op::Eq, "open"),
            condition("kind", Op::Eq, "message"),
        ],
        850..930 => {
            let skus = (0..4).map(|at| format!("sku{}", (n + at * 7) % SKUS));
            vec![
                condition("sku", Op::In, skus.collect::<Vec<_>>()),
                condition("status", Op::Eq, "open"),
            ]
        }
        930..990 => {
            let low = (n % 1_000_000) as f64 / 1_000.0;
            vec![
                condition("price", Op::Ge, low),
                condition("price", Op::Lt, low + 0.02),
                condition("status", Op::Eq, "open"),
            ]
        }
        990..998 => vec![condition(
            "price",
            Op::Gt,
            900.0 + (n % 100_000) as f64 / 1_000.0,
        )],
        _ => vec![condition("user", Op::Ne, user(n % USERS))],
    }
}

fn condition(field: &str, op: Op, value: impl Into<Value>) -> Condition {
    Condition::new(field, op, value)
}

fn user(n: u64) -> String {
    format!("user{n:07}")
}

impl Workload {
    /// Returns the filters of so many subscriptions.
    ///
    /// # Errors
    ///
    /// If a filter is not allowed.
    pub fn filters(&self, size: u64) -> Result<Vec<Filter>> {
        let filters = (0..size).map(|n| Filter::new((self.conditions)(n)));
        Ok(filters.collect::<Result<_, _>>()?)
    }

    /// Returns a matcher with one subscription on each field that the filters name. None matches, so
    /// that an event costs its reading and little else.
    ///
    /// # Errors
    ///
    /// If a filter is not allowed.
    pub fn reader(&self) -> Result<Matcher> {
        let named: std::collections::BTreeSet<String> = (0..1_000)
            .flat_map(|n| (self.conditions)(n))
            .map(|condition| condition.field.to_string())
            .collect();
        let mut reader = Matcher::new(SEED);
        for (key, field) in (0..).zip(named) {
            insert(
                &mut reader,
                key,
                &Filter::new([condition(&field, Op::Eq, "no such")])?,
            );
        }
        Ok(reader)
    }
}

/// The seed of every matcher that is measured, so that counts repeat exactly.
pub const SEED: u64 = 7;

/// Subscribes to the collection of [`events`].
pub fn insert(matcher: &mut Matcher, key: u64, filter: &Filter) {
    matcher.insert(SubscriptionKey(key), DATABASE, COLLECTION, filter);
}

const DATABASE: &str = "shop";
const COLLECTION: &str = "messages";

/// Returns changes of documents of 20 fields and 3 tags, some 500 bytes.
#[must_use]
pub fn events(count: usize, size: u64) -> Vec<Event> {
    (0..count as u64)
        .map(|n| {
            // Only users for whom a matcher of this size has subscriptions.
            let n = n * 0x9e37_79b1 % USERS.min(size);
            let filling: Vec<String> = (0..9).map(|at| format!(r#""f{at}":"value{at}{n}""#)).collect();
            let filling = filling.join(",");
            let data = format!(
                r#"{{"user":"{}","room":"room{}","kind":"message","status":"{}","sku":"sku{}","price":{},"x":{},"y":{},"tags":["tag{}","tag{}","tag{}"],{filling},"version":{n},"createdAt":1700000000000,"updatedAt":1700000000001}}"#,
                user(n),
                n % ROOMS,
                if n.is_multiple_of(5) { "closed" } else { "open" },
                n % SKUS,
                (n * 31 % 1_000_000) as f64 / 1_000.0,
                n * 17 % 1_000,
                n * 13 % 1_000,
                n % TAGS,
                (n + 1) % TAGS,
                (n + 2) % TAGS,
            );
            Event {
                previous: steadfast_streamer_core::Previous::Unknown,
                offset: n + 1,
                database: Arc::from(DATABASE),
                collection: Arc::from(COLLECTION),
                document_id: Arc::from(format!("m{n}")),
                operation: Operation::Insert,
                data: Bytes::from(data),
                timestamp: 0,
            }
        })
        .collect()
}
