//! The elements of one agent, written in steps of bounded work.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    hash::{Hash, Hasher},
    sync::Arc,
};

use hashbrown::HashMap;
use steadfast_exposition::Numbers;

use super::super::{
    catalog::{Labels, Series},
    filter::Filter,
    gather::{AgentResponse, Gathered},
    labels::{OriginLabels, admits},
    registry::Identity,
    text::INCOMPLETE,
    time::UnixNanos,
};

/// The JSON of one agent's samples. They are grouped first, and then written group by group.
#[derive(Debug)]
pub(super) struct AgentJson {
    response: AgentResponse,
    is_duplicate: bool,
    groups: Groups,
    /// The part that is grouped next, and the index of the sample in it.
    grouped: (usize, usize),
    /// The group that is written next, and the index of the point in it.
    written: (usize, usize),
}

/// The samples by series and origin labels, in the order of their first samples.
#[derive(Debug, Default)]
struct Groups {
    list: Vec<Group>,
    /// The group of a sample, by the id of its series and the number of its origin labels; `None` if the
    /// filter excludes the series.
    by_id: HashMap<(u32, u32), Option<usize>>,
    /// The same by content: an agent may report a series with two descriptions.
    by_content: HashMap<(Named, u32), usize>,
    origins: HashMap<Labels, u32>,
    /// The numbers of the origin labels of the part that is grouped.
    of_part: Vec<u32>,
}

#[derive(Debug)]
struct Group {
    series: Arc<Series>,
    origin: Labels,
    points: Vec<Point>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    time: UnixNanos,
    value: f64,
}

/// A series that is compared by name and labels.
#[derive(Debug)]
struct Named(Arc<Series>);

/// The length from which a piece is sent.
pub(super) const PIECE: usize = 64 << 10;

/// The most that a step writes. Between two of its turns, a page of latest values waits for a step of each
/// window that is being sent.
pub(super) const STEP: usize = 16 << 10;

/// The number of samples that a step groups, in about as much time as it takes to write one.
pub(super) const GROUPED_SAMPLES: usize = 2 << 10;

impl AgentJson {
    pub(super) fn new(response: AgentResponse, is_duplicate: bool) -> Self {
        Self {
            response,
            is_duplicate,
            groups: Groups::default(),
            grouped: (0, 0),
            written: (0, 0),
        }
    }

    /// Groups the next samples, or appends about [`STEP`] bytes of the next ones to `out`, up to a whole
    /// piece. Returns false if everything is written.
    pub(super) fn step(
        &mut self,
        filter: &Filter,
        has_elements: &mut bool,
        out: &mut String,
    ) -> bool {
        if self.grouped.0 < self.response.parts.len() {
            self.group(filter);
            return true;
        }
        let full = PIECE.min(out.len() + STEP);
        while self.written.0 < self.groups.list.len() {
            if out.len() >= full {
                return true;
            }
            self.write(full, has_elements, out);
        }
        false
    }

    /// Groups the next samples of a part.
    fn group(&mut self, filter: &Filter) {
        let (part, first) = self.grouped;
        let samples = &self.response.parts[part];
        if first == 0 {
            self.groups.begin_part(&samples.origins);
        }
        let end = samples.len().min(first + GROUPED_SAMPLES);
        for index in first..end {
            let (series, origin) = (
                &samples.layout.series[index],
                samples.layout.origins[index] as usize,
            );
            let found = self.groups.find(series, origin, &samples.origins, filter);
            if let Some(group) = found {
                group.points.push(Point {
                    time: samples.time(index),
                    value: samples.values[index],
                });
            }
        }
        self.grouped = if end == samples.len() {
            (part + 1, 0)
        } else {
            (part, end)
        };
    }

    /// Writes points of a group until `out` has `full` bytes, and what stands before and after them.
    fn write(&mut self, full: usize, has_elements: &mut bool, out: &mut String) {
        let (at, first) = self.written;
        let group = &mut self.groups.list[at];
        if first == 0 {
            group.sort();
            out.push_str(if *has_elements { "," } else { "" });
            *has_elements = true;
            write_head(self.response.id.as_str(), out);
        }
        for (index, point) in group.points.iter().enumerate().skip(first) {
            // At least one, because a group of which none is written begins anew.
            if out.len() >= full && index > first {
                self.written = (at, index);
                return;
            }
            out.push_str(if index > 0 { "," } else { "" });
            point.write(out);
        }
        let origin_labels = OriginLabels::new(&self.response, self.is_duplicate);
        let labels = origin_labels.labels(&group.origin, &group.series);
        let mut labels: BTreeMap<String, String> = labels.into_iter().collect();
        for (name, value) in group.series.labels.iter() {
            // Nothing is replaced: no label above has a name that the series has.
            labels.insert(name.to_owned(), value.to_owned());
        }
        write_tail(&self.response.identity, &group.series, &labels, out);
        group.points = Vec::new();
        self.written = (at + 1, 0);
    }
}

