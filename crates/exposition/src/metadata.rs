//! The grammar of lines that begin with `#`.

use crate::{
    families::{Field, Statement},
    fault::Reason,
    format::{Format, Kind},
    grammar::{Fault, Parsed, fault, is_blank, name_end, skip_blanks, string, token_end},
    limits::Limits,
    span::Span,
};

/// The content of a line that begins with `#`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comment {
    /// A comment without meaning.
    Plain,
    /// The end of the page.
    Eof,
    /// A statement on a family.
    Metadata(Span, Statement<Span>),
}

/// Parses a line whose `#` is at `at`.
pub(crate) fn comment(line: &[u8], at: usize, format: Format, limits: &Limits) -> Parsed<Comment> {
    // Exactly these bytes: the specification has no other spelling.
    if format == Format::OpenMetrics && line[at..] == *b"# EOF" {
        return Ok(Comment::Eof);
    }
    // Nearly all lines are written like this; the general way below accepts other blanks.
    let field = match line.get(at..at + 7) {
        Some(b"# HELP ") => Some(Field::Help),
        Some(b"# TYPE ") => Some(Field::Kind),
        _ => None,
    };
    if let Some(field) = field {
        return metadata(line, at + 6, field, limits);
    }
    let keyword = skip_blanks(line, at + 1);
    let end = token_end(line, keyword);
    let field = match (&line[keyword..end], format) {
        // `#HELP` without a blank is a comment.
        _ if keyword == at + 1 => None,
        (b"HELP", _) => Some(Field::Help),
        (b"TYPE", _) => Some(Field::Kind),
        // In the Prometheus format, which has no units, such a line is a comment.
        (b"UNIT", Format::OpenMetrics) => Some(Field::Unit),
        _ => None,
    };
    match (field, format) {
        (Some(field), _) => metadata(line, end, field, limits),
        (None, Format::Prometheus) => Ok(Comment::Plain),
        // OpenMetrics has no comments.
        (None, Format::OpenMetrics) => fault(at, Reason::NotInThisFormat),
    }
}

/// Parses the part behind the keyword.
fn metadata(line: &[u8], at: usize, field: Field, limits: &Limits) -> Parsed<Comment> {
    let start = skip_blanks(line, at);
    let (family, end) = family_name(line, start)?;
    let separated = end == line.len() || is_blank(line[end]);
    if family.is_empty() || !separated {
        return fault(start, Reason::InvalidMetadata);
    }
    if family.len() > limits.name_bytes {
        return fault(start, Reason::NameTooLong);
    }
    let statement = match field {
        Field::Help => Some(Statement::Help(help(line, end))),
        Field::Kind => only_word(line, end).and_then(|word| kind(line, word)),
        // An empty unit states that there is none.
        Field::Unit => only_word(line, end).map(Statement::Unit),
    };
    match statement {
        Some(statement) => Ok(Comment::Metadata(family, statement)),
        None => fault(skip_blanks(line, end), Reason::InvalidMetadata),
    }
}

/// Parses a family's name, quoted or not, and returns it with the position behind it.
fn family_name(line: &[u8], at: usize) -> Parsed<(Span, usize)> {
    if line.get(at) == Some(&b'"') {
        return string(line, at).map_err(|fault| Fault {
            at: fault.at,
            reason: Reason::InvalidMetadata,
        });
    }
    let end = name_end(line, at);
    Ok((Span::plain(at, end), end))
}

/// Returns everything behind one blank, so that a help text with leading blanks keeps them.
fn help(line: &[u8], at: usize) -> Span {
    let start = (at + 1).min(line.len());
    Span {
        start,
        end: line.len(),
        escaped: memchr::memchr(b'\\', &line[start..]).is_some(),
    }
}

fn kind(line: &[u8], word: Span) -> Option<Statement<Span>> {
    let word = std::str::from_utf8(&line[word.start..word.end]).ok()?;
    Kind::from_word(word).map(Statement::Kind)
}

fn only_word(line: &[u8], at: usize) -> Option<Span> {
    let start = skip_blanks(line, at);
    let end = token_end(line, start);
    (skip_blanks(line, end) == line.len()).then(|| Span::plain(start, end))
}
