//! A reader of JSON that passes over values without keeping them.

/// A position in JSON text.
///
/// It accepts and refuses exactly what [`Document::read`](crate::filter::Document::read) accepts and
/// refuses, but takes a fraction of the time: strings are passed over eight bytes at a time, and
/// nothing is copied. Unlike a search for quotes and braces alone, it never takes damaged data for a
/// document.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    data: &'a [u8],
    at: usize,
    /// The last string contains escapes.
    escaped: bool,
}

/// The data is not JSON. [`Document::read`](crate::filter::Document::read) knows the reason.
#[derive(Debug, PartialEq)]
pub(super) struct Malformed;

/// A string between its quotes, as it stands in the data.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawText<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether the bytes contain escapes.
    pub(super) escaped: bool,
}

/// A number, in the type that holds it exactly if one does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RawNumber {
    Signed(i64),
    Unsigned(u64),
    Double(f64),
}

/// Lists and objects that may stand inside each other.
pub(super) const DEPTH_MAX: u8 = 127;

impl<'a> Scanner<'a> {
    /// Creates a scanner before the first byte.
    pub(super) fn new(data: &'a [u8]) -> Result<Self, Malformed> {
        // Once for all: most data is ASCII, which takes 16 bytes at a time.
        std::str::from_utf8(data)
            .map_err(|_| Malformed)
            .map(Self::of)
    }

    /// Creates a scanner before the first byte of a text.
    pub(super) fn of(text: &'a str) -> Self {
        let data = text.as_bytes();
        Self {
            data,
            at: 0,
            escaped: false,
        }
    }

    /// Returns the number of bytes before the next one.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    /// Skips blanks and returns the byte after them.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<u8, Malformed> {
        loop {
            match self.data.get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                Some(&byte) => return Ok(byte),
                None => return Err(Malformed),
            }
        }
    }

    /// Consumes the byte, which must be next.
    #[inline]
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek()? != byte {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// Consumes the blanks before the end of the data.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        // `peek` fails only at the end of the data.
        match self.peek() {
            Ok(_) => Err(Malformed),
            Err(Malformed) => Ok(()),
        }
    }

    /// Moves to the value of the next member and returns its name, or `None` after the last member.
    #[inline]
    pub(super) fn next_member(&mut self, first: bool) -> Result<Option<RawText<'a>>, Malformed> {
        let next = self.peek()?;
        if next == b'}' {
            self.at += 1;
            return Ok(None);
        }
        if !first {
            self.expect(b',')?;
        }
        let name = self.text()?;
        self.expect(b':')?;
        Ok(Some(name))
    }

    /// Moves to the next element of a list. Returns false after the last one.
    #[inline]
    pub(super) fn next_element(&mut self, first: bool) -> Result<bool, Malformed> {
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(false);
        }
        if !first {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// Passes over a value. `depth` is the number of lists and objects that may be inside each other.
    pub(super) fn skip(&mut self, depth: u8) -> Result<(), Malformed> {
        match self.peek()? {
            b'"' => self.text().map(drop),
            b'{' => {
                self.at += 1;
                let depth = depth.checked_sub(1).ok_or(Malformed)?;
                let mut first = true;
                while self.next_member(first)?.is_some() {
                    first = false;
                    self.skip(depth)?;
                }
                Ok(())
            }
            b'[' => {
                self.at += 1;
                let depth = depth.checked_sub(1).ok_or(Malformed)?;
                let mut first = true;
                while self.next_element(first)? {
                    first = false;
                    self.skip(depth)?;
                }
                Ok(())
            }
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => {
                let (text, form) = self.number_text()?;
                // Only these can be beyond the range of a double.
                if form.exponent || text.len() > SHORT_NUMBER {
                    double(text)?;
                }
                Ok(())
            }
        }
    }

    /// Consumes a word.
    pub(super) fn word(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if !self.data[self.at..].starts_with(word) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }

    /// Consumes a string.
    #[inline]
    pub(super) fn text(&mut self) -> Result<RawText<'a>, Malformed> {
        let bytes = self.string()?;
        let escaped = self.escaped;
        Ok(RawText { bytes, escaped })
    }

    /// Consumes a string, and notes whether it contains escapes. Apart from what is returned, which then fits
    /// into registers: through memory it took a sixth of the time of an event.
    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        self.expect(b'"')?;
        let (data, start) = (self.data, self.at);
        let mut at = plain_end(data, start);
        self.escaped = false;
        loop {
            match data.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.escaped = true;
                    at = plain_end(data, escape(data, at).ok_or(Malformed)?.0);
                }
                _ => return Err(Malformed),
            }
        }
        // Escapes were checked above, so that `append_to` cannot fail.
        self.at = at + 1;
        Ok(&data[start..at])
    }

    /// Consumes a number.
    pub(super) fn number(&mut self) -> Result<RawNumber, Malformed> {
        let (text, form) = self.number_text()?;
        if form.whole {
            let (negative, digits) = match text {
                [b'-', digits @ ..] => (true, digits),
                digits => (false, digits),
            };
            let magnitude = digits.iter().try_fold(0_u64, |whole, digit| {
                whole.checked_mul(10)?.checked_add((digit - b'0').into())
            });
            if let Some(magnitude) = magnitude {
                if !negative {
                    return Ok(RawNumber::Unsigned(magnitude));
                }
                // Subtracted, because the magnitude of `i64::MIN` is no `i64`.
                if let Some(whole) = 0_i64.checked_sub_unsigned(magnitude) {
                    return Ok(RawNumber::Signed(whole));
                }
            }
        }
        // Beyond 64 bits an integer is the nearest double, as for `Document`.
        double(text).map(RawNumber::Double)
    }

    fn number_text(&mut self) -> Result<(&'a [u8], NumberForm), Malformed> {
        let start = self.at;
        if self.data.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let leading = self.data.get(self.at);
        let digits = self.digits()?;
        // JSON has no leading zeros; a lenient reader would match what `serde_json` refuses.
        if leading == Some(&b'0') && digits > 1 {
            return Err(Malformed);
        }
        let mut form = NumberForm {
            whole: true,
            exponent: false,
        };
        if self.data.get(self.at) == Some(&b'.') {
            form.whole = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.data.get(self.at) {
            form = NumberForm {
                whole: false,
                exponent: true,
            };
            self.at += 1;
            if let Some(b'+' | b'-') = self.data.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok((&self.data[start..self.at], form))
    }

    /// Consumes digits, of which there must be one, and returns their number.
    fn digits(&mut self) -> Result<usize, Malformed> {
        let rest = &self.data[self.at..];
        let end = rest.iter().position(|byte| !byte.is_ascii_digit());
        let digits = end.unwrap_or(rest.len());
        self.at += digits;
        if digits == 0 {
            Err(Malformed)
        } else {
            Ok(digits)
        }
    }
}

struct NumberForm {
    /// Neither a fraction nor an exponent.
    whole: bool,
    exponent: bool,
}

/// The largest double has 309 digits.
const SHORT_NUMBER: usize = 300;

impl<'a> RawText<'a> {
    /// Returns a text that is not from JSON.
    pub(super) fn of(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            escaped: false,
        }
    }

    /// Appends the text that the string stands for.
    pub(super) fn append_to(self, texts: &mut Vec<u8>) {
        let Self { bytes, escaped } = self;
        if !escaped {
            texts.extend_from_slice(bytes);
            return;
        }
        let mut at = 0;
        while at < bytes.len() {
            let end = plain_end(bytes, at);
            texts.extend_from_slice(&bytes[at..end]);
            at = end;
            if let Some((next, char)) = escape(bytes, at) {
                let mut utf8 = [0; 4];
                texts.extend_from_slice(char.encode_utf8(&mut utf8).as_bytes());
                at = next;
            }
        }
    }
}

