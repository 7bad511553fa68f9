//! The time and memory that finding the subscriptions of an event takes.

use std::{hint::black_box, sync::Arc};

use anyhow::Result;
use bytes::Bytes;
use steadfast_bench::{
    figure::{Figure, Figures},
    measure::{compare, cpu_time},
};
use steadfast_streamer_core::{
    Event, Operation,
    filter::{Condition, Filter, Op, Value},
    matcher::{Matcher, SubscriptionKey},
};

/// Distinct events, more than the caches hold.
const EVENTS: usize = 100_000;

/// Events that the linear scan is measured with; each visits every subscription.
const SCANNED: usize = 16;

const PAIRS: usize = 9;

const USERS: u64 = 1_000_000;
const ROOMS: u64 = 50_000;
const TAGS: u64 = 20_000;
const SKUS: u64 = 200_000;

/// A kind of subscriptions, by the number of the subscription.
struct Workload {
    name: &'static str,
    filter: fn(u64) -> Vec<Condition>,
    /// Sizes at which it is measured.
    sizes: &'static [u64],
    /// Events in a round; fewer where each matches many.
    events: usize,
}

const WORKLOADS: [Workload; 7] = [
    Workload {
        name: "one-equality",
        filter: |n| vec![condition("user", Op::Eq, user(n))],
        sizes: &[10_000, 100_000, 1_000_000],
        events: EVENTS,
    },
    Workload {
        name: "two-equalities-one-shared",
        filter: |n| {
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
        filter: |n| {
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
        filter: mixed,
        sizes: &[10_000, 100_000, 1_000_000],
        events: 2_000,
    },
    Workload {
        name: "one-sided-range",
        filter: |n| vec![condition("price", Op::Gt, (n % 1_000_000) as f64 / 1_000.0)],
        sizes: &[1_000_000],
        events: 64,
    },
    Workload {
        name: "not-equal-only",
        filter: |n| vec![condition("user", Op::Ne, user(n))],
        sizes: &[100_000],
        events: 64,
    },
    Workload {
        name: "box",
        filter: |n| {
            let (x, y) = ((n * 7_919 % 1_000) as f64, (n * 104_729 % 1_000) as f64);
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

/// Measures every workload at every size.
pub(crate) fn run(quick: bool) -> Result<Figures> {
    let mut figures = Figures::new();
    for workload in &WORKLOADS {
        for &size in workload.sizes {
            if quick && size > 100_000 {
                continue;
            }
            measure(workload, size, &mut figures)?;
        }
    }
    Ok(figures)
}

fn measure(workload: &Workload, size: u64, figures: &mut Figures) -> Result<()> {
    let name = |figure: &str| format!("{}/{size}/{figure}", workload.name);
    let filters: Vec<Filter> = (0..size)
        .map(|n| Filter::new((workload.filter)(n)))
        .collect::<Result<_, _>>()?;
    let events = events(workload.events, size);

    let mut matcher = Matcher::new(7);
    let began = cpu_time();
    let held = allocation_counter::measure(|| {
        for (key, filter) in (0..).zip(&filters) {
            matcher.insert(SubscriptionKey(key), "shop", "messages", filter);
        }
    });
    let per = |seconds: f64, times: f64| seconds / times * 1e9;
    let insert = per(cpu_time() - began, size as f64);
    figures.insert(name("insert"), Figure::alone(insert, "ns"));
    let bytes = held.bytes_current as f64 / size as f64;
    figures.insert(name("state"), Figure::alone(bytes, "bytes"));

    let churn = churn(&mut matcher, &filters);
    figures.insert(name("insert-and-remove"), Figure::alone(churn, "ns"));

    let mut out = Vec::new();
    let (mut found, mut candidates) = (0, 0);
    for event in &events {
        candidates += matcher.start(event).candidates();
        out.clear();
        matcher.matches(event, &mut out)?;
        found += out.len();
    }
    let per_event = |count: usize| count as f64 / events.len() as f64;
    figures.insert(name("matches"), Figure::alone(per_event(found), "each"));
    let looked_at = Figure::alone(per_event(candidates), "each");
    figures.insert(name("candidates"), looked_at);

    let scan = Scan::of(&filters);
    let packed: Vec<Packed> = events
        .iter()
        .take(SCANNED)
        .map(Packed::of)
        .collect::<Result<_>>()?;
    let (mut next, mut next_packed) = (0, 0);
    let taken = compare(
        PAIRS,
        || {
            next = (next + 1) % events.len();
            out.clear();
            matcher.matches(&events[next], &mut out).ok();
            black_box(out.len());
        },
        || {
            next_packed = (next_packed + 1) % packed.len();
            black_box(scan.matches(&packed[next_packed]));
        },
    );
    let mut parsed = 0;
    let parse = compare(
        PAIRS,
        || {
            parsed = (parsed + 1) % events.len();
            black_box(serde_json::from_slice::<serde_json::Value>(&events[parsed].data).is_ok());
        },
        || {},
    );
    let event = Figure {
        value: taken.ours.as_secs_f64() * 1e9,
        unit: "ns",
        baseline: Some(taken.baseline.as_secs_f64() * 1e9),
        ratio: Some(taken.ratio),
    };
    if per_event(found) >= 1.0 {
        let each = event.value / per_event(found);
        figures.insert(name("per-match"), Figure::alone(each, "ns"));
    }
    figures.insert(name("event"), event);
    let parse = parse.ours.as_secs_f64() * 1e9;
    figures.insert(name("parsing-alone"), Figure::alone(parse, "ns"));
    Ok(())
}

/// Removes and inserts subscriptions all over the matcher; CPU nanoseconds of one of either.
fn churn(matcher: &mut Matcher, filters: &[Filter]) -> f64 {
    let times = filters.len().min(100_000);
    let began = cpu_time();
    for n in 0..times {
        let key = n * 7_919 % filters.len();
        matcher.remove(SubscriptionKey(key as u64));
        matcher.insert(
            SubscriptionKey(key as u64),
            "shop",
            "messages",
            &filters[key],
        );
    }
    (cpu_time() - began) / (2 * times) as f64 * 1e9
}

/// Documents of 20 fields and 3 tags, some 500 bytes.
fn events(count: usize, size: u64) -> Vec<Event> {
    (0..count as u64)
        .map(|n| {
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
                offset: n + 1,
                database: Arc::from("shop"),
                collection: Arc::from("messages"),
                document_id: Arc::from(format!("m{n}")),
                operation: Operation::Insert,
                data: Bytes::from(data),
                timestamp: 0,
            }
        })
        .collect()
}

const FIELDS: [&str; 9] = [
    "user", "room", "kind", "status", "sku", "price", "x", "y", "tags",
];

/// Every subscription's conditions one after the other, as small as they can be: what a careful
/// programmer writes without an index. Texts are compared by a hash.
struct Scan {
    conditions: Vec<PackedCondition>,
    /// Where the conditions of each subscription end.
    ends: Vec<u32>,
}

struct PackedCondition {
    value: u64,
    field: u8,
    op: Op,
}

/// An event's values, texts by a hash.
struct Packed([Vec<u64>; FIELDS.len()]);

impl Scan {
    fn of(filters: &[Filter]) -> Self {
        let (mut conditions, mut ends) = (Vec::new(), Vec::new());
        for filter in filters {
            for condition in filter.conditions() {
                let field = FIELDS.iter().position(|field| *field == condition.field);
                let field = field.unwrap_or_default() as u8;
                let values = match &condition.value {
                    Value::List(values) => values.iter().map(packed).collect(),
                    value => vec![packed(value)],
                };
                // A choice is packed as its first value: less work than it really is.
                conditions.push(PackedCondition {
                    value: values[0],
                    field,
                    op: condition.op,
                });
            }
            ends.push(conditions.len() as u32);
        }
        Self { conditions, ends }
    }

    fn matches(&self, event: &Packed) -> usize {
        let (mut from, mut matched) = (0, 0);
        for &end in &self.ends {
            let conditions = &self.conditions[from..end as usize];
            from = end as usize;
            matched += usize::from(conditions.iter().all(|condition| {
                let values = &event.0[usize::from(condition.field)];
                match condition.op {
                    Op::Eq | Op::In | Op::Contains => values.contains(&condition.value),
                    Op::Ne => !values.contains(&condition.value),
                    Op::Gt => values[0] > condition.value,
                    Op::Ge => values[0] >= condition.value,
                    Op::Lt => values[0] < condition.value,
                    Op::Le => values[0] <= condition.value,
                }
            }));
        }
        matched
    }
}

impl Packed {
    fn of(event: &Event) -> Result<Self> {
        let document: serde_json::Value = serde_json::from_slice(&event.data)?;
        let values = FIELDS.map(|field| match &document[field] {
            serde_json::Value::Array(values) => values
                .iter()
                .map(|value| hash(value.as_str().unwrap_or_default()))
                .collect(),
            serde_json::Value::String(text) => vec![hash(text)],
            value => vec![number(value.as_f64().unwrap_or_default())],
        });
        Ok(Self(values))
    }
}

fn packed(value: &Value) -> u64 {
    match value {
        Value::Text(text) => hash(text),
        Value::Int(int) => number(*int as f64),
        Value::Double(double) => number(*double),
        Value::Bool(_) | Value::List(_) => 0,
    }
}

/// FNV-1a, which needs no library.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Positive doubles order as their bits.
fn number(double: f64) -> u64 {
    double.to_bits()
}
