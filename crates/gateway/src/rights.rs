//! Who a client is, and what it may see: crate `access`, with the policy file of the gateway.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use steadfast_access::{
    Access, Action, Certificate, Decision, Faults, Identity, Presented, Refused,
};
use steadfast_net::Peer as Connected;
use steadfast_streamer::{
    Filter,
    filter::{Document, Selection, evaluate},
    server::{PolicyFile, policy_filter},
};
use tokio::sync::watch;

use crate::machine::Principal;

/// The rules in force. Without a policy file there are none, and everybody may do everything.
#[derive(Clone, Debug, Default)]
pub struct Rights(Option<watch::Receiver<Arc<Access>>>);

/// A client whose credentials were accepted, or anybody if there is no policy.
#[derive(Clone, Debug, Default)]
pub struct Peer(Option<Known>);

#[derive(Clone, Debug)]
struct Known {
    access: Arc<Access>,
    identity: Identity,
}

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
        let Some(path) = path else {
            return Ok((Self(None), None));
        };
        let (current, file) = PolicyFile::load(path)?;
        Ok((Self(Some(current)), Some(file)))
    }

    /// Returns true if clients need rights.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the client that sent a request, by its header `authorization` or by its certificate.
    ///
    /// # Errors
    ///
    /// If its credentials are not valid, or if it has none and the policy names no anonymous peers.
    pub fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Peer, Refused> {
        if !self.is_restricted() {
            return Ok(Peer(None));
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let authorization = values.next().map(http::HeaderValue::as_bytes);
        // Programs on the way may have looked at the other one.
        if values.next().is_some() {
            return Err(Refused::Scheme);
        }
        let connected = extensions.get::<Connected>();
        let der = connected.and_then(|it| it.certificate.as_deref());
        let certificate = der.map(Certificate::from_der).transpose()?;
        self.authenticate(Presented {
            authorization,
            certificate: certificate.as_ref(),
        })
    }

    /// Returns the client that sent a token in a message.
    ///
    /// # Errors
    ///
    /// If the token is not valid.
    pub fn identify_token(&self, token: &str) -> Result<Peer, Refused> {
        self.authenticate(Presented {
            authorization: Some(format!("Bearer {token}").as_bytes()),
            certificate: None,
        })
    }

    fn authenticate(&self, presented: Presented<'_>) -> Result<Peer, Refused> {
        let Some(current) = &self.0 else {
            return Ok(Peer(None));
        };
        let access = Arc::clone(&current.borrow());
        let identity = access.authenticate(presented, SystemTime::now())?;
        Ok(Peer(Some(Known { access, identity })))
    }

    /// Returns a client as the rules in force have it, or `None` if they have not changed.
    ///
    /// # Errors
    ///
    /// If its credentials would be refused now.
    pub fn recheck(&self, peer: &Peer) -> Result<Option<Peer>, Refused> {
        let (Some(current), Some(known)) = (&self.0, &peer.0) else {
            return Ok(None);
        };
        let access = Arc::clone(&current.borrow());
        if Arc::ptr_eq(&access, &known.access) {
            return Ok(None);
        }
        let identity = access.recheck(&known.identity, SystemTime::now())?;
        Ok(Some(Peer(Some(Known { access, identity }))))
    }
}

impl Peer {
    /// Returns the name and the validity that a machine is told.
    #[must_use]
    pub fn principal(&self) -> Principal {
        let name = match &self.0 {
            Some(known) => known.identity.principal().into(),
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
        let at = self.0.as_ref()?.identity.expires_at()?;
        Some(
            at.duration_since(SystemTime::now())
                .unwrap_or(Duration::ZERO),
        )
    }

    /// Returns the documents of a collection that the client may see; `None` if it may see none.
    #[must_use]
    pub fn grant(&self, database: &str, collection: &str) -> Option<Grant> {
        let Some(Known { access, identity }) = &self.0 else {
            return Some(Grant::Everything);
        };
        match access.decide(identity, Action::Subscribe, database, collection) {
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
        let Some(Known { access, identity }) = &self.0 else {
            return true;
        };
        let decided = access.decide(identity, Action::Publish, database, collection);
        decided == Decision::Allowed
    }

    /// Returns true if the client may see the state of the gateway.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        let known = self.0.as_ref();
        known.is_none_or(|known| known.access.is_admin(&known.identity))
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

/// Returns true if one of the filters admits the document of an event. One that cannot be read is not shown.
pub(crate) fn admits(filters: &[Filter], event: &steadfast_streamer::Event) -> bool {
    let document = Document::of(event);
    let mut filters = filters.iter();
    filters.any(|filter| evaluate(filter, &document).unwrap_or(false))
}
