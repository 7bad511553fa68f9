//! The cost of a record: bytes, and the time to store and to read.
//!
//! The real scrapes are the recorder's own data set, 66 minutes of three exporters at one second; the
//! busy ones are synthetic. The baseline is a plain recorder with one ring of doubles per series.

#[path = "../../recorder/tests/support/busy.rs"]
mod busy;
#[path = "../../recorder/tests/support/dataset.rs"]
mod dataset;
pub(crate) mod resident;
mod ring;

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use steadfast_bench::{
    figure::Figures,
    measure::{Comparison, compare, cpu_time},
};
use steadfast_recorder::{
    Labels, Meta, NAME, Options, Recorder, Selector, SeriesId, SetOutcome, SourceId,
};

use self::{busy::Busy, ring::Ring};

const PAIRS: usize = 15;
const BUDGET: u64 = 64 << 20;

/// The number of scrapes of 100,000 series after which parts must have been evicted.
const MANY_SCRAPES_MAX: usize = 6_000;

/// An endless feed of scrapes of some series.
struct Feed {
    labels: Vec<Labels>,
    /// One value per series, scrape by scrape.
    rows: Vec<Vec<f64>>,
    next: usize,
    time: i64,
}

/// A recorder with one source.
struct Filled {
    recorder: Recorder,
    source: SourceId,
    ids: Vec<SeriesId>,
    samples: u64,
    /// The longest commit so far, in CPU seconds.
    slowest: f64,
}

pub(crate) fn run() -> Result<Figures> {
    let mut figures = Figures::new();
    let real = Feed::real()?;
    real_bytes(&real, &mut figures)?;
    busy_bytes(&mut figures)?;
    history(&real, &mut figures)?;
    resident::measure(&mut figures)?;
    many(&mut figures)?;
    store(&real, &mut figures)?;
    read(&real, &mut figures)?;
    Ok(figures)
}

impl Feed {
    /// The series of the data set that are in every scrape, as one source.
    fn real() -> Result<Self> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../recorder/tests/data/real.pco"
        );
        let sources = dataset::read(&std::fs::read(path).context(path)?);
        let rows = sources
            .iter()
            .flat_map(|source| source.series.iter().map(|series| series.values.len()))
            .min();
        let rows = rows.unwrap_or_default();
        let mut labels = Vec::new();
        let mut columns = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            for series in &source.series {
                // The plain rings cannot represent absence.
                if series.values[..rows].iter().all(Option::is_some) {
                    labels.push(with_label(&series.labels, "job", &index.to_string())?);
                    columns.push(&series.values);
                }
            }
        }
        let value =
            |column: &[Option<u64>], row: usize| f64::from_bits(column[row].unwrap_or_default());
        let rows = (0..rows)
            .map(|row| columns.iter().map(|column| value(column, row)).collect())
            .collect();
        Ok(Self {
            labels,
            rows,
            next: 0,
            time: 1_700_000_000_000,
        })
    }

    /// Repeats the series until there are `count`.
    fn widened(&self, count: usize) -> Result<Self> {
        let mut labels = Vec::with_capacity(count);
        for n in 0..count {
            let copy = (n / self.labels.len()).to_string();
            labels.push(with_label(
                &self.labels[n % self.labels.len()],
                "copy",
                &copy,
            )?);
        }
        let widen = |row: &Vec<f64>| row.iter().copied().cycle().take(count).collect();
        Ok(Self {
            labels,
            rows: self.rows.iter().map(widen).collect(),
            next: 0,
            time: self.time,
        })
    }

    fn advance(&mut self) -> (i64, &[f64]) {
        self.time += 1_000;
        let row = self.next;
        self.next = (self.next + 1) % self.rows.len();
        (self.time, &self.rows[row])
    }
}

fn with_label(labels: &Labels, name: &str, value: &str) -> Result<Labels> {
    Ok(Labels::new(labels.iter().chain([(name, value)]))?)
}

impl Filled {
    fn new(mut recorder: Recorder, labels: &[Labels]) -> Result<Self> {
        let source = recorder.source("http://127.0.0.1:9100/metrics")?;
        let meta = Meta::default();
        let ids = labels
            .iter()
            .map(|labels| recorder.series(source, labels, &meta));
        let ids = ids.collect::<Result<_, _>>()?;
        Ok(Self {
            recorder,
            source,
            ids,
            samples: 0,
            slowest: 0.0,
        })
    }

    fn in_memory(labels: &[Labels]) -> Result<Self> {
        Self::new(Recorder::in_memory(options())?, labels)
    }

    fn record(&mut self, time: i64, row: &[f64]) -> Result<()> {
        let mut scrape = self.recorder.scrape(self.source, time);
        for (id, value) in self.ids.iter().zip(row) {
            ensure!(
                scrape.set(*id, *value, None) == SetOutcome::Stored,
                "an id went stale"
            );
        }
        scrape.commit()?;
        self.samples += row.len() as u64;
        Ok(())
    }

