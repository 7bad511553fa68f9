//! What one agent has answered.

use std::sync::{
    Arc, RwLockReadGuard,
    atomic::{AtomicUsize, Ordering},
};

use steadfast_wire::fodc::{Columns, MetricType};

use super::{
    moment::Moment,
    registry::Identity,
    reply::{COLUMNS, Malformed, RawLabel, RawMetric, Taker},
    series::{Catalogue, Kind, Labels, NotText, Series, Table},
};
use steadfast_fodc_model::columns::{Decoded, DecodedSeries};

/// The samples of one message.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// What each value is of. Agents that measure the same share one.
    pub(super) layout: Arc<Layout>,
    /// The same while the message is being read.
    growing: Layout,
    pub(super) values: Vec<f64>,
    /// Empty when no sample has a time of its own, as in an answer to "latest".
    times: Vec<Moment>,
    /// Labels that the agent put on samples to say which agent it is.
    pub(super) stamps: Vec<Labels>,
    /// The same, as [`Identity::stamp`] tells them.
    masks: Vec<u64>,
    /// The agent's clock when it answered: the time of samples that have none.
    at: Option<Moment>,
    /// Metrics that could not be taken.
    pub(super) rejected: u64,
    weight: Option<Weight>,
}

/// Which series the values of an answer are of.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) series: Vec<Arc<Series>>,
    /// Index of the labels that the agent put on it to say which agent it is.
    pub(super) stamp: Vec<u16>,
}

/// What all answers together may weigh.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// A share of it; given back when dropped.
#[derive(Debug)]
struct Weight {
    memory: Memory,
    bytes: usize,
}

/// Puts together what a message holds.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    catalogue: &'a Catalogue,
    /// Let go of only while something new is made known.
    table: Option<RwLockReadGuard<'a, Table>>,
    identity: &'a Identity,
    answer: &'a mut Answer,
    memory: &'a Memory,
    full: bool,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            used: Arc::default(),
            limit,
        }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }
}

impl Weight {
    fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Answer {
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Makes room at once, since vectors that grow leave holes behind in memory.
    pub(super) fn expect(&mut self, samples: usize) {
        self.growing.series.reserve_exact(samples);
        self.growing.stamp.reserve_exact(samples);
        self.values.reserve_exact(samples);
    }

    /// When the sample of this index was taken.
    pub(super) fn time(&self, index: usize) -> Moment {
        let own = self.times.get(index).copied();
        own.filter(|time| *time != TIMELESS)
            .or(self.at)
            .unwrap_or(TIMELESS)
    }

    /// Nothing more comes. Samples without a time have been taken `at` this one.
    pub(super) fn seal(&mut self, at: Option<Moment>, catalogue: &Catalogue) {
        self.at = at;
        if self.times.is_empty() {
            self.order(&catalogue.read().ranks);
            let growing = std::mem::take(&mut self.growing);
            let (layout, known) = catalogue.write().share(growing);
            self.layout = layout;
            if known && let Some(weight) = &mut self.weight {
                weight.give_back(self.values.len() * LAYOUT);
            }
        } else {
            self.layout = Arc::new(std::mem::take(&mut self.growing));
        }
        self.values.shrink_to_fit();
        self.times.shrink_to_fit();
    }

    /// Into the order of the series, or programs that write their maps in random order would share
    /// nothing. What comes twice stays in the order in which it came.
    ///
    /// It is the order in which they were last written: the values of a thousand agents are more
    /// than the processor's caches hold, and to write them in any other order is to wait for each.
    fn order(&mut self, ranks: &[u32]) {
        let Layout { series, stamp } = &self.growing;
        let keys = series.iter().zip(stamp).zip(0u32..);
        let mut order: Vec<(u64, u16, u32)> = keys
            .map(|((series, stamp), index)| {
                let rank = ranks.get(series.id as usize).copied();
                let key = u64::from(rank.unwrap_or(u32::MAX)) << 32 | u64::from(series.id);
                (key, *stamp, index)
            })
            .collect();
        if order.is_sorted() {
            return;
        }
        order.sort_unstable();
        let indices = || order.iter().map(|(_, _, index)| *index as usize);
        self.growing = Layout {
            series: indices().map(|index| Arc::clone(&series[index])).collect(),
            stamp: indices().map(|index| stamp[index]).collect(),
        };
        self.values = indices().map(|index| self.values[index]).collect();
    }

    fn weigh(&mut self, memory: &Memory, bytes: usize) -> bool {
        if !memory.take(bytes) {
            return false;
        }
        match &mut self.weight {
            Some(weight) => weight.bytes += bytes,
            None => {
                self.weight = Some(Weight {
                    memory: memory.clone(),
                    bytes,
                });
            }
        }
        true
    }
}

impl<'a> Collector<'a> {
    /// Collects for an agent of this `identity`.
    pub(super) fn new(
        catalogue: &'a Catalogue,
        identity: &'a Identity,
        memory: &'a Memory,
        answer: &'a mut Answer,
    ) -> Self {
        Self {
            catalogue,
            table: Some(catalogue.read()),
            identity,
            answer,
            memory,
            full: false,
        }
    }

