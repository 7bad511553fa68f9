//! A plain recorder: a ring of doubles per series, and one of times.

/// A recorder with a ring per series.
pub(crate) struct Ring {
    times: Vec<i64>,
    values: Vec<Vec<f64>>,
    next: usize,
}

impl Ring {
    /// Returns the number of scrapes that fit a budget, by the formula of the Go agent: 8 bytes per
    /// value and time, and 213 per series.
    pub(crate) fn capacity(series: u64, budget: u64) -> u64 {
        (budget - 213 * series) / (8 * series + 8)
    }

    pub(crate) fn new(series: usize, scrapes: usize) -> Self {
        Self {
            times: vec![0; scrapes],
            values: vec![vec![0.0; scrapes]; series],
            next: 0,
        }
    }

    pub(crate) fn series(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn push(&mut self, time: i64, row: &[f64]) {
        self.times[self.next] = time;
        for (ring, value) in self.values.iter_mut().zip(row) {
            ring[self.next] = *value;
        }
        self.next = (self.next + 1) % self.times.len();
    }

    /// Returns all samples of a series.
    pub(crate) fn window(&self, series: usize) -> Vec<(i64, f64)> {
        self.times
            .iter()
            .copied()
            .zip(self.values[series].iter().copied())
            .collect()
    }
}
