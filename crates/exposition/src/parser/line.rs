//! Parsing a line in full.

use super::{Lines, Parser, Phase};
use crate::{
    excerpt,
    families::Statement,
    fault::Reason,
    format::Format,
    grammar::{self, Fault, Parsed, Tail, fault, skip_blanks, unescape},
    layout::{Hash, LineKind},
    metadata::{self, Comment, FieldSpan},
    number,
    parser::remembered::Remembered,
    sink::{SeriesRef, Sink},
    span::Span,
};

impl<Id: Copy> Parser<Id> {
    /// Parses the line that was taken last, without its line feed.
    pub(super) fn line<S: Sink<Id = Id>>(
        &mut self,
        line: &[u8],
        lines: &mut Lines<'_>,
        sink: &mut S,
    ) {
        if line.len() > self.limits.line_bytes {
            self.line_too_long(line, sink);
            return;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Err(fault) = self.read(line, lines, sink) {
            let near = fault.at.min(line.len());
            // The line may be long, and an excerpt needs no more of it than this.
            let from = near.saturating_sub(excerpt::KEPT);
            self.reject(&line[from..], near - from, fault, sink);
        }
    }

    fn read<S: Sink<Id = Id>>(
        &mut self,
        line: &[u8],
        lines: &mut Lines<'_>,
        sink: &mut S,
    ) -> Parsed<()> {
        if self.phase == Phase::Ended {
            return fault(0, Reason::AfterEof);
        }
        let at = skip_blanks(line, 0);
        match line.get(at) {
            None if self.format == Format::OpenMetrics => fault(at, Reason::NotInThisFormat),
            None => Ok(()),
            Some(b'#') => self.comment(lines.text(line.len())?, at, sink),
            Some(_) => self.sample_line(line, lines, sink),
        }
    }

    fn sample_line<S: Sink<Id = Id>>(
        &mut self,
        line: &[u8],
        lines: &mut Lines<'_>,
        sink: &mut S,
    ) -> Parsed<()> {
        if self.summary.samples >= self.limits.samples as u64 {
            return fault(0, Reason::TooManySamples);
        }
        // Searching by the start of the line needs no parsing, so it comes first.
        let (searched, mut hash) = match self.remembered_sample(line, sink) {
            Remembered::Taken => return Ok(()),
            Remembered::NotFound { searched, hash } => (searched, hash),
        };
        let text = lines.text(line.len())?;
        let value_at = self.series.read(line, &self.limits)?;
        // The search guessed another start of the value, for example because of a timestamp.
        if searched != value_at && !self.cache.is_empty() {
            match self.find_sample(&line[..value_at]) {
                Ok((entry, id)) => {
                    if self.take_remembered(entry, id, line, value_at, sink) {
                        return Ok(());
                    }
                    hash = Hash::default();
                }
                Err(found) => hash = found,
            }
        }
        // Only a new series needs its labels sorted and unescaped.
        self.series.resolve(text)?;
        let (format, limits) = (self.format, &self.limits);
        let tail = grammar::tail(line, value_at, format, limits, &mut self.exemplar)?;
        self.new_sample(text, value_at, hash, &tail, sink);
        Ok(())
    }

    /// Parses lines for as long as they have a known shape and end with their values. Any other line
    /// is left to [`line`](Self::line). Nothing may be remembered yet, since this does not search.
    pub(super) fn shaped_lines<S: Sink<Id = Id>>(&mut self, lines: &mut Lines<'_>, sink: &mut S) {
        while self.phase != Phase::Ended && self.summary.samples < self.limits.samples as u64 {
            let bytes = lines.rest();
            if bytes.first() == Some(&b'#') {
                return;
            }
            let Some(value_at) = self.series.read_shaped(bytes, &self.limits) else {
                return;
            };
            let Some((value, length)) = number::plain(&bytes[value_at..]) else {
                return;
            };
            let end = value_at + length;
            if bytes.get(end) != Some(&b'\n') || end > self.limits.line_bytes {
                return;
            }
            let Some(text) = lines.next_text(value_at) else {
                return;
            };
            if self.series.resolve(text).is_err() {
                return;
            }
            lines.take_len(end);
            self.summary.lines += 1;
            self.new_sample(text, value_at, Hash::default(), &Tail::plain(value), sink);
        }
    }

    /// Passes a sample to the sink. Its series was parsed and resolved.
    #[inline]
    fn new_sample<S: Sink<Id = Id>>(
        &mut self,
        text: &str,
        value_at: usize,
        hash: Hash,
        tail: &Tail,
        sink: &mut S,
    ) {
        let name = self.series.name(text);
        let mut lookup = self.series.family();
        let series = SeriesRef {
            name,
            labels: self.series.labels(text),
            family: self.families.of_sample(name, &mut lookup),
        };
        match sink.series(&series) {
            Ok(id) => {
                let prefix = &text.as_bytes()[..value_at];
                self.cache.add(prefix, hash, LineKind::Sample(id));
                self.sample(id, tail, sink);
            }
            // Not remembered, because the sink may accept the series in a later scrape.
            Err(refused) => self.summary.refused.count(refused),
        }
        // For the next line of this shape, which has the same name.
        self.series.set_family(lookup);
    }

    #[inline]
    pub(super) fn sample<S: Sink<Id = Id>>(&mut self, id: Id, tail: &Tail, sink: &mut S) {
        self.summary.samples += 1;
        self.summary.timestamps += u64::from(tail.timestamp_ms.is_some());
        self.summary.exemplars += u64::from(tail.exemplar);
        sink.sample(id, tail.value, tail.timestamp_ms);
    }

    fn comment<S: Sink<Id = Id>>(&mut self, line: &str, at: usize, sink: &mut S) -> Parsed<()> {
        match metadata::comment(line.as_bytes(), at, self.format, &self.limits)? {
            Comment::Plain => {
                self.remember(line, LineKind::Comment);
                Ok(())
            }
            Comment::Eof => {
                self.phase = Phase::Ended;
                Ok(())
            }
            Comment::Metadata { family, field } => {
                let kind = self.metadata(line, family, field, sink)?;
                self.remember(line, kind);
                Ok(())
            }
        }
    }

    fn metadata<S: Sink<Id = Id>>(
        &mut self,
        line: &str,
        family: Span,
        field: FieldSpan,
        sink: &mut S,
    ) -> Parsed<LineKind<Id>> {
        let escaped = matches!(field, FieldSpan::Help(help) if help.escaped);
        if escaped || family.escaped {
            grammar::clear_and_reserve(&mut self.unescaped, line.len());
        } else {
            self.unescaped.clear();
        }
        let name = if family.escaped {
            unescape(&line[family.start..family.end], true, &mut self.unescaped);
            None
        } else {
            Some(&line[family.start..family.end])
        };
        let name_end = self.unescaped.len();
        let statement = match field {
            FieldSpan::Help(span) if span.escaped => {
                // Help texts of the Prometheus format escape backslashes and line feeds only.
                let quotes = self.format == Format::OpenMetrics;
                unescape(&line[span.start..span.end], quotes, &mut self.unescaped);
                Statement::Help(&self.unescaped[name_end..])
            }
            FieldSpan::Help(span) => Statement::Help(&line[span.start..span.end]),
            FieldSpan::Kind(kind) => Statement::Kind(kind),
            FieldSpan::Unit(span) => Statement::Unit(&line[span.start..span.end]),
        };
        let name = name.unwrap_or(&self.unescaped[..name_end]);
        // OpenMetrics requires that the unit is the last word of the name.
        if let Statement::Unit(unit) = statement
            && !unit.is_empty()
            && !name
                .strip_suffix(unit)
                .is_some_and(|base| base.ends_with('_'))
        {
            return fault(family.start, Reason::InvalidMetadata);
        }
        let (id, changed) =
            self.families
                .state(name, statement, &self.limits)
                .map_err(|reason| Fault {
                    at: family.start,
                    reason,
                })?;
        if changed {
            sink.family(&self.families.describe(id));
        }
        Ok(LineKind::Metadata(id, statement.field()))
    }

    /// Remembers a line that is not a sample, by all its bytes.
    fn remember(&mut self, line: &str, kind: LineKind<Id>) {
        let expected = self.cache.expected();
        let next = self.cache.get(expected);
        // Most lines are where they were, and need no hash.
        let found = if next.is_some_and(|(bytes, _)| bytes == line.as_bytes()) {
            Ok(expected)
        } else {
            self.cache.find(line.as_bytes())
        };
        match found {
            Ok(number) => self.cache.matched(number),
            Err(hash) => self.cache.add(line.as_bytes(), hash, kind),
        }
    }
}
