//! The time and memory that finding the subscriptions of an event takes.

use std::hint::black_box;

use anyhow::Result;
use steadfast_bench::{
    figure::Figures,
    measure::{compare, cpu_time, load_average},
    subscriptions::{SEED, WORKLOADS, Workload, events, insert},
};
use steadfast_streamer_core::{
    Event,
    filter::{Filter, Op, Value},
    matcher::{Matcher, Matching, SubscriptionKey},
};

/// Events that the linear scan is measured with; each visits every subscription.
const SCANNED: usize = 16;

const PAIRS: usize = 15;

/// Measures every workload at every size.
pub(crate) fn run(quick: bool) -> Result<Figures> {
    let mut figures = Figures::new();
    for workload in &WORKLOADS {
        let mut events = Vec::new();
        for &size in workload.sizes {
            if quick && size > 100_000 {
                continue;
            }
            events.push(measure(workload, size, &mut figures)?);
        }
        if let [small, .., large] = events[..] {
            figures.put(format!("{}/growth", workload.name), "times", large / small);
        }
    }
    figures.put("load-average", "threads", load_average()?);
    Ok(figures)
}

/// A matching whose memory serves every event, as in a server.
#[derive(Default)]
struct Finder {
    matching: Matching,
    found: Vec<SubscriptionKey>,
    candidates: usize,
}

impl Finder {
    fn find(&mut self, matcher: &Matcher, event: &Event) -> usize {
        self.matching.start(matcher, event);
        self.candidates = self.matching.candidates();
        self.found.clear();
        self.matching.finish(matcher, &mut self.found);
        self.found.len()
    }
}

/// Measures one workload at one size. Returns the nanoseconds of an event.
fn measure(workload: &Workload, size: u64, figures: &mut Figures) -> Result<f64> {
    let named = |name: &str| format!("{}/{size}/{name}", workload.name);
    let filters = workload.filters(size)?;
    let events = events(workload.events, size);

    let mut matcher = Matcher::new(SEED);
    let began = cpu_time();
    let held = allocation_counter::measure(|| {
        for (key, filter) in (0..).zip(&filters) {
            insert(&mut matcher, key, filter);
        }
    });
    let inserted = (cpu_time() - began) / size as f64 * 1e9;
    figures.put(named("insert"), "ns", inserted);
    let bytes = held.bytes_current as f64 / size as f64;
    figures.put(named("state"), "bytes", bytes);
    let churned = churn(&mut matcher, &filters);
    figures.put(named("insert-and-remove"), "ns", churned);

    let mut finder = Finder::default();
    let (found, candidates) = events.iter().fold((0, 0), |(found, candidates), event| {
        let more = finder.find(&matcher, event);
        (found + more, candidates + finder.candidates)
    });
    let per_event = |count: usize| count as f64 / events.len() as f64;
    figures.put(named("matches"), "each", per_event(found));
    figures.put(named("candidates"), "each", per_event(candidates));

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
            black_box(finder.find(&matcher, &events[next]));
        },
        || {
            next_packed = (next_packed + 1) % packed.len();
            black_box(scan.matches(&packed[next_packed]));
        },
    );
    let reader = workload.reader()?;
    let (mut next_read, mut next_parsed) = (0, 0);
    let reading = compare(
        PAIRS,
        || {
            next_read = (next_read + 1) % events.len();
            black_box(finder.find(&reader, &events[next_read]));
        },
        || {
            next_parsed = (next_parsed + 1) % events.len();
            let data = &events[next_parsed].data;
            black_box(serde_json::from_slice::<serde_json::Value>(data).is_ok());
        },
    );
    let [event, read] = [&taken, &reading].map(|compared| compared.ours.as_secs_f64() * 1e9);
    for (name, ours, compared) in [("event", event, &taken), ("reading", read, &reading)] {
        let baseline = compared.baseline.as_secs_f64() * 1e9;
        figures.put_against(named(name), "ns", ours, (baseline, compared.ratio));
    }
    figures.put(named("matching"), "ns", event - read);
    if found >= events.len() {
        let each = (event - read) / per_event(found);
        figures.put(named("matching-per-match"), "ns", each);
    }
    let (lower, upper) = taken.quartiles;
    figures.put(named("ratio-lower-quartile"), "times", lower);
    figures.put(named("ratio-upper-quartile"), "times", upper);
    figures.put(named("discarded"), "of 15", taken.discarded as f64);
    Ok(event)
}

/// Removes and inserts subscriptions all over the matcher; CPU nanoseconds of one of either.
fn churn(matcher: &mut Matcher, filters: &[Filter]) -> f64 {
    let times = filters.len().min(100_000);
    let began = cpu_time();
    for n in 0..times {
        // A prime that no size is a multiple of: keys all over the matcher, and none twice.
        let key = n * 7_919 % filters.len();
        matcher.remove(SubscriptionKey(key as u64));
        insert(matcher, key as u64, &filters[key]);
    }
    (cpu_time() - began) / (2 * times) as f64 * 1e9
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
                let named = condition.field.as_dotted();
                let field = FIELDS.iter().position(|field| Some(*field) == named);
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
        Value::Null | Value::Bool(_) | Value::List(_) => 0,
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
