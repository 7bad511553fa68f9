//! Groups by a value that a document must have for their filter to hold.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::Value as Json;

use super::GroupId;
use crate::filter::{Condition, Document, Filter, InvalidDocument, Number, Op, Value};

/// Finds the groups whose filter may hold for a document.
///
/// Each group is entered under one condition, its *access*: an `==` with a text, number or boolean,
/// or a short `in` of them. A document without one of the values can not satisfy the filter, so
/// the group need not be looked at. Groups without such a condition are candidates always.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_field: BTreeMap<Box<str>, ByValue>,
    always: BTreeSet<GroupId>,
}

#[derive(Debug, Default)]
struct ByValue {
    texts: BTreeMap<Box<str>, BTreeSet<GroupId>>,
    numbers: BTreeMap<Number, BTreeSet<GroupId>>,
    bools: BTreeMap<bool, BTreeSet<GroupId>>,
}

impl Index {
    pub(super) fn insert(&mut self, group: GroupId, filter: &Filter) {
        let Some(access) = access(filter) else {
            self.always.insert(group);
            return;
        };
        let by_value = self
            .by_field
            .entry(access.field.as_str().into())
            .or_default();
        for key in keys(access) {
            by_value.insert(key, group);
        }
    }

    /// Undoes [`insert`](Self::insert) with the same filter.
    pub(super) fn remove(&mut self, group: GroupId, filter: &Filter) {
        let Some(access) = access(filter) else {
            self.always.remove(&group);
            return;
        };
        if let Some(by_value) = self.by_field.get_mut(access.field.as_str()) {
            for key in keys(access) {
                by_value.remove(key, group);
            }
            if by_value.is_empty() {
                self.by_field.remove(access.field.as_str());
            }
        }
    }

    /// Appends every group whose filter may hold, each once.
    pub(super) fn candidates(
        &self,
        document: &Document<'_>,
        out: &mut Vec<GroupId>,
    ) -> Result<(), InvalidDocument> {
        out.extend(&self.always);
        for (path, by_value) in &self.by_field {
            if let Some(field) = document.field(path)? {
                out.extend(by_value.groups(field).into_iter().flatten());
            }
        }
        Ok(())
    }
}

impl ByValue {
    fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.numbers.is_empty() && self.bools.is_empty()
    }

    fn groups(&self, field: &Json) -> Option<&BTreeSet<GroupId>> {
        match field {
            Json::String(text) => self.texts.get(text.as_str()),
            Json::Number(number) => self.numbers.get(&Number::of_json(number)?),
            Json::Bool(bool) => self.bools.get(bool),
            Json::Null | Json::Array(_) | Json::Object(_) => None,
        }
    }

    fn insert(&mut self, key: Key<'_>, group: GroupId) {
        let groups = match key {
            Key::Text(text) => self.texts.entry(text.into()).or_default(),
            Key::Number(number) => self.numbers.entry(number).or_default(),
            Key::Bool(bool) => self.bools.entry(bool).or_default(),
        };
        groups.insert(group);
    }

    fn remove(&mut self, key: Key<'_>, group: GroupId) {
        match key {
            Key::Text(text) => leave(&mut self.texts, text, group),
            Key::Number(number) => leave(&mut self.numbers, &number, group),
            Key::Bool(bool) => leave(&mut self.bools, &bool, group),
        }
    }
}

/// A value that groups are entered under.
#[derive(Clone, Copy)]
enum Key<'a> {
    Text(&'a str),
    Number(Number),
    Bool(bool),
}

impl<'a> Key<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(Self::Text(text)),
            Value::Int(int) => Some(Self::Number((*int).into())),
            Value::Double(double) => Some(Self::Number((*double).into())),
            Value::Bool(bool) => Some(Self::Bool(*bool)),
            Value::List(_) => None,
        }
    }
}

fn leave<K, Q>(map: &mut BTreeMap<K, BTreeSet<GroupId>>, key: &Q, group: GroupId)
where
    K: Borrow<Q> + Ord,
    Q: Ord + ?Sized,
{
    if let Some(groups) = map.get_mut(key) {
        groups.remove(&group);
        if groups.is_empty() {
            map.remove(key);
        }
    }
}

/// The condition under which a filter is entered: the one that, by its kind, few documents are
/// expected to satisfy. The first of the best, so that insert and remove agree.
fn access(filter: &Filter) -> Option<&Condition> {
    let conditions = filter.conditions().iter();
    conditions
        .filter_map(|condition| Some((coarseness(condition)?, condition)))
        .min_by_key(|(coarseness, _)| *coarseness)
        .map(|(_, condition)| condition)
}

/// How coarse a condition is; `None` if it can not be an access.
fn coarseness(condition: &Condition) -> Option<Coarseness> {
    match (condition.op, &condition.value) {
        (Op::Eq, value) => Some(match Key::of(value)? {
            Key::Text(_) => Coarseness::Text,
            Key::Number(_) => Coarseness::Number,
            Key::Bool(_) => Coarseness::Bool,
        }),
        (Op::In, Value::List(values)) if values.len() <= ACCESS_VALUES_MAX => {
            let keys = values.iter().all(|value| Key::of(value).is_some());
            keys.then_some(Coarseness::Choice(values.len()))
        }
        (Op::In | Op::Ne | Op::Gt | Op::Ge | Op::Lt | Op::Le | Op::Contains, _) => None,
    }
}

/// From fine to coarse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Coarseness {
    Text,
    Number,
    Choice(usize),
    Bool,
}

/// The values of an access.
fn keys(access: &Condition) -> impl Iterator<Item = Key<'_>> {
    let values = match &access.value {
        Value::List(values) => values,
        value @ (Value::Text(_) | Value::Int(_) | Value::Double(_) | Value::Bool(_)) => {
            std::slice::from_ref(value)
        }
    };
    values.iter().filter_map(Key::of)
}

/// An `in` with more values than this is evaluated rather than entered under each.
const ACCESS_VALUES_MAX: usize = 64;
