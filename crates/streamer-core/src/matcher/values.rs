//! The values that an event's document has for the fields that filters name.

use super::{
    ids::FieldId,
    scanner::{Malformed, RawNumber, RawText, Scanner},
};
use crate::filter::{FieldValue, Number};

/// The values of one document for the fields of a collection. Reading the next document uses the same
/// memory again.
#[derive(Debug, Default)]
pub(super) struct Values {
    nodes: Vec<Node>,
    texts: Vec<u8>,
    /// By field, the index of its node plus one; 0 if the document does not have the field.
    by_field: Vec<u32>,
    /// The fields that the document has.
    present: Vec<FieldId>,
}

/// A value, or the name of a member. Lists and objects are followed by what is in them.
#[derive(Clone, Copy, Debug)]
enum Node {
    Null,
    Bool(bool),
    Number(RawNumber),
    Text(Span),
    Name(Span),
    /// `end` is the index of the node after the last element.
    List {
        len: u32,
        end: u32,
    },
    /// The names of its members follow where a filter can ask for them.
    Object {
        end: u32,
    },
}

/// A part of the texts. No message of 4 GiB arrives, so that 32 bits suffice.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

/// A value of a document.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValueRef<'a> {
    values: &'a Values,
    at: u32,
}

/// Nodes or bytes of texts beyond which the memory is given back: one large document should not
/// occupy it for good.
const KEPT_MAX: usize = 1 << 16;

impl Values {
    /// Forgets the document. `fields` is a number above the index of every field.
    pub(super) fn clear(&mut self, fields: usize) {
        for field in self.present.drain(..) {
            // Only what was set: a collection may have thousands of fields, a document a few.
            self.by_field[field.index()] = 0;
        }
        if self.by_field.len() < fields {
            self.by_field.resize(fields, 0);
        }
        self.nodes.clear();
        self.texts.clear();
        self.nodes.shrink_to(KEPT_MAX);
        self.texts.shrink_to(KEPT_MAX);
    }

    /// Returns the fields that the document has, paths that lead to fields included.
    pub(super) fn present(&self) -> &[FieldId] {
        &self.present
    }

    /// Returns the value of a field.
    pub(super) fn get(&self, field: FieldId) -> Option<ValueRef<'_>> {
        let at = self.by_field.get(field.index())?.checked_sub(1)?;
        Some(ValueRef { values: self, at })
    }

    /// Returns the value at a place that [`ValueRef::place`] returned.
    pub(super) fn at(&self, at: u32) -> ValueRef<'_> {
        ValueRef { values: self, at }
    }

    /// Announces that the next value read is that of `field`.
    pub(super) fn begin(&mut self, field: FieldId) {
        // Plus one, so that 0 means absent and the table needs no `Option`.
        self.by_field[field.index()] = self.nodes.len() as u32 + 1;
        self.present.push(field);
    }

    /// Forgets the value of a field. Returns whether there was one.
    pub(super) fn remove(&mut self, field: FieldId) -> bool {
        let known = std::mem::take(&mut self.by_field[field.index()]) != 0;
        if known {
            // Linear, but only members that are repeated come here.
            self.present.retain(|present| *present != field);
        }
        known
    }

    /// Adds a text as a value.
    pub(super) fn push_text(&mut self, text: RawText<'_>) {
        let span = self.span(text);
        self.nodes.push(Node::Text(span));
    }

    /// Adds the name of a member of the object that is being read.
    pub(super) fn push_name(&mut self, name: RawText<'_>) {
        let span = self.span(name);
        self.nodes.push(Node::Name(span));
    }

    /// Begins an object; [`end_object`](Self::end_object) takes what this returns.
    pub(super) fn begin_object(&mut self) -> usize {
        self.nodes.push(Node::Object { end: 0 });
        self.nodes.len()
    }

    pub(super) fn end_object(&mut self, begun: usize) {
        let end = self.nodes.len() as u32;
        self.nodes[begun - 1] = Node::Object { end };
    }

    /// Reads a value that no path leads into.
    pub(super) fn read(&mut self, scanner: &mut Scanner<'_>, depth: u8) -> Result<(), Malformed> {
        let node = match scanner.peek()? {
            b'"' => {
                let text = scanner.text()?;
                Node::Text(self.span(text))
            }
            b'[' => {
                scanner.expect(b'[')?;
                // The scanner is recursive: the depth bounds the stack against hostile data.
                return self.read_list(scanner, depth.checked_sub(1).ok_or(Malformed)?);
            }
            b'{' => {
                // Inside a list: nothing in it can be asked for.
                scanner.skip(depth)?;
                let end = self.nodes.len() as u32 + 1;
                Node::Object { end }
            }
            b't' => scanner.word(b"true").map(|()| Node::Bool(true))?,
            b'f' => scanner.word(b"false").map(|()| Node::Bool(false))?,
            b'n' => scanner.word(b"null").map(|()| Node::Null)?,
            _ => Node::Number(scanner.number()?),
        };
        self.nodes.push(node);
        Ok(())
    }

    fn read_list(&mut self, scanner: &mut Scanner<'_>, depth: u8) -> Result<(), Malformed> {
        let at = self.nodes.len();
        // A place holder: length and end are known after the elements.
        self.nodes.push(Node::Null);
        let mut len = 0;
        while scanner.next_element(len == 0)? {
            len += 1;
            self.read(scanner, depth)?;
        }
        let end = self.nodes.len() as u32;
        self.nodes[at] = Node::List { len, end };
        Ok(())
    }

    /// Returns the index of the node after a value and everything in it.
    fn after(&self, at: u32) -> u32 {
        match self.nodes[at as usize] {
            Node::List { end, .. } | Node::Object { end } => end,
            Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) | Node::Name(_) => at + 1,
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.texts[span.start as usize..span.end as usize]
    }

    fn span(&mut self, text: RawText<'_>) -> Span {
        let start = self.texts.len() as u32;
        text.append_to(&mut self.texts);
        let end = self.texts.len() as u32;
        Span { start, end }
    }
}

