//! The rights of identities.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::{
    identity::{Identity, Method},
    node::{Node, NodeRule},
    pattern::Pattern,
    template::{Condition, FilterTemplate},
};

/// Something that a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Receive the documents of a collection and their changes.
    Subscribe,
    /// Change documents of a collection.
    Publish,
    /// See the state of the server, and read its whole log. Databases and collections do not matter.
    Admin,
    /// Register as an agent of the flight recorder, for a node that the grant names.
    Register,
    /// Read the pages of the flight recorder's proxy.
    Read,
    /// Have the agents of the flight recorder gather crashes, profiles and the state of their databases.
    Diagnose,
}

/// The answer of a policy to a request for an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// No grant allows it.
    Denied,
    /// A grant without a filter allows it for every document.
    Allowed,
    /// It is allowed for documents that satisfy all conditions of at least one filter.
    Filtered(Vec<Vec<Condition>>),
}

/// A part of what a role may do.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) role: Arc<str>,
    pub(crate) databases: Vec<Pattern>,
    pub(crate) collections: Vec<Pattern>,
    pub(crate) actions: Vec<Action>,
    pub(crate) filter: Option<FilterTemplate>,
    /// For [`Action::Register`].
    pub(crate) nodes: Option<NodeRule>,
}

/// A group of peers that has roles.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) roles: Vec<Arc<str>>,
    /// At least one must match, unless there are none.
    pub(crate) principals: Vec<Principals>,
    /// All must match.
    pub(crate) claims: Vec<(String, Json)>,
}

/// A pattern of principals.
#[derive(Clone, Debug)]
pub(crate) struct Principals {
    pub(crate) method: Method,
    /// `None` for the anonymous principal, which has no name.
    pub(crate) name: Option<Pattern>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) grants: Vec<Grant>,
    pub(crate) members: Vec<Member>,
}

impl Action {
    /// The actions, with their words in a policy.
    pub(crate) const ALL: [(&'static str, Self); 6] = [
        ("subscribe", Self::Subscribe),
        ("publish", Self::Publish),
        ("admin", Self::Admin),
        ("register", Self::Register),
        ("read", Self::Read),
        ("diagnose", Self::Diagnose),
    ];

    /// Returns true if the action concerns documents of a collection.
    pub(crate) fn is_on_collections(self) -> bool {
        matches!(self, Self::Subscribe | Self::Publish)
    }
}

impl Policy {
    pub(crate) fn decide(
        &self,
        identity: &Identity,
        action: Action,
        database: &str,
        collection: &str,
    ) -> Decision {
        let mut filters = Vec::new();
        for grant in self.grants_of(identity) {
            let any = |patterns: &[Pattern], name| patterns.iter().any(|it| it.matches(name));
            let applies = any(&grant.databases, database) && any(&grant.collections, collection);
            if !grant.actions.contains(&action) || !applies {
                continue;
            }
            match &grant.filter {
                None => return Decision::Allowed,
                // Without a claim that it needs, the grant allows nothing.
                Some(filter) => filters.extend(filter.bind(identity)),
            }
        }
        if filters.is_empty() {
            Decision::Denied
        } else {
            Decision::Filtered(filters)
        }
    }

    /// Returns true if a grant allows an action that concerns no collection. For [`Action::Register`] this
    /// is true if there is a node that the identity may register as.
    pub(crate) fn allows(&self, identity: &Identity, action: Action) -> bool {
        let mut grants = self.grants_of(identity);
        !action.is_on_collections() && grants.any(|grant| grant.actions.contains(&action))
    }

    pub(crate) fn may_register(&self, identity: &Identity, node: &Node<'_>) -> bool {
        self.grants_of(identity)
            .filter(|grant| grant.actions.contains(&Action::Register))
            .filter_map(|grant| grant.nodes.as_ref())
            .any(|nodes| nodes.admits(identity, node))
    }

    /// Returns true if an entry names peers without credentials.
    pub(crate) fn admits_anonymous(&self) -> bool {
        let mut principals = self.members.iter().flat_map(|member| &member.principals);
        principals.any(|it| it.method == Method::Anonymous)
    }

    fn grants_of(&self, identity: &Identity) -> impl Iterator<Item = &Grant> {
        let members = self.members.iter().filter(|it| it.includes(identity));
        let roles: Vec<&Arc<str>> = members.flat_map(|member| &member.roles).collect();
        let grants = self.grants.iter();
        grants.filter(move |grant| roles.contains(&&grant.role))
    }
}

impl Member {
    fn includes(&self, identity: &Identity) -> bool {
        let is_named =
            self.principals.is_empty() || self.principals.iter().any(|it| it.includes(identity));
        is_named
            && self
                .claims
                .iter()
                .all(|(name, value)| has_claim(identity, name, value))
    }
}

impl Principals {
    fn includes(&self, identity: &Identity) -> bool {
        let name = self.name.as_ref();
        self.method == identity.method() && name.is_none_or(|it| it.matches(identity.name()))
    }
}

/// Returns true if a claim is this value, or a list that contains it.
fn has_claim(identity: &Identity, name: &str, value: &Json) -> bool {
    match identity.claims().get(name) {
        Some(Json::Array(all)) => all.contains(value),
        Some(claim) => claim == value,
        None => false,
    }
}
