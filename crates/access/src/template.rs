//! Filters with variables, and their values for one identity.

use serde_json::{Value as Json, json};

use crate::identity::Identity;

/// The conditions of a grant, all of which a document must satisfy.
///
/// A condition is text that the application understands. Instead of a value it may end with `$sub`, the
/// name of the principal, or `$claim.NAME`, a claim of its JWT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterTemplate {
    conditions: Vec<ConditionTemplate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ConditionTemplate {
    /// Everything before the variable.
    text: Box<str>,
    variable: Option<Variable>,
}

/// A part of an identity, by its name in a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    Subject,
    Claim(Box<str>),
}

/// A condition for one identity.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The text; without its value if there is one in `value`.
    pub text: String,
    /// The value of a variable. It is not a part of the text and never read as such.
    pub value: Option<Json>,
}

/// The reason why a text is not a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// There is no such variable.
    #[error("unknown variable `{0}`; there are `$sub` and `$claim.NAME`")]
    UnknownVariable(String),
    /// A variable is not the whole value.
    #[error("a variable is the whole value of a condition, without quotes, as in `owner == $sub`")]
    NotTheValue,
}

impl FilterTemplate {
    /// Reads conditions. Whether the application understands them is not checked.
    ///
    /// # Errors
    ///
    /// At the first condition with a variable in a place where none can stand.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, TemplateFault> {
        let conditions = texts.into_iter().map(condition).collect::<Result<_, _>>()?;
        Ok(Self { conditions })
    }

    /// Returns the conditions for an identity; `None` if it lacks a claim, or has one that is no value.
    #[must_use]
    pub fn bind(&self, identity: &Identity) -> Option<Vec<Condition>> {
        let bind = |template: &ConditionTemplate| {
            let value = match &template.variable {
                None => None,
                Some(variable) => match variable.value(identity)? {
                    // No document can be compared with them.
                    Json::Null | Json::Object(_) => return None,
                    value => Some(value),
                },
            };
            let text = template.text.to_string();
            Some(Condition { text, value })
        };
        self.conditions.iter().map(bind).collect()
    }

    /// Checks the conditions with a function of the application. A variable may have any type, so that one
    /// text or list in its place suffices.
    ///
    /// # Errors
    ///
    /// The index of the first condition that the application does not understand, and its reason.
    pub fn check(
        &self,
        understands: impl Fn(&Condition) -> Result<(), String>,
    ) -> Result<(), (usize, String)> {
        for (index, condition) in self.conditions.iter().enumerate() {
            let text = condition.text.to_string();
            let with = |value| Condition {
                text: text.clone(),
                value,
            };
            let checked = match condition.variable {
                None => understands(&with(None)),
                Some(_) => understands(&with(Some(Json::from("text"))))
                    .or_else(|fault| understands(&with(Some(json!(["text"])))).map_err(|_| fault)),
            };
            checked.map_err(|fault| (index, fault))?;
        }
        Ok(())
    }
}

impl Variable {
    /// Reads the text after the dollar sign.
    pub(crate) fn parse(name: &str) -> Result<Self, TemplateFault> {
        match (name, name.strip_prefix("claim.")) {
            ("sub", _) => Ok(Self::Subject),
            (_, Some(claim)) if !claim.is_empty() => Ok(Self::Claim(claim.into())),
            _ => Err(TemplateFault::UnknownVariable(format!("${name}"))),
        }
    }

    /// Returns the value for an identity; `None` if it has no such claim.
    pub(crate) fn value(&self, identity: &Identity) -> Option<Json> {
        match self {
            Self::Subject => Some(Json::from(identity.name())),
            Self::Claim(name) => identity.claims().get(&**name).cloned(),
        }
    }
}

fn condition(text: &str) -> Result<ConditionTemplate, TemplateFault> {
    let text = text.trim();
    let is_boundary = |c: char| c.is_whitespace() || matches!(c, '=' | '!' | '<' | '>');
    let at = text
        .rfind(is_boundary)
        .map_or(0, |at| at + last_char(&text[at..]));
    let (before, last) = text.split_at(at);
    let variable = match last.strip_prefix('$') {
        // Something must be compared with it.
        Some(_) if before.trim().is_empty() => return Err(TemplateFault::NotTheValue),
        Some(name) => Some(Variable::parse(name)?),
        None => None,
    };
    let text = if variable.is_some() { before } else { text };
    // Elsewhere it would be a part of a text, and quietly match nothing.
    if text.contains("$sub") || text.contains("$claim.") {
        return Err(TemplateFault::NotTheValue);
    }
    Ok(ConditionTemplate {
        text: text.into(),
        variable,
    })
}

fn last_char(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}
