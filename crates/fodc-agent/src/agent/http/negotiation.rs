//! The names on a page of metrics that its reader understands, negotiated as Prometheus' libraries do.

use std::{borrow::Cow, collections::BTreeSet, fmt::Write as _};

/// The form of a page that a reader asked for: a version of the text format, and the way in which names
/// are written that only the newer one allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    has_quotes: bool,
    escaping: Escaping,
    /// The reader named the escaping, and the response repeats it.
    is_named: bool,
}

/// A way to write names with other characters than letters, digits and underscores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escaping {
    /// Each other character is an underscore.
    #[default]
    Underscores,
    /// A dot is `_dot_`, an underscore is doubled, and each other character is two underscores.
    Dots,
    /// Each other character is its code, and the name begins with `U__`.
    Values,
    /// Names are not changed.
    AllowUtf8,
}

impl Names {
    /// Returns the form that an `Accept` header asks for: that of the text format with the greatest weight,
    /// or the oldest one.
    pub(super) fn accepted(accept: &str) -> Self {
        let mut best: Option<(f32, Self)> = None;
        for item in accept.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let parameter = |wanted: &str| {
                let mut parameters = parts.clone().filter_map(|part| part.split_once('='));
                let found = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
                found.map(|(_, value)| value.trim().trim_matches('"'))
            };
            let version = parameter("version").unwrap_or_default();
            let is_text = media_type.eq_ignore_ascii_case("text/plain");
            let weight = parameter("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
            let is_better = best.is_none_or(|(before, _)| weight > before);
            if is_text && ["", "0.0.4", "1.0.0"].contains(&version) && weight > 0.0 && is_better {
                let escaping = parameter("escaping").and_then(Escaping::parse);
                let names = Self {
                    has_quotes: version == "1.0.0",
                    escaping: escaping.unwrap_or_default(),
                    is_named: escaping.is_some(),
                };
                best = Some((weight, names));
            }
        }
        best.map_or_else(Self::default, |(_, names)| names)
    }

    /// Returns the content type of a page with these names.
    pub(super) fn content_type(self) -> String {
        let version = if self.has_quotes { "1.0.0" } else { "0.0.4" };
        let mut text = format!("text/plain; version={version}; charset=utf-8");
        if self.is_named {
            text.push_str("; escaping=");
            text.push_str(self.escaping.word());
        }
        text
    }

    /// Returns the name of a metric as the reader gets it.
    pub(super) fn metric(self, name: &str) -> Cow<'_, str> {
        self.escaping.apply(name, true)
    }

    /// Returns the names of a series' labels as the reader gets them, each once.
    pub(super) fn labels<'a>(
        self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Vec<(Cow<'a, str>, &'a str)> {
        let mut is_changed = false;
        let labels = labels.into_iter().map(|(name, value)| {
            let name = self.escaping.apply(name, false);
            is_changed |= matches!(name, Cow::Owned(_));
            (name, value)
        });
        let mut labels: Vec<_> = labels.collect();
        if is_changed {
            // Two names may be the same with underscores, and a reader refuses a page because of one line
            // with a label twice.
            let mut seen = BTreeSet::new();
            for (name, _) in &mut labels {
                while !seen.insert(name.clone()) {
                    name.to_mut().push('_');
                }
            }
        }
        labels
    }
}

impl Escaping {
    fn parse(word: &str) -> Option<Self> {
        let all = [Self::Underscores, Self::Dots, Self::Values, Self::AllowUtf8];
        all.into_iter().find(|escaping| escaping.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Underscores => "underscores",
            Self::Dots => "dots",
            Self::Values => "values",
            Self::AllowUtf8 => "allow-utf-8",
        }
    }

