//! Parsing the pages of one endpoint.

mod line;
mod lines;
mod partial_line;
mod remembered;

use memchr::{memchr, memrchr};

use self::{lines::Lines, partial_line::PartialLine};
use crate::{
    excerpt,
    families::Families,
    fault::{LineFault, Reason},
    format::Format,
    grammar::Fault,
    limits::Limits,
    line_cache::LineCache,
    series::Series,
    sink::Sink,
    span::LabelSpan,
    summary::Summary,
};

/// Parses the pages of one endpoint, one scrape after the other.
///
/// ```text
/// begin ── push ── push ── … ── finish     the lines of this scrape are remembered
///                           └── abandon    the lines of the last finished scrape are remembered
/// ```
///
/// A page that differs from the one before only in its values is parsed without any allocation.
///
/// The crate's front page has an example.
#[derive(Debug)]
pub struct Parser<Id: Copy> {
    limits: Limits,
    format: Format,
    phase: Phase,
    summary: Summary,

    partial: PartialLine,

    cache: LineCache<Id>,
    families: Families,

    series: Series,
    /// The labels of an exemplar.
    exemplar: Vec<LabelSpan>,
    excerpt: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No scrape has begun.
    Idle,
    Reading,
    /// `# EOF` was read.
    Ended,
}

impl<Id: Copy> Parser<Id> {
    /// Creates a parser that remembers nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            format: Format::default(),
            phase: Phase::Idle,
            summary: Summary::default(),
            partial: PartialLine::default(),
            cache: LineCache::new(limits.remembered_bytes),
            families: Families::default(),
            series: Series::default(),
            exemplar: Vec::new(),
            excerpt: String::new(),
        }
    }

    /// Begins a scrape, and abandons an unfinished one. If the format has changed, the remembered
    /// lines are forgotten.
    pub fn begin(&mut self, format: Format) {
        self.abandon();
        if format != self.format {
            // A line may be valid in one of the formats only.
            self.cache.clear();
            self.format = format;
        }
        self.phase = Phase::Reading;
        self.summary = Summary::default();
        self.families.begin();
    }

    /// Parses the next piece of the page. Does nothing outside a scrape.
    pub fn push<S: Sink<Id = Id>>(&mut self, piece: &[u8], sink: &mut S) {
        if self.phase == Phase::Idle {
            return;
        }
        self.summary.bytes += piece.len() as u64;
        let mut rest = piece;
        if !self.partial.is_empty() {
            let Some(end) = memchr(b'\n', rest) else {
                self.partial.extend(rest, self.limits.line_bytes);
                return;
            };
            self.partial.extend(&rest[..end], self.limits.line_bytes);
            rest = &rest[end + 1..];
            self.partial_line(sink);
        }
        // Whole lines are parsed where they are; only the end of the piece is copied.
        let whole = memrchr(b'\n', rest).map_or(0, |end| end + 1);
        self.lines(&rest[..whole], sink);
        self.partial.extend(&rest[whole..], self.limits.line_bytes);
    }

    /// Ends the scrape: the pushed pieces are the whole page. Its lines are remembered, all others
    /// are forgotten. Outside a scrape it does nothing and returns an empty summary.
    pub fn finish<S: Sink<Id = Id>>(&mut self, sink: &mut S) -> Summary {
        if self.phase == Phase::Idle {
            return Summary::default();
        }
        if !self.partial.is_empty() {
            self.partial_line(sink);
        }
        let ended = self.phase == Phase::Ended;
        self.phase = Phase::Idle;
        self.cache.finish();
        let new_ids = self.families.finish(|family| sink.family(family));
        // The lines that were just kept refer to families by their old ids.
        if let Some(new_ids) = new_ids {
            self.cache.renumber_families(|family| new_ids.of(family));
        }
        self.partial.fit();
        self.series.fit();
        // Only reported: the caller knows whether the body was complete.
        self.summary.eof_missing = self.format == Format::OpenMetrics && !ended;
        std::mem::take(&mut self.summary)
    }

    /// Ends the scrape early, for example when the connection is lost. The lines of the last finished
    /// scrape are remembered; series that only this scrape had are forgotten.
    pub fn abandon(&mut self) {
        if self.phase == Phase::Idle {
            return;
        }
        self.phase = Phase::Idle;
        self.partial.clear();
        self.cache.abandon();
        self.families.abandon();
        self.summary = Summary::default();
    }

    /// Forgets everything. The next scrape is parsed in full.
    pub fn forget(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Returns the bytes of memory held, as requested from the allocator. They never exceed
    /// [`Limits::held_bytes_max`].
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.held_bytes()
            + self.cache.held_bytes()
            + self.families.held_bytes()
            + self.series.held_bytes()
            + self.exemplar.capacity() * size_of::<LabelSpan>()
            + self.excerpt.capacity()
    }

    /// Parses the partial line, whose end has arrived.
    fn partial_line<S: Sink<Id = Id>>(&mut self, sink: &mut S) {
        // The line is borrowed while the parser is, and the buffer must not be lost: a repeated
        // page allocates nothing.
        let mut partial = std::mem::take(&mut self.partial);
        match partial.line() {
            Ok(line) => self.lines(line, sink),
            Err(start) => {
                self.summary.lines += 1;
                self.line_too_long(start, sink);
            }
        }
        partial.clear();
        self.partial = partial;
    }

    /// Parses whole lines, each with its line feed.
    fn lines<S: Sink<Id = Id>>(&mut self, bytes: &[u8], sink: &mut S) {
        let mut lines = Lines::new(bytes);
        loop {
            let known = self.expected_lines(lines.rest(), sink);
            lines.skip(known);
            let Some(line) = lines.take() else {
                return;
            };
            self.summary.lines += 1;
            self.line(line, &mut lines, sink);
        }
    }

    fn line_too_long<S: Sink<Id = Id>>(&mut self, line: &[u8], sink: &mut S) {
        let fault = Fault {
            at: self.limits.line_bytes,
            reason: Reason::LineTooLong,
        };
        let shown = excerpt::KEPT.min(self.limits.line_bytes).min(line.len());
        self.reject(&line[..shown], 0, fault, sink);
    }

    /// Counts a fault and reports it with an excerpt from around the byte `near`.
    fn reject<S: Sink<Id = Id>>(&mut self, line: &[u8], near: usize, fault: Fault, sink: &mut S) {
        self.summary.rejected.count(fault.reason);
        // A page far beyond the limit would otherwise flood the sink.
        let repeated = fault.reason == Reason::TooManySamples
            && self.summary.rejected.of(Reason::TooManySamples) > 1;
        if repeated {
            return;
        }
        excerpt::cut(line, near, &mut self.excerpt);
        sink.rejected(&LineFault {
            line: self.summary.lines,
            column: fault.at + 1,
            reason: fault.reason,
            excerpt: &self.excerpt,
        });
    }
}
