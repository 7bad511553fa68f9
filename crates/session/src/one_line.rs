//! Text of a peer on one line.

use std::fmt::{self, Write as _};

/// Shows text with its control characters and marks of direction escaped. What a peer sends can then
/// neither break a line of a log, nor change the colours of a terminal, nor reorder what is shown.
#[derive(Clone, Copy, Debug)]
pub struct OneLine<'a>(pub &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| {
            if char.is_control() || is_mark(char) {
                char.escape_default().fmt(f)
            } else {
                f.write_char(char)
            }
        })
    }
}

impl OneLine<'_> {
    /// Returns the text, which is JSON, with the same characters escaped as JSON does.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = String::with_capacity(self.0.len());
        for char in self.0.chars() {
            match char {
                // Strings of JSON contain none of these, so that they only separate tokens.
                ..' ' => json.push(' '),
                _ if char.is_control() || is_mark(char) => {
                    // None of them is beyond the sixteen bits of such an escape.
                    write!(json, "\\u{:04x}", u32::from(char)).expect("a string takes everything");
                }
                _ => json.push(char),
            }
        }
        json
    }
}

/// Returns true for characters that are not shown and change what is: marks of direction, separators of
/// lines, and those without width.
fn is_mark(char: char) -> bool {
    matches!(char,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_would_be_obeyed_is_escaped_and_other_text_is_not() {
        for (text, shown) in [
            ("\u{1b}[31m\r\n\t\0", "\\u{1b}[31m\\r\\n\\t\\u{0}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            (
                "a\u{202e}b\u{2066}c\u{200f}",
                "a\\u{202e}b\\u{2066}c\\u{200f}",
            ),
            ("\u{2028}\u{feff}", "\\u{2028}\\u{feff}"),
            ("é 漢字 שלום \"quoted\" \\", "é 漢字 שלום \"quoted\" \\"),
        ] {
            assert_eq!(OneLine(text).to_string(), shown);
        }
    }

    #[test]
    fn json_stays_json_with_the_same_meaning() {
        let text = "{\"id\":\n\"a\u{202e}\u{9b}é\u{7f}\\n\"}";
        let expected = r#"{"id": "a\u202e\u009bé\u007f\n"}"#;
        assert_eq!(OneLine(text).to_json(), expected);
    }
}
