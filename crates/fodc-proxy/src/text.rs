//! `/metrics`: the latest values of all agents in Prometheus' text format.
//!
//! Everything that can fail is done before the first byte; the text itself is written while it is
//! read, since that of a thousand agents is longer than the memory the proxy shall have.

mod families;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use steadfast_exposition::Numbers;

use self::families::Families;
use super::{
    answer::{Answer, Layout},
    gather::{Filter, Told},
    labels::{Naming, admits, doubles, meddles},
    series::{Rendered, Series, escape_help, metric_name},
};

/// The text, in pieces.
#[derive(Debug)]
pub(super) struct Text {
    told: Vec<Told>,
    places: Places,
    headings: Vec<String>,
    agents: Vec<Prepared>,
    /// The family and the agent that come next.
    family: usize,
    agent: usize,
}

/// Where a series stands in the output. Series that look the same share one.
#[derive(Debug)]
struct Place {
    family: u32,
    name: Arc<str>,
    series: Arc<Series>,
    meddles: bool,
}

/// Places, and which of them each series has, by its id.
#[derive(Debug, Default)]
struct Places {
    list: Vec<Place>,
    by_id: Vec<u32>,
}

/// In which order samples are written.
#[derive(Debug, Default)]
struct Order {
    /// Their numbers, counted through all parts; none twice.
    numbers: Vec<u32>,
    /// Whether some need labels of their own.
    meddles: bool,
}

/// The orders of layouts that are shared.
type Orders = HashMap<*const Layout, Arc<Order>>;

/// One agent's samples.
#[derive(Debug)]
struct Prepared {
    order: Arc<Order>,
    next: usize,
    /// Labels by part and stamp.
    stamps: Vec<Vec<Rendered>>,
    /// Labels of series that have some of them already, by place, part and stamp.
    special: BTreeMap<(u32, usize, u16), Rendered>,
}

/// Length of a piece, from which it is passed on.
const PIECE: usize = 64 << 10;

/// Stands for a series that the filter does not want.
const NOWHERE: u32 = u32::MAX;

/// Stands for a series that is not in the answer.
const UNSEEN: u32 = u32::MAX - 1;

impl Text {
    pub(super) fn new(told: Vec<Told>, filter: &Filter) -> Self {
        let (places, headings) = arrange(&told, filter);
        let mut orders = Orders::new();
        let agents = told
            .iter()
            .zip(doubles(&told))
            .map(|(one, is_double)| Prepared::new(one, is_double, &places, &mut orders))
            .collect();
        Self {
            told,
            places,
            headings,
            agents,
            family: 0,
            agent: 0,
        }
    }

    /// In which place each series stands, by its id.
    pub(super) fn ranks(&self) -> &[u32] {
        &self.places.by_id
    }

    /// Writes what the next agent has of the family.
    fn write_agent(&mut self, out: &mut String) {
        let agent = &mut self.agents[self.agent];
        let parts = &self.told[self.agent].parts;
        while let Some(number) = agent.order.numbers.get(agent.next) {
            let (part, index) = locate(parts, *number);
            let answer = &parts[part];
            let at = self.places.by_id[answer.layout.series[index].id as usize];
            let place = &self.places.list[at as usize];
            if place.family as usize != self.family {
                break;
            }
            let stamp = answer.layout.stamp[index];
            let labels = if place.meddles {
                &agent.special[&(at, part, stamp)]
            } else {
                &agent.stamps[part][stamp as usize]
            };
            line(place, labels, answer.values[index], out);
            agent.next += 1;
        }
    }
}

impl Iterator for Text {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::with_capacity(PIECE + PIECE / 8);
        while self.family < self.headings.len() && out.len() < PIECE {
            if self.agent == 0 {
                out.push_str(&self.headings[self.family]);
            }
            // At least one, or a heading that is longer than a piece would be written for ever.
            loop {
                self.write_agent(&mut out);
                self.agent += 1;
                if self.agent == self.agents.len() || out.len() >= PIECE {
                    break;
                }
            }
            if self.agent == self.agents.len() {
                self.agent = 0;
                self.family += 1;
            }
        }
        (!out.is_empty()).then(|| out.into())
    }
}

impl Prepared {
    fn new(told: &Told, is_double: bool, places: &Places, orders: &mut Orders) -> Self {
        let (naming, parts) = (Naming::new(told, is_double), &**told.parts);
        let nothing = Series::default();
        let stamps = parts.iter().map(|answer| {
            let stamps = answer.stamps.iter();
            stamps
                .map(|stamp| naming.rendered(stamp, &nothing))
                .collect()
        });
        let order = || Arc::new(Order::new(parts, places));
        let order = match parts {
            [answer] => {
                let shared = orders.entry(Arc::as_ptr(&answer.layout));
                Arc::clone(shared.or_insert_with(order))
            }
            [..] => order(),
        };
        Self {
            stamps: stamps.collect(),
            special: special(parts, places, &order, &naming),
            order,
            next: 0,
        }
    }
}

