//! What agents measure, each distinct thing once however many agents measure it.

use std::{
    hash::{BuildHasher as _, Hasher as _},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{answer::Layout, reply::RawMetric};

/// What a series is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The agent does not say.
    #[default]
    Unknown,
    Gauge,
    Counter,
    Histogram,
    Summary,
    Untyped,
}

/// Names and values, in the order of the names, in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Labels {
    text: Box<str>,
    /// Where each name and each value ends.
    ends: Box<[u32]>,
}

/// One series of any number of agents: without the labels that say which agent it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Series {
    /// Of no other series that anybody holds at the same time; ids are dense.
    pub(super) id: u32,
    pub(super) name: Box<str>,
    pub(super) labels: Labels,
    pub(super) help: Box<str>,
    pub(super) kind: Kind,
    /// Each label as it stands in the text format.
    pub(super) rendered: Rendered,
    /// It says itself of which pod it is, and that is not the agent's.
    pub(super) foreign: bool,
}

/// Labels as they stand in the text format, `name="value"`, in the order of that text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Rendered {
    text: Box<str>,
    ends: Box<[u32]>,
}

/// All series that somebody holds.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    series: HashTable<Arc<Series>>,
    layouts: HashTable<Arc<Layout>>,
    hasher: DefaultHashBuilder,
    /// In which place each series was last written, by its id. Ids that were given anew may have the
    /// place of another, which costs time and nothing else.
    pub(super) ranks: Arc<[u32]>,
    /// Ids that are not in use, and the first that never was.
    free: Vec<u32>,
    fresh: u32,
    /// How many there are when it is time to look for what nobody holds.
    sweep_at: usize,
}

/// Fewer series than this are not worth looking through.
const SWEPT: usize = 4_096;

/// Text that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotText;

impl Catalogue {
    /// Held for a few hundred series at a time, by any number of readers.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a series or a layout known.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on answers are sorted by these places, by id.
    pub(super) fn rank(&self, ranks: &[u32]) {
        if *self.read().ranks != *ranks {
            let ranks = ranks.into();
            self.write().ranks = ranks;
        }
    }

    /// Forgets layouts that nobody holds, and series once enough have been added that it may be worth
    /// it.
    pub(super) fn sweep_when_grown(&self) {
        let mut table = self.write();
        table.layouts.retain(|layout| Arc::strong_count(layout) > 1);
        if table.series.len() >= table.sweep_at {
            table.sweep();
        }
    }
}

impl Table {
    fn hash(&self, wanted: &RawMetric<'_>) -> u64 {
        let pairs = wanted.labels.iter().copied();
        hash_bytes(&self.hasher, wanted.name, pairs)
    }

    /// The layout that is equal to this one, and whether it was known.
    pub(super) fn share(&mut self, layout: Layout) -> (Arc<Layout>, bool) {
        let hashed = hash_layout(&self.hasher, &layout);
        if let Some(known) = self.layouts.find(hashed, |known| known.is(&layout)) {
            return (Arc::clone(known), true);
        }
        let layout = Arc::new(layout);
        let hashing = self.hasher.clone();
        let shared = Arc::clone(&layout);
        self.layouts
            .insert_unique(hashed, shared, |layout| hash_layout(&hashing, layout));
        (layout, false)
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
        // The smallest go first, so that ids stay dense.
        free.sort_unstable_by(|a, b| b.cmp(a));
        let hashing = self.hasher.clone();
        self.series
            .shrink_to_fit(|series| hash(&hashing, series.name.as_bytes(), series.labels.iter()));
        self.sweep_at = 2 * self.series.len().max(SWEPT);
    }

    /// The series of a metric whose labels are sorted, if it is known.
    pub(super) fn find(&self, wanted: &RawMetric<'_>) -> Option<Arc<Series>> {
        let hashed = self.hash(wanted);
        let known = self.series.find(hashed, |series| series.is(wanted));
        known.map(Arc::clone)
    }

    /// The same, or else made known; and what that adds to the memory held.
    pub(super) fn intern(
        &mut self,
        wanted: &RawMetric<'_>,
    ) -> Result<(Arc<Series>, usize), NotText> {
        if let Some(known) = self.find(wanted) {
            return Ok((known, 0));
        }
        let hashed = self.hash(wanted);
        let id = self.free.last().copied().unwrap_or(self.fresh);
        let series = Arc::new(Series::new(id, wanted)?);
        if self.free.pop().is_none() {
            self.fresh += 1;
        }
        let weight = series.weight();
        let hashing = self.hasher.clone();
        self.series
            .insert_unique(hashed, Arc::clone(&series), |series| {
                hash(&hashing, series.name.as_bytes(), series.labels.iter())
            });
        Ok((series, weight))
    }
}

impl Series {
    fn new(id: u32, wanted: &RawMetric<'_>) -> Result<Self, NotText> {
        let labels = Labels::from_bytes(&wanted.labels)?;
        let foreign = labels.iter().any(|(name, _)| name == "pod_name");
        Ok(Self {
            id,
            name: text(wanted.name)?.into(),
            rendered: Rendered::of(labels.iter()),
            help: text(wanted.help)?.into(),
            kind: wanted.kind,
            foreign,
            labels,
        })
    }

    fn is(&self, wanted: &RawMetric<'_>) -> bool {
        self.name.as_bytes() == wanted.name
            && self.kind == wanted.kind
            && self.help.as_bytes() == wanted.help
            && self.labels.is(&wanted.labels)
    }

