//! Many samples of many series with each time written once: made, and read with every index checked.
//!
//! Both sides of our own metrics stream share this. Nothing here knows a stream, a clock or a record.

use std::{collections::BTreeMap, ops::Range};

use steadfast_wire::fodc::{Columns, Run, SeriesColumn, TimeColumn};

/// Makes [`Columns`] of series that come one after another.
///
/// The times of a source are written once; each of its series names where in them it is present. What
/// does not fit them in their order gets a column of its own, which serves the series after it if it
/// is the longer one; no pair of time and value is ever changed or lost.
#[derive(Debug, Default)]
pub struct ColumnsBuilder {
    sources: BTreeMap<u64, Source>,
    columns: Columns,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Source {
    times: Vec<i64>,
    /// Where it was written, once something has used it.
    written: Option<u32>,
}

impl ColumnsBuilder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds samples of one series: `values[i]` was read at `times[i]`. Of `series` only its name,
    /// labels, description and type are used. More samples of the same series may follow in another
    /// call, which makes another column of it.
    ///
    /// # Panics
    ///
    /// If there are not as many times as values, or none.
    pub fn push(&mut self, series: SeriesColumn, source: u64, times: &[i64], values: &[f64]) {
        assert_eq!(times.len(), values.len(), "each value has its time");
        assert!(!times.is_empty(), "a series without samples is not told");
        let source = self.sources.entry(source).or_default();
        let (time_column, runs) = if let Some(runs) = runs(&source.times, times) {
            let column = source.written.unwrap_or_else(|| {
                self.bytes += write(&mut self.columns, &source.times);
                last_index(&self.columns)
            });
            source.written = Some(column);
            (column, runs)
        } else {
            self.bytes += write(&mut self.columns, times);
            let column = last_index(&self.columns);
            if times.len() > source.times.len() {
                source.times = times.to_vec();
                source.written = Some(column);
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
        self.bytes += FIELD + prost::Message::encoded_len(&series);
        self.columns.series.push(series);
    }

    /// No fewer bytes than the columns take on the wire, and few more.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no series was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.series.is_empty()
    }

    /// What was made so far. The times of the sources are remembered for what comes next.
    pub fn take(&mut self) -> Columns {
        for source in self.sources.values_mut() {
            source.written = None;
        }
        self.bytes = 0;
        std::mem::take(&mut self.columns)
    }
}

/// One series of [`Columns`] whose indices are all right.
#[derive(Clone, Copy, Debug)]
pub struct DecodedSeries<'a> {
    column: &'a SeriesColumn,
    times: &'a [i64],
}

/// Columns that were checked, with their times written out.
#[derive(Debug)]
pub struct Decoded<'a> {
    columns: &'a Columns,
    times: Vec<Vec<i64>>,
}

/// What is wrong with columns that a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsFault {
    /// A time is beyond what can be counted.
    #[error("time column {column} leaves the range of times")]
    Time {
        /// Which one.
        column: usize,
    },
    /// A series names a time column that is not there.
    #[error("series {series} has its times in a column that does not exist")]
    Column {
        /// Which one.
        series: usize,
    },
    /// Runs that are empty, overlap, go backwards or leave their column.
    #[error("series {series} is present where its time column is not, or twice")]
    Runs {
        /// Which one.
        series: usize,
    },
    /// More or fewer values than times.
    #[error("series {series} has not as many values as times")]
    Values {
        /// Which one.
        series: usize,
    },
}

impl<'a> Decoded<'a> {
    /// Checks every index, so that what is read later can not be wrong.
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
            let present = check(&column.runs, length).ok_or(ColumnsFault::Runs { series })?;
            if present != column.values.len() {
                return Err(ColumnsFault::Values { series });
            }
        }
        Ok(Self { columns, times })
    }

    /// Every series, in the order in which they were written. One series may come several times,
    /// with other samples.
    pub fn series(&self) -> impl Iterator<Item = DecodedSeries<'_>> {
        self.columns.series.iter().map(|column| DecodedSeries {
            column,
            times: &self.times[column.time_column as usize],
        })
    }
}

impl<'a> DecodedSeries<'a> {
    /// Name, labels, description and type.
    #[must_use]
    pub fn column(&self) -> &'a SeriesColumn {
        self.column
    }

    /// Time in Unix milliseconds, and value.
    pub fn samples(&self) -> impl Iterator<Item = (i64, f64)> + 'a {
        let times = self.times;
        let runs = self.column.runs.iter();
        runs.flat_map(move |run| times[range(*run)].iter().copied())
            .zip(self.column.values.iter().copied())
    }
}

/// Tag and length of a field whose number is below 16 and whose length is below 2 GiB.
const FIELD: usize = 6;

fn write(columns: &mut Columns, times: &[i64]) -> usize {
    let mut before = 0_i64;
    let deltas = times.iter().map(|time| {
        let delta = time.wrapping_sub(before);
        before = *time;
        delta
    });
    let column = TimeColumn {
        deltas: deltas.collect(),
    };
    let bytes = FIELD + prost::Message::encoded_len(&column);
    columns.times.push(column);
    bytes
}

fn last_index(columns: &Columns) -> u32 {
    u32::try_from(columns.times.len() - 1).expect("a message has fewer than 2^32 columns")
}

/// Where in `column` the `times` are, in that order; `None` if they are not.
fn runs(column: &[i64], times: &[i64]) -> Option<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut next = 0;
    for time in times {
        let rest = &column[next..];
        // Nearly always it is the very next one.
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

/// How many samples the runs stand for, if they are in order and within a column of that length.
fn check(runs: &[Run], length: usize) -> Option<usize> {
    let mut end = 0;
    let mut present = 0;
    for run in runs {
        let range = range(*run);
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
