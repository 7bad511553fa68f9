//! The subscriptions of one collection.

use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, HashTable};
use slab::Slab;

use super::{
    SubscriptionKey,
    access::Access,
    choice::{canonical, choose},
    condition::{self, Condition, Kind, Scalar, listed_values},
    fields::FieldTable,
    group::Group,
    ids::{Entry, FieldId, GroupId},
    members::Members,
    postings::{Postings, spread},
    values::{ValueRef, Values},
};
use crate::filter::{Condition as NamedCondition, FieldValue as _, Filter, Selection};

/// The subscriptions of one collection, and the ways to find them.
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) database: Arc<str>,
    pub(super) name: Arc<str>,
    /// Tells it from another collection that was given the same index later.
    pub(super) serial: u64,
    documents: Slab<Named>,
    by_document: HashMap<Arc<str>, u32, FixedState>,
    whole: Option<Members<SubscriptionKey>>,
    pub(super) groups: Slab<Group>,
    /// Groups by the hash of their conditions. The hash is stored, so that growing reads no group.
    forms: HashTable<(u32, GroupId)>,
    pub(super) fields: FieldTable,
    pub(super) postings: Postings,
    pub(super) hasher: FixedState,
}

/// The subscriptions of one document.
#[derive(Debug)]
struct Named {
    id: Arc<str>,
    members: Members<SubscriptionKey>,
}

/// The list of a collection that a subscription is in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    Whole,
    Document(u32),
    Group(GroupId),
}