    fn record_timed(&mut self, time: i64, row: &[f64]) -> Result<()> {
        let began = cpu_time();
        self.record(time, row)?;
        self.slowest = self.slowest.max(cpu_time() - began);
        Ok(())
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.budget = BUDGET;
    options
}

/// Measures bytes per sample and per series in files.
fn file_bytes(name: &str, mut feed: Feed, scrapes: usize, figures: &mut Figures) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut fill = Filled::new(Recorder::open(dir.path(), options())?.0, &feed.labels)?;
    for count in 0..scrapes {
        let (time, row) = feed.advance();
        fill.record(time, row)?;
        if count % 5 == 0 {
            fill.recorder.sync()?;
        }
    }
    fill.recorder.sync()?;
    fill.recorder.sync()?;
    // The first sync publishes segments, and only the second removes the heads they replace.
    let (mut names, mut others) = (0, 0);
    for entry in std::fs::read_dir(dir.path())? {
        let entry = entry?;
        let is_names = entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "names");
        *(if is_names { &mut names } else { &mut others }) += entry.metadata()?.len();
    }
    let per_sample = others as f64 / fill.samples as f64;
    figures.put_against(
        format!("{name}/bytes per sample"),
        "bytes",
        per_sample,
        (8.0, 8.0 / per_sample),
    );
    let per_series = names as f64 / feed.labels.len() as f64;
    figures.put_against(
        format!("{name}/bytes per series"),
        "bytes",
        per_series,
        // The estimate of the Go agent; see `Ring::capacity`.
        (213.0, 213.0 / per_series),
    );
    figures.put(format!("{name}/series"), "series", feed.labels.len() as f64);
    let memory = fill.recorder.stats().memory as f64 / f64::from(1 << 20);
    figures.put(format!("{name}/memory beside the files"), "MiB", memory);
    Ok(())
}

fn real_bytes(real: &Feed, figures: &mut Figures) -> Result<()> {
    let feed = real.widened(real.labels.len())?;
    let scrapes = feed.rows.len();
    file_bytes("real", feed, scrapes, figures)
}

fn busy_bytes(figures: &mut Figures) -> Result<()> {
    let mut busy = Busy::new();
    let labels = Busy::labels()?;
    let rows = (0..1_200).map(|_| busy.scrape()).collect();
    let feed = Feed {
        labels,
        rows,
        next: 0,
        time: 1_700_000_000_000,
    };
    let (mut changed, mut all) = (0, 0);
    for pair in feed.rows.windows(2) {
        changed += pair[0]
            .iter()
            .zip(&pair[1])
            .filter(|(a, b)| a.to_bits() != b.to_bits())
            .count();
        all += pair[0].len();
    }
    figures.put("busy/changed", "%", 100.0 * changed as f64 / all as f64);
    file_bytes("busy", feed, 1_200, figures)
}

/// Measures the history of 5,000 series at one second in 64 MiB of memory.
fn history(real: &Feed, figures: &mut Figures) -> Result<()> {
    let mut feed = real.widened(5_000)?;
    let mut fill = Filled::in_memory(&feed.labels)?;
    let began = cpu_time();
    while fill.recorder.stats().evicted_parts < 2 {
        let (time, row) = feed.advance();
        fill.record_timed(time, row)?;
        ensure!(
            fill.recorder.stats().used <= BUDGET,
            "the budget does not hold"
        );
    }
    let spent = cpu_time() - began;
    let (least, most) = fill.recorder.reader().span().context("there is a record")?;
    let hours = (most - least) as f64 / 3_600_000.0;
    let ring = Ring::capacity(5_000, BUDGET) as f64 / 3_600.0;
    figures.put_against(
        "5000 series/history in 64 MiB",
        "hours",
        hours,
        (ring, hours / ring),
    );
    let each = 1e9 * spent / fill.samples as f64;
    figures.put("5000 series/store and seal per sample", "ns", each);
    figures.put("5000 series/slowest commit", "ms", 1e3 * fill.slowest);
    query(&fill, most, figures)
}

/// Measures reading one hour of all series.
fn query(fill: &Filled, most: i64, figures: &mut Figures) -> Result<()> {
    let reader = fill.recorder.reader();
    let (mut best, mut samples) = (f64::MAX, 0);
    for _ in 0..5 {
        let began = cpu_time();
        samples = 0;
        for window in reader.window(&Selector::all(), most - 3_600_000 + 1..=most) {
            samples += black_box(window?.samples.len());
        }
        best = best.min(cpu_time() - began);
    }
    ensure!(
        samples == 18_000_000,
        "an hour of 5,000 series has {samples} samples"
    );
    figures.put("5000 series/window of an hour", "ms", 1e3 * best);
    let each = 1e9 * best / samples as f64;
    figures.put("5000 series/window per sample", "ns", each);
    Ok(())
}

