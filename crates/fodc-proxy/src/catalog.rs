//! The series that agents report, each stored once however many agents report it.

use std::{
    hash::{BuildHasher as _, Hasher as _},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use hashbrown::{DefaultHashBuilder, HashTable};
use steadfast_exposition::{Kind, quote};

use super::decode::RawMetric;

/// A list of strings in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Strings {
    text: Box<str>,
    /// The end of each string in `text`.
    ends: Box<[u32]>,
}

/// Label names and values, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Labels(Strings);

/// Labels as they stand in the text format, `name="value"`, in the order of that text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RenderedLabels(Strings);

/// One series of any number of agents, without the labels that only say which agent reports it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Series {
    /// The id, unique among the series that somebody holds. Ids are dense.
    pub(super) id: u32,
    pub(super) name: Box<str>,
    pub(super) labels: Labels,
    pub(super) help: Box<str>,
    pub(super) kind: Option<Kind>,
    pub(super) rendered: RenderedLabels,
    /// The series has a pod label that differs from the agent's.
    pub(super) names_pod: bool,
}

/// The series that the values of a message belong to, in the order of the values.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) series: Vec<Arc<Series>>,
    /// For each value the index of its origin labels.
    pub(super) origins: Vec<u16>,
}

/// All series and layouts that somebody holds.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    series: HashTable<Arc<Series>>,
    layouts: HashTable<Arc<Layout>>,
    hasher: DefaultHashBuilder,
    /// The position of each series in the last output, by its id. A reused id may have the rank of
    /// another series, which costs time and nothing else.
    pub(super) ranks: Arc<[u32]>,
    /// Ids that are not in use, and the first that never was.
    free: Vec<u32>,
    fresh: u32,
    /// The number of series at which the table is next swept.
    sweep_at: usize,
}

/// A table with fewer series is not worth sweeping.
const SWEPT_MIN: usize = 4_096;

/// The error returned for text that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidUtf8;

impl Catalog {
    /// Locks the table for reading: for a few hundred series at a time, by any number of readers.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the table for adding a series or a layout.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sorts the values of later messages by these ranks.
    pub(super) fn set_ranks(&self, ranks: &[u32]) {
        if *self.read().ranks != *ranks {
            let ranks = ranks.into();
            self.write().ranks = ranks;
        }
    }

    /// Removes the layouts that nobody holds, and once enough series were added, also series.
    pub(super) fn sweep_when_grown(&self) {
        let mut table = self.write();
        table.layouts.retain(|layout| Arc::strong_count(layout) > 1);
        if table.series.len() >= table.sweep_at {
            table.sweep();
        }
    }
}

impl Table {
    /// Returns the stored layout that equals this one, and whether it was known before.
    pub(super) fn share(&mut self, layout: Layout) -> (Arc<Layout>, bool) {
        let hash = hash_layout(&self.hasher, &layout);
        if let Some(known) = self.layouts.find(hash, |known| known.is(&layout)) {
            return (Arc::clone(known), true);
        }
        let layout = Arc::new(layout);
        let hasher = self.hasher.clone();
        self.layouts
            .insert_unique(hash, Arc::clone(&layout), |layout| {
                hash_layout(&hasher, layout)
            });
        (layout, false)
    }

    /// Returns the series of a metric whose labels are sorted, if it is known.
    pub(super) fn find(&self, metric: &RawMetric<'_>) -> Option<Arc<Series>> {
        let hash = hash_metric(&self.hasher, metric);
        let known = self.series.find(hash, |series| series.is(metric));
        known.map(Arc::clone)
    }

    /// Returns the series of a metric whose labels are sorted, and the bytes that storing it took: 0
    /// if it was known.
    pub(super) fn intern(
        &mut self,
        metric: &RawMetric<'_>,
    ) -> Result<(Arc<Series>, usize), InvalidUtf8> {
        if let Some(known) = self.find(metric) {
            return Ok((known, 0));
        }
        let id = self.free.last().copied().unwrap_or(self.fresh);
        let series = Arc::new(Series::new(id, metric)?);
        if self.free.pop().is_none() {
            self.fresh += 1;
        }
        let hasher = self.hasher.clone();
        let hash = hash_series(&hasher, &series);
        self.series
            .insert_unique(hash, Arc::clone(&series), |series| {
                hash_series(&hasher, series)
            });
        let bytes = series.bytes();
        Ok((series, bytes))
    }

