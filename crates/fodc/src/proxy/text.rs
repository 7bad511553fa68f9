//! `/metrics`: the latest values of all agents in Prometheus' text format.
//!
//! Everything that can fail is done before the first byte; the text itself is written while it is
//! read, since that of a thousand agents is longer than the memory the proxy shall have.

mod families;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use self::families::Families;
use super::{
    answer::Answer,
    gather::{Filter, Told},
    labels::{Naming, admits, doubles, meddles},
    series::{Rendered, Series, escape_help, metric_name, number},
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

/// One agent's samples.
#[derive(Debug, Default)]
struct Prepared {
    /// Numbers of samples, counted through all parts, in the order of the output; none twice.
    order: Vec<u32>,
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
        let mut sorting = Vec::new();
        let agents = told
            .iter()
            .zip(doubles(&told))
            .map(|(one, is_double)| Prepared::new(one, is_double, &places, &mut sorting))
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

    /// Writes what the next agent has of the family.
    fn write_agent(&mut self, out: &mut String) {
        let agent = &mut self.agents[self.agent];
        let parts = &self.told[self.agent].parts;
        while let Some(number) = agent.order.get(agent.next) {
            let (part, index) = locate(parts, *number);
            let answer = &parts[part];
            let at = self.places.by_id[answer.series[index].id as usize];
            let place = &self.places.list[at as usize];
            if place.family as usize != self.family {
                break;
            }
            let stamp = answer.stamp[index];
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
            while self.agent < self.agents.len() && out.len() < PIECE {
                self.write_agent(&mut out);
                self.agent += 1;
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
    fn new(told: &Told, is_double: bool, places: &Places, sorting: &mut Vec<(u32, u32)>) -> Self {
        let (naming, parts) = (Naming::new(told, is_double), &*told.parts);
        let mut prepared = Self::default();
        let nothing = Series::default();
        sorting.clear();
        let mut numbers = 0u32..;
        for (part, answer) in parts.iter().enumerate() {
            let stamps = answer.stamps.iter();
            let stamps = stamps.map(|stamp| naming.rendered(stamp, &nothing));
            prepared.stamps.push(stamps.collect());
            for ((series, stamp), number) in
                answer.series.iter().zip(&answer.stamp).zip(&mut numbers)
            {
                let at = places.by_id[series.id as usize];
                if at == NOWHERE {
                    continue;
                }
                if places.list[at as usize].meddles {
                    let labels = || naming.rendered(&answer.stamps[*stamp as usize], series);
                    prepared
                        .special
                        .entry((at, part, *stamp))
                        .or_insert_with(labels);
                }
                sorting.push((at, number));
            }
        }
        sorting.sort_unstable();
        // One value each: of a series that stands twice in an answer, the first.
        let stamp = |number: u32| {
            let (part, index) = locate(parts, number);
            &parts[part].stamps[parts[part].stamp[index] as usize]
        };
        sorting.dedup_by(|later, kept| later.0 == kept.0 && stamp(later.1) == stamp(kept.1));
        prepared.order = sorting.iter().map(|(_, number)| *number).collect();
        prepared
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
        .flat_map(|answer| &answer.series)
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
    let mut own = place.series.rendered.pieces().peekable();
    let mut added = labels.pieces().peekable();
    let mut open = '{';
    loop {
        let piece = match (own.peek(), added.peek()) {
            (Some(a), Some(b)) if stands_before(a, b) => own.next(),
            (Some(_), None) => own.next(),
            _ => added.next(),
        };
        let Some(piece) = piece else { break };
        out.push(open);
        out.push_str(piece);
        open = ',';
    }
    out.push_str(if open == ',' { "} " } else { " " });
    number(value, out);
    out.push('\n');
}
