//! Short printable excerpts of lines.

/// The most characters of an excerpt.
const LENGTH_MAX: usize = 80;

/// The most bytes that are shown before the one at fault.
const BEFORE: usize = 40;

/// The bytes of a line that an excerpt can need: a character has at most four.
pub(crate) const KEPT: usize = 4 * LENGTH_MAX;

/// Replaces `excerpt` by the text around the byte `at` of the line. Control characters and bytes
/// that are not UTF-8 become replacement characters.
pub(crate) fn cut(line: &[u8], at: usize, excerpt: &mut String) {
    excerpt.clear();
    let mut from = at.saturating_sub(BEFORE).min(line.len());
    // An excerpt must not start within a character.
    while from > 0 && from < line.len() && line[from] & 0xc0 == 0x80 {
        from -= 1;
    }
    let piece = &line[from..line.len().min(from + KEPT)];
    let mut length = 0;
    for chunk in piece.utf8_chunks() {
        for c in chunk.valid().chars() {
            if length == LENGTH_MAX {
                return;
            }
            excerpt.push(if c.is_control() { '\u{fffd}' } else { c });
            length += 1;
        }
        if !chunk.invalid().is_empty() && length < LENGTH_MAX {
            excerpt.push('\u{fffd}');
            length += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(line: &[u8], at: usize) -> String {
        let mut excerpt = String::from("before");
        cut(line, at, &mut excerpt);
        excerpt
    }

    #[test]
    fn an_excerpt_is_short_and_printable() {
        assert_eq!(excerpt(b"m\t1 \xff\x00", 4), "m\u{fffd}1 \u{fffd}\u{fffd}");
        assert_eq!(excerpt(b"", 0), "");
        assert_eq!(excerpt(b"abc", 1000), "abc".get(3..).unwrap_or_default());
        assert_eq!(excerpt(&[b'a'; 1000], 0).len(), 80);
        assert_eq!(excerpt("é".repeat(500).as_bytes(), 301).chars().count(), 80);
        assert!(!excerpt("é".repeat(500).as_bytes(), 301).contains('\u{fffd}'));
    }
}
