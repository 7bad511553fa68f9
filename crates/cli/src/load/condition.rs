//! A condition of a filter: the server gets it as text, the judge as values.

use std::fmt;

use serde_json::Value;

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    pub(crate) field: &'static str,
    pub(crate) op: Op,
    pub(crate) value: Value,
}

/// The comparison of a field with the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    In,
    Contains,
}

impl Condition {
    pub(crate) fn new(field: &'static str, op: Op, value: impl Into<Value>) -> Self {
        Self {
            field,
            op,
            value: value.into(),
        }
    }
}

/// The text for `steadfast streamer subscribe`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            Op::Equal => "==",
            Op::NotEqual => "!=",
            Op::Greater => ">",
            Op::GreaterOrEqual => ">=",
            Op::Less => "<",
            Op::LessOrEqual => "<=",
            Op::In => "in",
            Op::Contains => "contains",
        };
        write!(f, "{} {op} {}", self.field, self.value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_is_written_as_the_server_reads_it() {
        let text = |op, value| Condition::new("a.b", op, value).to_string();
        assert_eq!(text(Op::Equal, json!("x y")), r#"a.b == "x y""#);
        assert_eq!(text(Op::In, json!(["x", 1])), r#"a.b in ["x",1]"#);
        assert_eq!(text(Op::LessOrEqual, json!(2.5)), "a.b <= 2.5");
    }
}
