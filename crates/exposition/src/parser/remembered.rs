//! Reading a line that the last scrape had.

use super::{Parser, Phase};
use crate::{
    grammar::{self, is_blank},
    layout::LineKind,
    number,
    sink::Sink,
};

/// The number of lines from the expected one on that are compared before the index is searched. An
/// exporter that drops series usually drops few in a row.
const NEAR: usize = 4;

impl<Id: Copy> Parser<Id> {
    /// Reads lines for as long as they are the expected ones and end with their values. Returns the
    /// number of bytes read. Each line has its line feed.
    pub(super) fn expected_lines<S: Sink<Id = Id>>(&mut self, bytes: &[u8], sink: &mut S) -> usize {
        if self.phase == Phase::Ended {
            return 0;
        }
        let mut at = 0;
        let mut lines = 0;
        let mut samples = 0;
        let samples_max = self.limits.samples - self.summary.samples as usize;
        for (prefix, kind) in self.cache.expected_lines() {
            // A line that is not exactly as expected is left to `line`, which also finds faults.
            let Some(rest) = bytes[at..].strip_prefix(prefix) else {
                break;
            };
            let length = match kind {
                LineKind::Sample(id) => {
                    let Some((value, length)) = number::rest_of_line(rest) else {
                        break;
                    };
                    let length = prefix.len() + length;
                    // `line` rejects it, with the reason.
                    if samples == samples_max || length > self.limits.line_bytes {
                        break;
                    }
                    sink.sample(id, value, None);
                    samples += 1;
                    length
                }
                // These are remembered whole: with more bytes behind them it is another line.
                LineKind::Metadata(..) | LineKind::Comment if rest.first() != Some(&b'\n') => break,
                LineKind::Metadata(family, field)
                    if !self.families.repeat(family, field, &self.limits) =>
                {
                    break;
                }
                LineKind::Metadata(..) | LineKind::Comment => prefix.len(),
            };
            lines += 1;
            at += length + 1;
        }
        self.cache.matched_expected(lines);
        self.summary.samples += samples as u64;
        self.summary.remembered += samples as u64;
        self.summary.lines += lines as u64;
        at
    }

    /// Reads a sample's line if the last scrape had one that begins with the same bytes and its rest
    /// is valid. Otherwise nothing is reported.
    pub(super) fn remembered_sample<S: Sink<Id = Id>>(
        &mut self,
        line: &[u8],
        sink: &mut S,
    ) -> Remembered {
        match self.find_by_start(line) {
            Ok((entry, id, value_at)) => {
                if self.take_remembered(entry, id, line, value_at, sink) {
                    Remembered::Taken
                } else {
                    Remembered::NotFound { searched: 0 }
                }
            }
            Err(searched) => Remembered::NotFound { searched },
        }
    }

    /// Reads the rest of a sample's line whose bytes before the value were found in the last scrape.
    /// Returns false if the rest is not valid; the line is then parsed in full to find the fault.
    pub(super) fn take_remembered<S: Sink<Id = Id>>(
        &mut self,
        entry: usize,
        id: Id,
        line: &[u8],
        value_at: usize,
        sink: &mut S,
    ) -> bool {
        let (format, limits) = (self.format, &self.limits);
        let tail = grammar::tail(line, value_at, format, limits, &mut self.exemplar);
        let Ok(tail) = tail else {
            return false;
        };
        // The remembered part and numbers are UTF-8, but an exemplar may contain any bytes.
        if tail.exemplar && std::str::from_utf8(&line[value_at..]).is_err() {
            return false;
        }
        self.cache.matched(entry);
        self.summary.remembered += 1;
        self.sample(id, &tail, sink);
        true
    }

    /// Finds a remembered sample whose bytes are the start of the line. It may be the wrong one, as
    /// `m ` is for `m {a="x"} 1`; reading the rest of the line then fails.
    ///
    /// # Errors
    ///
    /// The length of the start that was searched for.
    fn find_by_start(&mut self, line: &[u8]) -> Result<(usize, Id, usize), usize> {
        if self.cache.is_empty() {
            return Err(0);
        }
        let expected = self.cache.expected();
        for entry in expected..expected + NEAR {
            if let Some((prefix, LineKind::Sample(id))) = self.cache.get(entry)
                && line.starts_with(prefix)
            {
                return Ok((entry, id, prefix.len()));
            }
        }
        // The value is the last token of nearly every line; timestamps and exemplars are rare.
        let blank = line.iter().rposition(|byte| is_blank(*byte));
        let value_at = blank.ok_or(0_usize)? + 1;
        let found = self.find_sample(&line[..value_at]).ok_or(value_at);
        found.map(|(entry, id)| (entry, id, value_at))
    }

    /// Finds the remembered sample with exactly these bytes.
    pub(super) fn find_sample(&mut self, prefix: &[u8]) -> Option<(usize, Id)> {
        let entry = self.cache.find(prefix)?;
        match self.cache.get(entry)?.1 {
            LineKind::Sample(id) => Some((entry, id)),
            LineKind::Metadata(..) | LineKind::Comment => None,
        }
    }
}

/// The result of searching for a line among those of the last scrape.
#[derive(Clone, Copy, Debug)]
pub(super) enum Remembered {
    /// The line was found and read.
    Taken,
    /// The line was not found.
    NotFound {
        /// The length of the start of the line that was searched for.
        searched: usize,
    },
}
