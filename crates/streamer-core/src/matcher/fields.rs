//! The fields that the filters of a collection name, as a tree of keys.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use smallvec::SmallVec;

use super::{
    field_index::FieldIndex,
    ids::FieldId,
    key_list::KeyList,
    scanner::{DEPTH_MAX, Malformed, RawText, Scanner},
    values::Values,
};
use crate::{
    Event,
    arena::Arena,
    filter::{Document, FieldPath, InvalidDocument},
};

/// Paths of fields as a tree, so that an event's document is walked once, along the paths that both
/// have. The root is the document itself.
#[derive(Debug)]
pub(super) struct FieldTable {
    nodes: Arena<Node>,
}

#[derive(Debug)]
struct Node {
    name: Box<[u8]>,
    parent: FieldId,
    children: BTreeMap<Box<[u8]>, FieldId>,
    /// A bit for every child's name, so that most other names are not looked up.
    likely: u64,
    /// Conditions that name this path.
    users: u32,
    index: FieldIndex,
}

/// The node of the whole document, which is inserted first.
const ROOT: FieldId = FieldId::ROOT;

impl FieldTable {
    pub(super) fn new() -> Self {
        let mut nodes = Arena::new();
        nodes.insert(Node::new(b"", ROOT));
        Self { nodes }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Returns the field at a path, and counts one more condition that names it.
    pub(super) fn acquire(&mut self, path: &FieldPath) -> FieldId {
        let mut at = ROOT;
        for key in path.keys() {
            let known = self.nodes[at.index()].children.get(key.as_bytes()).copied();
            at = known.unwrap_or_else(|| self.add(at, key));
        }
        self.nodes[at.index()].users += 1;
        at
    }

    /// Returns the field at a path, or `None` if no condition names it or a field within it.
    pub(super) fn known(&self, path: &FieldPath) -> Option<FieldId> {
        path.keys()
            .try_fold(ROOT, |at, key| self.nodes[at.index()].child(key.as_bytes()))
    }

    /// Returns the path of a field.
    pub(super) fn path(&self, field: FieldId) -> FieldPath {
        let names = self.names(field);
        let names = names.into_iter().rev().map(String::from_utf8_lossy);
        FieldPath::from_keys(names)
    }

    /// Returns the segments of a field's path, the last one first. Iterative, as a path may have as many
    /// as its bytes allow.
    fn names(&self, field: FieldId) -> SmallVec<[&[u8]; 8]> {
        let mut names = SmallVec::new();
        let mut at = field;
        while at != ROOT {
            let node = &self.nodes[at.index()];
            names.push(&*node.name);
            at = node.parent;
        }
        names
    }

    fn add(&mut self, parent: FieldId, key: &str) -> FieldId {
        let name = key.as_bytes();
        let child = FieldId::new(self.nodes.insert(Node::new(name, parent)));
        let parent = &mut self.nodes[parent.index()];
        parent.children.insert(name.into(), child);
        parent.likely |= likely(name);
        child
    }

    /// Counts one condition less, and forgets paths that nobody names.
    pub(super) fn release(&mut self, field: FieldId) {
        self.nodes[field.index()].users -= 1;
        let mut at = field;
        while at != ROOT {
            let node = &self.nodes[at.index()];
            // A path may be a filter's field and lead to another one.
            if node.users > 0 || !node.children.is_empty() {
                return;
            }
            debug_assert!(node.index.is_empty(), "a forgotten field lists no group");
            let Some(gone) = self.nodes.remove(at.index()) else {
                return;
            };
            let parent = &mut self.nodes[gone.parent.index()];
            parent.children.remove(&gone.name);
            // The bits of names that are gone cost a look-up at most.
            if parent.children.is_empty() {
                parent.likely = 0;
            }
            at = gone.parent;
        }
    }

    /// Returns the value of a field in a document that was read in full.
    pub(super) fn find<'a>(
        &self,
        field: FieldId,
        fields: &'a Map<String, Json>,
    ) -> Option<&'a Json> {
        let names = self.names(field).into_iter().rev();
        let mut names = names.map(|name| std::str::from_utf8(name).ok());
        let first = fields.get(names.next()??)?;
        // Not through lists, as in `Document::field`.
        names.try_fold(first, |inside, name| inside.as_object()?.get(name?))
    }

    pub(super) fn index(&self, field: FieldId) -> &FieldIndex {
        &self.nodes[field.index()].index
    }

    /// Returns the subscriptions whose only condition is that the field differs from a value. The field
    /// may be gone.
    pub(super) fn differing(&self, field: FieldId) -> Option<&KeyList> {
        self.nodes.get(field.index())?.index.differing()
    }

    pub(super) fn index_mut(&mut self, field: FieldId) -> &mut FieldIndex {
        &mut self.nodes[field.index()].index
    }

    /// Reads from an event's data what filters look into; everything else is passed over. `values`
    /// holds no other document.
    ///
    /// # Errors
    ///
    /// When the data is not a JSON object. Then there are no values.
    pub(super) fn read(&self, event: &Event, values: &mut Values) -> Result<(), InvalidDocument> {
        values.clear(self.nodes.bound());
        // Empty data is a document without fields of its own, as for `Document`.
        if !event.data.is_empty() && self.read_data(&event.data, values).is_err() {
            // Values that were read before the fault must not be matched.
            values.clear(0);
            // The reader of whole documents has the words for what is wrong.
            let result = Document::read(&event.data);
            debug_assert!(result.is_err(), "both readers refuse the same data");
            let offset = event.offset;
            return result
                .map(drop)
                .map_err(|fault| InvalidDocument { offset, fault });
        }
        // The event's own id and collection win over members of the same name.
        for (name, text) in [
            ("id", &event.document_id),
            ("collection", &event.collection),
        ] {
            if let Some(field) = self.nodes[ROOT.index()].child(name.as_bytes()) {
                self.forget(field, values);
                values.begin(field);
                values.push_text(RawText::of(text));
            }
        }
        Ok(())
    }

    fn read_data(&self, data: &[u8], values: &mut Values) -> Result<(), Malformed> {
        let mut scanner = Scanner::new(data)?;
        scanner.peek()?;
        let mut names = Vec::new();
        self.read_object(ROOT, &mut scanner, values, &mut names, DEPTH_MAX)?;
        scanner.end()
    }

    /// Reads the members of an object along the paths that lead into it.
    fn read_object(
        &self,
        at: FieldId,
        scanner: &mut Scanner<'_>,
        values: &mut Values,
        unescaped: &mut Vec<u8>,
        depth: u8,
    ) -> Result<(), Malformed> {
        let node = &self.nodes[at.index()];
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        scanner.expect(b'{')?;
        let object = values.begin_object();
        let mut first = true;
        while let Some(name) = scanner.next_member(first)? {
            first = false;
            // Names are for `contains`, and only if a condition is on this very object.
            if node.users > 0 {
                values.push_name(name);
            }
            let child = if name.escaped {
                // One buffer for all levels: it is done with before the value is read.
                unescaped.clear();
                name.append_to(unescaped);
                node.child(unescaped)
            } else {
                node.child(name.bytes)
            };
            let Some(child) = child else {
                // Checked in full, so that damaged data is refused wherever the damage is.
                scanner.skip(depth)?;
                continue;
            };
            // Of members of one name the last one counts, as for `Document`.
            self.forget(child, values);
            values.begin(child);
            if scanner.peek()? == b'{' {
                self.read_object(child, scanner, values, unescaped, depth)?;
            } else {
                values.read(scanner, depth)?;
            }
        }
        values.end_object(object);
        Ok(())
    }

    /// Forgets the value of a field and of the fields in it.
    fn forget(&self, field: FieldId, values: &mut Values) {
        // Without a value of its own, nothing in it has one: `begin` marks the way down.
        if values.remove(field) {
            for &child in self.nodes[field.index()].children.values() {
                self.forget(child, values);
            }
        }
    }
}