fn double(text: &[u8]) -> Result<f64, Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    let double: f64 = text.parse().map_err(|_| Malformed)?;
    if double.is_finite() {
        Ok(double)
    } else {
        Err(Malformed)
    }
}

/// Returns the first byte from `at` that is a quote, a backslash or a control character.
#[inline]
fn plain_end(data: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = data.get(at..).and_then(<[u8]>::first_chunk) {
        let special = special(u64::from_le_bytes(*chunk));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = data[at..].iter();
    let plain = |byte: &&u8| **byte >= b' ' && !matches!(byte, b'"' | b'\\');
    at + rest.take_while(plain).count()
}

/// Returns a word whose lowest bit set is the upper bit of the lowest byte that is a quote, a backslash
/// or a control character.
fn special(bytes: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // A byte below `limit` borrows from its upper bit; a borrow from below only reaches bytes above
    // the lowest hit.
    let below = |bytes: u64, limit: u8| bytes.wrapping_sub(EACH * u64::from(limit)) & !bytes;
    let control = below(bytes, b' ');
    let quote = below(bytes ^ (EACH * u64::from(b'"')), 1);
    let backslash = below(bytes ^ (EACH * u64::from(b'\\')), 1);
    (control | quote | backslash) & (EACH << 7)
}

/// Reads the escape at `at`. Returns the byte after it and the character it stands for.
fn escape(data: &[u8], at: usize) -> Option<(usize, char)> {
    let char = match data.get(at + 1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = hex(data, at + 2)?;
            if let Some(char) = char::from_u32(unit) {
                return Some((at + 6, char));
            }
            // The first half of a pair; a half without the other stands for nothing.
            let second = (data.get(at + 6..at + 8)? == b"\\u").then(|| hex(data, at + 8))??;
            let pair = char::decode_utf16([unit as u16, second as u16]).next()?;
            return Some((at + 12, pair.ok()?));
        }
        _ => return None,
    };
    Some((at + 2, char))
}

fn hex(data: &[u8], at: usize) -> Option<u32> {
    let digits = data.get(at..at + 4)?;
    digits.iter().try_fold(0, |number, digit| {
        Some(number * 16 + char::from(*digit).to_digit(16)?)
    })
}
