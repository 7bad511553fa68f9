//! The subscriptions of one collection.

use std::{hash::BuildHasher as _, sync::Arc};

use foldhash::quality::FixedState;

use super::{
    SubscriptionKey,
    access::Access,
    choice::{canonical, choose, known},
    condition::{Condition, Conditions, Kind, Scalar},
    fields::FieldTable,
    group::Group,
    ids::{Entry, FieldId, GroupId, Slot, SlotKind},
    members::Members,
    postings::Postings,
    values::{ValueRef, Values},
};
use crate::{
    arena::Arena,
    filter::{
        Condition as NamedCondition, Document, FieldValue as _, Filter, InvalidDocument, Selection,
        holds,
    },
    index_table::IndexTable,
};

/// The subscriptions of one collection, and the ways to find them.
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) database: Arc<str>,
    pub(super) name: Arc<str>,
    /// Tells it from another collection that was given the same index later.
    pub(super) serial: u64,
    documents: Arena<Named>,
    /// Documents by the hash of their id.
    by_document: IndexTable,
    whole: Option<Members<SubscriptionKey>>,
    pub(super) groups: Arena<Group>,
    /// Groups by the hash of their conditions.
    forms: IndexTable,
    pub(super) fields: FieldTable,
    pub(super) postings: Postings,
    pub(super) hasher: FixedState,
}

/// The subscriptions of one document.
#[derive(Debug)]
struct Named {
    id: Box<str>,
    members: Members<SubscriptionKey>,
}

/// What an event may satisfy.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Groups of which the conditions are left to evaluate.
    pub(super) groups: Vec<Entry>,
    /// Lists of subscriptions that the event satisfies but for some.
    pub(super) differences: Vec<Difference>,
    /// The number of subscriptions in these lists.
    pub(super) listed: usize,
}

/// The subscriptions that ask for another value of a field than some value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Difference {
    field: FieldId,
    /// The group that asks for another value than the event's.
    equal: Option<GroupId>,
    /// The subscription to go on from.
    next: SubscriptionKey,
}

