//! Reading a line by remembering it.

use super::{Parser, Phase};
use crate::{
    grammar::{self, is_blank},
    layout::{Hash, LineKind},
    number,
    sink::Sink,
};

/// How many entries behind the expected one are compared before the index is asked: an exporter
/// that drops series drops few in a row.
const NEAR: usize = 4;

impl<Id: Copy> Parser<Id> {
    /// Reads lines for as long as they are the expected ones and end with their values.
    /// Returns how many bytes that were. Each line has its line feed.
    pub(super) fn expected_lines<S: Sink<Id = Id>>(&mut self, bytes: &[u8], sink: &mut S) -> usize {
        if self.phase == Phase::Ended {
            return 0;
        }
        let mut at = 0;
        let mut came = 0;
        let mut samples = 0;
        let samples_max = self.limits.samples - self.summary.samples as usize;
        let hexadecimal = grammar::hexadecimal(self.format);
        for (prefix, kind) in self.cache.expected_lines() {
            let Some(rest) = bytes[at..].strip_prefix(prefix) else {
                break;
            };
            let length = match kind {
                LineKind::Sample(id) => {
                    let Some((value, length)) = number::rest_of_line(rest, hexadecimal) else {
                        break;
                    };
                    let length = prefix.len() + length;
                    if samples == samples_max || length > self.limits.line_bytes {
                        break;
                    }
                    sink.sample(id, value, None);
                    samples += 1;
                    length
                }
                LineKind::Metadata(family, field) => {
                    if rest.first() != Some(&b'\n')
                        || !self.families.said_again(family, field, &self.limits)
                    {
                        break;
                    }
                    prefix.len()
                }
                LineKind::Comment => {
                    if rest.first() != Some(&b'\n') {
                        break;
                    }
                    prefix.len()
                }
            };
            came += 1;
            at += length + 1;
        }
        self.cache.matched_expected(came);
        self.summary.samples += samples as u64;
        self.summary.remembered += samples as u64;
        self.summary.lines += came as u64;
        at
    }

    /// Reads a sample's line, if the last scrape had one that begins with the same bytes and the
    /// rest of it is in order. If not, nothing has happened.
    pub(super) fn remembered_sample<S: Sink<Id = Id>>(
        &mut self,
        line: &[u8],
        sink: &mut S,
    ) -> Remembered {
        let (entry, id, value_at) = match self.find_by_beginning(line) {
            Ok(found) => found,
            Err(not_found) => return not_found,
        };
        if self.take_remembered(entry, id, line, value_at, sink) {
            return Remembered::Taken;
        }
        Remembered::NotFound {
            searched: 0,
            hash: Hash::default(),
        }
    }

    /// Reads a sample's line of which the bytes before the value were found in the last scrape.
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
        // What was found is UTF-8 and numbers are; an exemplar may be anything.
        if tail.exemplar && std::str::from_utf8(&line[value_at..]).is_err() {
            return false;
        }
        self.cache.matched(entry);
        self.summary.remembered += 1;
        self.sample(id, &tail, sink);
        true
    }

    /// A sample's entry whose bytes the line begins with. If no value follows them, what is found
    /// is not the line's own; that shows when its rest is read.
    fn find_by_beginning(&mut self, line: &[u8]) -> Result<(usize, Id, usize), Remembered> {
        let mut not_found = Remembered::NotFound {
            searched: 0,
            hash: Hash::default(),
        };
        if self.cache.is_empty() {
            return Err(not_found);
        }
        let expected = self.cache.expected();
        for entry in expected..expected + NEAR {
            if let Some((prefix, LineKind::Sample(id))) = self.cache.get(entry)
                && line.starts_with(prefix)
            {
                return Ok((entry, id, prefix.len()));
            }
        }
        // The value is the last token of nearly every line.
        let blank = line.iter().rposition(|byte| is_blank(*byte));
        let value_at = blank.ok_or(not_found)? + 1;
        match self.find_sample(&line[..value_at]) {
            Ok((entry, id)) => Ok((entry, id, value_at)),
            Err(hash) => {
                not_found = Remembered::NotFound {
                    searched: value_at,
                    hash,
                };
                Err(not_found)
            }
        }
    }

    /// The sample's entry of exactly these bytes, or their hash.
    pub(super) fn find_sample(&mut self, prefix: &[u8]) -> Result<(usize, Id), Hash> {
        let entry = self.cache.find(prefix)?;
        match self.cache.get(entry) {
            Some((_, LineKind::Sample(id))) => Ok((entry, id)),
            Some((_, LineKind::Metadata(..) | LineKind::Comment)) | None => Err(Hash::default()),
        }
    }
}

/// What came of looking for a line among those of the last scrape.
#[derive(Clone, Copy, Debug)]
pub(super) enum Remembered {
    /// It was there, and was read.
    Taken,
    /// It was not, as far as this was looked for.
    NotFound {
        /// How many of its bytes were looked for as the line's beginning.
        searched: usize,
        /// Their hash, if it is known.
        hash: Hash,
    },
}