    fn sweep(&mut self) {
        let free = &mut self.free;
        self.series.retain(|series| {
            let held = Arc::strong_count(series) > 1;
            if !held {
                free.push(series.id);
            }
            held
        });
        // The smallest are reused first, so that ids stay dense.
        free.sort_unstable_by(|a, b| b.cmp(a));
        let hasher = self.hasher.clone();
        self.series
            .shrink_to_fit(|series| hash_series(&hasher, series));
        self.sweep_at = 2 * self.series.len().max(SWEPT_MIN);
    }
}

impl Series {
    fn new(id: u32, metric: &RawMetric<'_>) -> Result<Self, InvalidUtf8> {
        let text = metric
            .labels
            .iter()
            .flat_map(|(name, value)| [name, value])
            .map(|bytes| text(bytes));
        let labels = Labels(Strings::try_collect(text)?);
        let names_pod = labels.iter().any(|(name, _)| name == "pod_name");
        Ok(Self {
            id,
            name: self::text(metric.name)?.into(),
            rendered: RenderedLabels::of(labels.iter()),
            help: self::text(metric.help)?.into(),
            kind: metric.kind,
            names_pod,
            labels,
        })
    }

    fn is(&self, metric: &RawMetric<'_>) -> bool {
        self.name.as_bytes() == metric.name
            && self.kind == metric.kind
            && self.help.as_bytes() == metric.help
            && self.labels.is(&metric.labels)
    }

    /// Returns the memory that the series takes, with the counts of its `Arc`.
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + 2 * size_of::<usize>()
            + self.name.len()
            + self.help.len()
            + self.labels.0.bytes()
            + self.rendered.0.bytes()
    }
}

impl Layout {
    fn is(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<Series>, &Arc<Series>)| Arc::ptr_eq(one, other);
        self.origins == other.origins
            && self.series.len() == other.series.len()
            && self.series.iter().zip(&other.series).all(same)
    }
}

impl Strings {
    fn try_collect<'a, E>(strings: impl Iterator<Item = Result<&'a str, E>>) -> Result<Self, E> {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for string in strings {
            text.push_str(string?);
            ends.push(u32::try_from(text.len()).expect("a message is shorter than 4 GiB"));
        }
        Ok(Self {
            text: text.into(),
            ends: ends.into(),
        })
    }

    fn collect<'a>(strings: impl Iterator<Item = &'a str>) -> Self {
        let strings = strings.map(Ok::<_, std::convert::Infallible>);
        let Ok(strings) = Self::try_collect(strings);
        strings
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let string = &self.text[start..*end as usize];
            start = *end as usize;
            string
        })
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.ends.len() * size_of::<u32>()
    }
}

impl Labels {
    /// Collects pairs that are in the order of their names.
    pub(super) fn of(pairs: &[(String, String)]) -> Self {
        let strings = pairs.iter().flat_map(|(name, value)| [&**name, &**value]);
        Self(Strings::collect(strings))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut strings = self.0.iter();
        std::iter::from_fn(move || Some((strings.next()?, strings.next()?)))
    }

    fn is(&self, pairs: &[(&[u8], &[u8])]) -> bool {
        self.0.ends.len() == 2 * pairs.len()
            && self.iter().zip(pairs).all(|((name, value), pair)| {
                name.as_bytes() == pair.0 && value.as_bytes() == pair.1
            })
    }
}

/// Returns true if the proxy adds labels of this name, or of such names, to samples.
pub(super) fn is_agent_label(name: &str) -> bool {
    let prefixes = ["node_", "agent_", "proxy_"];
    name == "pod_name" || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

impl RenderedLabels {
    /// Renders the labels of a series. A name that the format does not allow is changed; of several equal
    /// names the first is kept. Empty values are left out, as they mean the same as no label.
    ///
    /// A changed name never becomes one of those that the proxy adds, and none is `__name__`: a reader refuses
    /// a page because of one line with a label twice.
    pub(super) fn of<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        Self::named(pairs, |name| {
            let clean = label_name(name);
            let is_taken = clean != name && is_agent_label(&clean) || clean == METRIC_NAME;
            if is_taken {
                format!("exported_{clean}")
            } else {
                clean
            }
        })
    }

    /// Renders the labels that say which agent a sample is from.
    pub(super) fn of_agent<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        Self::named(pairs, label_name)
    }

    fn named<'a>(
        pairs: impl Iterator<Item = (&'a str, &'a str)>,
        name_of: impl Fn(&str) -> String,
    ) -> Self {
        let pairs = pairs.filter(|(_, value)| !value.is_empty());
        let pairs = pairs.map(|(name, value)| (name_of(name) + "=", value));
        let mut pairs: Vec<(String, &str)> = pairs.collect();
        // Sorted instead of compared in pairs: a message may have a million labels. Equal names keep their
        // order, and with its `=` no name is the beginning of another one, so that this is the order of the labels.
        pairs.sort_by(|one, other| one.0.cmp(&other.0));
        pairs.dedup_by(|later, first| later.0 == first.0);
        for (label, value) in &mut pairs {
            quote(value, label);
        }
        Self(Strings::collect(pairs.iter().map(|(label, _)| &**label)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter()
    }

    /// Returns true if there is a label of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.iter().any(|label| {
            label
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        })
    }
}