impl Groups {
    fn begin_part(&mut self, origins: &[Labels]) {
        let numbers = origins.iter().map(|origin| {
            let next = self.origins.len() as u32;
            *self.origins.entry(origin.clone()).or_insert(next)
        });
        self.of_part = numbers.collect();
    }

    /// Returns the group of a sample; `None` if the filter excludes its series.
    fn find(
        &mut self,
        series: &Arc<Series>,
        origin: usize,
        origins: &[Labels],
        filter: &Filter,
    ) -> Option<&mut Group> {
        let number = self.of_part[origin];
        let found = self.by_id.entry((series.id, number)).or_insert_with(|| {
            admits(filter, series).then(|| {
                let key = (Named(Arc::clone(series)), number);
                *self.by_content.entry(key).or_insert_with(|| {
                    self.list.push(Group {
                        series: Arc::clone(series),
                        origin: origins[origin].clone(),
                        points: Vec::new(),
                    });
                    self.list.len() - 1
                })
            })
        });
        found.map(|index| &mut self.list[index])
    }
}

impl Group {
    /// Sorts the points by time, and removes repetitions. Different values at one time are all kept: which
    /// one is right cannot be known here.
    fn sort(&mut self) {
        // Stably: points of one time keep the order in which they arrived.
        self.points.sort_by_key(|point| point.time);
        let same_time = |pair: &[Point]| pair[0].time == pair[1].time;
        if !self.points.windows(2).any(same_time) {
            return;
        }
        let (mut time, mut values) = (None, BTreeSet::new());
        self.points.retain(|point| {
            if time != Some(point.time) {
                time = Some(point.time);
                values.clear();
            }
            values.insert(point.value.to_bits())
        });
    }
}

impl Point {
    fn write(self, out: &mut String) {
        out.push_str("{\"timestamp\":\"");
        write_time(self.time, out);
        out.push_str("\",\"value\":");
        json_number(self.value, out);
        out.push('}');
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name && self.0.labels == other.0.labels
    }
}

impl Eq for Named {}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
        self.0.labels.hash(state);
    }
}

/// Writes the gauge of an incomplete response, with the shape of a series: the header was sent before
/// these agents were known to be missing.
pub(super) fn write_missing(gathered: &Gathered, has_elements: bool, out: &mut String) {
    let Some(text) = gathered.missing_text() else {
        return;
    };
    out.push_str(if has_elements { "," } else { "" });
    write_head("", out);
    let count = Point {
        time: UnixNanos::wall_clock(),
        value: gathered.missing.len() as f64,
    };
    count.write(out);
    out.push_str("],\"description\":");
    string(&format!("Agents are missing in this response: {text}"), out);
    write!(
        out,
        ",\"labels\":{{}},\"name\":\"{INCOMPLETE}\",\"pod_name\":\"\"}}"
    )
    .expect("writing to a string cannot fail");
}

fn write_head(agent_id: &str, out: &mut String) {
    // Keys in alphabetical order here and below, as in the releases.
    out.push_str("{\"agent_id\":");
    string(agent_id, out);
    out.push_str(",\"data\":[");
}

fn write_tail(
    identity: &Identity,
    series: &Series,
    labels: &BTreeMap<String, String>,
    out: &mut String,
) {
    out.push_str("],\"description\":");
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

fn json_number(value: f64, out: &mut String) {
    if value.is_finite() {
        Numbers::Plain.write(value, out);
    } else {
        out.push('"');
        Numbers::Plain.write(value, out);
        out.push('"');
    }
}

fn write_time(time: UnixNanos, out: &mut String) {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time.nanos()))
        .expect("64 bits of nanoseconds are within ten thousand years");
    write!(out, "{time}").expect("writing to a string cannot fail");
}