impl Collection {
    pub(super) fn new(database: Arc<str>, name: Arc<str>, serial: u64, seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        Self {
            database,
            name,
            serial,
            documents: Slab::new(),
            by_document: HashMap::with_hasher(hasher.clone()),
            whole: None,
            groups: Slab::new(),
            forms: HashTable::new(),
            fields: FieldTable::new(),
            postings: Postings::new(hasher.clone()),
            hasher,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.whole.is_none() && self.groups.is_empty()
    }

    #[cfg(test)]
    pub(super) fn has_no_groups(&self) -> bool {
        self.groups.is_empty()
            && self.forms.is_empty()
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
                Slot::Whole
            }
            Selection::Document(id) => self.insert_document(key, id),
            Selection::Conditions(conditions) => Slot::Group(self.join_group(key, conditions)),
        }
    }

    pub(super) fn remove(&mut self, key: SubscriptionKey, slot: Slot) {
        match slot {
            Slot::Whole => {
                if let Some(members) = &mut self.whole
                    && members.remove(key)
                {
                    self.whole = None;
                }
            }
            Slot::Document(index) => {
                if let Some(document) = self.documents.get_mut(index as usize)
                    && document.members.remove(key)
                {
                    let document = self.documents.remove(index as usize);
                    self.by_document.remove(&document.id);
                }
            }
            Slot::Group(id) => self.leave_group(key, id),
        }
    }

    /// Appends the subscriptions that need no look into the data.
    pub(super) fn unconditional(&self, document_id: &str, out: &mut Vec<SubscriptionKey>) {
        let document = self.by_document.get(document_id);
        if let Some(document) = document.and_then(|&index| self.documents.get(index as usize)) {
            document.members.append_to(out);
        }
        if let Some(members) = &self.whole {
            members.append_to(out);
        }
    }

    /// Appends the groups that an event with these values may satisfy, each once.
    pub(super) fn candidates(&self, values: &Values, out: &mut Vec<Entry>) {
        for &field in values.present() {
            let (Some(value), index) = (values.get(field), self.fields.index(field)) else {
                continue;
            };
            index.candidates(value, out);
            let (scalar, groups) = (Scalar::of_field(value), &self.groups);
            if index.equalling > 0
                && let Some(value) = scalar
            {
                self.postings
                    .candidates(field, Kind::Equals, &value, groups, out);
            }
            if let Some(differing) = index.differing() {
                let before = out.len();
                differing.append_to(out);
                let same = scalar
                    .and_then(|value| self.postings.only(field, Kind::Differs, &value, groups));
                let at = out[before..].iter().position(|entry| Some(*entry) == same);
                if let Some(at) = at {
                    out.swap_remove(before + at);
                }
            }
            if index.containing > 0 {
                self.containing_candidates(field, value, out);
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

    fn insert_document(&mut self, key: SubscriptionKey, id: &str) -> Slot {
        if let Some(&index) = self.by_document.get(id) {
            self.documents[index as usize].members.insert(key);
            return Slot::Document(index);
        }
        let id: Arc<str> = id.into();
        let index = self.documents.insert(Named {
            id: Arc::clone(&id),
            members: Members::One(key),
        }) as u32;
        self.by_document.insert(id, index);
        Slot::Document(index)
    }

    fn join_group(&mut self, key: SubscriptionKey, conditions: &[NamedCondition]) -> GroupId {
        let conditions = canonical(conditions, &mut self.fields);
        let hash = condition::hash(&conditions, &self.hasher);
        let groups = &mut self.groups;
        let same = |(known, id): &(u32, GroupId)| {
            *known == hash && condition::equal(&groups[id.index()].conditions, &conditions)
        };
        if let Some(&(_, id)) = self.forms.find(spread(hash), same) {
            groups[id.index()].members.insert(key);
            for condition in &conditions {
                self.fields.release(condition.field);
            }
            return id;
        }
        let access = choose(&conditions, &self.fields, &self.postings, groups);
        let id = GroupId::new(groups.insert(Group {
            members: Members::One(key),
            conditions,
            access,
        }));
        self.forms
            .insert_unique(spread(hash), (hash, id), |(known, _)| spread(*known));
        self.list(id);
        id
    }

    fn leave_group(&mut self, key: SubscriptionKey, id: GroupId) {
        let Some(group) = self.groups.get_mut(id.index()) else {
            return;
        };
        if !group.members.remove(key) {
            return;
        }
        self.unlist(id);
        let group = self.groups.remove(id.index());
        let hash = condition::hash(&group.conditions, &self.hasher);
        let form = self
            .forms
            .find_entry(spread(hash), |(_, known)| *known == id);
        if let Ok(form) = form {
            form.remove();
        }
        for condition in &group.conditions {
            self.fields.release(condition.field);
        }
    }

    /// Lists a group under its access.
    fn list(&mut self, id: GroupId) {
        let Group {
            conditions, access, ..
        } = &self.groups[id.index()];
        match *access {
            Access::Value(at) => {
                let condition = &conditions[usize::from(at)];
                let entry = Entry::new(id, access.is_sole(conditions));
                let kind = Kind::of(condition.op);
                for value in scalars(condition) {
                    self.postings
                        .insert(condition.field, kind, &value, entry, &self.groups);
                }
                self.fields.index_mut(condition.field).count(kind, true);
            }
            Access::Range(field, of) => {
                let index = self.fields.index_mut(field);
                index.insert_range(of, id, field, conditions);
            }
            Access::Difference(field) => {
                let entry = Entry::new(id, true);
                for value in scalars(&conditions[0]) {
                    self.postings
                        .insert(field, Kind::Differs, &value, entry, &self.groups);
                }
                self.fields.index_mut(field).insert_differing(entry);
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
            Access::Value(at) => {
                let condition = &conditions[usize::from(at)];
                let entry = Entry::new(id, access.is_sole(conditions));
                let kind = Kind::of(condition.op);
                for value in scalars(condition) {
                    self.postings.remove(condition.field, kind, &value, entry);
                }
                self.fields.index_mut(condition.field).count(kind, false);
            }
            Access::Range(field, of) => {
                let index = self.fields.index_mut(field);
                index.remove_range(of, id, field, conditions);
            }
            Access::Difference(field) => {
                let entry = Entry::new(id, true);
                for value in scalars(&conditions[0]) {
                    self.postings.remove(field, Kind::Differs, &value, entry);
                }
                self.fields.index_mut(field).remove_differing(entry);
            }
            Access::Presence(field) => self.fields.index_mut(field).remove_present(id),
        }
    }
}

fn scalars(condition: &Condition) -> impl Iterator<Item = Scalar<'_>> {
    let values = listed_values(condition).unwrap_or_default();
    values.iter().filter_map(Scalar::of_value)
}
