//! One page as it is read: its series are named to the record, its samples wait for its end.

use std::collections::HashMap;

use steadfast_exposition::{FamilyRef, Kind as PageKind, LineFault, Refused, SeriesRef, Sink};
use steadfast_recorder::{Kind, Labels, Meta, NAME, Recorder, SeriesId, SourceId};

use super::late::{Lates, PageSeries};

/// What is kept of an endpoint's pages from one to the next, and of the one that is being read.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// What is said of each family of which something is said. The parser bounds it.
    families: HashMap<Box<str>, Said>,
    /// What the page that is being read says of families and the one before did not.
    news: HashMap<Box<str>, Said>,
    lates: Lates,
    /// Samples of the page that is being read.
    samples: Vec<Sample>,
    /// Times that stood on lines, in the order of the samples, with the sample's place.
    times: Vec<(u32, i64)>,
    /// Series that the page before did not have.
    pub(super) added: u64,
    /// Series that were named before all was said of them, since late ones had no room.
    named_early: bool,
    /// What was wrong with the page's last line that was not taken.
    pub(super) last_rejected: Option<String>,
}

/// What is said of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    kind: PageKind,
    help: Box<str>,
}

/// One sample of a page.
#[derive(Clone, Copy, Debug)]
struct Sample {
    series: PageSeries,
    value: f64,
}

/// Takes a page that is being read.
pub(super) struct Page<'a> {
    pub(super) recorder: &'a mut Recorder,
    pub(super) source: SourceId,
    pub(super) collected: &'a mut Collected,
    /// Whether times that stand on lines are of interest.
    pub(super) keep_times: bool,
}

impl Collected {
    /// A page begins, or one was given up: nothing of it is left.
    pub(super) fn abandon(&mut self) {
        self.lates.abandon();
        self.news.clear();
        self.clear();
    }

    /// The page is recorded.
    pub(super) fn finish(&mut self) {
        self.lates.finish();
        self.clear();
    }

    /// The parser has forgotten all pages.
    pub(super) fn forget(&mut self) {
        self.lates.forget();
        self.clear();
    }

    fn clear(&mut self) {
        // What one huge page needed is not kept for small ones.
        self.samples.shrink_to(2 * self.samples.len());
        self.samples.clear();
        self.times.shrink_to(2 * self.times.len());
        self.times.clear();
        self.added = 0;
        self.named_early = false;
        self.last_rejected = None;
    }

    /// Series, value and the line's own timestamp, if it was kept, of each sample; no series if the
    /// record had no room for it.
    pub(super) fn samples(&self) -> impl Iterator<Item = (Option<SeriesId>, f64, Option<i64>)> {
        let mut times = self.times.iter().peekable();
        let samples = (0_u32..).zip(&self.samples);
        samples.map(move |(place, sample)| {
            let time = times.next_if(|(of, _)| *of == place).map(|(_, time)| *time);
            (self.lates.known(sample.series), sample.value, time)
        })
    }
}

impl Page<'_> {
    /// The page is complete: what it said of families holds also for series that came before it was
    /// said. Returns whether something else is said than when series were named to the record.
    pub(super) fn settle(&mut self) -> bool {
        let mut changed = false;
        let named_early = self.collected.named_early;
        for (family, said) in std::mem::take(&mut self.collected.news) {
            let before = self.collected.families.insert(family, said.clone());
            changed |= before.map_or(named_early, |before| before != said);
        }
        let Collected {
            lates, families, ..
        } = &mut *self.collected;
        lates.name(|labels| {
            let meta = said_of(families, labels.name());
            self.recorder.series(self.source, labels, &meta).ok()
        });
        changed
    }
}

impl Sink for Page<'_> {
    type Id = PageSeries;

    fn series(&mut self, series: &SeriesRef<'_>) -> Result<PageSeries, Refused> {
        let name = std::iter::once((NAME, series.name));
        let labels =
            Labels::new(name.chain(series.labels.iter())).map_err(|_| Refused::Unwanted)?;
        self.collected.added += 1;
        let FamilyRef {
            name, kind, help, ..
        } = series.family;
        let suffix = series.name.strip_prefix(name).unwrap_or_default();
        let mut meta = meta(kind.unwrap_or_default(), help.unwrap_or_default(), suffix);
        let mut labels = labels;
        if kind.is_none() || help.is_none() {
            let pairs = series.labels.iter();
            let bytes = pairs.map(|(name, value)| name.len() + value.len() + 4);
            let bytes = bytes.sum::<usize>() + NAME.len() + series.name.len() + 20;
            labels = match self.collected.lates.add(labels, bytes) {
                Ok(late) => return Ok(late),
                Err(labels) => labels,
            };
            self.collected.named_early = true;
            if kind.is_none() {
                // The page before may have said it behind its samples, too.
                meta = said_of(&self.collected.families, series.name);
            }
        }
        let named = self.recorder.series(self.source, &labels, &meta);
        named
            .map(PageSeries::Known)
            .map_err(|refused| match refused {
                steadfast_recorder::LimitError::Budget => Refused::Budget,
                _ => Refused::SeriesLimit,
            })
    }

    fn sample(&mut self, series: PageSeries, value: f64, timestamp_ms: Option<i64>) {
        if let PageSeries::Late(place) = series {
            self.collected.lates.see(place);
        }
        if self.keep_times
            && let Some(time) = timestamp_ms
        {
            let place = self.collected.samples.len() as u32;
            self.collected.times.push((place, time));
        }
        self.collected.samples.push(Sample { series, value });
    }

    fn rejected(&mut self, fault: &LineFault<'_>) {
        self.collected.last_rejected = Some(fault.to_string());
    }

    fn family(&mut self, family: &FamilyRef<'_>) {
        if family.kind.is_none() && family.help.is_none() {
            // Nothing is said of it any more, mostly because it is not there any more.
            self.collected.news.remove(family.name);
            self.collected.families.remove(family.name);
            return;
        }
        let said = Said {
            kind: family.kind.unwrap_or_default(),
            help: family.help.unwrap_or_default().into(),
        };
        self.collected.news.insert(family.name.into(), said);
    }
}

/// What is said of the family of this sample: one that is named like it comes first.
fn said_of(families: &HashMap<Box<str>, Said>, sample: &str) -> Meta {
    if let Some(said) = families.get(sample) {
        return meta(said.kind, &said.help, "");
    }
    let parts = sample
        .rmatch_indices('_')
        .map(|(at, _)| sample.split_at(at));
    for (family, suffix) in parts {
        if let Some(said) = families.get(family)
            && said.kind.owns(family, sample)
        {
            return meta(said.kind, &said.help, suffix);
        }
    }
    Meta::default()
}

/// What the record keeps of what a page says about a sample with this suffix to its family's name.
fn meta(kind: PageKind, help: &str, suffix: &str) -> Meta {
    let kind = match kind {
        // When a metric came into being is a point in time, whatever the metric is.
        _ if suffix == "_created" => Kind::Gauge,
        PageKind::Unknown => Kind::Unknown,
        PageKind::Gauge => Kind::Gauge,
        PageKind::Counter => Kind::Counter,
        PageKind::Histogram => Kind::Histogram,
        PageKind::Summary => Kind::Summary,
        PageKind::Info => Kind::Info,
        PageKind::StateSet => Kind::StateSet,
        PageKind::GaugeHistogram => Kind::GaugeHistogram,
    };
    Meta {
        kind,
        help: help.to_owned(),
    }
}
