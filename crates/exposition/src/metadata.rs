//! The grammar of lines that begin with `#`.

use crate::{
    families::Field,
    fault::Reason,
    format::{Format, Kind},
    grammar::{Fault, Parsed, Span, fault, is_blank, name_end, skip_blanks, string, token_end},
    limits::Limits,
};

/// What a line that begins with `#` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comment {
    /// Nothing to us.
    Plain,
    /// That the page ends here.
    Eof,
    /// Something of a family.
    Metadata { family: Span, says: Says },
}

/// What is said of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Help(Span),
    Kind(Kind),
    Unit(Span),
}

/// Reads the line, whose `#` is at `at`.
pub(crate) fn comment(line: &[u8], at: usize, format: Format, limits: &Limits) -> Parsed<Comment> {
    if format == Format::OpenMetrics && line[at..] == *b"# EOF" {
        return Ok(Comment::Eof);
    }
    // As nearly all of them are written.
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
        // Not a word that follows at once: `#HELP` is a comment.
        _ if keyword == at + 1 => None,
        (b"HELP", _) => Some(Field::Help),
        (b"TYPE", _) => Some(Field::Kind),
        (b"UNIT", Format::OpenMetrics) => Some(Field::Unit),
        _ => None,
    };
    match (field, format) {
        (Some(field), _) => metadata(line, end, field, limits),
        (None, Format::Prometheus) => Ok(Comment::Plain),
        (None, Format::OpenMetrics) => fault(at, Reason::NotInThisFormat),
    }
}

/// Reads what stands behind the word that names the field.
fn metadata(line: &[u8], at: usize, field: Field, limits: &Limits) -> Parsed<Comment> {
    let start = skip_blanks(line, at);
    let (family, end) = family_name(line, start)?;
    let separated = end == line.len() || is_blank(line[end]);
    if family.start == family.end || !separated {
        return fault(start, Reason::InvalidMetadata);
    }
    if family.end - family.start > limits.name_bytes {
        return fault(start, Reason::NameTooLong);
    }
    let says = match field {
        Field::Help => Some(Says::Help(help(line, end))),
        Field::Kind => only_word(line, end).and_then(|word| kind(line, word)),
        // An empty unit says that there is none.
        Field::Unit => only_word(line, end).map(Says::Unit),
    };
    match says {
        Some(says) => Ok(Comment::Metadata { family, says }),
        None => fault(skip_blanks(line, end), Reason::InvalidMetadata),
    }
}

/// A family's name, in quotes or not, and where it ends.
fn family_name(line: &[u8], at: usize) -> Parsed<(Span, usize)> {
    if line.get(at) == Some(&b'"') {
        return string(line, at).map_err(|wrong| Fault {
            at: wrong.at,
            reason: Reason::InvalidMetadata,
        });
    }
    let end = name_end(line, at);
    let name = Span {
        start: at,
        end,
        escaped: false,
    };
    Ok((name, end))
}

/// Everything behind one blank, so that a text that begins with a blank is read as it was written.
fn help(line: &[u8], at: usize) -> Span {
    let start = (at + 1).min(line.len());
    Span {
        start,
        end: line.len(),
        escaped: memchr::memchr(b'\\', &line[start..]).is_some(),
    }
}

fn kind(line: &[u8], word: Span) -> Option<Says> {
    let word = std::str::from_utf8(&line[word.start..word.end]).ok()?;
    Kind::from_word(word).map(Says::Kind)
}

fn only_word(line: &[u8], at: usize) -> Option<Span> {
    let start = skip_blanks(line, at);
    let end = token_end(line, start);
    (skip_blanks(line, end) == line.len()).then_some(Span {
        start,
        end,
        escaped: false,
    })
}
