//! Rates of counters, from the statuses of the last minute.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// The statuses that are kept: a minute of them.
const SAMPLES: usize = 61;

/// The counters of the last minute.
#[derive(Debug, Default)]
pub(super) struct Rates {
    samples: VecDeque<Sample>,
}

#[derive(Debug)]
struct Sample {
    at: Duration,
    server: String,
    figures: BTreeMap<String, u64>,
}

impl Rates {
    /// Adds the figures of a status. Those of an earlier process are dropped: its counters began elsewhere.
    pub(super) fn add(&mut self, at: Duration, server: &str, figures: &BTreeMap<String, u64>) {
        if self
            .samples
            .back()
            .is_some_and(|last| last.server != server)
        {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            at,
            server: server.to_owned(),
            figures: figures.clone(),
        });
    }

    /// Returns the rate between the last two statuses, per second.
    pub(super) fn per_second(&self, name: &str) -> Option<f64> {
        let [before, last] = [1, 0].map(|back| self.samples.iter().rev().nth(back));
        rate(before?, last?, name)
    }

    /// Returns the increase of a counter within the statuses that are kept, and their time.
    pub(super) fn increase(&self, name: &str) -> Option<(u64, Duration)> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let increase = last.value(name).saturating_sub(first.value(name));
        Some((increase, last.at.saturating_sub(first.at)))
    }

    /// Returns the rates between all statuses, the newest last.
    pub(super) fn history(&self, name: &str) -> Vec<u64> {
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        pairs
            .map(|(before, after)| rate(before, after, name).unwrap_or(0.0).round() as u64)
            .collect()
    }
}

impl Sample {
    fn value(&self, name: &str) -> u64 {
        self.figures.get(name).copied().unwrap_or(0)
    }
}

fn rate(before: &Sample, after: &Sample, name: &str) -> Option<f64> {
    let seconds = after.at.saturating_sub(before.at).as_secs_f64();
    let increase = after.value(name).saturating_sub(before.value(name));
    (seconds > 0.0).then(|| increase as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(events: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([("events".to_owned(), events)])
    }

    #[test]
    fn rate_is_of_the_true_time_between_two_statuses() {
        let mut rates = Rates::default();
        rates.add(Duration::ZERO, "a", &figures(100));
        assert_eq!(rates.per_second("events"), None);
        rates.add(Duration::from_millis(2_500), "a", &figures(600));
        assert_eq!(rates.per_second("events"), Some(200.0));
        assert_eq!(rates.per_second("unknown"), Some(0.0));
    }

    #[test]
    fn counters_of_another_process_are_not_compared() {
        let mut rates = Rates::default();
        rates.add(Duration::ZERO, "a", &figures(900));
        rates.add(Duration::from_secs(1), "b", &figures(5));
        assert_eq!(rates.per_second("events"), None);
        assert_eq!(rates.increase("events"), Some((0, Duration::ZERO)));
    }

    #[test]
    fn history_is_a_minute_at_most() {
        let mut rates = Rates::default();
        for second in 0..200 {
            rates.add(Duration::from_secs(second), "a", &figures(second * 3));
        }
        assert_eq!(rates.history("events"), [3; SAMPLES - 1]);
        let minute = Duration::from_secs(60);
        assert_eq!(rates.increase("events"), Some((180, minute)));
    }
}
