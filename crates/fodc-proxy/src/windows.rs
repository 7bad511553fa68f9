//! The JSON of `/metrics-windows`: samples with their times.
//!
//! JSON has no number for NaN and infinities: they are the strings `"NaN"`, `"+Inf"` and `"-Inf"`.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use bytes::Bytes;
use steadfast_exposition::Numbers;

use super::{
    catalog::{Labels, Series},
    filter::Filter,
    gather::AgentResponse,
    labels::{OriginLabels, admits, duplicates},
    registry::Identity,
    samples::Samples,
    time::UnixNanos,
};

/// The JSON array, in pieces: one for each agent.
#[derive(Debug)]
pub(super) struct Windows {
    responses: Vec<AgentResponse>,
    duplicates: Vec<bool>,
    filter: Filter,
    next: usize,
    /// An element has been written.
    has_elements: bool,
    finished: bool,
}

/// One sample of an agent, ordered as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sample {
    /// The index of the series.
    series: u32,
    /// The index of the origin labels, counted through all parts.
    origin: u32,
    time: UnixNanos,
    part: u32,
    index: u32,
}

impl Windows {
    pub(super) fn new(responses: Vec<AgentResponse>, filter: Filter) -> Self {
        Self {
            duplicates: duplicates(&responses),
            responses,
            filter,
            next: 0,
            has_elements: false,
            finished: false,
        }
    }

    fn write_agent(&mut self, agent: usize, out: &mut String) {
        let response = &self.responses[agent];
        let origin_labels = &OriginLabels::new(response, self.duplicates[agent]);
        let (series, samples) = arrange(&response.parts, &self.filter);
        for same in samples.chunk_by(|a, b| (a.series, a.origin) == (b.series, b.origin)) {
            let one = &series[same[0].series as usize];
            let part = &response.parts[same[0].part as usize];
            let origin = part.layout.origins[same[0].index as usize];
            let origin = &part.origins[origin as usize];
            let mut labels: BTreeMap<String, String> =
                origin_labels.labels(origin, one).into_iter().collect();
            for (name, value) in one.labels.iter() {
                // Nothing is replaced: no label above has a name that the series has.
                labels.insert(name.to_owned(), value.to_owned());
            }
            out.push_str(if self.has_elements { "," } else { "" });
            self.has_elements = true;
            write_head(response, out);
            write_data(same, &response.parts, out);
            write_tail(origin_labels.identity(), one, &labels, out);
        }
    }
}

impl Iterator for Windows {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.finished {
            return None;
        }
        let mut out = String::new();
        if self.next == 0 {
            out.push('[');
        }
        if self.next < self.responses.len() {
            self.write_agent(self.next, &mut out);
            self.next += 1;
        } else {
            out.push_str("]\n");
            self.finished = true;
        }
        Some(out.into())
    }
}

/// Returns the distinct series, and all samples in the order of the output without repetitions.
fn arrange<'a>(parts: &'a [Samples], filter: &Filter) -> (Vec<&'a Arc<Series>>, Vec<Sample>) {
    let mut ranks: BTreeMap<(&str, &Labels), u32> = BTreeMap::new();
    // By address first, because names and labels take longer to compare for each sample.
    let mut by_series: BTreeMap<*const Series, u32> = BTreeMap::new();
    let mut distinct: Vec<&Arc<Series>> = Vec::new();
    let mut origins: BTreeMap<Vec<(&str, &str)>, u32> = BTreeMap::new();
    let mut samples = Vec::with_capacity(parts.iter().map(Samples::len).sum());
    for (part, from) in (0u32..).zip(parts) {
        let origin_of: Vec<u32> = from
            .origins
            .iter()
            .map(|origin| {
                let next = origins.len() as u32;
                *origins.entry(origin.iter().collect()).or_insert(next)
            })
            .collect();
        for (index, series) in from.layout.series.iter().enumerate() {
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
                origin: origin_of[from.layout.origins[index] as usize],
                time: from.time(index),
                part,
                index: index as u32,
            });
        }
    }
    let value =
        |sample: &Sample| parts[sample.part as usize].values[sample.index as usize].to_bits();
    let place = |sample: &Sample| (sample.series, sample.origin, sample.time);
    samples.sort_unstable();
    // Different values at one time are all shown: which one is right cannot be known here.
    if samples
        .windows(2)
        .any(|pair| place(&pair[0]) == place(&pair[1]))
    {
        // By value, so that repetitions are neighbours also among different values.
        samples.sort_unstable_by_key(|sample| (place(sample), value(sample), *sample));
        samples.dedup_by_key(|sample| (place(sample), value(sample)));
        samples.sort_unstable();
    }
    (distinct, samples)
}

fn write_head(response: &AgentResponse, out: &mut String) {
    // Keys in alphabetical order here and below, as in the releases.
    out.push_str("{\"agent_id\":");
    string(response.id.as_str(), out);
    out.push_str(",\"data\":[");
}

fn write_data(samples: &[Sample], parts: &[Samples], out: &mut String) {
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
    identity: &Identity,
    series: &Series,
    labels: &BTreeMap<String, String>,
    out: &mut String,
) {
    out.push_str("\"description\":");
    string(&series.help, out);
    // An agent of the first version has no pod, and is shown with its address.
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
    // From the label, as in the releases: a sample may name another pod than its agent's.
    string(labels.get("pod_name").map_or("", String::as_str), out);
    if let Some((_, port)) = address {
        write!(out, ",\"port\":{port}").expect("writing to a string cannot fail");
    }
    out.push('}');
}

fn string(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("every string has a JSON form"));
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

fn time(time: UnixNanos, out: &mut String) {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time.nanos()))
        .expect("64 bits of nanoseconds are within ten thousand years");
    write!(out, "{time}").expect("writing to a string cannot fail");
}