/// Returns the name with an underscore for every character that the text format does not allow.
pub(super) fn metric_name(name: &str) -> String {
    sanitize(name, |c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

/// The label that is the name of the metric. In the text format it stands before the braces.
const METRIC_NAME: &str = "__name__";

/// Returns the name of a label with an underscore for every character that the text format does not allow.
pub(super) fn label_name(name: &str) -> String {
    sanitize(name, |c| c.is_ascii_alphanumeric() || c == '_')
}

fn sanitize(name: &str, is_allowed: impl Fn(char) -> bool) -> String {
    let mut clean = String::with_capacity(name.len() + 1);
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        clean.push('_');
    }
    clean.extend(name.chars().map(|c| if is_allowed(c) { c } else { '_' }));
    clean
}

fn hash_metric(hasher: &DefaultHashBuilder, metric: &RawMetric<'_>) -> u64 {
    hash_bytes(hasher, metric.name, metric.labels.iter().copied())
}

/// Returns the hash that [`hash_metric`] has for a metric of this series.
fn hash_series(hasher: &DefaultHashBuilder, series: &Series) -> u64 {
    let pairs = series.labels.iter();
    let pairs = pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    hash_bytes(hasher, series.name.as_bytes(), pairs)
}

fn hash_layout(hasher: &DefaultHashBuilder, layout: &Layout) -> u64 {
    let mut state = hasher.build_hasher();
    for (series, origin) in layout.series.iter().zip(&layout.origins) {
        state.write_u32(series.id);
        state.write_u16(*origin);
    }
    state.finish()
}

fn hash_bytes<'a>(
    hasher: &DefaultHashBuilder,
    name: &[u8],
    pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(name);
    for (name, value) in pairs {
        state.write(name);
        state.write(value);
    }
    state.finish()
}

fn text(bytes: &[u8]) -> Result<&str, InvalidUtf8> {
    std::str::from_utf8(bytes).map_err(|_| InvalidUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(pairs: &[(&str, &str)]) -> Vec<String> {
        let labels = RenderedLabels::of(pairs.iter().copied());
        labels.iter().map(str::to_owned).collect()
    }

    #[test]
    fn quotes_backslashes_and_newlines_are_escaped() {
        let labels = rendered(&[("b", "a\"b\\c\n"), ("a", "x")]);
        assert_eq!(labels, ["a=\"x\"", r#"b="a\"b\\c\n""#]);
    }

    #[test]
    fn names_that_the_text_format_forbids_are_changed() {
        let labels = rendered(&[("zone/a", "1"), ("zone.a", "2"), ("9", "3"), ("e", "")]);
        assert_eq!(labels, ["_9=\"3\"", "zone_a=\"1\""]);
        assert_eq!(metric_name("job:rate-5m"), "job:rate_5m");
    }

    #[test]
    fn changed_name_never_becomes_a_label_of_the_agent() {
        let labels = rendered(&[
            ("pod.name", "a"),
            ("node.type", "b"),
            ("node_role", "c"),
            ("__name__", "d"),
            ("__name..", "e"),
        ]);
        let expected = [
            "exported___name__=\"d\"",
            "exported_node_type=\"b\"",
            "exported_pod_name=\"a\"",
            "node_role=\"c\"",
        ];
        assert_eq!(labels, expected);
    }

    #[test]
    fn hundred_thousand_labels_are_rendered() {
        // Compared in pairs they take minutes, in which the proxy answers nobody.
        let names: Vec<String> = (0..100_000).map(|n| format!("l{n:06}")).collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "v")).collect();
        assert_eq!(rendered(&pairs).len(), names.len());
    }

    #[test]
    fn series_that_nobody_holds_are_removed() {
        let catalog = Catalog::default();
        let metric = RawMetric {
            name: b"up",
            labels: vec![(b"a", b"1")],
            ..RawMetric::default()
        };
        let (first, bytes) = catalog.write().intern(&metric).unwrap();
        assert!(bytes > 0);
        let (second, known) = catalog.write().intern(&metric).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(known, 0);
        drop(second);
        catalog.write().sweep();
        assert_eq!(catalog.write().series.len(), 1);
        drop(first);
        catalog.write().sweep();
        assert_eq!(catalog.write().series.len(), 0);
    }
}
