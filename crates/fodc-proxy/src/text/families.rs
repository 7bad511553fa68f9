//! Which samples stand under which `# TYPE`: one for each name, whoever knows it.
//!
//! Agents before 0.10.3 send no types. Their samples join the family that others have typed. Where
//! nobody knows, a name is a histogram or a summary only if it has what makes one: buckets with `le`,
//! quantiles. The rest is a gauge, as in every release.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::super::series::{Kind, Series};

/// The families of an answer, those with a known type first, each part by name.
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

/// Whether the type is only guessed, and the family's name: the order of the output.
type Key = (bool, String);

const HISTOGRAM: [&str; 3] = ["_bucket", "_sum", "_count"];
const SUMMARY: [&str; 2] = ["_sum", "_count"];

impl Families {
    /// Of all distinct series, each with its name as it stands in the text.
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

    /// The place of the family of this sample's name.
    pub(super) fn index(&self, sample: &str) -> u32 {
        self.by_sample.get(sample).copied().unwrap_or(u32::MAX)
    }

    pub(super) fn headings(&self, escape: impl Fn(&str, &mut String)) -> Vec<String> {
        self.list
            .iter()
            .map(|family| family.heading(&escape))
            .collect()
    }
}

impl Family {
    fn heading(&self, escape: impl Fn(&str, &mut String)) -> String {
        let mut text = String::new();
        if let Some(series) = &self.help {
            text.push_str("# HELP ");
            text.push_str(&self.name);
            text.push(' ');
            escape(&series.help, &mut text);
            text.push('\n');
        }
        text.push_str("# TYPE ");
        text.push_str(&self.name);
        text.push_str(match self.kind {
            Kind::Unknown | Kind::Gauge => " gauge\n",
            Kind::Counter => " counter\n",
            Kind::Histogram => " histogram\n",
            Kind::Summary => " summary\n",
            Kind::Untyped => " untyped\n",
        });
        text
    }
}

/// What agents say. Where they disagree, what is made of several names goes before what is not, and
/// anything before untyped.
fn typed<'a>(
    series: impl Iterator<Item = (&'a Arc<Series>, &'a Arc<str>)>,
) -> BTreeMap<String, Kind> {
    let mut typed: BTreeMap<String, Kind> = BTreeMap::new();
    for (one, name) in series {
        let base = match one.kind {
            Kind::Unknown => continue,
            Kind::Gauge | Kind::Counter | Kind::Untyped => &**name,
            Kind::Histogram => stripped(name, &HISTOGRAM).unwrap_or(name),
            Kind::Summary => stripped(name, &SUMMARY).unwrap_or(name),
        };
        let known = typed.entry(base.to_owned()).or_insert(one.kind);
        if precedence(one.kind) > precedence(*known) {
            *known = one.kind;
        }
    }
    typed
}

/// What is certainly a histogram or a summary although no agent says so.
fn guessed<'a>(
    series: impl Iterator<Item = (&'a Arc<Series>, &'a Arc<str>)>,
) -> BTreeMap<String, Kind> {
    let mut histograms: BTreeSet<&str> = BTreeSet::new();
    let mut summaries: BTreeSet<&str> = BTreeSet::new();
    for (one, name) in series.filter(|(one, _)| one.kind == Kind::Unknown) {
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

/// The family among `known` that a sample of this name belongs to. One that is made of several names
/// goes first: a part of it must not stand alone.
fn find<'a>(name: &'a str, known: &BTreeMap<String, Kind>) -> Option<(&'a str, Kind)> {
    let histogram = stripped(name, &HISTOGRAM)
        .filter(|base| known.get(*base) == Some(&Kind::Histogram))
        .map(|base| (base, Kind::Histogram));
    let summary = || {
        stripped(name, &SUMMARY)
            .filter(|base| known.get(*base) == Some(&Kind::Summary))
            .map(|base| (base, Kind::Summary))
    };
    let own = || known.get(name).map(|kind| (name, *kind));
    histogram.or_else(summary).or_else(own)
}

fn stripped<'a>(name: &'a str, suffixes: &[&str]) -> Option<&'a str> {
    suffixes
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .filter(|base| !base.is_empty())
}

fn precedence(kind: Kind) -> u8 {
    match kind {
        Kind::Unknown => 0,
        Kind::Untyped => 1,
        Kind::Gauge => 2,
        Kind::Counter => 3,
        Kind::Summary => 4,
        Kind::Histogram => 5,
    }
}