    /// Returns the name in this form; only the name of a metric may have colons.
    fn apply(self, name: &str, colon: bool) -> Cow<'_, str> {
        let is_legacy = |(at, c): (usize, char)| {
            c.is_ascii_alphabetic() || c == '_' || c == ':' && colon || at > 0 && c.is_ascii_digit()
        };
        let all_legacy = name.char_indices().all(is_legacy);
        // Dots double the underscores of every name, so that a reader can undo it.
        let is_kept = match self {
            Self::AllowUtf8 => true,
            Self::Dots => all_legacy && !name.contains('_'),
            Self::Underscores | Self::Values => all_legacy,
        };
        if is_kept {
            return Cow::Borrowed(name);
        }
        let mut out = String::with_capacity(name.len() + 8);
        if self == Self::Values {
            out.push_str("U__");
        }
        for (at, c) in name.char_indices() {
            match (self, c) {
                (Self::Dots | Self::Values, '_') => out.push_str("__"),
                (Self::Dots, '.') => out.push_str("_dot_"),
                (_, c) if is_legacy((at, c)) => out.push(c),
                (Self::Dots, _) => out.push_str("__"),
                (Self::Values, c) => {
                    write!(out, "_{:x}_", u32::from(c)).expect("writing to a string cannot fail");
                }
                (Self::Underscores | Self::AllowUtf8, _) => out.push('_'),
            }
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_negotiated_as_prometheus_does() {
        const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,\
            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,\
            */*;q=0.2";
        for (accept, content_type) in [
            ("", TEXT),
            ("*/*", TEXT),
            ("text/html,*/*;q=0.8", TEXT),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", TEXT),
            (
                prometheus_3,
                "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
            ),
            // Only the other format may have any name.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8,text/plain;version=0.0.4",
                TEXT,
            ),
            (
                "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.1,text/plain;version=0.0.4;q=0.9",
                TEXT,
            ),
            ("text/plain;version=1.0.0;escaping=allow-utf-8;q=0", TEXT),
            ("text/plain;version=2.0.0;escaping=allow-utf-8", TEXT),
            (
                "Text/Plain; Version=\"1.0.0\"; Escaping=values",
                "text/plain; version=1.0.0; charset=utf-8; escaping=values",
            ),
            (
                "text/plain;version=0.0.4;escaping=dots",
                "text/plain; version=0.0.4; charset=utf-8; escaping=dots",
            ),
            ("text/plain;escaping=other", TEXT),
            (
                "text/plain;version=1.0.0",
                "text/plain; version=1.0.0; charset=utf-8",
            ),
        ] {
            assert_eq!(
                Names::accepted(accept).content_type(),
                content_type,
                "{accept}"
            );
        }
    }

    #[test]
    fn names_are_escaped_as_prometheus_does() {
        for (name, underscores, dots, values) in [
            (
                "mysystem.cpu",
                "mysystem_cpu",
                "mysystem_dot_cpu",
                "U__mysystem_2e_cpu",
            ),
            (
                "no:escape_needed",
                "no:escape_needed",
                "no:escape__needed",
                "no:escape_needed",
            ),
            (
                "http.status:sum",
                "http_status:sum",
                "http_dot_status:sum",
                "U__http_2e_status:sum",
            ),
            (
                "label with 😱",
                "label_with__",
                "label__with____",
                "U__label_20_with_20__1f631_",
            ),
            ("花火", "__", "____", "U___82b1__706b_"),
            ("0a_b", "_a_b", "__a__b", "U___30_a__b"),
        ] {
            for (escaping, expected) in [
                (Escaping::Underscores, underscores),
                (Escaping::Dots, dots),
                (Escaping::Values, values),
                (Escaping::AllowUtf8, name),
            ] {
                assert_eq!(escaping.apply(name, true), expected, "{name} {escaping:?}");
            }
        }
    }

    #[test]
    fn labels_that_look_the_same_stay_apart() {
        let labels = [("a.b", "1"), ("a_b", "2"), ("a-b", "3"), ("c", "4")];
        let names = Names::default().labels(labels);
        let names: Vec<_> = names.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["a_b", "a_b_", "a_b__", "c"]);
    }
}
