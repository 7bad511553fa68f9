//! Reading a line in full.

use super::{Parser, Phase};
use crate::{
    excerpt,
    families::Statement,
    fault::Reason,
    format::Format,
    grammar::{self, Fault, Parsed, Span, Tail, skip_blanks, unescape},
    layout::What,
    metadata::{self, Comment, Says},
    sink::{SeriesRef, Sink},
};

impl<Id: Copy> Parser<Id> {
    /// Reads one line, without its line feed.
    pub(super) fn line<S: Sink<Id = Id>>(&mut self, line: &[u8], sink: &mut S) {
        if line.len() > self.limits.line_bytes {
            self.line_too_long(line, sink);
            return;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Err(fault) = self.read(line, sink) {
            let near = fault.at.min(line.len());
            // An excerpt needs no more of the line than this.
            let from = near.saturating_sub(excerpt::KEPT);
            self.reject(&line[from..], near - from, fault, sink);
        }
    }

    fn read<S: Sink<Id = Id>>(&mut self, line: &[u8], sink: &mut S) -> Parsed<()> {
        if self.phase == Phase::Ended {
            return Err(Fault {
                at: 0,
                reason: Reason::AfterEof,
            });
        }
        let at = skip_blanks(line, 0);
        match line.get(at) {
            None if self.format == Format::OpenMetrics => Err(Fault {
                at,
                reason: Reason::NotInThisFormat,
            }),
            None => Ok(()),
            Some(b'#') => self.comment(line, at, sink),
            Some(_) => self.sample_line(line, sink),
        }
    }

    fn sample_line<S: Sink<Id = Id>>(&mut self, line: &[u8], sink: &mut S) -> Parsed<()> {
        if self.summary.samples >= self.limits.samples as u64 {
            return Err(Fault {
                at: 0,
                reason: Reason::TooManySamples,
            });
        }
        if self.remembered_sample(line, sink) {
            return Ok(());
        }
        let text = text(line)?;
        let value_at = self.series.read(line, &self.limits)?;
        let prefix = &line[..value_at];
        if let Some((entry, id)) = self.find_sample(prefix)
            && self.take_remembered(entry, id, line, value_at, sink)
        {
            return Ok(());
        }
        self.series.resolve(text)?;
        let (format, limits) = (self.format, &self.limits);
        let tail = grammar::tail(line, value_at, format, limits, &mut self.exemplar)?;
        let name = self.series.name(text);
        let series = SeriesRef {
            name,
            labels: self.series.labels(text),
            family: self.families.of_sample(name),
        };
        match sink.series(&series) {
            Ok(id) => {
                self.remember_new(prefix, What::Sample(id));
                self.sample(id, &tail, sink);
            }
            Err(refused) => self.summary.refused.count(refused),
        }
        Ok(())
    }

    pub(super) fn sample<S: Sink<Id = Id>>(&mut self, id: Id, tail: &Tail, sink: &mut S) {
        self.summary.samples += 1;
        self.summary.timestamps += u64::from(tail.timestamp_ms.is_some());
        self.summary.exemplars += u64::from(tail.exemplar);
        sink.sample(id, tail.value, tail.timestamp_ms);
    }

    fn comment<S: Sink<Id = Id>>(&mut self, line: &[u8], at: usize, sink: &mut S) -> Parsed<()> {
        let text = text(line)?;
        match metadata::comment(line, at, self.format, &self.limits)? {
            Comment::Plain => {
                self.remember(line, What::Comment);
                Ok(())
            }
            Comment::Eof => {
                self.phase = Phase::Ended;
                Ok(())
            }
            Comment::Metadata { family, says } => {
                let what = self.metadata(text, family, says, sink)?;
                self.remember(line, what);
                Ok(())
            }
        }
    }

    fn metadata<S: Sink<Id = Id>>(
        &mut self,
        line: &str,
        family: Span,
        says: Says,
        sink: &mut S,
    ) -> Parsed<What<Id>> {
        self.text.clear();
        append(line, family, &mut self.text);
        let name_end = self.text.len();
        let statement = match says {
            Says::Help(span) => {
                let quotes = self.format == Format::OpenMetrics;
                unescape(&line[span.start..span.end], quotes, &mut self.text);
                Statement::Help(&self.text[name_end..])
            }
            Says::Kind(kind) => Statement::Kind(kind),
            Says::Unit(span) => Statement::Unit(&line[span.start..span.end]),
        };
        let name = &self.text[..name_end];
        if let Statement::Unit(unit) = statement
            && !unit.is_empty()
            && name
                .strip_suffix(unit)
                .and_then(|base| base.strip_suffix('_'))
                .is_none()
        {
            return Err(Fault {
                at: family.start,
                reason: Reason::InvalidMetadata,
            });
        }
        let (id, news) = self
            .families
            .state(name, statement, &self.limits)
            .map_err(|reason| Fault {
                at: family.start,
                reason,
            })?;
        if news {
            sink.family(&self.families.describe(id));
        }
        Ok(What::Metadata(id, statement.field()))
    }

    /// Remembers a line that is no sample, by all its bytes.
    fn remember(&mut self, line: &[u8], what: What<Id>) {
        let near = self
            .last
            .entry(self.expected)
            .is_some_and(|(bytes, _)| bytes == line);
        let known = if near {
            Some(self.expected)
        } else if self.last.len() > 0 {
            self.last.find(line)
        } else {
            None
        };
        match known {
            Some(entry) => self.remember_again(entry),
            None => self.remember_new(line, what),
        }
    }
}

/// The line as text; the lines that both formats know are UTF-8.
fn text(line: &[u8]) -> Parsed<&str> {
    std::str::from_utf8(line).map_err(|wrong| Fault {
        at: wrong.valid_up_to(),
        reason: Reason::InvalidUtf8,
    })
}

fn append(line: &str, span: Span, to: &mut String) {
    let piece = &line[span.start..span.end];
    if span.escaped {
        unescape(piece, true, to);
    } else {
        to.push_str(piece);
    }
}
