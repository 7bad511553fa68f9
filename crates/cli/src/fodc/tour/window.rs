//! A window as the proxy returns it, and the sums and rates that the chart needs.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde::Deserialize;

/// One series of `/metrics-windows`.
#[derive(Debug, Deserialize)]
pub(super) struct Series {
    pub(super) name: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) data: Vec<Point>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Point {
    pub(super) timestamp: Timestamp,
    #[serde(deserialize_with = "value")]
    pub(super) value: f64,
}

/// Parses a number. JSON has no NaN and infinities, so these are texts.
fn value<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(f64),
        Text(String),
    }
    match Either::deserialize(from)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// The samples recorded between two times.
#[derive(Debug)]
pub(super) struct Window {
    series: Vec<Series>,
}

impl Window {
    pub(super) fn from_json(body: &[u8]) -> anyhow::Result<Self> {
        let mut series: Vec<Series> =
            serde_json::from_slice(body).context("read the proxy's response")?;
        if series.is_empty() {
            bail!("the proxy has no samples in that time");
        }
        for series in &mut series {
            series.data.sort_by_key(|point| point.timestamp);
        }
        Ok(Self { series })
    }

    pub(super) fn series(&self) -> usize {
        self.series.len()
    }

    pub(super) fn samples(&self) -> usize {
        self.series.iter().map(|series| series.data.len()).sum()
    }

    /// Returns name, time and bits of every sample, sorted; labels differ between proxy and disk.
    pub(super) fn triples(&self) -> Vec<(&str, Timestamp, u64)> {
        let samples = self.series.iter().flat_map(|series| {
            let triple =
                |point: &Point| (series.name.as_str(), point.timestamp, point.value.to_bits());
            series.data.iter().map(triple)
        });
        let mut triples: Vec<_> = samples.collect();
        triples.sort_unstable();
        triples
    }

    /// Returns the series with that name and all these labels.
    pub(super) fn of<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| {
            series.name == name
                && labels.iter().all(|(name, value)| {
                    series.labels.get(*name).is_some_and(|found| found == value)
                })
        })
    }

    /// Returns the sum over these series at each time with a sample.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> BTreeMap<Timestamp, Sum> {
        let mut sums: BTreeMap<Timestamp, Sum> = BTreeMap::new();
        for series in self.of(name, labels) {
            for point in &series.data {
                let sum = sums.entry(point.timestamp).or_default();
                sum.value += point.value;
                sum.series += 1;
            }
        }
        sums
    }
}

/// A sum, and its number of series.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) value: f64,
    pub(super) series: u32,
}

/// Returns the increase per second between consecutive times, at the later one.
pub(super) fn rates(sums: &BTreeMap<Timestamp, Sum>) -> BTreeMap<Timestamp, f64> {
    sums.iter()
        .zip(sums.iter().skip(1))
        .map(|((from, before), (to, after))| {
            let seconds = to.duration_since(*from).as_secs_f64();
            (*to, (after.value - before.value) / seconds)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_the_later_time() {
        let body = br#"[
            {"name": "cpu", "labels": {"mode": "idle", "cpu": "0"}, "data": [
                {"timestamp": "2026-03-01T08:00:02.5Z", "value": 13},
                {"timestamp": "2026-03-01T08:00:00.5Z", "value": 10}]},
            {"name": "cpu", "labels": {"mode": "idle", "cpu": "1"}, "data": [
                {"timestamp": "2026-03-01T08:00:00.5Z", "value": 1},
                {"timestamp": "2026-03-01T08:00:02.5Z", "value": 2}]},
            {"name": "cpu", "labels": {"mode": "user"}, "data": [
                {"timestamp": "2026-03-01T08:00:00.5Z", "value": "NaN"}]}]"#;
        let window = Window::from_json(body).unwrap();
        assert_eq!((window.series(), window.samples()), (3, 5));
        let rates = rates(&window.sum("cpu", &[("mode", "idle")]));
        let rates: Vec<_> = rates.into_iter().collect();
        assert_eq!(rates, [("2026-03-01T08:00:02.5Z".parse().unwrap(), 2.0)]);
    }

    #[test]
    fn a_response_without_samples_is_an_error() {
        assert!(Window::from_json(b"[]").is_err());
        assert!(Window::from_json(b"").is_err());
    }
}
