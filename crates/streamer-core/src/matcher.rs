//! Which subscriptions a change concerns.
//!
//! ```text
//! database, collection ─┬─ document id ─> subscriptions
//!                       ├─ subscriptions of the whole collection
//!                       └─ groups of equal filters, found by a value they ask for (`index`)
//! ```
//!
//! The cost of an event follows the subscriptions it may concern, not all there are: other
//! collections and documents are never looked at, equal filters are evaluated once for all their
//! subscriptions, and a filter that asks for `==` or `in` is evaluated only for documents with such
//! a value. What is left, filters with nothing but orders, `!=` and `contains`, is evaluated for
//! each event of its collection, once per distinct filter.

mod form;
mod index;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{form::Form, index::Index};
use crate::{
    Event,
    filter::{Document, Filter, InvalidDocument, Selection, evaluate},
};

/// Names a subscription within the server. Keys are given out in rising order, so their order is
/// the order of registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionKey(pub u64);

/// Finds the subscriptions that a change concerns.
#[derive(Debug, Default)]
pub struct Matcher {
    databases: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Collection>>,
    homes: BTreeMap<SubscriptionKey, Home>,
}

/// Where a subscription stands.
#[derive(Debug)]
struct Home {
    database: Arc<str>,
    collection: Arc<str>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Document(Arc<str>),
    Collection,
    Group(GroupId),
}

#[derive(Debug, Default)]
struct Collection {
    documents: BTreeMap<Arc<str>, BTreeSet<SubscriptionKey>>,
    whole: BTreeSet<SubscriptionKey>,
    groups: BTreeMap<GroupId, Group>,
    group_of_form: BTreeMap<Arc<Form>, GroupId>,
    next_group: GroupId,
    index: Index,
}

/// Names a group within its collection; never given out twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct GroupId(u64);

/// Subscriptions whose filters hold for the same documents.
#[derive(Debug)]
struct Group {
    form: Arc<Form>,
    /// The filter of the first of them.
    filter: Filter,
    members: BTreeSet<SubscriptionKey>,
}

impl Matcher {
    /// A matcher without subscriptions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Subscriptions registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.homes.len()
    }

    /// Whether there is no subscription.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.homes.is_empty()
    }

    /// Registers a subscription. One that is registered under the key is replaced, and keeps its
    /// place in the order.
    pub fn insert(
        &mut self,
        key: SubscriptionKey,
        database: &str,
        collection: &str,
        filter: Filter,
    ) {
        self.remove(key);
        let (database, collections) = entry(&mut self.databases, database);
        let (collection, inside) = entry(collections, collection);
        let place = inside.insert(key, filter);
        let home = Home {
            database,
            collection,
            place,
        };
        self.homes.insert(key, home);
    }

    /// Forgets a subscription; whether it was there.
    pub fn remove(&mut self, key: SubscriptionKey) -> bool {
        let Some(home) = self.homes.remove(&key) else {
            return false;
        };
        if let Some(collections) = self.databases.get_mut(&home.database) {
            if let Some(inside) = collections.get_mut(&home.collection) {
                inside.remove(key, &home.place);
                if inside.is_empty() {
                    collections.remove(&home.collection);
                }
            }
            if collections.is_empty() {
                self.databases.remove(&home.database);
            }
        }
        true
    }

    /// Appends the subscriptions that the event concerns, each once: those of the document, those
    /// of the whole collection, then those with other filters; each kind in order of registration.
    ///
    /// # Errors
    ///
    /// When there are filters to evaluate and the event's data is not a JSON object. The
    /// subscriptions of the first two kinds, which need no data, are appended nevertheless.
    pub fn matches(
        &self,
        event: &Event,
        out: &mut Vec<SubscriptionKey>,
    ) -> Result<(), InvalidDocument> {
        let collections = self.databases.get(&event.database);
        let Some(inside) = collections.and_then(|inside| inside.get(&event.collection)) else {
            return Ok(());
        };
        out.extend(
            inside
                .documents
                .get(&event.document_id)
                .into_iter()
                .flatten(),
        );
        out.extend(&inside.whole);
        let filtered = out.len();
        inside.matching_groups(&Document::of(event), out)?;
        // Groups are found in no particular order.
        out[filtered..].sort_unstable();
        Ok(())
    }
}

impl Collection {
    fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.whole.is_empty() && self.groups.is_empty()
    }

    fn insert(&mut self, key: SubscriptionKey, filter: Filter) -> Place {
        match filter.selection() {
            Selection::Collection => {
                self.whole.insert(key);
                Place::Collection
            }
            Selection::Document(id) => {
                let (id, members) = entry(&mut self.documents, id);
                members.insert(key);
                Place::Document(id)
            }
            Selection::Conditions(_) => Place::Group(self.join_group(key, filter)),
        }
    }

    fn join_group(&mut self, key: SubscriptionKey, filter: Filter) -> GroupId {
        let form = Arc::new(Form::of(&filter));
        if let Some(&id) = self.group_of_form.get(&form)
            && let Some(group) = self.groups.get_mut(&id)
        {
            group.members.insert(key);
            return id;
        }
        let id = self.next_group;
        self.next_group.0 += 1;
        self.index.insert(id, &filter);
        self.group_of_form.insert(Arc::clone(&form), id);
        let group = Group {
            form,
            filter,
            members: BTreeSet::from([key]),
        };
        self.groups.insert(id, group);
        id
    }

    fn remove(&mut self, key: SubscriptionKey, place: &Place) {
        match place {
            Place::Collection => {
                self.whole.remove(&key);
            }
            Place::Document(id) => {
                if let Some(members) = self.documents.get_mut(id) {
                    members.remove(&key);
                    if members.is_empty() {
                        self.documents.remove(id);
                    }
                }
            }
            Place::Group(id) => self.leave_group(key, *id),
        }
    }

    fn leave_group(&mut self, key: SubscriptionKey, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.members.remove(&key);
        if !group.members.is_empty() {
            return;
        }
        if let Some(group) = self.groups.remove(&id) {
            self.group_of_form.remove(&group.form);
            self.index.remove(id, &group.filter);
        }
    }

    fn matching_groups(
        &self,
        document: &Document<'_>,
        out: &mut Vec<SubscriptionKey>,
    ) -> Result<(), InvalidDocument> {
        if self.groups.is_empty() {
            return Ok(());
        }
        let mut candidates = Vec::new();
        self.index.candidates(document, &mut candidates)?;
        for id in candidates {
            if let Some(group) = self.groups.get(&id)
                && evaluate(&group.filter, document)?
            {
                out.extend(&group.members);
            }
        }
        Ok(())
    }
}

/// The entry of that name, made if need be, and the one allocation its name has.
fn entry<'a, T: Default>(map: &'a mut BTreeMap<Arc<str>, T>, name: &str) -> (Arc<str>, &'a mut T) {
    let name = map
        .get_key_value(name)
        .map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name));
    let inside = map.entry(Arc::clone(&name)).or_default();
    (name, inside)
}

#[cfg(test)]
mod tests;