impl Collection {
    pub(super) fn new(database: Arc<str>, name: Arc<str>, serial: u64, seed: u64) -> Self {
        // One secret seed for all tables, because clients choose the values that are hashed.
        let hasher = FixedState::with_seed(seed);
        Self {
            database,
            name,
            serial,
            documents: Arena::new(),
            by_document: IndexTable::default(),
            whole: None,
            groups: Arena::new(),
            forms: IndexTable::default(),
            fields: FieldTable::new(),
            postings: Postings::new(hasher.clone()),
            hasher,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.whole.is_none() && self.groups.is_empty()
    }

    /// Returns the hash of the conditions of a group, or `None` if it is gone.
    pub(super) fn hash_of(&self, id: GroupId) -> Option<u32> {
        let group = self.groups.get(id.index())?;
        Some(group.conditions.hash(&self.hasher))
    }

    #[cfg(test)]
    pub(super) fn has_no_groups(&self) -> bool {
        self.groups.is_empty()
            && self.forms.len() == 0
            && self.postings.is_empty()
            && self.fields.is_empty()
    }

    pub(super) fn insert(&mut self, key: SubscriptionKey, filter: &Filter) -> Slot {
        match filter.selection() {
            Selection::Collection => {
                match &mut self.whole {
                    Some(members) => members.insert(key),
                    None => self.whole = Some(Members::One(key)),
                }
                Slot::WHOLE
            }
            Selection::Document(id) => self.insert_document(key, id),
            Selection::Conditions(conditions) => Slot::group(self.join_group(key, conditions)),
        }
    }

    /// Returns the list of the subscriptions with a filter, or `None` if there is none.
    pub(super) fn find(&self, filter: &Filter) -> Option<Slot> {
        match filter.selection() {
            Selection::Collection => self.whole.as_ref().map(|_| Slot::WHOLE),
            Selection::Document(id) => self.document(id).map(Slot::document),
            Selection::Conditions(conditions) => {
                let conditions = known(conditions, &self.fields)?;
                let hash = conditions.hash(&self.hasher);
                self.group(hash, &conditions).map(Slot::group)
            }
        }
    }

    pub(super) fn remove(&mut self, key: SubscriptionKey, slot: Slot) {
        match slot.kind() {
            SlotKind::Whole => {
                if let Some(members) = &mut self.whole
                    && members.remove(key)
                {
                    self.whole = None;
                }
            }
            SlotKind::Document(index) => {
                if let Some(document) = self.documents.get_mut(index)
                    && document.members.remove(key)
                    && let Some(document) = self.documents.remove(index)
                {
                    let hash = self.hash_of_document(&document.id);
                    self.by_document.remove(hash, |at| at as usize == index);
                }
            }
            SlotKind::Group(id) => self.leave_group(key, id),
        }
    }

    /// Returns whether the document satisfies the filter of a subscription.
    pub(super) fn evaluate(
        &self,
        slot: Slot,
        document: &Document<'_>,
    ) -> Result<bool, InvalidDocument> {
        match slot.kind() {
            SlotKind::Whole => Ok(true),
            SlotKind::Document(index) => {
                let named = self.documents.get(index);
                Ok(named.is_some_and(|named| *named.id == *document.event().document_id))
            }
            SlotKind::Group(id) => {
                let fields = document.fields()?;
                let group = self.groups.get(id.index());
                Ok(group.is_some_and(|group| {
                    group.conditions.iter().all(|condition| {
                        let value = self.fields.find(condition.field, fields);
                        value.is_some_and(|value| holds(condition.op, condition.value, value))
                    })
                }))
            }
        }
    }

    /// Appends the subscriptions that need no look into the data.
    pub(super) fn unconditional(&self, document_id: &str, out: &mut Vec<SubscriptionKey>) {
        if let Some(index) = self.document(document_id) {
            self.documents[index].members.append_to(out);
        }
        if let Some(members) = &self.whole {
            members.append_to(out);
        }
    }

    /// Adds the groups that an event with these values may satisfy, each once.
    pub(super) fn candidates(&self, values: &Values, out: &mut Candidates) {
        for &field in values.present() {
            let (Some(value), index) = (values.get(field), self.fields.index(field)) else {
                continue;
            };
            // Each group once: it has one access, and a field has one value. Only `contains` can
            // find a group twice.
            index.candidates(value, &mut out.groups);
            let (scalar, groups) = (Scalar::of_field(value), &self.groups);
            // Most fields have only one kind of listing, and each look-up waits for memory.
            if index.equalling > 0
                && let Some(value) = scalar
            {
                self.postings
                    .candidates(field, Kind::Equals, &value, groups, &mut out.groups);
            }
            if let Some(differing) = index.differing() {
                // Without a scalar the field differs from every listed value, which are scalars.
                let same = scalar
                    .and_then(|value| self.postings.only(field, Kind::Differs, &value, groups));
                out.listed += differing.len();
                out.differences.push(Difference {
                    field,
                    equal: same.map(Entry::group),
                    next: SubscriptionKey(0),
                });
            }
            if index.containing > 0 {
                self.containing_candidates(field, value, &mut out.groups);
            }
        }
    }

    /// Appends the groups that ask for an element of a list or a key of an object.
    fn containing_candidates(&self, field: FieldId, value: ValueRef<'_>, out: &mut Vec<Entry>) {
        let before = out.len();
        let mut look_up = |value: Scalar<'_>| {
            let (kind, groups) = (Kind::Contains, &self.groups);
            self.postings.candidates(field, kind, &value, groups, out);
        };
        match value.elements() {
            Some(elements) => elements.filter_map(Scalar::of_field).for_each(&mut look_up),
            // The keys of an object; any other value has none.
            None => value.names().map(Scalar::Text).for_each(&mut look_up),
        }
        // Equal elements, or members of one name, find the same groups.
        out[before..].sort_unstable();
        let mut kept = before;
        for at in before..out.len() {
            if kept == before || out[kept - 1] != out[at] {
                out[kept] = out[at];
                kept += 1;
            }
        }
        out.truncate(kept);
    }

    /// Appends subscriptions from the list of a difference, in order. Looks at no more than `left` of
    /// them, which it reduces, and returns whether these were all.
    pub(super) fn differing(
        &self,
        difference: &mut Difference,
        left: &mut usize,
        out: &mut Vec<SubscriptionKey>,
    ) -> bool {
        let Some(list) = self.fields.differing(difference.field) else {
            return true;
        };
        // Looked up again in each slice: the group may have lost members or be gone since.
        let equal = difference.equal.and_then(|id| self.groups.get(id.index()));
        let except = equal.into_iter().flat_map(|group| group.members.iter());
        match list.copy(difference.next, except, left, out) {
            Some(next) => {
                difference.next = next;
                false
            }
            None => true,
        }
    }

    fn insert_document(&mut self, key: SubscriptionKey, id: &str) -> Slot {
        if let Some(index) = self.document(id) {
            self.documents[index].members.insert(key);
            return Slot::document(index);
        }
        let index = self.documents.insert(Named {
            id: id.into(),
            members: Members::One(key),
        });
        // Like groups, documents with subscriptions fill memory before 2^32 of them.
        self.by_document
            .insert(self.hash_of_document(id), index as u32);
        Slot::document(index)
    }