/// Labels of samples that have some of them already.
fn special(
    parts: &[Answer],
    places: &Places,
    order: &Order,
    naming: &Naming<'_>,
) -> BTreeMap<(u32, usize, u16), Rendered> {
    let mut special = BTreeMap::new();
    let numbers = if order.meddles { &*order.numbers } else { &[] };
    for number in numbers {
        let (part, index) = locate(parts, *number);
        let layout = &parts[part].layout;
        let (series, stamp) = (&layout.series[index], layout.stamp[index]);
        let at = places.by_id[series.id as usize];
        if places.list[at as usize].meddles {
            let labels = || naming.rendered(&parts[part].stamps[stamp as usize], series);
            special.entry((at, part, stamp)).or_insert_with(labels);
        }
    }
    special
}

impl Order {
    fn new(parts: &[Answer], places: &Places) -> Self {
        let series = parts.iter().flat_map(|answer| &answer.layout.series);
        let places_of = series.map(|series| places.by_id[series.id as usize]);
        let mut sorting: Vec<(u32, u32)> = places_of
            .zip(0u32..)
            .filter(|(at, _)| *at != NOWHERE)
            .collect();
        sorting.sort_unstable();
        // One value each: of a series that stands twice in an answer, the first.
        let stamp = |number: u32| {
            let (part, index) = locate(parts, number);
            &parts[part].stamps[parts[part].layout.stamp[index] as usize]
        };
        sorting.dedup_by(|later, kept| later.0 == kept.0 && stamp(later.1) == stamp(kept.1));
        Self {
            meddles: sorting
                .iter()
                .any(|(at, _)| places.list[*at as usize].meddles),
            numbers: sorting.into_iter().map(|(_, number)| number).collect(),
        }
    }
}

/// Which part a sample is in, and where.
fn locate(parts: &[Answer], number: u32) -> (usize, usize) {
    let mut index = number as usize;
    for (part, answer) in parts.iter().enumerate() {
        if index < answer.len() {
            return (part, index);
        }
        index -= answer.len();
    }
    unreachable!("numbers are given to samples that are there")
}

/// Gives every series that the filter wants its place, and every family its heading.
fn arrange(told: &[Told], filter: &Filter) -> (Places, Vec<String>) {
    let mut places = Places::default();
    let mut distinct: Vec<&Arc<Series>> = Vec::new();
    for series in told
        .iter()
        .flat_map(|one| one.parts.iter())
        .flat_map(|answer| &answer.layout.series)
    {
        let id = series.id as usize;
        if places.by_id.len() <= id {
            places.by_id.resize(id + 1, UNSEEN);
        }
        if places.by_id[id] == UNSEEN {
            places.by_id[id] = NOWHERE;
            distinct.push(series);
        }
    }
    distinct.retain(|series| admits(filter, series));
    let names: Vec<Arc<str>> = distinct
        .iter()
        .map(|series| metric_name(&series.name).into())
        .collect();
    let families = Families::of(distinct.iter().copied().zip(&names));
    let mut order: Vec<(u32, usize)> = names
        .iter()
        .map(|name| families.index(name))
        .zip(0..)
        .collect();
    let key = |(family, index): (u32, usize)| (family, &names[index], &distinct[index].rendered);
    order.sort_by(|a, b| key(*a).cmp(&key(*b)));
    for (family, index) in order {
        let (name, series) = (&names[index], distinct[index]);
        let same = |last: &Place| last.name == *name && last.series.rendered == series.rendered;
        if !places.list.last().is_some_and(same) {
            places.list.push(Place {
                family,
                name: Arc::clone(name),
                series: Arc::clone(series),
                meddles: meddles(series),
            });
        }
        let place = u32::try_from(places.list.len() - 1).expect("ids are 32 bits");
        places.by_id[series.id as usize] = place;
    }
    (places, families.headings(escape_help))
}

/// Labels rarely begin with the same letter.
fn stands_before(a: &str, b: &str) -> bool {
    match (a.as_bytes().first(), b.as_bytes().first()) {
        (Some(a), Some(b)) if a != b => a < b,
        _ => a <= b,
    }
}

fn line(place: &Place, labels: &Rendered, value: f64, out: &mut String) {
    out.push_str(&place.name);
    let mut own = place.series.rendered.pieces();
    let mut added = labels.pieces();
    let (mut one, mut other) = (own.next(), added.next());
    let mut open = '{';
    loop {
        let own_first = match (one, other) {
            (Some(a), Some(b)) => stands_before(a, b),
            (one, _) => one.is_some(),
        };
        let piece = if own_first {
            std::mem::replace(&mut one, own.next())
        } else {
            std::mem::replace(&mut other, added.next())
        };
        let Some(piece) = piece else { break };
        out.push(open);
        out.push_str(piece);
        open = ',';
    }
    out.push_str(if open == ',' { "} " } else { " " });
    Numbers::Plain.write(value, out);
    out.push('\n');
}
