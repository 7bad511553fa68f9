//! The samples of a response, and the memory that they take.

use std::sync::{
    Arc, RwLockReadGuard,
    atomic::{AtomicUsize, Ordering},
};

use steadfast_fodc_model::{
    columns::{Decoded, DecodedSeries},
    kind,
};
use steadfast_wire::fodc::Columns;

use super::{
    catalog::{Catalog, InvalidUtf8, Labels, Layout, Series, Table},
    decode::{COLUMNS, DecodeError, RawLabel, RawMetric, Sink},
    registry::Identity,
    time::UnixNanos,
};

/// The samples of one message.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// The series of the values. Agents that report the same series share one layout.
    pub(super) layout: Arc<Layout>,
    /// The layout while the message is being decoded.
    growing: Layout,
    pub(super) values: Vec<f64>,
    /// Empty if no sample has a time of its own, as in a response to "latest".
    times: Vec<UnixNanos>,
    /// Origin labels: those that only say which agent a sample is from.
    pub(super) origins: Vec<Labels>,
    /// The bits of each entry of `origins`; see [`Identity::origin_bit`].
    origin_masks: Vec<u64>,
    /// The agent's clock when it responded: the time of samples that have none.
    at: Option<UnixNanos>,
    /// The number of metrics that were invalid.
    pub(super) rejected: u64,
    reservation: Option<Reservation>,
}

/// The memory budget of all responses together.
#[derive(Clone, Debug)]
pub(super) struct MemoryBudget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

/// A part of the budget, returned when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: MemoryBudget,
    bytes: usize,
}

/// Collects the samples of a message.
#[derive(Debug)]
pub(super) struct SampleCollector<'a> {
    catalog: &'a Catalog,
    /// Released only while a new series is stored.
    table: Option<RwLockReadGuard<'a, Table>>,
    identity: &'a Identity,
    samples: &'a mut Samples,
    memory: &'a MemoryBudget,
    memory_exhausted: bool,
}

impl MemoryBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            used: Arc::default(),
            limit,
        }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Reserves bytes; `None` if the budget has fewer left.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let mut reservation = self.empty_reservation();
        reservation.grow(bytes).then_some(reservation)
    }

    /// Returns a reservation that can grow.
    pub(super) fn empty_reservation(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: 0,
        }
    }

    /// Returns false, and takes nothing, if the budget has fewer bytes left.
    fn try_take(&self, bytes: usize) -> bool {
        // Taken first and given back: threads that only compared could both take the last bytes.
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }
}

impl Reservation {
    /// Reserves more; false, and as before, if the budget has fewer bytes left.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let taken = self.budget.try_take(bytes);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Samples {
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Reserves capacity at once: vectors that grow fragment the heap.
    pub(super) fn reserve(&mut self, samples: usize) {
        self.growing.series.reserve_exact(samples);
        self.growing.origins.reserve_exact(samples);
        self.values.reserve_exact(samples);
    }

    /// Returns the time of the sample at this index.
    pub(super) fn time(&self, index: usize) -> UnixNanos {
        let own = self.times.get(index).copied();
        own.filter(|time| *time != TIMELESS)
            .or(self.at)
            .unwrap_or(TIMELESS)
    }

    /// Completes the samples of a message. Those without a time were taken `at` this one.
    pub(super) fn finish(&mut self, at: Option<UnixNanos>, catalog: &Catalog) {
        self.at = at;
        if self.times.is_empty() {
            self.sort(&catalog.read().ranks);
            let growing = std::mem::take(&mut self.growing);
            let (layout, known) = catalog.write().share(growing);
            self.layout = layout;
            // The first holder has paid for a shared layout.
            if known && let Some(reservation) = &mut self.reservation {
                reservation.release(self.values.len() * LAYOUT_BYTES);
            }
        } else {
            // The samples of a window are never the same again: looking for an equal layout is in vain.
            self.layout = Arc::new(std::mem::take(&mut self.growing));
        }
        // They are held until the slowest client has read its page, and spare capacity with them.
        self.values.shrink_to_fit();
        self.times.shrink_to_fit();
    }

