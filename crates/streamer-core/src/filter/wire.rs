//! Filters as protobuf messages.

use steadfast_wire::streamer::{self as wire, value::Kind};

use super::{Condition, FieldPath, Filter, FilterFault, InvalidFilter, Op, Spelling, Value};

/// Limits on the filter of one subscription, all inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterLimits {
    /// The number of conditions.
    pub max_filters: usize,
    /// The number of elements in all lists, nested ones included.
    pub max_list: usize,
    /// The size in bytes: fields, operators and texts, and 8 for each other value.
    pub max_bytes: usize,
    /// The nesting of lists; 1 allows flat lists only.
    pub max_depth: usize,
}

impl Default for FilterLimits {
    /// 64 conditions, 1,000 elements, 64 KiB, 4 levels: more than people write, and few enough to be
    /// evaluated within microseconds.
    fn default() -> Self {
        Self {
            max_filters: 64,
            max_list: 1_000,
            max_bytes: 64 * 1_024,
            max_depth: 4,
        }
    }
}

impl Filter {
    /// Reads the filters of a subscribe request, in both spellings of operators.
    ///
    /// # Errors
    ///
    /// At the first condition that exceeds a limit, is incomplete, or is refused by [`Filter::new`].
    pub fn parse(filters: &[wire::Filter], limits: &FilterLimits) -> Result<Self, InvalidFilter> {
        let mut reader = Reader {
            limits,
            elements: 0,
            bytes: 0,
        };
        let mut conditions = Vec::with_capacity(filters.len().min(limits.max_filters));
        for (index, filter) in filters.iter().enumerate() {
            // Within the loop, so that a fault of an earlier condition is reported first.
            let condition = if index < limits.max_filters {
                reader.condition(filter)
            } else {
                Err(FilterFault::TooManyConditions {
                    limit: limits.max_filters,
                })
            };
            conditions.push(condition.map_err(|fault| {
                let field = FieldPath::of_wire(&filter.field, &filter.path);
                InvalidFilter::at(index, &field, fault)
            })?);
        }
        Self::new(conditions)
    }

    /// Returns the messages for a subscribe request.
    #[must_use]
    pub fn to_wire(&self, spelling: Spelling) -> Vec<wire::Filter> {
        let message = |condition: &Condition| {
            let (field, path) = condition.field.to_wire();
            wire::Filter {
                field,
                path,
                op: condition.op.spelled(spelling).to_owned(),
                value: Some(value_to_wire(&condition.value)),
            }
        };
        self.conditions().iter().map(message).collect()
    }
}

/// Reads conditions and stops at the first that would exceed a limit.
struct Reader<'a> {
    limits: &'a FilterLimits,
    elements: usize,
    bytes: usize,
}

impl Reader<'_> {
    fn condition(&mut self, filter: &wire::Filter) -> Result<Condition, FilterFault> {
        // Before anything is copied: what exceeds the limits costs no memory.
        self.count_bytes(FieldPath::wire_len(&filter.field, &filter.path) + filter.op.len())?;
        let op: Op = filter
            .op
            .parse()
            .map_err(|_| FilterFault::UnsupportedOperator(filter.op.clone()))?;
        let value = filter.value.as_ref().ok_or(FilterFault::NoValue)?;
        Ok(Condition {
            field: FieldPath::of_wire(&filter.field, &filter.path),
            op,
            value: self.value(value, 0)?,
        })
    }

    fn value(&mut self, value: &wire::Value, depth: usize) -> Result<Value, FilterFault> {
        let kind = value.kind.as_ref().ok_or(FilterFault::NoKind)?;
        // 8 for each value that is no text, so that long lists of numbers are bounded, too.
        self.count_bytes(match kind {
            Kind::StringValue(text) => text.len(),
            Kind::NullValue(_)
            | Kind::IntValue(_)
            | Kind::DoubleValue(_)
            | Kind::BoolValue(_)
            | Kind::ListValue(_) => 8,
        })?;
        Ok(match kind {
            Kind::NullValue(true) => Value::Null,
            Kind::NullValue(false) => return Err(FilterFault::NoKind),
            Kind::StringValue(text) => Value::Text(text.clone()),
            Kind::IntValue(int) => Value::Int(*int),
            Kind::DoubleValue(double) => Value::Double(*double),
            Kind::BoolValue(bool) => Value::Bool(*bool),
            Kind::ListValue(list) => Value::List(self.list(&list.values, depth + 1)?),
        })
    }

    fn list(&mut self, values: &[wire::Value], depth: usize) -> Result<Vec<Value>, FilterFault> {
        let limits = self.limits;
        // Evaluation and encoding are recursive.
        if depth > limits.max_depth {
            return Err(FilterFault::TooDeep {
                limit: limits.max_depth,
            });
        }
        // Before the elements are read, and across all lists: many short ones cost as much as a
        // long one.
        self.elements = self.elements.saturating_add(values.len());
        if self.elements > limits.max_list {
            return Err(FilterFault::TooManyElements {
                limit: limits.max_list,
            });
        }
        values
            .iter()
            .map(|value| self.value(value, depth))
            .collect()
    }

    fn count_bytes(&mut self, bytes: usize) -> Result<(), FilterFault> {
        self.bytes = self.bytes.saturating_add(bytes);
        let limit = self.limits.max_bytes;
        if self.bytes > limit {
            return Err(FilterFault::TooManyBytes { limit });
        }
        Ok(())
    }
}

fn value_to_wire(value: &Value) -> wire::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(true),
        Value::Text(text) => Kind::StringValue(text.clone()),
        Value::Int(int) => Kind::IntValue(*int),
        Value::Double(double) => Kind::DoubleValue(*double),
        Value::Bool(bool) => Kind::BoolValue(*bool),
        Value::List(values) => Kind::ListValue(wire::ListValue {
            values: values.iter().map(value_to_wire).collect(),
        }),
    };
    wire::Value { kind: Some(kind) }
}