/// Measures 100,000 series with some churn until old parts are evicted.
fn many(figures: &mut Figures) -> Result<()> {
    let labels = |n: usize| {
        Labels::new([
            (NAME, "many_total"),
            (
                "instance",
                &format!("10.0.{}.{}:9100", n / 250 % 250, n % 250),
            ),
            ("n", &n.to_string()),
        ])
    };
    let mut recorder = Recorder::in_memory(options())?;
    let source = recorder.source("many")?;
    let mut names: Vec<usize> = (0..100_000).collect();
    let mut ids = Vec::new();
    for n in &names {
        ids.push(recorder.series(source, &labels(*n)?, &Meta::default())?);
    }
    let (mut most, mut slowest) = (0, 0.0_f64);
    for (step, time) in (0..MANY_SCRAPES_MAX).zip((0..).step_by(1_000)) {
        let began = cpu_time();
        let mut scrape = recorder.scrape(source, time);
        for n in 0..names.len() {
            if n % 1_000 == step % 1_000 {
                names[n] += 100_000;
                ids[n] = scrape.series(&labels(names[n])?, &Meta::default())?;
            }
            let value = if n % 8 == 0 {
                (step * n) as f64
            } else {
                n as f64
            };
            ensure!(
                scrape.set(ids[n], value, None) == SetOutcome::Stored,
                "an id went stale"
            );
        }
        scrape.commit()?;
        slowest = slowest.max(cpu_time() - began);
        most = most.max(recorder.stats().used);
        ensure!(most <= BUDGET, "the budget does not hold");
        if recorder.stats().evicted_parts == 2 {
            break;
        }
    }
    ensure!(recorder.stats().evicted_parts == 2, "nothing was evicted");
    let (least, newest) = recorder.reader().span().context("there is a record")?;
    figures.put(
        "100000 series/most used",
        "MiB",
        most as f64 / f64::from(1 << 20),
    );
    let minutes = (newest - least) as f64 / 60_000.0;
    let ring = Ring::capacity(100_000, BUDGET) as f64 / 60.0;
    figures.put_against(
        "100000 series/history in 64 MiB",
        "minutes",
        minutes,
        (ring, minutes / ring),
    );
    figures.put("100000 series/slowest scrape", "ms", 1e3 * slowest);
    Ok(())
}

fn put_comparison(figures: &mut Figures, name: &str, comparison: &Comparison, samples: usize) {
    let each = |time: std::time::Duration| time.as_secs_f64() * 1e9 / samples as f64;
    let against = (each(comparison.baseline), comparison.ratio);
    figures.put_against(name, "ns", each(comparison.ours), against);
}

/// Compares storing a scrape of 5,000 series with writing each value into its ring.
fn store(real: &Feed, figures: &mut Figures) -> Result<()> {
    let (mut ours, mut theirs) = (real.widened(5_000)?, real.widened(5_000)?);
    let mut fill = Filled::in_memory(&ours.labels)?;
    let mut ring = Ring::new(5_000, 1_024);
    let mut failed = None;
    let comparison = compare(
        PAIRS,
        || {
            let (time, row) = ours.advance();
            if let Err(error) = fill.record(time, row) {
                failed = Some(error);
            }
        },
        || {
            let (time, row) = theirs.advance();
            ring.push(time, row);
        },
    );
    if let Some(error) = failed {
        return Err(error);
    }
    put_comparison(figures, "store/per sample, ring", &comparison, 5_000);
    Ok(())
}

/// Compares reading sealed series with copying pairs out of rings.
fn read(real: &Feed, figures: &mut Figures) -> Result<()> {
    let mut feed = real.widened(real.labels.len())?;
    let mut fill = Filled::in_memory(&feed.labels)?;
    let mut ring = Ring::new(feed.labels.len(), 1_024);
    // The head closes after 1,024 scrapes, and the commits behind that seal it.
    for _ in 0..1_100 {
        let (time, row) = feed.advance();
        fill.record(time, row)?;
        ring.push(time, row);
    }
    let (least, _) = fill.recorder.reader().span().context("there is a record")?;
    let range = least..=least + 1_023_000;
    let reader = fill.recorder.reader();
    let samples = 1_024 * feed.labels.len();
    let comparison = compare(
        PAIRS,
        || {
            for window in reader.window(&Selector::all(), range.clone()) {
                black_box(window.is_ok_and(|window| window.samples.len() == 1_024));
            }
        },
        || {
            for series in 0..ring.series() {
                black_box(ring.window(series).len());
            }
        },
    );
    put_comparison(figures, "read/per sample, ring", &comparison, samples);
    Ok(())
}
