//! The rights of peers on the documents of the server.

use std::{path::Path, sync::Arc};

use steadfast_access::{Action, Condition, Decision, Source};
use steadfast_net::{
    KeyedPermit, OpenConnections,
    access::{
        AccessControl, FollowedPeer, KnownPeer, PrincipalLimits, Principals, RenewablePeer,
        unauthenticated,
    },
};
use steadfast_session::Time;
use steadfast_streamer_core::filter::InvalidText;
use tonic::{
    Status,
    codegen::http::{Extensions, HeaderMap},
};

use crate::{
    filter::Filter,
    hub::{Grant, Rights, StreamAccess},
};

/// Decides which calls are served.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    access: AccessControl,
    principals: Principals,
}

/// A peer whose call counts for its principal for as long as this lives.
#[derive(Debug)]
pub(super) struct AdmittedPeer {
    known: KnownPeer,
    /// `None` for a part of this process, whose own clients have limits.
    permit: Option<KeyedPermit>,
}

/// The rights of a call that is no stream of the hub, for as long as it lasts.
#[derive(Clone, Debug)]
pub(super) struct CallRights {
    followed: FollowedPeer,
    /// Shared by clones: all of them follow newer credentials.
    renewable: Arc<RenewablePeer>,
    _permit: Option<Arc<KeyedPermit>>,
    /// The collection that entries were published to last.
    publishes_to: Option<(Arc<str>, Arc<str>)>,
}

/// The rights of a stream of the hub.
#[derive(Debug)]
struct SubscribeRights(KnownPeer);

/// Returns the policy file at a path, whose filters are read as those of subscriptions.
#[must_use]
pub fn policy_source(path: &Path) -> Source {
    Source::new(path, |condition| {
        let read = policy_filter(std::slice::from_ref(condition));
        read.map(|_| ()).map_err(|error| error.fault.to_string())
    })
}

/// Reads the conditions of a grant. A value is written as JSON, which ends with the value: none can become
/// another condition.
pub fn policy_filter(conditions: &[Condition]) -> Result<Filter, InvalidText> {
    Filter::from_text(conditions.iter().map(|condition| match &condition.value {
        None => condition.text.clone(),
        Some(value) => format!("{} {value}", condition.text),
    }))
}

/// Returns what the hub needs to know of a peer. `now` is the time of the hub.
pub(super) fn on_stream(peer: &KnownPeer, now: Time) -> StreamAccess {
    StreamAccess {
        owner: peer.principal().into(),
        shares_limits: peer.shares_limits(),
        rights: Arc::new(SubscribeRights(peer.clone())),
        expires_at: peer.expires_in().map(|time| now + time),
    }
}

impl Rights for SubscribeRights {
    fn grant(&self, database: &str, collection: &str) -> Grant {
        match self.0.decide(Action::Subscribe, database, collection) {
            Decision::Denied => Grant::Nothing,
            Decision::Allowed => Grant::Everything,
            // The file was checked with values of two types only. A claim of another type may make no
            // condition, which then allows nothing.
            Decision::Filtered(filters) => {
                let filters = filters.iter().filter_map(|it| policy_filter(it).ok());
                Grant::Any(filters.collect())
            }
        }
    }
}

impl AdmittedPeer {
    pub(super) fn into_parts(self) -> (KnownPeer, Option<KeyedPermit>) {
        (self.known, self.permit)
    }
}

impl Admission {
    pub(super) fn new(
        access: &AccessControl,
        limits: PrincipalLimits,
        connections: &OpenConnections,
    ) -> Self {
        let refusals = connections.refusals().clone();
        Self {
            access: access.clone(),
            principals: Principals::new(limits, refusals),
        }
    }

    /// Returns the rules that decide.
    pub(super) fn access(&self) -> &AccessControl {
        &self.access
    }

    /// Returns the peer of a call, or `None` if everybody may do everything.
    pub(super) fn admit(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<AdmittedPeer>, Status> {
        let known = self.access.identify(headers, extensions);
        let Some(known) = known.map_err(|cause| unauthenticated(&cause))? else {
            return Ok(None);
        };
        let is_limited = !known.is_local();
        let permit = is_limited.then(|| self.principals.admit(&known));
        let permit = permit.transpose()?;
        Ok(Some(AdmittedPeer { known, permit }))
    }

    /// Returns the rights of a call, or `None` if everybody may do everything.
    pub(super) fn call_rights(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<CallRights>, Status> {
        let admitted = self.admit(headers, extensions)?;
        Ok(admitted.and_then(|AdmittedPeer { known, permit }| {
            let renewable = RenewablePeer::new(known);
            Some(CallRights {
                followed: self.access.follow_renewed(renewable.subscribe())?,
                renewable: Arc::new(renewable),
                _permit: permit.map(Arc::new),
                publishes_to: None,
            })
        }))
    }
}

impl CallRights {
    /// Returns the name under which the log knows a producer. It contains the principal, so that nobody can
    /// take the next sequence of another's.
    pub(super) fn own_producer(&self, producer: &str) -> String {
        // A principal has no control characters, so that no two pairs have one name.
        format!("{}\u{1f}{producer}", self.followed.peer().principal())
    }

    /// Returns the time for which the credentials are still valid, as messages have it; 0 if they do not
    /// expire.
    pub(super) fn expires_in_ms(&self) -> u64 {
        self.followed.peer().expires_in_ms()
    }

    /// Puts newer credentials of the same principal in the place of the last ones, and returns an error if they
    /// are no such.
    pub(super) fn renew(&mut self, access: &AccessControl, newer: &str) -> Result<(), Status> {
        let known = self.renewable.with_newer(access, newer);
        if let Some(known) = known.map_err(|cause| cause.status())? {
            self.renewable.replace(known);
        }
        self.update()
    }

    /// Applies newer credentials and a change of the rules, and returns an error if the credentials are not
    /// valid any more.
    pub(super) fn update(&mut self) -> Result<(), Status> {
        let has_changed = self.followed.update();
        if has_changed.map_err(|cause| unauthenticated(&cause))? {
            self.publishes_to = None;
        }
        Ok(())
    }

    /// Returns an error unless the peer may change documents of a collection.
    pub(super) fn check_publish(&mut self, database: &str, collection: &str) -> Result<(), Status> {
        let last = self.publishes_to.as_ref();
        if last.is_some_and(|(of, name)| **of == *database && **name == *collection) {
            return Ok(());
        }
        let peer = self.followed.peer();
        match peer.decide(Action::Publish, database, collection) {
            Decision::Allowed => {
                self.publishes_to = Some((database.into(), collection.into()));
                Ok(())
            }
            // No grant to publish has a filter.
            Decision::Denied | Decision::Filtered(_) => Err(Status::permission_denied(
                "you may not publish to this collection",
            )),
        }
    }

    /// Returns an error unless the peer may read the whole log.
    pub(super) fn check_admin(&self) -> Result<(), Status> {
        if self.followed.peer().allows(Action::Admin) {
            Ok(())
        } else {
            Err(Status::permission_denied("you may not read the whole log"))
        }
    }

    /// Resolves when the credentials are not valid any more or were renewed, or when the rules have changed:
    /// the caller checks its rights again.
    pub(super) async fn changed(&mut self) -> Result<(), Status> {
        // The rights are updated here already, so that `update` will not see the change.
        self.publishes_to = None;
        let changed = self.followed.changed().await;
        changed.map_err(|cause| unauthenticated(&cause))
    }
}