impl<'a> ValueRef<'a> {
    /// Returns the place of the value, by which [`Values::at`] finds it.
    pub(super) fn place(self) -> u32 {
        self.at
    }

    pub(super) fn is_list(self) -> bool {
        matches!(self.node(), Node::List { .. })
    }

    /// Returns the places of what is inside the value.
    pub(super) fn inside(self) -> std::ops::Range<u32> {
        self.at + 1..self.values.after(self.at)
    }

    /// Returns the names of an object's members.
    pub(super) fn names(self) -> impl Iterator<Item = &'a [u8]> {
        let Self { values, at } = self;
        let mut next = at + 1;
        let end = match self.node() {
            Node::Object { end } => end,
            Node::Null
            | Node::Bool(_)
            | Node::Number(_)
            | Node::Text(_)
            | Node::Name(_)
            | Node::List { .. } => next,
        };
        std::iter::from_fn(move || {
            while next < end {
                let at = next;
                next = values.after(at);
                if let Node::Name(span) = values.nodes[at as usize] {
                    return Some(values.bytes(span));
                }
            }
            None
        })
    }

    fn node(self) -> Node {
        self.values.nodes[self.at as usize]
    }
}

impl<'a> FieldValue<'a> for ValueRef<'a> {
    fn text(self) -> Option<&'a [u8]> {
        let Node::Text(span) = self.node() else {
            return None;
        };
        Some(self.values.bytes(span))
    }

    fn number(self) -> Option<Number> {
        let Node::Number(number) = self.node() else {
            return None;
        };
        Some(match number {
            RawNumber::Signed(whole) => whole.into(),
            RawNumber::Unsigned(whole) => whole.into(),
            RawNumber::Double(double) => double.into(),
        })
    }

    fn bool(self) -> Option<bool> {
        let Node::Bool(bool) = self.node() else {
            return None;
        };
        Some(bool)
    }

    fn is_null(self) -> bool {
        matches!(self.node(), Node::Null)
    }

    fn elements(self) -> Option<impl ExactSizeIterator<Item = Self>> {
        let Node::List { len, .. } = self.node() else {
            return None;
        };
        let (values, mut next) = (self.values, self.at + 1);
        Some((0..len).map(move |_| {
            let at = next;
            next = values.after(at);
            Self { values, at }
        }))
    }

    fn has_member(self, name: &[u8]) -> bool {
        self.names().any(|known| known == name)
    }
}
