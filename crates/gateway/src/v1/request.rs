//! What a subscription asks for, in a message or in the parameters of a request.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value as Json, value::RawValue};
use steadfast_streamer::{
    Direction, Position,
    client::Projection,
    filter::{Condition, FieldPath, Filter, Op, Value},
};

use super::message::{from_object, without_place};
use crate::subscription::{Order, Request};

/// A request with what the gateway does by itself.
#[derive(Debug)]
pub(super) struct Subscribe {
    pub(super) request: Request,
    pub(super) fields: Option<Projection>,
    /// The items that may be sent; `None` without a limit.
    pub(super) credit: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubscribeMessage<'a> {
    #[serde(borrow)]
    database: Cow<'a, str>,
    #[serde(borrow)]
    collection: Cow<'a, str>,
    #[serde(borrow)]
    filters: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    from: Option<Cow<'a, str>>,
    snapshot: Option<bool>,
    left: Option<bool>,
    fields: Option<Vec<String>>,
    #[serde(borrow)]
    order_by: Option<OrderBy<'a>>,
    limit: Option<u32>,
    credit: Option<u64>,
}

#[derive(Deserialize)]
struct OrderBy<'a> {
    #[serde(borrow)]
    field: Cow<'a, str>,
    descending: Option<bool>,
}

#[derive(Deserialize)]
struct FilterObject<'a> {
    #[serde(borrow)]
    field: Cow<'a, str>,
    #[serde(borrow)]
    op: Cow<'a, str>,
    value: Json,
}

/// The most paths in `fields`.
const MAX_FIELDS: usize = 256;

/// Reads a subscribe message. The error says what is wrong with it.
pub(super) fn read(message: &RawValue) -> Result<Subscribe, String> {
    let message: SubscribeMessage<'_> =
        from_object(message).map_err(|error| without_place(&error))?;
    if message.database.is_empty() || message.collection.is_empty() {
        return Err("`database` and `collection` must not be empty".to_owned());
    }
    let from = match &message.from {
        Some(text) => Some(text.parse::<Position>().map_err(|it| it.to_string())?),
        None => None,
    };
    let window = match (message.order_by, message.limit) {
        (None, None) => None,
        (None, Some(_)) => return Err("`limit` needs `orderBy`".to_owned()),
        (Some(_), None) => return Err("`orderBy` needs `limit`".to_owned()),
        (Some(_), Some(0)) => return Err("`limit` must be at least 1".to_owned()),
        (Some(_), Some(_)) if from.is_some() => {
            return Err("`from` is not allowed with `orderBy`".to_owned());
        }
        (Some(order), Some(limit)) => Some(Order {
            field: path(&order.field)?,
            direction: match order.descending {
                Some(true) => Direction::Descending,
                Some(false) | None => Direction::Ascending,
            },
            limit,
        }),
    };
    let mut conditions = Vec::new();
    for text in message.filters.unwrap_or_default() {
        conditions.extend(conditions_of(text)?);
    }
    let fields = message.fields.as_deref().map(projection);
    let snapshot = message.snapshot.unwrap_or(false) || window.is_some();
    Ok(Subscribe {
        request: Request {
            database: message.database.into(),
            collection: message.collection.into(),
            filter: Filter::new(conditions).map_err(|invalid| invalid.to_string())?,
            from,
            snapshot,
            left: message.left.unwrap_or(false) || snapshot,
            window,
            progress: true,
        },
        fields: fields.transpose()?,
        credit: message.credit,
    })
}

fn conditions_of(filter: &RawValue) -> Result<Vec<Condition>, String> {
    if filter.get().starts_with('"') {
        let text: Cow<'_, str> =
            serde_json::from_str(filter.get()).map_err(|error| without_place(&error))?;
        return conditions_of_text(&text);
    }
    let read: Result<FilterObject<'_>, _> = from_object(filter);
    let filter = read.map_err(|error| format!("a filter: {}", without_place(&error)))?;
    let op: Op = filter
        .op
        .parse()
        .map_err(|unknown| format!("a filter: {unknown}"))?;
    let value = Value::try_from(&filter.value).map_err(|it| format!("a filter: {it}"))?;
    Ok(vec![Condition::new(path(&filter.field)?, op, value)])
}

/// Reads a condition in the form of the command line.
pub(crate) fn conditions_of_text(text: &str) -> Result<Vec<Condition>, String> {
    let filter = Filter::from_text([text]);
    let filter =
        filter.map_err(|it| format!("filter {text:?}, column {}: {}", it.column, it.fault))?;
    Ok(filter.conditions().to_vec())
}

/// Reads the fields to show from texts.
pub(crate) fn projection_of_text(texts: &str) -> Result<Projection, String> {
    let texts: Vec<_> = texts.split(',').map(str::to_owned).collect();
    projection(&texts)
}

fn projection(texts: &[String]) -> Result<Projection, String> {
    if texts.len() > MAX_FIELDS {
        return Err(format!("`fields` has at most {MAX_FIELDS} paths"));
    }
    let paths = texts.iter().map(|text| path(text));
    Ok(Projection::new(paths.collect::<Result<Vec<_>, _>>()?))
}

fn path(text: &str) -> Result<FieldPath, String> {
    text.parse::<FieldPath>()
        .map_err(|fault| format!("field {text:?}: {fault}"))
}
