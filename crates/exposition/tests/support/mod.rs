//! A sink that stores everything, and functions that feed a parser.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use steadfast_exposition::{
    FamilyRef, Format, Kind, Limits, LineFault, Parser, Reason, Refused, SeriesRef, Sink, Summary,
};

/// The name and labels of a series.
pub(crate) type Series = (String, Vec<(String, String)>);

/// The help, type and unit of a family.
pub(crate) type Metadata = (Option<String>, Option<Kind>, Option<String>);

/// The result of one scrape. Values are bits, so that a NaN equals itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page {
    pub(crate) samples: Vec<(Series, u64, Option<i64>)>,
    pub(crate) faults: Vec<(u64, usize, Reason, String)>,
    pub(crate) families: BTreeMap<String, Metadata>,
    pub(crate) summary: Summary,
}

/// Stores everything, and checks that an id is used only while it is valid: in the scrape that
/// introduced it, and then for as long as each finished scrape contains it.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    pub(crate) series: Vec<Series>,
    pub(crate) asked: usize,
    /// The ids of the last finished scrape.
    finished: BTreeSet<usize>,
    /// The ids of the current scrape.
    current: BTreeSet<usize>,
    pub(crate) page: Page,
    /// The names of metrics to refuse.
    pub(crate) refuse: Vec<(String, Refused)>,
    /// The family's name and type of each new series.
    pub(crate) shown: Vec<(String, Option<Kind>)>,
}

impl Sink for Keeper {
    type Id = usize;

    fn series(&mut self, series: &SeriesRef<'_>) -> Result<usize, Refused> {
        if let Some((_, why)) = self.refuse.iter().find(|(name, _)| name == series.name) {
            return Err(*why);
        }
        let owned = |text: &str| text.to_owned();
        let labels = series
            .labels
            .iter()
            .map(|(name, value)| (owned(name), owned(value)))
            .collect();
        self.asked += 1;
        self.series.push((owned(series.name), labels));
        self.shown
            .push((owned(series.family.name), series.family.kind));
        let id = self.series.len() - 1;
        self.current.insert(id);
        Ok(id)
    }

    fn sample(&mut self, id: usize, value: f64, timestamp_ms: Option<i64>) {
        let series = self.series[id].clone();
        let known = self.finished.contains(&id) || self.current.contains(&id);
        assert!(known, "the id may be forgotten by now: {series:?}");
        self.current.insert(id);
        self.page
            .samples
            .push((series, value.to_bits(), timestamp_ms));
    }

    fn rejected(&mut self, fault: &LineFault<'_>) {
        let excerpt = fault.excerpt.to_owned();
        self.page
            .faults
            .push((fault.line, fault.column, fault.reason, excerpt));
    }

    fn family(&mut self, family: &FamilyRef<'_>) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let metadata = (owned(family.help), family.kind, owned(family.unit));
        if metadata == (None, None, None) {
            self.page.families.remove(family.name);
        } else {
            self.page.families.insert(family.name.to_owned(), metadata);
        }
    }
}

/// Limits narrow enough that small pages reach all of them.
pub(crate) fn narrow() -> Limits {
    Limits {
        line_bytes: 4 << 10,
        samples: 1_000,
        labels_per_series: 8,
        name_bytes: 64,
        label_value_bytes: 256,
        families: 50,
        metadata_bytes: 8 << 10,
        remembered_bytes: 32 << 10,
    }
}

/// A parser with its sink.
pub(crate) struct Reader {
    pub(crate) parser: Parser<usize>,
    pub(crate) keeper: Keeper,
    pub(crate) format: Format,
}

impl Reader {
    pub(crate) fn new(format: Format, limits: Limits) -> Self {
        Self {
            parser: Parser::new(limits),
            keeper: Keeper::default(),
            format,
        }
    }

    /// Scrapes a page that arrives in pieces.
    pub(crate) fn scrape<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Page {
        self.begin();
        for piece in pieces {
            self.parser.push(piece, &mut self.keeper);
        }
        self.keeper.page.summary = self.parser.finish(&mut self.keeper);
        self.keeper.finished = std::mem::take(&mut self.keeper.current);
        self.keeper.page.clone()
    }

    pub(crate) fn begin(&mut self) {
        self.parser.begin(self.format);
        self.keeper.current.clear();
        self.keeper.page.samples.clear();
        self.keeper.page.faults.clear();
    }
}

/// Parses a whole page with a new parser.
pub(crate) fn read(format: Format, page: impl AsRef<[u8]>) -> Page {
    Reader::new(format, Limits::default()).scrape([page.as_ref()])
}

impl Page {
    /// Returns the page without the counter that depends on what is remembered.
    pub(crate) fn result(mut self) -> Self {
        self.summary.remembered = 0;
        self
    }

    /// Returns the samples as short text: name, labels, value, timestamp.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |((name, labels), bits, timestamp): &(Series, u64, Option<i64>)| {
            let labels: String = labels
                .iter()
                .flat_map(|(label, value)| [" ".to_owned(), format!("{label}={value:?}")])
                .collect();
            let timestamp = timestamp.map_or(String::new(), |at| format!(" @{at}"));
            format!("{name}{labels} {}{timestamp}", f64::from_bits(*bits))
        };
        self.samples.iter().map(line).collect()
    }

    pub(crate) fn reasons(&self) -> Vec<Reason> {
        self.faults
            .iter()
            .map(|(_, _, reason, _)| *reason)
            .collect()
    }
}
