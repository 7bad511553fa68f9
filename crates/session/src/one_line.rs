//! Text of a peer on one line.

use std::fmt::{self, Write as _};

/// Shows text with its control characters escaped. What a peer sends can then neither break a line of
/// a log nor change the colours of a terminal.
#[derive(Clone, Copy, Debug)]
pub struct OneLine<'a>(pub &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| {
            if char.is_control() {
                char.escape_default().fmt(f)
            } else {
                f.write_char(char)
            }
        })
    }
}
