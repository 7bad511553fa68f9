//! Samples of many series in columns, with each time encoded once per source.
//!
//! The agent encodes with [`ColumnsBuilder`]; the proxy checks and decodes with [`Decoded`].
//!
//! ```
//! use steadfast_fodc_model::columns::{ColumnsBuilder, Decoded};
//! use steadfast_wire::fodc::SeriesColumn;
//!
//! let mut builder = ColumnsBuilder::new();
//! let up = SeriesColumn { name: "up".to_owned(), ..SeriesColumn::default() };
//! builder.push(up, 1, &[1_000, 2_000], &[1.0, 0.0]);
//! let columns = builder.take();
//!
//! let decoded = Decoded::new(&columns)?;
//! let samples: Vec<_> = decoded.series().flat_map(|series| series.samples()).collect();
//! assert_eq!(samples, [(1_000, 1.0), (2_000, 0.0)]);
//! # Ok::<(), steadfast_fodc_model::columns::ColumnsFault>(())
//! ```

use std::{collections::BTreeMap, ops::Range};

use steadfast_wire::fodc::{Columns, Run, SeriesColumn, TimeColumn};

/// Encodes [`Columns`] series by series.
///
/// The times of a source are encoded once, and each of its series refers to the runs of times at
/// which it has samples. A series whose times are not a subsequence of those gets a time column of
/// its own; later series use the longer one. No sample is changed or lost.
#[derive(Debug, Default)]
pub struct ColumnsBuilder {
    sources: BTreeMap<u64, Source>,
    columns: Columns,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Source {
    times: Vec<i64>,
    /// The index of their column, once a series has used it.
    column: Option<u32>,
}

impl ColumnsBuilder {
    /// Creates an empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds samples of one series: `values[i]` was read at `times[i]`. Only the name, labels,
    /// description and type of `series` are used. Another call with the same series adds another
    /// column.
    ///
    /// # Panics
    ///
    /// If the numbers of times and values differ, or are zero.
    pub fn push(&mut self, series: SeriesColumn, source: u64, times: &[i64], values: &[f64]) {
        assert_eq!(times.len(), values.len(), "each value needs a time");
        assert!(!times.is_empty(), "a column needs a sample");
        let source = self.sources.entry(source).or_default();
        let (time_column, runs) = if let Some(runs) = runs(&source.times, times) {
            // Times of an earlier message are remembered, but this one needs a column of them, too.
            let column = source.column.unwrap_or_else(|| {
                self.bytes += push_times(&mut self.columns, &source.times);
                last_index(&self.columns)
            });
            source.column = Some(column);
            (column, runs)
        } else {
            self.bytes += push_times(&mut self.columns, times);
            let column = last_index(&self.columns);
            // Later series of the source more likely match the longer column.
            if times.len() > source.times.len() {
                source.times = times.to_vec();
                source.column = Some(column);
            }
            let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
            (column, vec![Run { first: 0, count }])
        };
        let series = SeriesColumn {
            time_column,
            runs,
            values: values.to_vec(),
            ..series
        };
        self.bytes += FIELD_HEAD + prost::Message::encoded_len(&series);
        self.columns.series.push(series);
    }

    /// Returns an upper bound of the encoded size, close to it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns true if no series was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.series.is_empty()
    }

    /// Returns the columns and starts new ones, for which the times of the sources are remembered.
    pub fn take(&mut self) -> Columns {
        for source in self.sources.values_mut() {
            // A column index is valid in one message only.
            source.column = None;
        }
        self.bytes = 0;
        std::mem::take(&mut self.columns)
    }
}

/// One series of [`Decoded`] columns.
#[derive(Clone, Copy, Debug)]
pub struct DecodedSeries<'a> {
    column: &'a SeriesColumn,
    times: &'a [i64],
}

/// [`Columns`] with valid indices and absolute times.
#[derive(Debug)]
pub struct Decoded<'a> {
    columns: &'a Columns,
    times: Vec<Vec<i64>>,
}

/// The fault of columns that a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsFault {
    /// A time overflows.
    #[error("columns are damaged: time column {column} overflows")]
    Time {
        /// The index of the time column.
        column: usize,
    },
    /// A series refers to a missing time column.
    #[error("columns are damaged: series {series} refers to a missing time column")]
    Column {
        /// The index of the series.
        series: usize,
    },
    /// The runs of a series are empty, overlap, go backwards or exceed the time column.
    #[error("columns are damaged: series {series} has a sample without a time, or two at one")]
    Runs {
        /// The index of the series.
        series: usize,
    },
    /// The numbers of values and times differ.
    #[error("columns are damaged: series {series} has unequal numbers of values and times")]
    Values {
        /// The index of the series.
        series: usize,
    },
}

