//! Parsing a line in full.

use std::borrow::Cow;

use super::{Lines, Parser, Phase};
use crate::{
    excerpt,
    families::Statement,
    fault::Reason,
    format::Format,
    grammar::{self, Fault, Parsed, Tail, fault, skip_blanks, unescape},
    layout::LineKind,
    metadata::{self, Comment},
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
        let searched = match self.remembered_sample(line, sink) {
            Remembered::Taken => return Ok(()),
            Remembered::NotFound { searched } => searched,
        };
        let text = lines.text(line.len())?;
        let value_at = self.series.read(line, &self.limits)?;
        // The search guessed another start of the value, for example because of a timestamp.
        if searched != value_at
            && let Some((entry, id)) = self.find_sample(&line[..value_at])
            && self.take_remembered(entry, id, line, value_at, sink)
        {
            return Ok(());
        }
        // Only a new series needs its labels sorted and unescaped.
        self.series.resolve(text)?;
        let (format, limits) = (self.format, &self.limits);
        let tail = grammar::tail(line, value_at, format, limits, &mut self.exemplar)?;
        self.new_sample(text, value_at, &tail, sink);
        Ok(())
    }

    /// Passes a sample to the sink. Its series was parsed and resolved.
    #[inline]
    fn new_sample<S: Sink<Id = Id>>(
        &mut self,
        text: &str,
        value_at: usize,
        tail: &Tail,
        sink: &mut S,
    ) {
        let name = self.series.name(text);
        let series = SeriesRef {
            name,
            labels: self.series.labels(text),
            family: self.families.of_sample(name),
        };
        match sink.series(&series) {
            Ok(id) => {
                let prefix = &text.as_bytes()[..value_at];
                self.cache.add(prefix, LineKind::Sample(id));
                self.sample(id, tail, sink);
            }
            // Not remembered, because the sink may accept the series in a later scrape.
            Err(refused) => self.summary.refused.count(refused),
        }
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
            Comment::Metadata(family, statement) => {
                let kind = self.metadata(line, family, statement, sink)?;
                self.remember(line, kind);
                Ok(())
            }
        }
    }

    fn metadata<S: Sink<Id = Id>>(
        &mut self,
        line: &str,
        family: Span,
        statement: Statement<Span>,
        sink: &mut S,
    ) -> Parsed<LineKind<Id>> {
        let name = resolved(line, family, true);
        let help;
        let statement = match statement {
            Statement::Help(span) => {
                // Help texts of the Prometheus format escape backslashes and line feeds only.
                help = resolved(line, span, self.format == Format::OpenMetrics);
                Statement::Help(&*help)
            }
            Statement::Kind(kind) => Statement::Kind(kind),
            Statement::Unit(span) => Statement::Unit(&line[span.start..span.end]),
        };
        // OpenMetrics requires that the unit is the last word of the name.
        if let Statement::Unit(unit) = statement
            && !unit.is_empty()
            && !name
                .strip_suffix(unit)
                .is_some_and(|base| base.ends_with('_'))
        {
            return fault(family.start, Reason::InvalidMetadata);
        }
        let (id, changed) = self
            .families
            .state(&name, statement, &self.limits)
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
        // Most lines are where they were, and need no search.
        let found = if next.is_some_and(|(bytes, _)| bytes == line.as_bytes()) {
            Some(expected)
        } else {
            self.cache.find(line.as_bytes())
        };
        match found {
            Some(number) => self.cache.matched(number),
            None => self.cache.add(line.as_bytes(), kind),
        }
    }
}

/// Returns the text of a range with its escapes resolved. Few texts have any.
fn resolved(line: &str, span: Span, quotes: bool) -> Cow<'_, str> {
    let text = &line[span.start..span.end];
    if !span.escaped {
        return text.into();
    }
    let mut resolved = String::with_capacity(text.len());
    unescape(text, quotes, &mut resolved);
    resolved.into()
}
