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
    places: Vec<Place>,
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

/// One agent's samples.
#[derive(Debug, Default)]
struct Prepared {
    /// In the order of the output, none twice.
    samples: Vec<Sample>,
    next: usize,
    /// Labels by part and stamp.
    stamps: Vec<Vec<Rendered>>,
    /// Labels of series that have some of them already, by place, part and stamp.
    special: BTreeMap<(u32, u16, u16), Rendered>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    place: u32,
    part: u16,
    index: u32,
}

/// Length of a piece, from which it is passed on.
const PIECE: usize = 64 << 10;

/// Stands for a series that the filter does not want.
const NOWHERE: u32 = u32::MAX;

impl Text {
    pub(super) fn new(told: Vec<Told>, filter: &Filter) -> Self {
        let (places, by_series, headings) = arrange(&told, filter);
        let agents = told
            .iter()
            .zip(doubles(&told))
            .map(|(one, is_double)| Prepared::new(one, is_double, &places, &by_series))
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
        while let Some(sample) = agent.samples.get(agent.next) {
            let place = &self.places[sample.place as usize];
            if place.family as usize != self.family {
                break;
            }
            let answer = &parts[sample.part as usize];
            let index = sample.index as usize;
            let stamp = answer.stamp[index];
            let labels = if place.meddles {
                &agent.special[&(sample.place, sample.part, stamp)]
            } else {
                &agent.stamps[sample.part as usize][stamp as usize]
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
    fn new(
        told: &Told,
        is_double: bool,
        places: &[Place],
        by_series: &HashMap<*const Series, u32>,
    ) -> Self {
        let (naming, parts) = (Naming::new(told, is_double), &*told.parts);
        let mut prepared = Self {
            samples: Vec::with_capacity(parts.iter().map(Answer::len).sum()),
            ..Self::default()
        };
        let nothing = Series::default();
        for (number, answer) in parts.iter().enumerate() {
            let part = u16::try_from(number).unwrap_or(u16::MAX);
            let stamps = answer.stamps.iter();
            let stamps = stamps
                .map(|stamp| naming.rendered(stamp, &nothing))
                .collect();
            prepared.stamps.push(stamps);
            for (index, series) in answer.series.iter().enumerate() {
                let place = by_series[&Arc::as_ptr(series)];
                if place == NOWHERE {
                    continue;
                }
                if places[place as usize].meddles {
                    let stamp = answer.stamp[index];
                    let labels = || naming.rendered(&answer.stamps[stamp as usize], series);
                    prepared
                        .special
                        .entry((place, part, stamp))
                        .or_insert_with(labels);
                }
                let index = u32::try_from(index).expect("a message has less than 4 G samples");
                prepared.samples.push(Sample { place, part, index });
            }
        }
        prepared.samples.sort_unstable();
        // One value each: of a series that stands twice in an answer, the first.
        let stamp = |sample: &Sample| parts[sample.part as usize].stamp[sample.index as usize];
        prepared
            .samples
            .dedup_by(|later, kept| later.place == kept.place && stamp(later) == stamp(kept));
        prepared
    }
}

/// Gives every series that the filter wants its place, and every family its heading.
fn arrange(
    told: &[Told],
    filter: &Filter,
) -> (Vec<Place>, HashMap<*const Series, u32>, Vec<String>) {
    let mut by_series: HashMap<*const Series, u32> = HashMap::new();
    let mut distinct: Vec<&Arc<Series>> = Vec::new();
    for answer in told.iter().flat_map(|one| one.parts.iter()) {
        for series in &answer.series {
            by_series.entry(Arc::as_ptr(series)).or_insert_with(|| {
                distinct.push(series);
                NOWHERE
            });
        }
    }
    distinct.retain(|series| admits(filter, series));
    let names: Vec<Arc<str>> = distinct
        .iter()
        .map(|series| metric_name(&series.name).into())
        .collect();
    let families = Families::of(distinct.iter().copied().zip(&names));
    let mut order: Vec<usize> = (0..distinct.len()).collect();
    let key = |index: &usize| {
        (
            families.index(&names[*index]),
            &names[*index],
            &distinct[*index].rendered,
        )
    };
    order.sort_by(|a, b| key(a).cmp(&key(b)));
    let mut places: Vec<Place> = Vec::new();
    for index in order {
        let series = distinct[index];
        let is_new = places.last().is_none_or(|last| {
            last.name != names[index] || last.series.rendered != series.rendered
        });
        if is_new {
            places.push(Place {
                family: families.index(&names[index]),
                name: Arc::clone(&names[index]),
                series: Arc::clone(series),
                meddles: meddles(series),
            });
        }
        let place = u32::try_from(places.len() - 1).expect("less than 4 G series");
        by_series.insert(Arc::as_ptr(series), place);
    }
    (places, by_series, families.headings(escape_help))
}

fn line(place: &Place, labels: &Rendered, value: f64, out: &mut String) {
    out.push_str(&place.name);
    let mut own = place.series.rendered.pieces().peekable();
    let mut added = labels.pieces().peekable();
    let mut open = '{';
    loop {
        let piece = match (own.peek(), added.peek()) {
            (Some(a), Some(b)) if a <= b => own.next(),
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
