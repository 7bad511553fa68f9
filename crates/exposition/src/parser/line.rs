//! Reading a line in full.

use super::{Parser, Phase};
use crate::{
    excerpt,
    families::Statement,
    fault::Reason,
    format::Format,
    grammar::{self, Fault, Head, Parsed, RawLabel, Span, Tail, skip_blanks, unescape},
    layout::What,
    metadata::{self, Comment, Says},
    sink::{LabelSpan, Labels, SeriesRef, Sink},
};

/// The name under which Prometheus keeps the metric's name among the labels.
const NAME_LABEL: &str = "__name__";

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
        let head = grammar::head(line, &self.limits, &mut self.labels)?;
        let prefix = &line[..head.value_at];
        if let Some((entry, id)) = self.find_sample(prefix)
            && self.take_remembered(entry, id, line, head.value_at, sink)
        {
            return Ok(());
        }
        self.resolve(text, &head)?;
        let tail = grammar::tail(
            line,
            head.value_at,
            self.format,
            &self.limits,
            &mut self.labels,
        )?;
        let name_end = self.name_end;
        let name = &self.text[..name_end];
        let series = SeriesRef {
            name,
            labels: Labels::new(&self.text, &self.spans),
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

    /// Resolves name and labels into `text`, and sorts the labels.
    fn resolve(&mut self, line: &str, head: &Head) -> Parsed<()> {
        self.text.clear();
        self.spans.clear();
        append(line, head.name, &mut self.text);
        if self.text.is_empty() {
            return Err(Fault {
                at: head.name.start,
                reason: Reason::InvalidName,
            });
        }
        self.name_end = self.text.len();
        for label in &self.labels {
            let start = self.text.len();
            append(line, label.name, &mut self.text);
            let name_end = self.text.len();
            append(line, label.value, &mut self.text);
            self.spans.push(LabelSpan {
                start,
                name_end,
                end: self.text.len(),
            });
        }
        let text = self.text.as_bytes();
        let name = |span: &LabelSpan| &text[span.start..span.name_end];
        self.spans.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        let twice = self.spans.windows(2).find_map(|pair| {
            // Equal names are beside each other in either order; the later one is at fault.
            (name(&pair[0]) == name(&pair[1])).then_some(pair[0].start.max(pair[1].start))
        });
        let reserved = self
            .spans
            .iter()
            .find(|span| name(span) == NAME_LABEL.as_bytes());
        if let Some(start) = twice.or(reserved.map(|span| span.start)) {
            return Err(Fault {
                at: self.written_at(start),
                reason: Reason::DuplicateLabel,
            });
        }
        self.spans.retain(|span| span.end > span.name_end);
        Ok(())
    }

    /// Where the label stands on the line that begins at this byte of the resolved text.
    fn written_at(&self, start: usize) -> usize {
        let mut spans: Vec<usize> = self.spans.iter().map(|span| span.start).collect();
        spans.sort_unstable();
        let place = spans.iter().position(|other| *other == start);
        place
            .and_then(|place| self.labels.get(place))
            .map_or(0, |label: &RawLabel| label.name.start)
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