impl Node {
    fn new(name: &[u8], parent: FieldId) -> Self {
        Self {
            name: name.into(),
            parent,
            children: BTreeMap::new(),
            likely: 0,
            users: 0,
            index: FieldIndex::default(),
        }
    }

    fn child(&self, name: &[u8]) -> Option<FieldId> {
        if self.likely & likely(name) == 0 {
            return None;
        }
        self.children.get(name).copied()
    }
}

/// Returns one bit that most different names do not share.
fn likely(name: &[u8]) -> u64 {
    let byte = |byte: Option<&u8>| byte.map_or(0, |byte| usize::from(*byte));
    let mixed = byte(name.first()) * 31 + byte(name.last()) * 7 + name.len();
    1 << (mixed % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_many_segments_is_walked_in_a_loop() {
        let mut table = FieldTable::new();
        let path = FieldPath::from_keys(vec!["a"; 30_000]);
        let field = table.acquire(&path);
        assert_eq!(table.path(field), path);
        let fields = serde_json::from_str(r#"{"a":{"a":1}}"#).unwrap();
        assert_eq!(table.find(field, &fields), None);
        let inside = table.acquire(&"a.a".into());
        assert_eq!(table.find(inside, &fields), Some(&Json::from(1)));
        table.release(inside);
        table.release(field);
        assert!(table.is_empty());
    }
}
