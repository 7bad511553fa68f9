//! The documents of a snapshot as one message.

use std::cmp::Ordering;

use serde_json::{Map, Value as Json};
use steadfast_streamer::{Change, filter::FieldPath};

use super::message::{self, Query};
use crate::collected::{Collected, TOO_LARGE};

/// Returns the documents in the order of the query, otherwise by id.
///
/// # Errors
///
/// If there were too many for one message.
pub(super) fn finish(collected: Collected, query: &Query) -> Result<Vec<String>, &'static str> {
    let Some(mut documents) = collected.into_documents() else {
        return Err(TOO_LARGE);
    };
    let order = query.order_by.as_deref().unwrap_or_default();
    if !order.is_empty() {
        let paths = order.iter().map(|by| FieldPath::from(&*by.field));
        let order: Vec<_> = paths.zip(order).collect();
        // Parsed once, and not for each comparison.
        let mut parsed: Vec<(Map<String, Json>, Change)> = documents
            .into_iter()
            .map(|it| (serde_json::from_slice(&it.data).unwrap_or_default(), it))
            .collect();
        parsed.sort_by(|(a, _), (b, _)| {
            let orders = order.iter().map(|(path, by)| {
                let order = compare(path.find(a), path.find(b));
                if by.is_descending() {
                    order.reverse()
                } else {
                    order
                }
            });
            // The first difference decides. The sort is stable: equal ones stay in the order of their ids.
            let mut differences = orders.filter(|order| order.is_ne());
            differences.next().unwrap_or(Ordering::Equal)
        });
        documents = parsed.into_iter().map(|(_, document)| document).collect();
    }
    let after = query.start_after.as_deref().filter(|it| !it.is_empty());
    let first = match after {
        None => 0,
        Some(after) => match documents.iter().position(|it| *it.document_id == *after) {
            Some(at) => at + 1,
            None if order.is_empty() => documents.partition_point(|it| *it.document_id <= *after),
            None => 0,
        },
    };
    let limit = query.limit.filter(|limit| *limit > 0);
    let limit = limit.map_or(usize::MAX, |limit| limit as usize);
    let shown = documents.iter().skip(first).take(limit);
    Ok(shown.filter_map(message::document).collect())
}

/// Orders values by kind, then by value: nothing and null, truth values, numbers, texts, others.
fn compare(a: Option<&Json>, b: Option<&Json>) -> Ordering {
    let kind = |value: Option<&Json>| match value {
        None | Some(Json::Null) => 0,
        Some(Json::Bool(_)) => 1,
        Some(Json::Number(_)) => 2,
        Some(Json::String(_)) => 3,
        Some(Json::Array(_) | Json::Object(_)) => 4,
    };
    match (a, b) {
        (Some(Json::Bool(a)), Some(Json::Bool(b))) => a.cmp(b),
        (Some(Json::String(a)), Some(Json::String(b))) => a.cmp(b),
        (Some(Json::Number(a)), Some(Json::Number(b))) => {
            let (a, b) = (a.as_f64(), b.as_f64());
            a.partial_cmp(&b).unwrap_or(Ordering::Equal)
        }
        _ => kind(a).cmp(&kind(b)),
    }
}
