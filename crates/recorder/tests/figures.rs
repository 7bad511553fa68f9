//! The size of a record on an hour of real exporters, and on a synthetic busy one. The figures are
//! deterministic, so that the bounds are tight.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

#[path = "support/busy.rs"]
mod busy;
#[path = "support/dataset.rs"]
mod dataset;

use std::path::Path;

use steadfast_recorder::{Meta, Options, Recorder, Selector, SeriesId};

/// Returns the size of the catalogs in a directory, and that of all other files.
fn bytes_of(dir: &Path) -> (u64, u64) {
    let (mut names, mut others) = (0, 0);
    for file in std::fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        let len = file.metadata().unwrap().len();
        match file
            .path()
            .extension()
            .and_then(|extension| extension.to_str())
        {
            Some("names") => names += len,
            _ => others += len,
        }
    }
    (names, others)
}

#[test]
fn hour_of_real_exporters_takes_a_quarter_byte_per_sample() {
    let sources = dataset::read(
        &std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/real.pco")).unwrap(),
    );
    let dir = tempfile::tempdir().unwrap();
    let (mut recorder, _) = Recorder::open(dir.path(), Options::default()).unwrap();
    let mut ids: Vec<Vec<Option<SeriesId>>> = sources
        .iter()
        .map(|source| vec![None; source.series.len()])
        .collect();
    let (mut samples, mut changed) = (0_u64, 0_u64);
    for (count, (index, time, row)) in dataset::in_order(&sources).into_iter().enumerate() {
        let source = &sources[index];
        let id = recorder.source(&source.name).unwrap();
        let Some(row) = row else {
            recorder.missed(id, time).unwrap();
            continue;
        };
        let mut scrape = recorder.scrape(id, time);
        for (series, known) in source.series.iter().zip(&mut ids[index]) {
            let Some(bits) = series.values[row] else {
                continue;
            };
            let id = known.unwrap_or_else(|| scrape.series(&series.labels, &series.meta).unwrap());
            *known = Some(id);
            scrape.set(id, f64::from_bits(bits), None);
            samples += 1;
            changed += u64::from(row > 0 && series.values[row - 1] != Some(bits));
        }
        scrape.commit().unwrap();
        if count % 15 == 0 {
            recorder.sync().unwrap();
        }
    }
    recorder.sync().unwrap();
    recorder.sync().unwrap();
    let series: usize = sources.iter().map(|source| source.series.len()).sum();
    let (names, others) = bytes_of(dir.path());
    let (per_sample, per_series) = (others as f64 / samples as f64, names as f64 / series as f64);
    let share = changed as f64 / samples as f64;
    println!(
        "{series} series, {samples} samples, {:.1} % changed",
        share * 100.0
    );
    println!("{per_sample:.4} bytes per sample, {per_series:.1} bytes per series");
    println!("{:?}", recorder.stats());
    assert!(
        series >= 1_500 && share >= 0.12,
        "the data set is what it is said to be"
    );
    assert!(per_sample <= 0.25, "{per_sample}");
    assert!(per_series <= 150.0, "{per_series}");
    let hours = f64::from(64 << 20) / (per_sample * 5_000.0 * 3_600.0);
    assert!(
        hours >= 14.0,
        "5,000 series at a second in 64 MiB: {hours} hours"
    );
    drop(recorder);
    let (reader, opened) = Recorder::open_read_only(dir.path()).unwrap();
    assert_eq!((&opened.damage, reader.check()), (&Vec::new(), Vec::new()));
    let mut found = 0;
    for (index, source) in sources.iter().enumerate() {
        let times: Vec<i64> = source
            .scrapes
            .iter()
            .filter(|(_, missed)| !missed)
            .map(|(time, _)| *time)
            .collect();
        let mut windows = reader.window(&Selector::all().source(&source.name), i64::MIN..=i64::MAX);
        for (series, _) in source.series.iter().zip(&ids[index]) {
            let window = windows.next().unwrap().unwrap();
            assert_eq!(
                (&window.labels, &*window.meta),
                (&series.labels, &series.meta)
            );
            let expected = times
                .iter()
                .zip(&series.values)
                .filter_map(|(time, bits)| Some((*time, (*bits)?)));
            assert!(
                window
                    .samples
                    .iter()
                    .map(|sample| (sample.time_ms, sample.value.to_bits()))
                    .eq(expected),
                "{:?}",
                series.labels
            );
            found += window.samples.len() as u64;
        }
        assert!(windows.next().is_none());
    }
    assert_eq!(found, samples);
}

#[test]
fn busy_service_takes_at_most_half_a_byte_per_sample() {
    let labels = busy::Busy::labels().unwrap();
    let mut busy = busy::Busy::new();
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.head_scrapes = 512;
    let (mut recorder, _) = Recorder::open(dir.path(), options).unwrap();
    let source = recorder.source("busy").unwrap();
    let meta = Meta::default();
    let ids: Vec<SeriesId> = labels
        .iter()
        .map(|labels| recorder.series(source, labels, &meta).unwrap())
        .collect();
    let mut samples = 0;
    for second in 0..512 {
        let mut scrape = recorder.scrape(source, second * 1_000);
        for (id, value) in ids.iter().zip(busy.scrape()) {
            scrape.set(*id, value, None);
        }
        samples += scrape.commit().unwrap().samples;
    }
    // A failed scrape takes a few bytes, and seals a slice of the head like any other.
    for second in 512.. {
        recorder.missed(source, second * 1_000).unwrap();
        if recorder.stats().counters.sealed == 1 {
            break;
        }
    }
    recorder.sync().unwrap();
    recorder.sync().unwrap();
    assert_eq!(recorder.stats().counters.sealed, 1);
    let (names, others) = bytes_of(dir.path());
    let (per_sample, per_series) = (
        others as f64 / samples as f64,
        names as f64 / labels.len() as f64,
    );
    println!("busy: {per_sample:.4} bytes per sample, {per_series:.1} bytes per series");
    assert!(per_sample <= 0.43, "{per_sample}");
    assert!(per_series <= 150.0, "{per_series}");
}