    /// Whether something had to be left out for want of memory.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Puts the labels into the order of their names, keeps the last of each name, and takes those
    /// out that only say which agent this is; the index of these.
    fn split(&mut self, labels: &mut Vec<RawLabel<'_>>) -> Option<u16> {
        if repeats(labels) {
            labels.sort_by_key(|(name, _)| *name);
            labels.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    kept.1 = later.1;
                }
                same
            });
        }
        let mut mask = 0u64;
        labels.retain(|(name, value)| {
            let bit = self.identity.stamp(name, value);
            mask |= bit.unwrap_or(0);
            bit.is_none()
        });
        // Only now, since little is left as a rule. None is repeated.
        labels.sort_unstable_by_key(|(name, _)| *name);
        self.stamp(mask)
    }

    fn stamp(&mut self, mask: u64) -> Option<u16> {
        let known = self.answer.masks.iter().position(|known| *known == mask);
        if let Some(known) = known {
            return u16::try_from(known).ok();
        }
        if self.answer.masks.len() >= STAMPS_KNOWN {
            return None;
        }
        self.answer.masks.push(mask);
        self.answer
            .stamps
            .push(Labels::of(self.identity.stamped(mask)));
        u16::try_from(self.answer.masks.len() - 1).ok()
    }

    fn push(&mut self, series: Arc<Series>, stamp: u16, value: f64, time: Option<Moment>) {
        let answer = &mut *self.answer;
        if let Some(time) = time {
            answer.times.resize(answer.values.len(), TIMELESS);
            answer.times.push(time);
        }
        answer.growing.series.push(series);
        answer.growing.stamp.push(stamp);
        answer.values.push(value);
    }

    /// Nearly all series are known, so that readers of many answers do not wait for each other.
    fn find(&mut self, metric: &RawMetric<'_>) -> Result<(Arc<Series>, usize), NotText> {
        if let Some(known) = self.table.as_ref().and_then(|table| table.find(metric)) {
            return Ok((known, 0));
        }
        self.table = None;
        let made = self.catalogue.write().intern(metric);
        self.table = Some(self.catalogue.read());
        made
    }

    fn intern(&mut self, metric: &mut RawMetric<'_>) -> Option<(Arc<Series>, u16)> {
        if self.full {
            return None;
        }
        if metric.name.is_empty() {
            self.answer.rejected += 1;
            return None;
        }
        let Some(stamp) = self.split(&mut metric.labels) else {
            self.answer.rejected += 1;
            return None;
        };
        let Ok((series, weight)) = self.find(metric) else {
            self.answer.rejected += 1;
            return None;
        };
        if !self.answer.weigh(self.memory, weight + SAMPLE) {
            self.full = true;
            return None;
        }
        Some((series, stamp))
    }

    fn column(&mut self, decoded: DecodedSeries<'_>) {
        let column = decoded.column();
        let labels = column.labels.iter();
        let mut metric = RawMetric {
            name: column.name.as_bytes(),
            labels: labels
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
                .collect(),
            help: column.description.as_bytes(),
            kind: kind(column.r#type()),
            ..RawMetric::default()
        };
        let Some((series, stamp)) = self.intern(&mut metric) else {
            return;
        };
        if !self.answer.weigh(self.memory, column.values.len() * SAMPLE) {
            self.full = true;
            return;
        }
        for (millis, value) in decoded.samples() {
            let time = Some(Moment::from_millis(millis));
            self.push(Arc::clone(&series), stamp, value, time);
        }
    }
}

impl Taker for Collector<'_> {
    fn metric(&mut self, metric: &mut RawMetric<'_>) {
        if let Some((series, stamp)) = self.intern(metric) {
            self.push(series, stamp, metric.value, metric.time);
        }
    }

    fn columns(&mut self, columns: &Columns) -> Result<(), Malformed> {
        let decoded = Decoded::new(columns).map_err(|_| COLUMNS)?;
        for series in decoded.series() {
            self.column(series);
        }
        Ok(())
    }
}

/// Whether a name comes twice, which no program does that we know of.
fn repeats(labels: &[RawLabel<'_>]) -> bool {
    if labels.len() > 16 {
        return true;
    }
    labels
        .iter()
        .enumerate()
        .any(|(index, (name, _))| labels[..index].iter().any(|(other, _)| other == name))
}

/// Stands for no time.
const TIMELESS: Moment = Moment::from_nanos(i64::MIN);

/// What a sample takes, with what vectors have in reserve.
const SAMPLE: usize = LAYOUT + 2 * (size_of::<f64>() + size_of::<Moment>());

/// What it takes of that in a layout.
const LAYOUT: usize = 2 * (size_of::<Arc<Series>>() + size_of::<u16>());

/// Different stamps of one agent: one for each of its containers, in the main.
const STAMPS_KNOWN: usize = 1_024;

fn kind(wire: MetricType) -> Kind {
    match wire {
        MetricType::Unspecified => Kind::Unknown,
        MetricType::Gauge => Kind::Gauge,
        MetricType::Counter => Kind::Counter,
        MetricType::Histogram => Kind::Histogram,
        MetricType::Summary => Kind::Summary,
        MetricType::Untyped => Kind::Untyped,
    }
}

/// A message for which nobody waits.
#[derive(Debug)]
pub(super) struct Discard;

impl Taker for Discard {
    fn metric(&mut self, _metric: &mut RawMetric<'_>) {}

    fn columns(&mut self, _columns: &Columns) -> Result<(), Malformed> {
        Ok(())
    }
}

/// The catalogue and the memory that answers are made of.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) catalogue: Catalogue,
    pub(super) memory: Memory,
}

#[cfg(test)]
mod tests;
