//! Translates regular expressions of Go, which Prometheus uses, for the `regex` crates.
//!
//! The two dialects look alike and differ in many places: `\d`, `\w`, `\s` and `\b` are ASCII in Go, `[` and
//! `&&` mean nothing inside a class, `\Q…\E` quotes, `{` is a literal unless it is a repetition, and Go
//! refuses `a**`, `a{1001}`, and the flag `x`. The output uses only what both understand alike.

use std::{iter::Peekable, str::Chars};

/// The reason why Go would refuse an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("invalid escape sequence `\\{0}`")]
    Escape(String),
    #[error("trailing backslash at end of expression")]
    TrailingBackslash,
    #[error("unclosed character class")]
    UnclosedClass,
    #[error("invalid character class range `{0}`")]
    ClassRange(String),
    #[error("missing argument to repetition operator `{0}`")]
    NothingToRepeat(String),
    #[error("invalid nested repetition operator `{0}`")]
    NestedRepetition(String),
    #[error("invalid repeat count; at most {REPEAT_MAX} are allowed, nested ones together")]
    RepeatCount,
    #[error("invalid or unsupported group syntax `(?{0}`")]
    Group(String),
    #[error("invalid group name `{0}`")]
    GroupName(String),
    #[error("unclosed group")]
    UnclosedGroup,
    #[error("unopened group")]
    UnopenedGroup,
}

/// The largest repeat count of Go, also of nested repetitions together.
const REPEAT_MAX: u32 = 1_000;

/// Translates an expression.
pub(super) fn translate(expression: &str) -> Result<String, Refusal> {
    let mut translator = Translator {
        input: expression.chars().peekable(),
        out: String::with_capacity(expression.len() * 2),
        groups: Vec::new(),
        group: Group::default(),
        has_class_end: true,
    };
    while let Some(c) = translator.input.next() {
        translator.step(c)?;
    }
    if !translator.groups.is_empty() {
        return Err(Refusal::UnclosedGroup);
    }
    Ok(translator.out)
}

struct Translator<'a> {
    input: Peekable<Chars<'a>>,
    out: String,
    /// The groups around the current one.
    groups: Vec<Group>,
    group: Group,
    /// False if the rest of the input has no `:]`, so that it is searched once and not for each `[:`.
    has_class_end: bool,
}

/// A group that is not closed yet.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    /// The largest product of nested repeat counts before the last expression.
    repeats: u32,
    /// That product of the last expression; `None` if there is nothing to repeat.
    last: Option<u32>,
    /// The last expression is a repetition.
    is_repeated: bool,
    /// The position of flags behind the last expression. For Go, an operator behind them repeats it.
    flags_at: Option<usize>,
}

impl Group {
    fn push(&mut self, repeats: u32) {
        self.end_expression();
        self.last = Some(repeats);
        self.is_repeated = false;
        self.flags_at = None;
    }

    fn end_expression(&mut self) {
        self.repeats = self.repeats.max(self.last.take().unwrap_or(0));
    }
}

