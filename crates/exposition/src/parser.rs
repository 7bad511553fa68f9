//! The parser of one endpoint's pages.

mod carry;
mod line;
mod lines;
mod remembered;

use memchr::{memchr, memrchr};

use self::{carry::Carry, lines::Lines};
use crate::{
    excerpt,
    families::Families,
    fault::{LineFault, Reason},
    format::Format,
    grammar::{self, Fault, LabelSpan},
    limits::Limits,
    line_cache::LineCache,
    series::Series,
    sink::Sink,
    summary::Summary,
};

/// Reads the pages of one endpoint, one scrape after the other.
///
/// ```text
/// begin ── push ── push ── … ── finish     the lines of this scrape are remembered
///                           └── abandon    those of the last finished one still are
/// ```
///
/// A page that is equal to the one before but for its values, and arrives in whole lines, is read
/// without any allocation.
#[derive(Debug)]
pub struct Parser<Id: Copy> {
    limits: Limits,
    format: Format,
    phase: Phase,
    summary: Summary,

    carry: Carry,

    cache: LineCache<Id>,
    families: Families,

    series: Series,
    /// Labels of an exemplar.
    exemplar: Vec<LabelSpan>,
    /// A family's name and help, resolved.
    text: String,
    excerpt: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Outside a scrape.
    Idle,
    Reading,
    /// Behind `# EOF`.
    Ended,
}

impl<Id: Copy> Parser<Id> {
    /// A parser that remembers nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            format: Format::default(),
            phase: Phase::Idle,
            summary: Summary::default(),
            carry: Carry::default(),
            cache: LineCache::new(limits.remembered_bytes),
            families: Families::default(),
            series: Series::default(),
            exemplar: Vec::new(),
            text: String::new(),
            excerpt: String::new(),
        }
    }

    /// Begins a scrape. One that was begun and not finished is abandoned. Nothing of a page in the
    /// other format is remembered.
    pub fn begin(&mut self, format: Format) {
        self.abandon();
        if format != self.format {
            self.cache.clear();
            self.format = format;
        }
        self.phase = Phase::Reading;
        self.summary = Summary::default();
        self.families.begin();
    }

    /// Takes the next piece of the page. Ignored outside a scrape.
    pub fn push<S: Sink<Id = Id>>(&mut self, piece: &[u8], sink: &mut S) {
        if self.phase == Phase::Idle {
            return;
        }
        self.summary.bytes += piece.len() as u64;
        let mut rest = piece;
        if !self.carry.is_empty() {
            let Some(end) = memchr(b'\n', rest) else {
                self.carry.extend(rest, self.limits.line_bytes);
                return;
            };
            self.carry.extend(&rest[..end], self.limits.line_bytes);
            rest = &rest[end + 1..];
            self.carried_line(sink);
        }
        let whole = memrchr(b'\n', rest).map_or(0, |end| end + 1);
        self.lines(&rest[..whole], sink);
        self.carry.extend(&rest[whole..], self.limits.line_bytes);
    }

    /// Ends the scrape: what was pushed is the whole page. Its lines are remembered, all others
    /// forgotten. Outside a scrape nothing changes.
    pub fn finish<S: Sink<Id = Id>>(&mut self, sink: &mut S) -> Summary {
        if self.phase == Phase::Idle {
            return Summary::default();
        }
        if !self.carry.is_empty() {
            self.carried_line(sink);
        }
        let ended = self.phase == Phase::Ended;
        self.phase = Phase::Idle;
        self.cache.finish();
        let renamed = self.families.finish(|family| sink.family(family));
        if let Some(renamed) = renamed {
            self.cache.renumber_families(|family| renamed.of(family));
        }
        self.carry.fit();
        self.series.fit();
        grammar::give_back(&mut self.text);
        self.summary.eof_missing = self.format == Format::OpenMetrics && !ended;
        std::mem::take(&mut self.summary)
    }

    /// Ends the scrape in the middle, as when the connection is lost. What the last finished one
    /// left is remembered; series that only this one had are forgotten.
    pub fn abandon(&mut self) {
        if self.phase == Phase::Idle {
            return;
        }
        self.phase = Phase::Idle;
        self.carry.clear();
        self.cache.abandon();
        self.families.abandon();
        self.summary = Summary::default();
    }

    /// Forgets everything, as if new; the next scrape is read in full.
    pub fn forget(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Bytes of memory held, as they are asked of the allocator. Never more than
    /// [`Limits::held_bytes_max`].
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.carry.held_bytes()
            + self.cache.held_bytes()
            + self.families.held_bytes()
            + self.series.held_bytes()
            + self.exemplar.capacity() * size_of::<LabelSpan>()
            + self.text.capacity()
            + self.excerpt.capacity()
    }

    /// Reads the line that was carried, now that its end has come.
    fn carried_line<S: Sink<Id = Id>>(&mut self, sink: &mut S) {
        let mut carry = std::mem::take(&mut self.carry);
        match carry.line() {
            Ok(line) => self.lines(line, sink),
            Err(beginning) => {
                self.summary.lines += 1;
                self.line_too_long(beginning, sink);
            }
        }
        carry.clear();
        self.carry = carry;
    }

    /// Reads whole lines, of which each has its line feed.
    fn lines<S: Sink<Id = Id>>(&mut self, bytes: &[u8], sink: &mut S) {
        let mut lines = Lines::new(bytes);
        loop {
            if self.cache.is_empty() {
                self.shaped_lines(&mut lines, sink);
            } else {
                let known = self.expected_lines(lines.rest(), sink);
                lines.skip(known);
            }
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

    /// Counts a fault and shows it with what stands around the byte `near`.
    fn reject<S: Sink<Id = Id>>(&mut self, line: &[u8], near: usize, fault: Fault, sink: &mut S) {
        self.summary.rejected.count(fault.reason);
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
