//! Filters: what a subscription asks of a document, as plain data.
//!
//! A [`Filter`] is read once, from the wire ([`Filter::parse`]), from text ([`Filter::from_text`])
//! or from values ([`Filter::new`]), and then evaluated against many documents. Whatever made it,
//! it passed the same checks, so evaluation has no errors of its own. Fields and values are data:
//! nothing in them is ever interpreted.
//!
//! This module never reads a clock and never allocates while it evaluates.

mod condition;
mod document;
mod evaluate;
mod fault;
mod number;
mod text;
mod value;
mod wire;

use std::{fmt, sync::Arc};

pub use self::{
    condition::{Condition, Op, Spelling, UnknownOp},
    document::{Document, DocumentFault, InvalidDocument},
    evaluate::evaluate,
    fault::{FilterFault, InvalidFilter},
    text::{InvalidText, TextFault},
    value::{InvalidValue, Value},
    wire::FilterLimits,
};
pub(crate) use self::{
    evaluate::{equal, holds},
    number::Number,
};

/// What a subscription asks of a document: every condition holds.
///
/// Clones share the conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    conditions: Arc<[Condition]>,
}

/// The three ways in which a filter chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selection<'a> {
    /// Every document of the collection.
    Collection,
    /// The one document with this id.
    Document(&'a str),
    /// The documents for which all of these hold; there is at least one.
    Conditions(&'a [Condition]),
}

impl Filter {
    /// The filter that holds for every document.
    #[must_use]
    pub fn all() -> Self {
        Self {
            conditions: Arc::from([]),
        }
    }

    /// A filter of these conditions, all of which must hold; none of them means every document.
    ///
    /// # Errors
    ///
    /// At the first condition that could not be sent or would not mean what it says: a number that
    /// is not finite, `in` without a list, an order asked of a list, a document id that is no id.
    pub fn new(conditions: impl IntoIterator<Item = Condition>) -> Result<Self, InvalidFilter> {
        let conditions: Arc<[Condition]> = conditions.into_iter().collect();
        for (index, condition) in conditions.iter().enumerate() {
            condition
                .check()
                .map_err(|fault| InvalidFilter::at(index, &condition.field, fault))?;
        }
        if let [only] = &*conditions {
            only.check_document_id()
                .map_err(|fault| InvalidFilter::at(0, &only.field, fault))?;
        }
        Ok(Self { conditions })
    }

    /// The conditions, in the order in which they were given.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// How the filter chooses.
    ///
    /// The field `_id` stands for the document's id only in a filter of exactly one `==`; beside
    /// other conditions or with another operator it is a field like any other.
    #[must_use]
    pub fn selection(&self) -> Selection<'_> {
        match &*self.conditions {
            [] => Selection::Collection,
            [
                Condition {
                    field,
                    op: Op::Eq,
                    value: Value::Text(id),
                },
            ] if field == condition::DOCUMENT_ID => Selection::Document(id),
            conditions => Selection::Conditions(conditions),
        }
    }
}

/// The text form, conditions joined by commas; for people and logs of tests.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, condition) in self.conditions.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{condition}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