impl Translator<'_> {
    fn step(&mut self, c: char) -> Result<(), Refusal> {
        match c {
            '\\' => self.escape(),
            '[' => self.class(),
            '(' => self.open(),
            ')' => {
                let outer = self.groups.pop().ok_or(Refusal::UnopenedGroup)?;
                self.group.end_expression();
                // A group may be empty, and Go accepts `()*`.
                let repeats = self.group.repeats.max(1);
                self.group = outer;
                self.group.push(repeats);
                self.out.push(')');
                Ok(())
            }
            '|' => {
                // Go refuses `a|*`.
                self.group.end_expression();
                self.group.is_repeated = false;
                self.group.flags_at = None;
                self.out.push('|');
                Ok(())
            }
            // Go counts only braces towards the limit of nested repetitions.
            '*' | '+' | '?' => self.repeat(&c.to_string(), 1),
            '{' => {
                let Some((text, least, most)) = self.count() else {
                    self.literal('{');
                    return Ok(());
                };
                let is_wrong = |most| most > REPEAT_MAX || most < least;
                if least > REPEAT_MAX || most.is_some_and(is_wrong) {
                    return Err(Refusal::RepeatCount);
                }
                // As in Go's check, an open end counts as its minimum, and `{0,}` as `*`: only what is
                // repeated zero times at most is not looked into.
                self.repeat(&text, most.unwrap_or(least.max(1)))
            }
            '.' | '^' | '$' => {
                self.group.push(1);
                self.out.push(c);
                Ok(())
            }
            c => {
                self.literal(c);
                Ok(())
            }
        }
    }

    fn literal(&mut self, c: char) {
        self.group.push(1);
        push_literal(&mut self.out, c);
    }

    /// Takes the rest of `{n}`, `{n,}` or `{n,m}`; anything else leaves a literal brace.
    fn count(&mut self) -> Option<(String, u32, Option<u32>)> {
        // Not up to the brace: a long row of opening braces would be read once for each of them.
        let is_count = |c: &char| c.is_ascii_digit() || *c == ',';
        let rest: String = self.input.clone().take_while(is_count).collect();
        if self.input.clone().nth(rest.chars().count()) != Some('}') {
            return None;
        }
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // Go takes `{01}` for literal text.
            let has_leading_zero = text.len() > 1 && text.starts_with('0');
            // A number that is too large for its type is too large for Go as well.
            (is_number && !has_leading_zero).then(|| text.parse().unwrap_or(u32::MAX))
        };
        let (least, most) = match rest.split_once(',') {
            None => {
                let count = number(&rest)?;
                (count, Some(count))
            }
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        self.input.nth(rest.chars().count());
        Some((format!("{{{rest}}}"), least, most))
    }

    fn repeat(&mut self, operator: &str, count: u32) -> Result<(), Refusal> {
        // A `?` after the operator belongs to it, so that `a+?` is not a nested repetition.
        let is_lazy = self.input.next_if_eq(&'?').is_some();
        if self.group.is_repeated {
            return Err(Refusal::NestedRepetition(operator.to_owned()));
        }
        let Some(last) = self.group.last else {
            return Err(Refusal::NothingToRepeat(operator.to_owned()));
        };
        // Go does not look into what is repeated zero times.
        let repeats = if count == 0 {
            1
        } else {
            last.saturating_mul(count)
        };
        if repeats > REPEAT_MAX {
            return Err(Refusal::RepeatCount);
        }
        self.group.last = Some(repeats);
        self.group.is_repeated = true;
        let operator = if is_lazy {
            format!("{operator}?")
        } else {
            operator.to_owned()
        };
        let at = self.group.flags_at.unwrap_or(self.out.len());
        self.out.insert_str(at, &operator);
        self.group.flags_at = self.group.flags_at.map(|at| at + operator.len());
        Ok(())
    }

    fn open(&mut self) -> Result<(), Refusal> {
        if self.input.next_if_eq(&'?').is_none() {
            // Nothing asks for what a group matched, so that none captures.
            self.enter("(?:");
            return Ok(());
        }
        let rest = self.input.clone();
        let head: String = rest.clone().take(2).collect();
        // Go knows the form without `P` since 1.22.
        if head == "P<" || head.starts_with('<') {
            self.input.nth(head.find('<').unwrap_or(0));
            let name: String = self.input.by_ref().take_while(|c| *c != '>').collect();
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let is_valid = !name.is_empty() && name.chars().all(is_word);
            if !is_valid {
                return Err(Refusal::GroupName(name));
            }
            self.enter("(?:");
            return Ok(());
        }
        let flags: String = rest
            .clone()
            .take_while(|c| !matches!(c, ':' | ')'))
            .collect();
        let refused = || Refusal::Group(rest.clone().take(10).collect());
        let end = self.input.clone().nth(flags.chars().count());
        // Without a `-` any valid flag stands for the second list: only `(?i-)` is refused for an
        // empty one.
        let (on, off) = flags.split_once('-').unwrap_or((&flags, "i"));
        let known = |flags: &str| flags.chars().all(|flag| "imsU".contains(flag));
        if !known(on) || !known(off) || off.is_empty() {
            return Err(refused());
        }
        self.input.nth(flags.chars().count());
        match end {
            Some(':') => self.enter(&format!("(?{flags}:")),
            // The flags hold until the end of the group.
            Some(_) if !flags.is_empty() => {
                self.group.flags_at.get_or_insert(self.out.len());
                self.group.is_repeated = false;
                self.out.extend(["(?", &flags, ")"]);
            }
            Some(_) | None => return Err(refused()),
        }
        Ok(())
    }

    fn enter(&mut self, opening: &str) {
        self.out.push_str(opening);
        self.groups.push(std::mem::take(&mut self.group));
    }

    fn escape(&mut self) -> Result<(), Refusal> {
        let c = self.input.next().ok_or(Refusal::TrailingBackslash)?;
        match c {
            // A quote without an end reaches to the end of the expression.
            'Q' => {
                while let Some(c) = self.input.next() {
                    if c == '\\' && self.input.next_if_eq(&'E').is_some() {
                        break;
                    }
                    self.literal(c);
                }
                return Ok(());
            }
            // The same in both dialects. Go has no `\Z`.
            'A' | 'z' => {
                self.out.push('\\');
                self.out.push(c);
            }
            'b' | 'B' => {
                self.out
                    .push_str(if c == 'b' { r"(?-u:\b)" } else { r"(?-u:\B)" });
            }
            _ => {
                if let Some(class) = perl_class(c) {
                    self.out.push_str(class);
                } else if let 'p' | 'P' = c {
                    let class = property(c, &mut self.input)?;
                    self.out.push_str(&class);
                } else {
                    let c = character(c, &mut self.input)?;
                    push_literal(&mut self.out, c);
                }
            }
        }
        self.group.push(1);
        Ok(())
    }

    /// Translates a class, every character of it as a number, so that nothing in it has a meaning of its
    /// own.
    fn class(&mut self) -> Result<(), Refusal> {
        self.out.push('[');
        if self.input.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let c = self.input.next().ok_or(Refusal::UnclosedClass)?;
            // In the first place it is a literal.
            if c == ']' && !is_first {
                break;
            }
            is_first = false;
            if c == '[' && self.input.peek() == Some(&':') && self.posix_class()? {
                continue;
            }
            if c == '\\' {
                let next = self.input.peek().copied();
                let next = next.ok_or(Refusal::TrailingBackslash)?;
                if let Some(class) = perl_class(next) {
                    self.input.next();
                    self.out.push_str(class);
                    continue;
                }
                if matches!(next, 'p' | 'P') {
                    self.input.next();
                    let class = property(next, &mut self.input)?;
                    self.out.push_str(&class);
                    continue;
                }
            }
            let low = self.class_character(c)?;
            let mut ahead = self.input.clone();
            // Before the closing bracket, `-` is a literal.
            let is_range = ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']');
            let high = if is_range {
                self.input.next();
                let c = self.input.next().ok_or(Refusal::UnclosedClass)?;
                self.class_character(c)?
            } else {
                low
            };
            if high < low {
                return Err(Refusal::ClassRange(format!("{low}-{high}")));
            }
            push_number(&mut self.out, low);
            self.out.push('-');
            push_number(&mut self.out, high);
        }
        self.out.push(']');
        self.group.push(1);
        Ok(())
    }

    fn class_character(&mut self, c: char) -> Result<char, Refusal> {
        if c != '\\' {
            return Ok(c);
        }
        let c = self.input.next().ok_or(Refusal::TrailingBackslash)?;
        character(c, &mut self.input)
    }

    /// Takes the rest of `[:name:]`. Returns false if the bracket is an ordinary character.
    fn posix_class(&mut self) -> Result<bool, Refusal> {
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print",
            "punct", "space", "upper", "word", "xdigit",
        ];
        if !self.has_class_end {
            return Ok(false);
        }
        let after = self.input.clone().skip(2);
        let ends = self.input.clone().skip(1).zip(after);
        let Some(length) = ends.into_iter().position(|pair| pair == (':', ']')) else {
            self.has_class_end = false;
            return Ok(false);
        };
        let name: String = self.input.clone().skip(1).take(length).collect();
        if !NAMES.contains(&name.strip_prefix('^').unwrap_or(&name)) {
            return Err(Refusal::ClassRange(format!("[:{name}:]")));
        }
        self.input.nth(length + 2);
        // These classes are ASCII in both dialects.
        self.out.extend(["[:", &name, ":]"]);
        Ok(true)
    }
}

