//! `/metrics-windows`: samples with their times, as JSON.
//!
//! JSON has no number for what is none: such values are the strings `"NaN"`, `"+Inf"` and `"-Inf"`.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use bytes::Bytes;
use steadfast_exposition::Numbers;

use super::{
    answer::Answer,
    gather::{Filter, Told},
    labels::{Naming, admits, doubles},
    moment::Moment,
    series::{Labels, Series},
};

/// The array, in pieces: one for each agent.
#[derive(Debug)]
pub(super) struct Windows {
    told: Vec<Told>,
    doubles: Vec<bool>,
    filter: Filter,
    next: usize,
    /// Whether an element has been written.
    some: bool,
    over: bool,
}

/// One sample of an agent, ordered as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    /// Rank of the series, and whose stamp of those that the agent has put on it.
    series: u32,
    stamp: u32,
    time: Moment,
    part: u32,
    index: u32,
}

impl Windows {
    pub(super) fn new(told: Vec<Told>, filter: Filter) -> Self {
        Self {
            doubles: doubles(&told),
            told,
            filter,
            next: 0,
            some: false,
            over: false,
        }
    }

    fn write_agent(&mut self, agent: usize, out: &mut String) {
        let told = &self.told[agent];
        let naming = &Naming::new(told, self.doubles[agent]);
        let (series, samples) = arrange(&told.parts, &self.filter);
        for same in samples.chunk_by(|a, b| (a.series, a.stamp) == (b.series, b.stamp)) {
            let one = &series[same[0].series as usize];
            let stamp = told.parts[same[0].part as usize].layout.stamp[same[0].index as usize];
            let stamp = &told.parts[same[0].part as usize].stamps[stamp as usize];
            let mut labels: BTreeMap<String, String> =
                naming.labels(stamp, one).into_iter().collect();
            for (name, value) in one.labels.iter() {
                labels.insert(name.to_owned(), value.to_owned());
            }
            out.push_str(if self.some { "," } else { "" });
            self.some = true;
            write_head(told, out);
            write_data(same, &told.parts, out);
            write_tail(naming, one, &labels, out);
        }
    }
}

impl Iterator for Windows {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let mut out = String::new();
        if self.next == 0 {
            out.push('[');
        }
        if self.next < self.told.len() {
            self.write_agent(self.next, &mut out);
            self.next += 1;
        } else {
            out.push_str("]\n");
            self.over = true;
        }
        Some(out.into())
    }
}

/// The distinct series in their order, and all samples in theirs; none twice.
fn arrange<'a>(parts: &'a [Answer], filter: &Filter) -> (Vec<&'a Arc<Series>>, Vec<Sample>) {
    let mut ranks: BTreeMap<(&str, &Labels), u32> = BTreeMap::new();
    let mut by_series: BTreeMap<*const Series, u32> = BTreeMap::new();
    let mut distinct: Vec<&Arc<Series>> = Vec::new();
    let mut stamps: BTreeMap<Vec<(&str, &str)>, u32> = BTreeMap::new();
    let mut samples = Vec::with_capacity(parts.iter().map(Answer::len).sum());
    for (part, answer) in (0u32..).zip(parts) {
        let stamp_of: Vec<u32> = answer
            .stamps
            .iter()
            .map(|stamp| {
                let next = stamps.len() as u32;
                *stamps.entry(stamp.iter().collect()).or_insert(next)
            })
            .collect();
        for (index, series) in answer.layout.series.iter().enumerate() {
            if !admits(filter, series) {
                continue;
            }
            let rank = *by_series.entry(Arc::as_ptr(series)).or_insert_with(|| {
                let key = (&*series.name, &series.labels);
                *ranks.entry(key).or_insert_with(|| {
                    distinct.push(series);
                    distinct.len() as u32 - 1
                })
            });
            samples.push(Sample {
                series: rank,
                stamp: stamp_of[answer.layout.stamp[index] as usize],
                time: answer.time(index),
                part,
                index: index as u32,
            });
        }
    }
    samples.sort_unstable();
    let value =
        |sample: &Sample| parts[sample.part as usize].values[sample.index as usize].to_bits();
    samples.dedup_by(|later, kept| {
        (later.series, later.stamp, later.time) == (kept.series, kept.stamp, kept.time)
            && value(later) == value(kept)
    });
    (distinct, samples)
}

fn write_head(told: &Told, out: &mut String) {
    out.push_str("{\"agent_id\":");
    string(told.id.as_str(), out);
    out.push_str(",\"data\":[");
}

fn write_data(samples: &[Sample], parts: &[Answer], out: &mut String) {
    for (index, sample) in samples.iter().enumerate() {
        out.push_str(if index > 0 { "," } else { "" });
        out.push_str("{\"timestamp\":\"");
        time(sample.time, out);
        out.push_str("\",\"value\":");
        json_number(
            parts[sample.part as usize].values[sample.index as usize],
            out,
        );
        out.push('}');
    }
    out.push_str("],");
}

fn write_tail(
    naming: &Naming<'_>,
    series: &Series,
    labels: &BTreeMap<String, String>,
    out: &mut String,
) {
    out.push_str("\"description\":");
    string(&series.help, out);
    // The first version has no pods but addresses.
    let identity = naming.identity();
    let address = identity.address.as_ref().filter(|_| !identity.has_pod);
    if let Some((ip, _)) = address {
        out.push_str(",\"ip\":");
        string(ip, out);
    }
    out.push_str(",\"labels\":{");
    for (index, (name, value)) in labels.iter().enumerate() {
        out.push_str(if index > 0 { "," } else { "" });
        string(name, out);
        out.push(':');
        string(value, out);
    }
    out.push_str("},\"name\":");
    string(&series.name, out);
    out.push_str(",\"pod_name\":");
    string(labels.get("pod_name").map_or("", String::as_str), out);
    if let Some((_, port)) = address {
        write!(out, ",\"port\":{port}").expect("a string takes everything");
    }
    out.push('}');
}

fn string(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("text can be written as JSON"));
}

pub(super) fn json_number(value: f64, out: &mut String) {
    if value.is_finite() {
        Numbers::Plain.write(value, out);
    } else {
        out.push('"');
        Numbers::Plain.write(value, out);
        out.push('"');
    }
}

fn time(moment: Moment, out: &mut String) {
    let time = jiff::Timestamp::from_nanosecond(i128::from(moment.nanos()))
        .expect("64 bits of nanoseconds are within ten thousand years");
    write!(out, "{time}").expect("a string takes everything");
}