    /// Sorts the values by their series, stably. Programs that write their metrics in random order would
    /// otherwise share no layout.
    ///
    /// The order is that of the last output, because the values of a thousand agents exceed the
    /// processor's caches: writing them in another order would wait for each.
    fn sort(&mut self, ranks: &[u32]) {
        let Layout { series, origins } = &self.growing;
        let keys = series.iter().zip(origins).zip(0u32..);
        let mut order: Vec<(u64, u16, u32)> = keys
            .map(|((series, origin), index)| {
                let rank = ranks.get(series.id as usize).copied();
                // New series go last, by their ids, until the next page of all agents ranks them.
                let key = u64::from(rank.unwrap_or(u32::MAX)) << 32 | u64::from(series.id);
                (key, *origin, index)
            })
            .collect();
        if order.is_sorted() {
            return;
        }
        order.sort_unstable();
        let indices = || order.iter().map(|(_, _, index)| *index as usize);
        self.growing = Layout {
            series: indices().map(|index| Arc::clone(&series[index])).collect(),
            origins: indices().map(|index| origins[index]).collect(),
        };
        self.values = indices().map(|index| self.values[index]).collect();
    }

    /// Reserves memory for the samples. Returns false if the budget is exhausted.
    fn reserve_memory(&mut self, budget: &MemoryBudget, bytes: usize) -> bool {
        let reservation = &mut self.reservation;
        reservation
            .get_or_insert_with(|| budget.empty_reservation())
            .grow(bytes)
    }
}

impl<'a> SampleCollector<'a> {
    /// Returns a collector for an agent of this `identity`.
    pub(super) fn new(
        catalog: &'a Catalog,
        identity: &'a Identity,
        memory: &'a MemoryBudget,
        samples: &'a mut Samples,
    ) -> Self {
        Self {
            catalog,
            table: Some(catalog.read()),
            identity,
            samples,
            memory,
            memory_exhausted: false,
        }
    }

    /// Returns true if samples were dropped because the memory budget was exhausted.
    pub(super) fn is_memory_exhausted(&self) -> bool {
        self.memory_exhausted
    }

