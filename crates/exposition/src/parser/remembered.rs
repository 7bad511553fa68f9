//! Reading a line by remembering it.

use super::{Parser, Phase};
use crate::{
    grammar::{self, is_blank},
    layout::What,
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
        let mut samples = 0;
        let samples_max = self.limits.samples - self.summary.samples as usize;
        let remembered_max = self.remembered_max();
        let hexadecimal = grammar::hexadecimal(self.format);
        let first = self.expected;
        let mut start = self.last.start(first);
        for entry in &self.last.entries()[first..] {
            let prefix = &self.last.text()[start..entry.end as usize];
            let Some(rest) = bytes[at..].strip_prefix(prefix) else {
                break;
            };
            let length = match entry.what {
                What::Sample(id) => {
                    let Some((value, length)) = number::rest_of_line(rest, hexadecimal) else {
                        break;
                    };
                    if samples == samples_max || prefix.len() + length > self.limits.line_bytes {
                        break;
                    }
                    sink.sample(id, value, None);
                    samples += 1;
                    prefix.len() + length
                }
                What::Metadata(family, field) => {
                    if rest.first() != Some(&b'\n')
                        || !self.families.said_again(family, field, &self.limits)
                    {
                        break;
                    }
                    prefix.len()
                }
                What::Comment => {
                    if rest.first() != Some(&b'\n') {
                        break;
                    }
                    prefix.len()
                }
            };
            if self.differs && self.next.has_room(self.next.len(), prefix, remembered_max) {
                self.next.push(prefix, entry.what);
            }
            start = entry.end as usize;
            self.expected += 1;
            at += length + 1;
        }
        self.summary.samples += samples as u64;
        self.summary.remembered += samples as u64;
        self.summary.lines += (self.expected - first) as u64;
        at
    }

    /// Reads a sample's line, if the last scrape had one that begins with the same bytes and the
    /// rest of it is in order. If not, nothing has happened.
    pub(super) fn remembered_sample<S: Sink<Id = Id>>(
        &mut self,
        line: &[u8],
        sink: &mut S,
    ) -> bool {
        let Some((entry, id, value_at)) = self.find_by_beginning(line) else {
            return false;
        };
        self.take_remembered(entry, id, line, value_at, sink)
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
        self.remember_again(entry);
        self.summary.remembered += 1;
        self.sample(id, &tail, sink);
        true
    }

    /// A sample's entry whose bytes the line begins with. If no value follows them, what is found
    /// is not the line's own; that shows when its rest is read.
    fn find_by_beginning(&mut self, line: &[u8]) -> Option<(usize, Id, usize)> {
        for entry in self.expected..self.last.len().min(self.expected + NEAR) {
            if let Some((prefix, What::Sample(id))) = self.last.entry(entry)
                && line.starts_with(prefix)
            {
                return Some((entry, id, prefix.len()));
            }
        }
        if self.last.len() == 0 {
            return None;
        }
        // The value is the last token of nearly every line.
        let value_at = line.iter().rposition(|byte| is_blank(*byte))? + 1;
        let (entry, id) = self.find_sample(&line[..value_at])?;
        Some((entry, id, value_at))
    }

    /// The sample's entry of exactly these bytes.
    pub(super) fn find_sample(&mut self, prefix: &[u8]) -> Option<(usize, Id)> {
        if self.last.len() == 0 {
            return None;
        }
        let entry = self.last.find(prefix)?;
        match self.last.entry(entry) {
            Some((_, What::Sample(id))) => Some((entry, id)),
            Some((_, What::Metadata(..) | What::Comment)) | None => None,
        }
    }

    /// Notes that a line of the last scrape came again.
    pub(super) fn remember_again(&mut self, entry: usize) {
        if !self.differs && entry != self.expected {
            self.part();
        }
        self.expected = entry + 1;
        if self.differs
            && let Some((bytes, what)) = self.last.entry(entry)
            && self
                .next
                .has_room(self.next.len(), bytes, self.remembered_max())
        {
            self.next.push(bytes, what);
        }
    }

    /// Remembers a line that the last scrape did not have, if there is room.
    pub(super) fn remember_new(&mut self, bytes: &[u8], what: What<Id>) {
        let (layout, entries) = if self.differs {
            (&self.next, self.next.len())
        } else {
            (&self.last, self.expected)
        };
        if !layout.has_room(entries, bytes, self.remembered_max()) {
            return;
        }
        if !self.differs {
            self.part();
        }
        self.next.push(bytes, what);
    }

    /// From here on the scrape is written down as a layout of its own.
    fn part(&mut self) {
        self.differs = true;
        self.next.copy_of(&self.last, self.expected);
    }

    /// Places in a layout are 32 bits wide.
    fn remembered_max(&self) -> usize {
        self.limits.remembered_bytes.min(u32::MAX as usize)
    }
}
