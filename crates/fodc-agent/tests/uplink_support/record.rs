//! Stores of samples for tests.

use std::sync::{Arc, Condvar, Mutex};

use steadfast_exposition::Kind;
use steadfast_fodc_agent::uplink::{SampleStore, Series, StoreError, Visit, Visitor};

/// A store of `series` series with a sample in each second of a span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Regular {
    pub(crate) series: usize,
    /// The Unix seconds of the first scrape and after the last.
    pub(crate) seconds: (i64, i64),
    /// The length in bytes of a label that each series has.
    pub(crate) padding: usize,
}

impl Regular {
    /// Returns a store of that many series, scraped in the seconds before 100.
    pub(crate) fn of(series: usize) -> Self {
        Self {
            series,
            seconds: (0, 100),
            padding: 0,
        }
    }

    /// Returns the value of series `index` at a time in milliseconds.
    pub(crate) fn value(index: usize, time: i64) -> f64 {
        index as f64 * 1e6 + (time / 1_000) as f64
    }

    fn visit(&self, from: i64, to: i64, visitor: &mut dyn Visitor) {
        let (first, after) = self.seconds;
        let times: Vec<i64> = (first.max(from.div_euclid(1_000))..after)
            .map(|second| second * 1_000)
            .filter(|time| (from..=to).contains(time))
            .collect();
        let padding = "x".repeat(self.padding);
        for index in 0..self.series {
            let number = index.to_string();
            let mut labels = vec![("index", number.as_str())];
            if self.padding > 0 {
                labels.push(("padding", &padding));
            }
            match visitor.series(&Series {
                name: "regular_total",
                labels: &labels,
                help: "A value of a test.",
                kind: Kind::Counter,
                source: 1,
                container: Some("data"),
            }) {
                Visit::Samples => {}
                Visit::Skip => continue,
                Visit::Stop => return,
            }
            let values: Vec<f64> = times.iter().map(|time| Self::value(index, *time)).collect();
            if visitor.samples(&times, &values).is_break() {
                return;
            }
        }
    }
}

impl SampleStore for Regular {
    fn latest(&self, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        let last = (self.seconds.1 - 1) * 1_000;
        self.visit(last, last, visitor);
        Ok(())
    }

    fn window(&self, from: i64, to: i64, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        self.visit(from, to, visitor);
        Ok(())
    }
}

/// A store that blocks while it is set to stuck.
#[derive(Clone, Debug)]
pub(crate) struct Stuck {
    pub(crate) record: Regular,
    is_stuck: Arc<(Mutex<bool>, Condvar)>,
}

impl Stuck {
    pub(crate) fn new(record: Regular) -> Self {
        Self {
            record,
            is_stuck: Arc::default(),
        }
    }

    pub(crate) fn set(&self, stuck: bool) {
        *self.is_stuck.0.lock().unwrap() = stuck;
        self.is_stuck.1.notify_all();
    }

    fn wait(&self) {
        let stuck = self.is_stuck.0.lock().unwrap();
        let _free = self.is_stuck.1.wait_while(stuck, |stuck| *stuck).unwrap();
    }
}

impl SampleStore for Stuck {
    fn latest(&self, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        self.wait();
        self.record.latest(visitor)
    }

    fn window(&self, from: i64, to: i64, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        self.wait();
        self.record.window(from, to, visitor)
    }
}

/// A store that panics when the latest values are read.
#[derive(Clone, Debug)]
pub(crate) struct Broken(pub(crate) Regular);

impl SampleStore for Broken {
    fn latest(&self, _: &mut dyn Visitor) -> Result<(), StoreError> {
        panic!("the store of a test panicked, as it should")
    }

    fn window(&self, from: i64, to: i64, visitor: &mut dyn Visitor) -> Result<(), StoreError> {
        self.0.window(from, to, visitor)
    }
}