    /// Returns the index of a document with subscriptions.
    fn document(&self, id: &str) -> Option<usize> {
        // Most collections have none, and the id would be hashed for each event.
        if self.documents.is_empty() {
            return None;
        }
        let is = |index: u32| *self.documents[index as usize].id == *id;
        let index = self.by_document.find(self.hash_of_document(id), is)?;
        Some(index as usize)
    }

    fn hash_of_document(&self, id: &str) -> u32 {
        self.hasher.hash_one(id) as u32
    }

    /// Returns the group with these conditions, of this hash.
    fn group(&self, hash: u32, conditions: &Conditions) -> Option<GroupId> {
        let same = |index: u32| self.groups[index as usize].conditions == *conditions;
        let index = self.forms.find(hash, same)?;
        Some(GroupId::new(index as usize))
    }

    fn join_group(&mut self, key: SubscriptionKey, conditions: &[NamedCondition]) -> GroupId {
        // It acquires the fields, whose ids the bytes contain.
        let conditions = canonical(conditions, &mut self.fields);
        let hash = conditions.hash(&self.hasher);
        if let Some(id) = self.group(hash, &conditions) {
            let group = &mut self.groups[id.index()];
            group.members.insert(key);
            if let Access::Difference(field) = group.access {
                self.fields.index_mut(field).insert_differing(key);
            }
            // The group holds its fields once, however many subscriptions it has.
            for condition in conditions.iter() {
                self.fields.release(condition.field);
            }
            return id;
        }
        let access = choose(&conditions, &self.fields, &self.postings);
        let id = GroupId::new(self.groups.insert(Group {
            members: Members::One(key),
            conditions,
            access,
        }));
        self.forms.insert(hash, id.index() as u32);
        // After the insertion, as postings compare values with those of the group.
        self.list(id);
        if let Access::Difference(field) = access {
            self.fields.index_mut(field).insert_differing(key);
        }
        id
    }

    fn leave_group(&mut self, key: SubscriptionKey, id: GroupId) {
        let Some(group) = self.groups.get_mut(id.index()) else {
            return;
        };
        let is_last = group.members.remove(key);
        if let Access::Difference(field) = group.access {
            self.fields.index_mut(field).remove_differing(key);
        }
        if !is_last {
            return;
        }
        // Before the group is removed, whose conditions say where it is listed.
        self.unlist(id);
        let Some(group) = self.groups.remove(id.index()) else {
            return;
        };
        let hash = group.conditions.hash(&self.hasher);
        // By id: comparing conditions would read groups that share the hash.
        self.forms
            .remove(hash, |index| index as usize == id.index());
        for condition in group.conditions.iter() {
            self.fields.release(condition.field);
        }
    }

    /// Lists a group under its access.
    fn list(&mut self, id: GroupId) {
        let Group {
            conditions, access, ..
        } = &self.groups[id.index()];
        match *access {
            Access::Value(_) | Access::Difference(_) => {
                let entry = Entry::new(id, access.is_sole(conditions));
                if let Some((condition, kind, values)) = listed(conditions, *access) {
                    for value in values {
                        self.postings
                            .insert(condition.field, kind, &value, entry, &self.groups);
                    }
                    self.fields.index_mut(condition.field).count(kind, true);
                }
            }
            Access::Range(field, of) => {
                let index = self.fields.index_mut(field);
                index.insert_range(of, id, field, conditions);
            }
            Access::Presence(field) => self.fields.index_mut(field).insert_present(id),
        }
    }

    /// Undoes [`list`](Self::list).
    fn unlist(&mut self, id: GroupId) {
        let Group {
            conditions, access, ..
        } = &self.groups[id.index()];
        match *access {
            Access::Value(_) | Access::Difference(_) => {
                let entry = Entry::new(id, access.is_sole(conditions));
                if let Some((condition, kind, values)) = listed(conditions, *access) {
                    for value in values {
                        self.postings.remove(condition.field, kind, &value, entry);
                    }
                    self.fields.index_mut(condition.field).count(kind, false);
                }
            }
            Access::Range(field, of) => {
                let index = self.fields.index_mut(field);
                index.remove_range(of, id, field, conditions);
            }
            Access::Presence(field) => self.fields.index_mut(field).remove_present(id),
        }
    }
}

/// Returns the condition whose values a group is listed under, and these.
fn listed(
    conditions: &Conditions,
    access: Access,
) -> Option<(Condition<'_>, Kind, impl Iterator<Item = Scalar<'_>>)> {
    let at = match access {
        Access::Value(at) => usize::from(at),
        Access::Difference(_) => 0,
        Access::Range(..) | Access::Presence(_) => return None,
    };
    let condition = conditions.iter().nth(at)?;
    Some((
        condition,
        Kind::of(condition.op),
        condition.listed_values()?,
    ))
}
