//! The members of a JSON object, as they stand in its text.

use std::borrow::Cow;

use super::scanner::{DEPTH_MAX, Malformed, Scanner};

/// A member of a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// The name, without escapes.
    pub name: Cow<'a, str>,
    /// The text of the value, without the blanks around it.
    pub value: &'a str,
}

/// Returns the members of a JSON object, in the order of the text. The values are checked in full, but
/// not kept. Returns `None` for anything that [`Document::read`](crate::filter::Document::read) refuses.
#[must_use]
pub fn read_members(data: &[u8]) -> Option<Vec<Member<'_>>> {
    read(data).ok()
}

fn read(data: &[u8]) -> Result<Vec<Member<'_>>, Malformed> {
    let text = std::str::from_utf8(data).map_err(|_| Malformed)?;
    let mut scanner = Scanner::of(text);
    scanner.expect(b'{')?;
    let mut members = Vec::new();
    while let Some(name) = scanner.next_member(members.is_empty())? {
        let name = if name.escaped {
            let mut unescaped = Vec::new();
            name.append_to(&mut unescaped);
            Cow::Owned(String::from_utf8(unescaped).map_err(|_| Malformed)?)
        } else {
            Cow::Borrowed(std::str::from_utf8(name.bytes).map_err(|_| Malformed)?)
        };
        // The value begins after blanks.
        scanner.peek()?;
        let start = scanner.position();
        // The object itself is one level.
        scanner.skip(DEPTH_MAX - 1)?;
        let value = text.get(start..scanner.position()).ok_or(Malformed)?;
        members.push(Member { name, value });
    }
    scanner.end()?;
    Ok(members)
}
