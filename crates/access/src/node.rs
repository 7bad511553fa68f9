//! The nodes that agents may register as.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::{FaultKind, Identity, Pattern, template::Variable};

/// The node that an agent registers as.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// The name of the pod, or `ip:port` of an agent without one.
    pub name: &'a str,
    /// The role; `None` while the agent does not know it.
    pub role: Option<&'a str>,
    /// The labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// The nodes of a grant.
#[derive(Clone, Debug)]
pub(crate) struct NodeRule {
    /// One of them must match the name.
    pub(crate) pods: Vec<NameRule>,
    /// One of them must match the role, unless there are none.
    pub(crate) roles: Vec<NameRule>,
    /// Each of these labels must be there, and one of its values must match.
    pub(crate) labels: Vec<(String, Vec<NameRule>)>,
}

/// A pattern of a name, or a part of the identity that is compared with it.
#[derive(Clone, Debug)]
pub(crate) enum NameRule {
    Pattern(Pattern),
    Variable(Variable),
}

impl NodeRule {
    pub(crate) fn admits(&self, identity: &Identity, node: &Node<'_>) -> bool {
        let any = |rules: &[NameRule], name| rules.iter().any(|it| it.admits(identity, name));
        // An unresolved role claims nothing, and agents register before they know theirs.
        let has_role = self.roles.is_empty() || node.role.is_none_or(|role| any(&self.roles, role));
        let has_labels = self
            .labels
            .iter()
            .all(|(name, rules)| node.labels.get(name).is_some_and(|value| any(rules, value)));
        any(&self.pods, node.name) && has_role && has_labels
    }
}

impl NameRule {
    pub(crate) fn parse(text: &str) -> Result<Self, FaultKind> {
        if let Some(name) = text.strip_prefix('$') {
            return Ok(Self::Variable(Variable::parse(name)?));
        }
        text.parse().map(Self::Pattern).map_err(|fault| {
            let text = text.to_owned();
            FaultKind::Pattern { text, fault }
        })
    }

    fn admits(&self, identity: &Identity, name: &str) -> bool {
        match self {
            Self::Pattern(pattern) => pattern.matches(name),
            Self::Variable(variable) => match variable.value(identity) {
                Some(Json::String(value)) => value == name,
                Some(Json::Array(values)) => values.iter().any(|it| it.as_str() == Some(name)),
                _ => false,
            },
        }
    }
}