/// Returns the class that `\d` and its like stand for.
fn perl_class(c: char) -> Option<&'static str> {
    Some(match c {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        's' => r"[\t\n\x0c\r ]",
        'S' => r"[^\t\n\x0c\r ]",
        _ => return None,
    })
}

/// Takes the rest of `\pN` or `\p{Name}`. Go knows categories and scripts, spelled as Unicode does.
fn property(kind: char, input: &mut Peekable<Chars<'_>>) -> Result<String, Refusal> {
    const CATEGORIES: [&str; 37] = [
        "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N",
        "Nd", "Nl", "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm",
        "So", "Z", "Zl", "Zp", "Zs", "Any",
    ];
    let refused = |name: &str| Refusal::ClassRange(format!("\\{kind}{{{name}}}"));
    let name: String = match input.next() {
        Some('{') => {
            let name: String = input.clone().take_while(|c| *c != '}').collect();
            input
                .nth(name.chars().count())
                .ok_or_else(|| refused(&name))?;
            name
        }
        Some(letter) => letter.to_string(),
        None => return Err(refused("")),
    };
    let (is_inverted, bare) = match name.strip_prefix('^') {
        Some(bare) => (true, bare),
        None => (false, name.as_str()),
    };
    let kind = if (kind == 'P') == is_inverted {
        'p'
    } else {
        'P'
    };
    // A word of a script's name has one capital, except for `SignWriting` and `Nko`'s like.
    let is_script_name = bare.len() > 2
        && bare
            .split('_')
            .all(|word| word.starts_with(|c: char| c.is_ascii_uppercase()))
        && bare.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
    if CATEGORIES.contains(&bare) {
        Ok(format!("\\{kind}{{{bare}}}"))
    } else if is_script_name {
        // `sc=` admits scripts only: `regex` knows further properties, as `Alphabetic`, which Go
        // refuses.
        Ok(format!("\\{kind}{{sc={bare}}}"))
    } else {
        Err(refused(&name))
    }
}