    /// Sorts the labels by name, keeps the last of each name, and takes out the origin labels. Returns
    /// the index of these, or `None` if there are too many different ones.
    fn split(&mut self, labels: &mut Vec<RawLabel<'_>>) -> Option<u16> {
        if repeats(labels) {
            // Stably: as in a map of protobuf, the last value of a repeated name counts.
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
            let bit = self.identity.origin_bit(name, value);
            mask |= bit.unwrap_or(0);
            bit.is_none()
        });
        // Sorted after the origin labels are out, because few are left. No name is repeated here.
        labels.sort_unstable_by_key(|(name, _)| *name);
        self.origin(mask)
    }

    fn origin(&mut self, mask: u64) -> Option<u16> {
        // A message has few origins, so that a scan is cheaper than a map.
        let known = self
            .samples
            .origin_masks
            .iter()
            .position(|known| *known == mask);
        if let Some(known) = known {
            return u16::try_from(known).ok();
        }
        if self.samples.origin_masks.len() >= MAX_ORIGINS {
            return None;
        }
        self.samples.origin_masks.push(mask);
        self.samples
            .origins
            .push(Labels::of(&self.identity.origin_labels(mask)));
        u16::try_from(self.samples.origin_masks.len() - 1).ok()
    }

    fn push(&mut self, series: Arc<Series>, origin: u16, value: f64, time: Option<UnixNanos>) {
        let samples = &mut *self.samples;
        if let Some(time) = time {
            // Earlier samples of the message may have had no time.
            samples.times.resize(samples.values.len(), TIMELESS);
            samples.times.push(time);
        }
        samples.growing.series.push(series);
        samples.growing.origins.push(origin);
        samples.values.push(value);
    }

    /// Nearly all series are known, so that the readers of many responses do not wait for each other.
    fn find(&mut self, metric: &RawMetric<'_>) -> Result<(Arc<Series>, usize), InvalidUtf8> {
        if let Some(known) = self.table.as_ref().and_then(|table| table.find(metric)) {
            return Ok((known, 0));
        }
        // The read lock goes first: the same thread takes the write lock.
        self.table = None;
        let interned = self.catalog.write().intern(metric);
        self.table = Some(self.catalog.read());
        interned
    }

    fn intern(&mut self, metric: &mut RawMetric<'_>) -> Option<(Arc<Series>, u16)> {
        // A smaller sample might fit, but this response is incomplete already, and others need the
        // rest.
        if self.memory_exhausted {
            return None;
        }
        if metric.name.is_empty() {
            self.samples.rejected += 1;
            return None;
        }
        let Some(origin) = self.split(&mut metric.labels) else {
            self.samples.rejected += 1;
            return None;
        };
        let Ok((series, bytes)) = self.find(metric) else {
            self.samples.rejected += 1;
            return None;
        };
        if !self
            .samples
            .reserve_memory(self.memory, bytes + SAMPLE_BYTES)
        {
            self.memory_exhausted = true;
            return None;
        }
        Some((series, origin))
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
            kind: kind::from_wire(column.r#type),
            ..RawMetric::default()
        };
        let Some((series, origin)) = self.intern(&mut metric) else {
            return;
        };
        if !self
            .samples
            .reserve_memory(self.memory, column.values.len() * SAMPLE_BYTES)
        {
            self.memory_exhausted = true;
            return;
        }
        for (millis, value) in decoded.samples() {
            let time = Some(UnixNanos::from_millis(millis));
            self.push(Arc::clone(&series), origin, value, time);
        }
    }
}

impl Sink for SampleCollector<'_> {
    fn metric(&mut self, metric: &mut RawMetric<'_>) {
        if let Some((series, origin)) = self.intern(metric) {
            self.push(series, origin, metric.value, metric.time);
        }
    }

    fn columns(&mut self, columns: &Columns) -> Result<(), DecodeError> {
        let decoded = Decoded::new(columns).map_err(|_| COLUMNS)?;
        for series in decoded.series() {
            self.column(series);
        }
        Ok(())
    }
}

/// Returns true if a name may be repeated, which no known program does.
fn repeats(labels: &[RawLabel<'_>]) -> bool {
    // Comparing each pair of many labels takes longer than sorting them.
    if labels.len() > 16 {
        return true;
    }
    labels
        .iter()
        .enumerate()
        .any(|(index, (name, _))| labels[..index].iter().any(|(other, _)| other == name))
}

/// The value that stands for no time.
const TIMELESS: UnixNanos = UnixNanos::from_nanos(i64::MIN);

/// The memory that a sample takes, with the spare capacity of vectors.
const SAMPLE_BYTES: usize = LAYOUT_BYTES + 2 * (size_of::<f64>() + size_of::<UnixNanos>());

/// The part of it that is in the layout.
const LAYOUT_BYTES: usize = 2 * (size_of::<Arc<Series>>() + size_of::<u16>());

/// The number of different origin labels in one message: usually one for each of the agent's containers.
const MAX_ORIGINS: usize = 1_024;

/// Drops the content of a message that nobody waits for.
#[derive(Debug)]
pub(super) struct Discard;

impl Sink for Discard {
    fn metric(&mut self, _metric: &mut RawMetric<'_>) {}

    fn columns(&mut self, _columns: &Columns) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// The catalog and the memory budget that all responses share.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) catalog: Catalog,
    pub(super) memory: MemoryBudget,
}

#[cfg(test)]
mod tests;
