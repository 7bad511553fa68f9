//! The fields of documents that somebody wants to see.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;

use super::json_fields::{Key, Members};
use crate::filter::FieldPath;

/// A selection of the fields of documents.
///
/// The values that it keeps have the text that they were written with, and the order that they were in. An
/// object in which nothing is selected is left out.
///
/// ```
/// use steadfast_streamer_core::client::Projection;
///
/// let fields = Projection::new(["total".into(), "customer.name".into()]);
/// let document = serde_json::from_str(r#"{"customer":{"name":"Ada","age":36},"total":1.10,"n":1}"#)?;
/// let shown = fields.apply(document);
/// assert_eq!(shown, r#"{"customer":{"name":"Ada"},"total":1.10}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projection(BTreeMap<Box<str>, Node>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Whole,
    Part(Projection),
}

impl Projection {
    /// Selects these fields. A field within one that is selected as a whole changes nothing.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = FieldPath>) -> Self {
        let mut all = Self::default();
        for path in paths {
            all.add(&mut path.keys().peekable());
        }
        all
    }

    fn add<'a>(&mut self, keys: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) {
        let Some(key) = keys.next() else { return };
        if keys.peek().is_none() {
            self.0.insert(key.into(), Node::Whole);
        } else if let Node::Part(part) = self
            .0
            .entry(key.into())
            .or_insert_with(|| Node::Part(Self::default()))
        {
            part.add(keys);
        }
    }

    /// Returns the selected fields of a document. A document that is no object is returned as it is.
    #[must_use]
    pub fn apply<'a>(&self, document: &'a RawValue) -> Cow<'a, str> {
        let Ok(Members(members)) = serde_json::from_str(document.get()) else {
            return Cow::Borrowed(document.get());
        };
        let mut shown = String::new();
        self.write(members, &mut shown);
        Cow::Owned(shown)
    }

    /// Appends an object with the selected members, and returns whether there are any.
    fn write(&self, members: Vec<(Key<'_>, &RawValue)>, out: &mut String) -> bool {
        let start = out.len();
        for (key, value) in members {
            let Some(node) = self.0.get(&*key.0) else {
                continue;
            };
            let before = out.len();
            out.push(if before == start { '{' } else { ',' });
            out.push_str(&serde_json::to_string(&*key.0).expect("a text is JSON"));
            out.push(':');
            let is_shown = match node {
                Node::Whole => {
                    out.push_str(value.get());
                    true
                }
                Node::Part(part) => serde_json::from_str(value.get())
                    .is_ok_and(|Members(members)| part.write(members, out)),
            };
            if !is_shown {
                out.truncate(before);
            }
        }
        let has_members = out.len() > start;
        out.push_str(if has_members { "}" } else { "{}" });
        has_members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selected_fields_keep_their_text_and_order() {
        for (paths, document, expected) in [
            (&["a"][..], r#"{"a":1.10,"b":2}"#, r#"{"a":1.10}"#),
            (&["b", "a"], r#"{"a":1e2,"b":-0}"#, r#"{"a":1e2,"b":-0}"#),
            (
                &["a"],
                r#"{ "a" : 123456789012345678901 }"#,
                r#"{"a":123456789012345678901}"#,
            ),
            (
                &["a.b"],
                r#"{"a":{"b":[1.0, 2],"c":1}}"#,
                r#"{"a":{"b":[1.0, 2]}}"#,
            ),
            (
                &["a.b", "a"],
                r#"{"a":{"b":1,"c":2}}"#,
                r#"{"a":{"b":1,"c":2}}"#,
            ),
            (
                &["a", "a.b"],
                r#"{"a":{"b":1,"c":2}}"#,
                r#"{"a":{"b":1,"c":2}}"#,
            ),
            (
                &["a.b", "a.c"],
                r#"{"a":{"b":1,"c":2,"d":3}}"#,
                r#"{"a":{"b":1,"c":2}}"#,
            ),
            // Nothing of it is selected, or it has no fields.
            (&["a.b", "z"], r#"{"a":{"c":1},"z":1}"#, r#"{"z":1}"#),
            (&["a.b", "z"], r#"{"z":1,"a":7}"#, r#"{"z":1}"#),
            (&["a.b"], r#"{"a":[{"b":1}]}"#, "{}"),
            (&["x"], r#"{"a":1}"#, "{}"),
            (&[], r#"{"a":1}"#, "{}"),
            // Escapes are another spelling of the same name.
            (
                &["é\n"],
                r#"{"\u00e9\n":"\u00e9"}"#,
                "{\"é\\n\":\"\\u00e9\"}",
            ),
            (&["a"], r#"{"a":1,"b":2,"a":3}"#, r#"{"a":1,"a":3}"#),
            (&["a"], "[1]", "[1]"),
            (&["a"], "null", "null"),
        ] {
            let fields = Projection::new(paths.iter().map(|path| FieldPath::from(*path)));
            let document = serde_json::from_str(document).unwrap();
            assert_eq!(fields.apply(document), expected, "{paths:?} of {document}");
        }
    }

    #[test]
    fn keys_with_dots_are_selected_by_quoted_paths() {
        let fields = Projection::new([r#""a.b".c"#.parse().unwrap()]);
        let document = serde_json::from_str(r#"{"a.b":{"c":1,"d":2},"a":{"b":3}}"#).unwrap();
        assert_eq!(fields.apply(document), r#"{"a.b":{"c":1}}"#);
    }
}