impl<'a> Decoded<'a> {
    /// Checks every index and computes the times.
    ///
    /// # Errors
    ///
    /// The first fault.
    pub fn new(columns: &'a Columns) -> Result<Self, ColumnsFault> {
        let times = columns.times.iter().enumerate();
        let times = times
            .map(|(column, times)| absolute(times).ok_or(ColumnsFault::Time { column }))
            .collect::<Result<Vec<_>, _>>()?;
        for (series, column) in columns.series.iter().enumerate() {
            let length = times
                .get(column.time_column as usize)
                .ok_or(ColumnsFault::Column { series })?
                .len();
            let present =
                count_samples(&column.runs, length).ok_or(ColumnsFault::Runs { series })?;
            // `samples` pairs the two and would silently drop what is left over.
            if present != column.values.len() {
                return Err(ColumnsFault::Values { series });
            }
        }
        Ok(Self { columns, times })
    }

    /// Returns the series in encoded order. A series may occur several times, with other samples.
    pub fn series(&self) -> impl Iterator<Item = DecodedSeries<'_>> {
        self.columns.series.iter().map(|column| DecodedSeries {
            column,
            times: &self.times[column.time_column as usize],
        })
    }
}

impl<'a> DecodedSeries<'a> {
    /// Returns the column with name, labels, description and type.
    #[must_use]
    pub fn column(&self) -> &'a SeriesColumn {
        self.column
    }

    /// Returns the samples: time in Unix milliseconds, and value.
    pub fn samples(&self) -> impl Iterator<Item = (i64, f64)> + use<'a> {
        let times = self.times;
        let runs = self.column.runs.iter();
        runs.flat_map(move |run| times[range(*run)].iter().copied())
            .zip(self.column.values.iter().copied())
    }
}

/// The most bytes for the tag and length of a field with a number below 16 and less than 2 GiB.
const FIELD_HEAD: usize = 6;

fn push_times(columns: &mut Columns, times: &[i64]) -> usize {
    let mut before = 0_i64;
    let deltas = times.iter().map(|time| {
        // It wraps only for times that no clock has, and the proxy then refuses the column.
        let delta = time.wrapping_sub(before);
        before = *time;
        delta
    });
    let column = TimeColumn {
        deltas: deltas.collect(),
    };
    let bytes = FIELD_HEAD + prost::Message::encoded_len(&column);
    columns.times.push(column);
    bytes
}

fn last_index(columns: &Columns) -> u32 {
    u32::try_from(columns.times.len() - 1).expect("a message has fewer than 2^32 columns")
}

/// Returns the runs of `column` that are equal to `times`; `None` if it is not a subsequence.
fn runs(column: &[i64], times: &[i64]) -> Option<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut next = 0;
    for time in times {
        let rest = &column[next..];
        // Nearly always it is the next one, so this search is short.
        let at = next + rest.iter().position(|there| there == time)?;
        match runs.last_mut() {
            Some(run) if range(*run).end == at => run.count += 1,
            Some(_) | None => runs.push(Run {
                first: u32::try_from(at).ok()?,
                count: 1,
            }),
        }
        next = at + 1;
    }
    Some(runs)
}

fn range(run: Run) -> Range<usize> {
    run.first as usize..run.first as usize + run.count as usize
}

fn absolute(times: &TimeColumn) -> Option<Vec<i64>> {
    let mut now = 0_i64;
    let deltas = times.deltas.iter();
    deltas
        .map(|delta| {
            now = now.checked_add(*delta)?;
            Some(now)
        })
        .collect()
}

/// Returns the number of samples in runs that are in order and within a column of `length` times.
fn count_samples(runs: &[Run], length: usize) -> Option<usize> {
    let mut end = 0;
    let mut present = 0;
    for run in runs {
        let range = range(*run);
        // A peer sent these indices; nothing after this check verifies them again.
        if range.is_empty() || range.start < end || range.end > length {
            return None;
        }
        end = range.end;
        present += range.len();
    }
    Some(present)
}

#[cfg(test)]
mod tests;