/// Returns the character that an escape stands for, after its first character `c`.
fn character(c: char, input: &mut Peekable<Chars<'_>>) -> Result<char, Refusal> {
    let refused = |text: String| Refusal::Escape(text);
    let number = |digits: &str, radix| {
        let code = u32::from_str_radix(digits, radix).ok();
        code.and_then(char::from_u32)
    };
    Ok(match c {
        'a' => '\x07',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        // One digit would be a reference to a group, which Go does not have.
        '1'..='7' if !input.peek().is_some_and(|next| next.is_digit(8)) => {
            return Err(refused(c.to_string()));
        }
        '0'..='7' => {
            let mut digits = c.to_string();
            while digits.len() < 3
                && let Some(digit) = input.next_if(|next| next.is_digit(8))
            {
                digits.push(digit);
            }
            number(&digits, 8).ok_or_else(|| refused(digits))?
        }
        'x' => {
            let digits: String = if input.next_if_eq(&'{').is_some() {
                let digits: String = input.clone().take_while(|c| *c != '}').collect();
                if input.nth(digits.len()).is_none() {
                    return Err(refused("x{".to_owned()));
                }
                digits
            } else {
                input.by_ref().take(2).collect()
            };
            // `from_str_radix` would accept a sign.
            let is_hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            let code = if is_hex { number(&digits, 16) } else { None };
            code.ok_or_else(|| refused(format!("x{digits}")))?
        }
        // Go allows to escape any punctuation of ASCII, and no other character.
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
        c => return Err(refused(c.to_string())),
    })
}

fn push_literal(out: &mut String, c: char) {
    // Other characters as numbers: some mean something in one of the two dialects only.
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        out.push(c);
    } else {
        push_number(out, c);
    }
}

fn push_number(out: &mut String, c: char) {
    out.extend(["\\x{", &format!("{:X}", u32::from(c)), "}"]);
}
