//! Who a client is, and what it may see: crate `access`, with the policy file of the gateway.

use std::{future::pending, path::Path, sync::Arc, time::Duration};

use http::{Extensions, HeaderMap};
use steadfast_access::{Action, Decision, Faults, Refused};
use steadfast_net::access::{AccessControl, Denied, KnownPeer, PolicyFile};
use steadfast_streamer::{
    Filter,
    filter::Selection,
    server::{policy_filter, policy_source},
};
use tokio::time::sleep;

use crate::machine::Principal;

/// The parameters of a query that would contain a token. URLs are written to logs.
pub(crate) const TOKEN_PARAMETERS: [&str; 2] = ["token", "access_token"];

/// The rules in force. Without a policy file there are none, and everybody may do everything.
#[derive(Clone, Debug, Default)]
pub struct Rights(AccessControl);

/// A client whose credentials were accepted, or anybody if there is no policy.
#[derive(Clone, Debug, Default)]
pub struct Peer(Option<KnownPeer>);

/// The documents of a collection that a client may see.
#[derive(Clone, Debug, PartialEq)]
pub enum Grant {
    /// All of them.
    Everything,
    /// Those that at least one filter admits.
    Any(Arc<[Filter]>),
}

impl Rights {
    /// Reads the policy file, if there is one. Somebody must follow it.
    ///
    /// # Errors
    ///
    /// All faults of the file.
    pub fn load(path: Option<&Path>) -> Result<(Self, Option<PolicyFile>), Faults> {
        let (access, file) = AccessControl::load(path.map(policy_source))?;
        Ok((Self(access), file))
    }

    /// Returns true if clients need rights.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.0.is_restricted()
    }

    /// Returns the client that sent a request, by its header `authorization` or by its certificate.
    ///
    /// # Errors
    ///
    /// If its credentials are not valid, or if it has none and the policy names no anonymous peers.
    pub fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Peer, Refused> {
        self.0.identify(headers, extensions).map(Peer)
    }

    /// Does nothing if the client that sent a request may see the state of the gateway.
    ///
    /// # Errors
    ///
    /// If it may not.
    pub fn require_admin(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<(), Denied> {
        self.0.require(headers, extensions, Action::Admin).map(drop)
    }

    /// Returns the client that sent a token in a message.
    ///
    /// # Errors
    ///
    /// If the token is not valid.
    pub fn identify_token(&self, token: &str) -> Result<Peer, Refused> {
        self.0.reidentify(&format!("Bearer {token}")).map(Peer)
    }

    /// Returns a client as the rules in force have it, or `None` if they have not changed.
    ///
    /// # Errors
    ///
    /// If its credentials would be refused now.
    pub fn recheck(&self, peer: &Peer) -> Result<Option<Peer>, Refused> {
        let Some(known) = &peer.0 else {
            return Ok(None);
        };
        let checked = self.0.recheck(known.clone())?;
        Ok((!checked.has_rules_of(known)).then_some(Peer(Some(checked))))
    }
}

impl Peer {
    /// Returns true if its rights are those of a policy, which may change.
    pub(crate) fn is_restricted(&self) -> bool {
        self.0.is_some()
    }

    /// Returns true if its sockets and subscriptions count together with those of its principal's other
    /// sockets. Peers without credentials count by their addresses, as all do without a policy.
    pub(crate) fn shares_limits(&self) -> bool {
        self.0.as_ref().is_some_and(KnownPeer::shares_limits)
    }

    /// Returns the name and the validity that a machine is told.
    #[must_use]
    pub fn principal(&self) -> Principal {
        let name = match &self.0 {
            Some(known) => known.principal().into(),
            None => "anonymous".into(),
        };
        Principal {
            name,
            expires_in: self.expires_in(),
        }
    }

    /// Returns the time for which the credentials are still valid; `None` is for ever.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        self.0.as_ref()?.expires_in()
    }

    /// Resolves when the credentials expire, with the refusal that follows.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn expired(&self) -> Refused {
        match self.expires_in() {
            Some(left) => sleep(left).await,
            None => pending().await,
        }
        Refused::ExpiredToken
    }

    /// Returns the documents of a collection that the client may see; `None` if it may see none.
    #[must_use]
    pub fn grant(&self, database: &str, collection: &str) -> Option<Grant> {
        let Some(known) = &self.0 else {
            return Some(Grant::Everything);
        };
        match known.decide(Action::Subscribe, database, collection) {
            Decision::Denied => None,
            Decision::Allowed => Some(Grant::Everything),
            // A claim may have a type that no condition can have; its grant then allows nothing.
            Decision::Filtered(filters) => {
                let filters = filters.iter().filter_map(|it| policy_filter(it).ok());
                Some(Grant::Any(filters.collect()))
            }
        }
    }

    /// Returns true if the client may change documents of a collection.
    #[must_use]
    pub fn may_publish(&self, database: &str, collection: &str) -> bool {
        let Some(known) = &self.0 else {
            return true;
        };
        known.decide(Action::Publish, database, collection) == Decision::Allowed
    }
}

impl Grant {
    /// Joins the grant to the filter of a subscription. Returns the filter for the Streamer, and the filters
    /// of which each document must satisfy one after that.
    #[must_use]
    pub fn join(&self, filter: &Filter) -> (Filter, Option<Arc<[Filter]>>) {
        let filters = match self {
            Self::Everything => return (filter.clone(), None),
            Self::Any(filters) => filters,
        };
        // A condition on `_id` means the id of the document only when it stands alone.
        let is_document = |it: &Filter| matches!(it.selection(), Selection::Document(_));
        if let [only] = &**filters
            && !is_document(filter)
            && !is_document(only)
        {
            let conditions = filter.conditions().iter().chain(only.conditions());
            if let Ok(joined) = Filter::new(conditions.cloned()) {
                return (joined, None);
            }
        }
        (filter.clone(), Some(Arc::clone(filters)))
    }
}
