//! The fields that the filters of a collection name, as a tree of path segments.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value as Json;
use slab::Slab;

use super::{field_index::FieldIndex, ids::FieldId};
use crate::{
    Event,
    filter::{Document, InvalidDocument},
};

/// Paths of fields as a tree, so that an event's document is walked once, along the paths that both
/// have. The root is the document itself.
#[derive(Debug)]
pub(super) struct FieldTable {
    nodes: Slab<Node>,
}

#[derive(Debug)]
struct Node {
    name: Arc<str>,
    parent: FieldId,
    children: BTreeMap<Arc<str>, FieldId>,
    /// Conditions that name this path.
    users: u32,
    index: FieldIndex,
}

/// The top-level members of an event's document that some filter looks into.
pub(super) type Roots = Vec<(Arc<str>, Json)>;

/// The values that an event has for fields, by [`FieldId`].
#[derive(Debug)]
pub(super) struct Values<'a> {
    by_field: Vec<Option<&'a Json>>,
    /// The fields that have a value, in the order in which they were found.
    pub(super) present: Vec<FieldId>,
}

/// The node of the whole document, which is inserted first.
const ROOT: FieldId = FieldId::ROOT;

impl FieldTable {
    pub(super) fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new("".into(), ROOT));
        Self { nodes }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Returns the field at a path, and counts one more condition that names it.
    pub(super) fn acquire(&mut self, path: &str) -> FieldId {
        let mut at = ROOT;
        for segment in path.split('.') {
            let known = self.nodes[at.index()].children.get(segment).copied();
            at = known.unwrap_or_else(|| self.add(at, segment));
        }
        self.nodes[at.index()].users += 1;
        at
    }

    fn add(&mut self, parent: FieldId, segment: &str) -> FieldId {
        let name: Arc<str> = segment.into();
        let node = Node::new(Arc::clone(&name), parent);
        let child = FieldId::new(self.nodes.insert(node));
        self.nodes[parent.index()].children.insert(name, child);
        child
    }

    /// Counts one condition less, and forgets paths that nobody names.
    pub(super) fn release(&mut self, field: FieldId) {
        self.nodes[field.index()].users -= 1;
        let mut at = field;
        while at != ROOT {
            let node = &self.nodes[at.index()];
            if node.users > 0 || !node.children.is_empty() {
                return;
            }
            debug_assert!(node.index.is_empty(), "a forgotten field lists no group");
            let gone = self.nodes.remove(at.index());
            self.nodes[gone.parent.index()].children.remove(&gone.name);
            at = gone.parent;
        }
    }

    pub(super) fn index(&self, field: FieldId) -> &FieldIndex {
        &self.nodes[field.index()].index
    }

    pub(super) fn index_mut(&mut self, field: FieldId) -> &mut FieldIndex {
        &mut self.nodes[field.index()].index
    }

    /// Reads from an event's data what filters look into; everything else is skipped over.
    ///
    /// # Errors
    ///
    /// When the data is not a JSON object.
    pub(super) fn extract(&self, event: &Event) -> Result<Roots, InvalidDocument> {
        let mut roots = if event.data.is_empty() {
            Roots::new()
        } else {
            self.read(&event.data)
                // The reader of whole documents has the better words for what is wrong.
                .or_else(|_| Document::read(&event.data).map(|_| Roots::new()))
                .map_err(|fault| InvalidDocument {
                    offset: event.offset,
                    fault,
                })?
        };
        // The event's own id and collection win over members of the same name.
        for (name, value) in [
            ("id", &event.document_id),
            ("collection", &event.collection),
        ] {
            if let Some((name, _)) = self.root(name) {
                put(&mut roots, name, Json::from(&**value));
            }
        }
        Ok(roots)
    }

    fn read(&self, data: &[u8]) -> serde_json::Result<Roots> {
        let mut reader = serde_json::Deserializer::from_slice(data);
        let roots = RootsReader(self).deserialize(&mut reader)?;
        reader.end()?;
        Ok(roots)
    }

    /// Walks the paths that both the table and the document have.
    pub(super) fn resolve<'a>(&self, roots: &'a Roots) -> Values<'a> {
        let mut values = Values {
            by_field: vec![None; self.nodes.capacity()],
            present: Vec::new(),
        };
        for (name, json) in roots {
            // A field that was forgotten since the document was read has no groups left.
            if let Some((_, field)) = self.root(name) {
                self.walk(field, json, &mut values);
            }
        }
        values
    }

    fn walk<'a>(&self, at: FieldId, json: &'a Json, values: &mut Values<'a>) {
        let node = &self.nodes[at.index()];
        if node.users > 0 {
            values.by_field[at.index()] = Some(json);
            values.present.push(at);
        }
        let Json::Object(members) = json else {
            return;
        };
        // The shorter side leads, so that neither a wide document nor many paths cost much alone.
        if node.children.len() <= members.len() {
            for (name, &child) in &node.children {
                if let Some(json) = members.get(&**name) {
                    self.walk(child, json, values);
                }
            }
        } else {
            for (name, json) in members {
                if let Some(&child) = node.children.get(name.as_str()) {
                    self.walk(child, json, values);
                }
            }
        }
    }

    fn root(&self, name: &str) -> Option<(&Arc<str>, FieldId)> {
        let found = self.nodes[ROOT.index()].children.get_key_value(name);
        found.map(|(name, &field)| (name, field))
    }
}

impl Node {
    fn new(name: Arc<str>, parent: FieldId) -> Self {
        Self {
            name,
            parent,
            children: BTreeMap::new(),
            users: 0,
            index: FieldIndex::default(),
        }
    }
}

impl<'a> Values<'a> {
    pub(super) fn get(&self, field: FieldId) -> Option<&'a Json> {
        self.by_field.get(field.index()).copied().flatten()
    }
}

/// Of members of one name the last one counts, as for [`Document`].
fn put(roots: &mut Roots, name: &Arc<str>, value: Json) {
    match roots.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => *known = value,
        None => roots.push((Arc::clone(name), value)),
    }
}

struct RootsReader<'a>(&'a FieldTable);

impl<'de> DeserializeSeed<'de> for RootsReader<'_> {
    type Value = Roots;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Roots, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RootsReader<'_> {
    type Value = Roots;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Roots, A::Error> {
        let mut roots = Roots::new();
        while let Some(name) = members.next_key_seed(NameReader(self.0))? {
            match name {
                Some(name) => put(&mut roots, name, members.next_value()?),
                None => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(roots)
    }
}

/// Reads a member's name as the table's own copy of it, `None` if no filter names it.
struct NameReader<'a>(&'a FieldTable);

impl<'de, 'a> DeserializeSeed<'de> for NameReader<'a> {
    type Value = Option<&'a Arc<str>>;

    fn deserialize<D: de::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for NameReader<'a> {
    type Value = Option<&'a Arc<str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.root(name).map(|(name, _)| name))
    }
}