    fn weight(&self) -> usize {
        size_of::<Self>()
            + 2 * size_of::<usize>()
            + self.name.len()
            + self.help.len()
            + self.labels.text.len()
            + self.labels.ends.len() * size_of::<u32>()
            + self.rendered.text.len()
            + self.rendered.ends.len() * size_of::<u32>()
    }
}

impl Layout {
    fn is(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<Series>, &Arc<Series>)| Arc::ptr_eq(one, other);
        self.stamp == other.stamp
            && self.series.len() == other.series.len()
            && self.series.iter().zip(&other.series).all(same)
    }
}

impl Labels {
    /// Of pairs in the order of their names.
    fn from_bytes(pairs: &[(&[u8], &[u8])]) -> Result<Self, NotText> {
        let mut all = String::with_capacity(pairs.iter().map(|(k, v)| k.len() + v.len()).sum());
        let mut ends = Vec::with_capacity(2 * pairs.len());
        for (name, value) in pairs {
            for part in [name, value] {
                all.push_str(text(part)?);
                ends.push(end(&all));
            }
        }
        Ok(Self {
            text: all.into(),
            ends: ends.into(),
        })
    }

    pub(super) fn of(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut all = String::new();
        let mut ends = Vec::new();
        for (name, value) in pairs {
            for part in [name, value] {
                all.push_str(&part);
                ends.push(end(&all));
            }
        }
        Self {
            text: all.into(),
            ends: ends.into(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.chunks_exact(2).map(move |pair| {
            let (name_end, value_end) = (pair[0] as usize, pair[1] as usize);
            let pair = (&self.text[start..name_end], &self.text[name_end..value_end]);
            start = value_end;
            pair
        })
    }

    fn is(&self, pairs: &[(&[u8], &[u8])]) -> bool {
        self.ends.len() == 2 * pairs.len()
            && self.iter().zip(pairs).all(|((name, value), pair)| {
                name.as_bytes() == pair.0 && value.as_bytes() == pair.1
            })
    }
}

impl Rendered {
    /// Labels that can not stand there get names that can; of two with one name the first is kept.
    /// Empty ones mean nothing and are left out.
    pub(super) fn of<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut pieces: Vec<String> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for (name, value) in pairs.filter(|(_, value)| !value.is_empty()) {
            let name = label_name(name);
            if names.contains(&name) {
                continue;
            }
            let mut piece = format!("{name}=\"");
            escape(value, &mut piece);
            piece.push('"');
            pieces.push(piece);
            names.push(name);
        }
        pieces.sort_unstable();
        let mut text = String::new();
        let ends = pieces
            .iter()
            .map(|piece| {
                text.push_str(piece);
                end(&text)
            })
            .collect();
        Self {
            text: text.into(),
            ends,
        }
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let piece = &self.text[start..*end as usize];
            start = *end as usize;
            piece
        })
    }

    /// Whether a label of this name is in it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.pieces().any(|piece| {
            piece
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        })
    }
}

/// The name, with an underscore for everything that may not be in it.
pub(super) fn metric_name(name: &str) -> String {
    sanitised(name, |c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

pub(super) fn label_name(name: &str) -> String {
    sanitised(name, |c| c.is_ascii_alphanumeric() || c == '_')
}

fn sanitised(name: &str, may_stand: impl Fn(char) -> bool) -> String {
    let mut clean = String::with_capacity(name.len() + 1);
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        clean.push('_');
    }
    clean.extend(name.chars().map(|c| if may_stand(c) { c } else { '_' }));
    clean
}

/// The three characters that would end a label value before its end.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// Help stands unquoted, so that a quote needs no escape there.
pub(super) fn escape_help(help: &str, out: &mut String) {
    for c in help.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

fn hash<'a>(
    hasher: &DefaultHashBuilder,
    name: &[u8],
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
) -> u64 {
    let pairs = pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    hash_bytes(hasher, name, pairs)
}

fn hash_layout(hasher: &DefaultHashBuilder, layout: &Layout) -> u64 {
    let mut state = hasher.build_hasher();
    for (series, stamp) in layout.series.iter().zip(&layout.stamp) {
        state.write_u32(series.id);
        state.write_u16(*stamp);
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

fn text(bytes: &[u8]) -> Result<&str, NotText> {
    std::str::from_utf8(bytes).map_err(|_| NotText)
}

fn end(text: &str) -> u32 {
    u32::try_from(text.len()).expect("a message is shorter than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fodc_f16_quotes_backslashes_and_newlines_are_escaped() {
        let labels = Rendered::of([("b", "a\"b\\c\n"), ("a", "x")].into_iter());
        let pieces: Vec<&str> = labels.pieces().collect();
        assert_eq!(pieces, ["a=\"x\"", r#"b="a\"b\\c\n""#]);
    }

    #[test]
    fn names_that_would_break_the_text_are_mended() {
        let labels =
            Rendered::of([("zone/a", "1"), ("zone.a", "2"), ("9", "3"), ("e", "")].into_iter());
        let pieces: Vec<&str> = labels.pieces().collect();
        assert_eq!(pieces, ["_9=\"3\"", "zone_a=\"1\""]);
        assert_eq!(metric_name("job:rate-5m"), "job:rate_5m");
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let catalogue = Catalogue::default();
        let metric = RawMetric {
            name: b"up",
            labels: vec![(b"a", b"1")],
            ..RawMetric::default()
        };
        let (first, weight) = catalogue.write().intern(&metric).unwrap();
        assert!(weight > 0);
        let (second, known) = catalogue.write().intern(&metric).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(known, 0);
        drop(second);
        catalogue.write().sweep();
        assert_eq!(catalogue.write().series.len(), 1);
        drop(first);
        catalogue.write().sweep();
        assert_eq!(catalogue.write().series.len(), 0);
    }
}
