//! A synthetic service under load: histograms, counters of calls, and gauges.

#![allow(dead_code, unreachable_pub, reason = "shared by tests and benchmarks")]

use steadfast_recorder::{Labels, LabelsError, NAME};

const HISTOGRAMS: usize = 200;
const BUCKETS: usize = 14;
const COUNTERS: usize = 900;
const GAUGES: usize = 680;
const CONSTANTS: usize = 200;

/// The service.
#[derive(Debug)]
pub struct Busy {
    state: u64,
    /// Calls per scrape of each histogram and counter.
    rates: Vec<f64>,
    buckets: Vec<[f64; BUCKETS]>,
    sums: Vec<f64>,
    counters: Vec<f64>,
    gauges: Vec<f64>,
}

impl Busy {
    #[allow(clippy::new_without_default, reason = "it is made in one place")]
    pub fn new() -> Self {
        let mut busy = Self {
            state: 0x9e37_79b9_7f4a_7c15,
            rates: Vec::new(),
            buckets: vec![[0.0; BUCKETS]; HISTOGRAMS],
            sums: vec![0.0; HISTOGRAMS],
            counters: vec![0.0; COUNTERS],
            gauges: vec![0.0; GAUGES],
        };
        for _ in 0..HISTOGRAMS + COUNTERS {
            let rate = (busy.uniform() * 7.0 - 3.0).exp();
            busy.rates.push(rate);
        }
        busy
    }

    /// Returns a number in [0, 1), the same sequence every time.
    fn uniform(&mut self) -> f64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a random number of calls, given their rate.
    fn calls(&mut self, rate: f64) -> u32 {
        let (end, mut product, mut count) = ((-rate).exp(), self.uniform(), 0);
        while product > end {
            product *= self.uniform();
            count += 1;
        }
        count
    }

    pub fn labels() -> Result<Vec<Labels>, LabelsError> {
        let mut labels = Vec::new();
        for histogram in 0..HISTOGRAMS {
            let path = format!("/api/v1/resource/{histogram}");
            for bucket in 0..BUCKETS {
                let le = if bucket == BUCKETS - 1 {
                    "+Inf".to_owned()
                } else {
                    format!("{}", 0.005 * f64::from(1 << bucket))
                };
                labels.push(Labels::new([
                    (NAME, "request_duration_seconds_bucket"),
                    ("path", &path),
                    ("le", &le),
                ])?);
            }
            labels.push(Labels::new([
                (NAME, "request_duration_seconds_sum"),
                ("path", &path),
            ])?);
            labels.push(Labels::new([
                (NAME, "request_duration_seconds_count"),
                ("path", &path),
            ])?);
        }
        for (name, count) in [
            ("calls_total", COUNTERS),
            ("level", GAUGES),
            ("limit", CONSTANTS),
        ] {
            for n in 0..count {
                labels.push(Labels::new([(NAME, name), ("part", &n.to_string())])?);
            }
        }
        Ok(labels)
    }

    pub fn scrape(&mut self) -> Vec<f64> {
        let mut row =
            Vec::with_capacity(HISTOGRAMS * (BUCKETS + 2) + COUNTERS + GAUGES + CONSTANTS);
        for histogram in 0..HISTOGRAMS {
            for _ in 0..self.calls(self.rates[histogram]) {
                let seconds = 0.004 - 0.06 * (1.0 - self.uniform()).ln();
                self.sums[histogram] += seconds;
                let first = (0..BUCKETS - 1)
                    .find(|bucket| seconds <= 0.005 * f64::from(1 << bucket))
                    .unwrap_or(BUCKETS - 1);
                for count in &mut self.buckets[histogram][first..] {
                    *count += 1.0;
                }
            }
            row.extend_from_slice(&self.buckets[histogram]);
            row.push(self.sums[histogram]);
            row.push(self.buckets[histogram][BUCKETS - 1]);
        }
        for counter in 0..COUNTERS {
            self.counters[counter] += f64::from(self.calls(self.rates[HISTOGRAMS + counter]));
            row.push(self.counters[counter]);
        }
        for gauge in 0..GAUGES {
            // Integers that go up and down, ratios of two digits, and values that rarely change.
            let step = self.uniform();
            let level = &mut self.gauges[gauge];
            match gauge % 3 {
                0 => *level += (step * 9.0).floor() - 4.0,
                1 => *level = (step * 100.0).round() / 100.0,
                _ if step > 0.9 => *level += 1.0,
                _ => {}
            }
            row.push(*level);
        }
        row.extend((0..CONSTANTS).map(|n| (n * 1_000) as f64));
        row
    }
}
