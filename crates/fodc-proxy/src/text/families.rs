//! Metric families: the samples that stand under one `# TYPE`.
//!
//! A name has one type, whichever agent knows it. Agents before 0.10.3 send no types, and their samples
//! join the family that others have typed. Where no agent sends a type, a name is a histogram or a
//! summary only if it has the labels of one (`le`, `quantile`); every other name is a gauge, as in all
//! releases.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use steadfast_exposition::{Kind, Numbers, Writer};

use super::super::catalog::Series;

/// The families of a response: first those with a known type, then the others, each sorted by name.
#[derive(Debug, Default)]
pub(super) struct Families {
    list: Vec<Family>,
    by_sample: BTreeMap<Arc<str>, u32>,
}

#[derive(Debug)]
struct Family {
    name: String,
    kind: Kind,
    help: Option<Arc<Series>>,
}

/// The sort key of a family: whether its type is guessed, and its name.
type Key = (bool, String);

impl Families {
    /// Groups all distinct series, each given with its name in the text.
    pub(super) fn of<'a>(
        series: impl Iterator<Item = (&'a Arc<Series>, &'a Arc<str>)> + Clone,
    ) -> Self {
        let typed = typed(series.clone());
        let guessed = guessed(series.clone());
        let mut families: BTreeMap<Key, Family> = BTreeMap::new();
        let mut of_sample: BTreeMap<Arc<str>, Key> = BTreeMap::new();
        for (one, name) in series {
            let (is_guess, base, kind) = match find(name, &typed) {
                Some((base, kind)) => (false, base, kind),
                None => match find(name, &guessed) {
                    Some((base, kind)) => (true, base, kind),
                    None => (true, &**name, Kind::Gauge),
                },
            };
            let key = (is_guess, base.to_owned());
            let family = families.entry(key.clone()).or_insert_with(|| Family {
                name: base.to_owned(),
                kind,
                help: None,
            });
            // Agents of different versions word it differently, and a name may have one `# HELP`
            // only.
            if family.help.is_none() && !one.help.is_empty() {
                family.help = Some(Arc::clone(one));
            }
            of_sample.entry(Arc::clone(name)).or_insert(key);
        }
        let index: BTreeMap<&Key, u32> = families.keys().zip(0..).collect();
        let by_sample = of_sample
            .iter()
            .map(|(name, key)| (Arc::clone(name), index[key]))
            .collect();
        let list = families.into_values().collect();
        Self { list, by_sample }
    }

    /// Returns the index of the family of a sample name.
    pub(super) fn index(&self, sample: &str) -> u32 {
        self.by_sample.get(sample).copied().unwrap_or(u32::MAX)
    }

    pub(super) fn headings(&self) -> Vec<String> {
        self.list.iter().map(Family::heading).collect()
    }
}

impl Family {
    fn heading(&self) -> String {
        let mut text = Writer::new(Numbers::Plain);
        let help = self.help.as_ref().map(|series| &*series.help);
        text.family(&self.name, self.kind, help);
        text.take()
    }
}

/// Returns the types that agents send. Where agents disagree, the type with the higher [`precedence`]
/// wins.
fn typed<'a>(
    series: impl Iterator<Item = (&'a Arc<Series>, &'a Arc<str>)>,
) -> BTreeMap<String, Kind> {
    let mut typed: BTreeMap<String, Kind> = BTreeMap::new();
    for (one, name) in series {
        let Some(kind) = one.kind else { continue };
        let base = kind.prometheus_family(name);
        let known = typed.entry(base.to_owned()).or_insert(kind);
        if precedence(kind) > precedence(*known) {
            *known = kind;
        }
    }
    typed
}

/// Returns the histograms and summaries among the names without a type, by their labels.
fn guessed<'a>(
    series: impl Iterator<Item = (&'a Arc<Series>, &'a Arc<str>)>,
) -> BTreeMap<String, Kind> {
    let mut histograms: BTreeSet<&str> = BTreeSet::new();
    let mut summaries: BTreeSet<&str> = BTreeSet::new();
    for (one, name) in series.filter(|(one, _)| one.kind.is_none()) {
        match name.strip_suffix("_bucket") {
            Some(base) if one.rendered.has("le") => {
                histograms.insert(base);
            }
            Some(_) | None if one.rendered.has("quantile") => {
                summaries.insert(name);
            }
            Some(_) | None => {}
        }
    }
    let summaries = summaries
        .into_iter()
        .map(|name| (name.to_owned(), Kind::Summary));
    let histograms = histograms
        .into_iter()
        .map(|name| (name.to_owned(), Kind::Histogram));
    summaries.chain(histograms).collect()
}

/// Returns the family among `known` that a sample name belongs to. A histogram or summary goes first: its
/// parts must not stand alone.
fn find<'a>(name: &'a str, known: &BTreeMap<String, Kind>) -> Option<(&'a str, Kind)> {
    let whole = |kind: Kind| {
        let base = kind.prometheus_family(name);
        (known.get(base) == Some(&kind)).then_some((base, kind))
    };
    let own = || known.get(name).map(|kind| (name, *kind));
    whole(Kind::Histogram)
        .or_else(|| whole(Kind::Summary))
        .or_else(own)
}

/// Types with several sample names outrank those with one, and any type outranks untyped.
fn precedence(kind: Kind) -> u8 {
    match kind {
        Kind::Unknown | Kind::GaugeHistogram => 0,
        Kind::Gauge | Kind::Info | Kind::StateSet => 1,
        Kind::Counter => 2,
        Kind::Summary => 3,
        Kind::Histogram => 4,
    }
}
