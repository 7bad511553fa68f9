//! The identities and rights of peers, by a policy file that is followed.

mod denied;
mod local;
mod pages;
mod principals;
mod renewal;

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Extensions, HeaderMap, HeaderValue, header::AUTHORIZATION};
use steadfast_access::{
    Access, Action, Certificate, Decision, Faults, Identity, Method, Node, Presented, Refused,
    Source,
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};

pub use self::{
    denied::Denied,
    local::{LocalAccess, LocalPeer},
    pages::{MayRead, PageRights, RightfulBody},
    principals::{PrincipalLimits, Principals},
    renewal::{NotRenewed, RenewablePeer, RenewalLimit},
};
use crate::{ClientKey, Peer};

/// The rules in force. Without a policy file there are none, and everybody may do everything.
#[derive(Clone, Debug, Default)]
pub struct AccessControl(Option<watch::Receiver<Arc<Access>>>);

/// A peer whose credentials were accepted, and the configuration that did.
#[derive(Clone, Debug)]
pub struct KnownPeer {
    access: Arc<Access>,
    identity: Identity,
    /// It is a part of this process, and no policy holds for it.
    is_local: bool,
    /// The address of a peer without credentials, which its calls count for.
    anonymous_client: Option<ClientKey>,
}

/// A peer whose rights follow the rules in force, for as long as a call lasts.
#[derive(Clone, Debug)]
pub struct FollowedPeer {
    current: watch::Receiver<Arc<Access>>,
    /// The peer with newer credentials. `None` if nobody renews them.
    renewed: Option<watch::Receiver<KnownPeer>>,
    peer: KnownPeer,
}

/// A policy file, and those who follow it.
#[derive(Debug)]
pub struct PolicyFile {
    source: Source,
    current: watch::Sender<Arc<Access>>,
}

/// The time between two looks at a policy file. Two must find the same, so that a change is in force after
/// two intervals, and acts on open streams within a second.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The difference between the clocks after which times of expiry are computed again. Larger than what a
/// busy machine adds between reading one and the other.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(500);

/// One time on the clock of the credentials and on that of the timers.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    wall: SystemTime,
    timers: Instant,
}

impl AccessControl {
    /// Reads the policy file, if there is one. [`PolicyFile::follow`] then follows its changes.
    ///
    /// # Errors
    ///
    /// Returns the faults of the file.
    pub fn load(source: Option<Source>) -> Result<(Self, Option<PolicyFile>), Faults> {
        let Some(mut source) = source else {
            return Ok((Self(None), None));
        };
        let access = source.poll().unwrap_or_else(|| Ok(Access::default()))?;
        let (current, receiver) = watch::channel(Arc::new(access));
        Ok((Self(Some(receiver)), Some(PolicyFile { source, current })))
    }

    /// Returns true if peers need rights.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the peer of a call, or `None` if everybody may do everything. The extensions are those of the
    /// listener.
    ///
    /// # Errors
    ///
    /// If its credentials are refused.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<KnownPeer>, Refused> {
        if !self.is_restricted() {
            return Ok(None);
        }
        if let Some(LocalPeer(peer)) = extensions.get() {
            return Ok(Some(peer.clone()));
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let authorization = values.next().map(HeaderValue::as_bytes);
        // Programs on the way may have looked at the other one.
        if values.next().is_some() {
            return Err(Refused::Scheme);
        }
        let peer = extensions.get::<Peer>();
        let der = peer.and_then(|it| it.certificate.as_deref());
        let certificate = der.map(Certificate::from_der).transpose()?;
        let known = self.authenticate(Presented {
            authorization,
            certificate: certificate.as_ref(),
        })?;
        let address = peer.and_then(|it| it.address);
        Ok(known.map(|known| KnownPeer {
            anonymous_client: address
                .filter(|_| known.identity.method() == Method::Anonymous)
                .map(|it| it.ip().into()),
            ..known
        }))
    }

    /// Returns the peer that sends newer credentials on its stream.
    ///
    /// # Errors
    ///
    /// If the credentials are refused.
    pub fn reidentify(&self, authorization: &str) -> Result<Option<KnownPeer>, Refused> {
        self.authenticate(Presented {
            authorization: Some(authorization.as_bytes()),
            certificate: None,
        })
    }

    fn authenticate(&self, presented: Presented<'_>) -> Result<Option<KnownPeer>, Refused> {
        let Some(current) = &self.0 else {
            return Ok(None);
        };
        let access = Arc::clone(&current.borrow());
        let identity = access.authenticate(presented, SystemTime::now())?;
        Ok(Some(KnownPeer {
            access,
            identity,
            is_local: false,
            anonymous_client: None,
        }))
    }

    /// Returns a peer as the rules in force have it.
    ///
    /// # Errors
    ///
    /// If its credentials are not valid any more.
    pub fn recheck(&self, peer: KnownPeer) -> Result<KnownPeer, Refused> {
        match &self.0 {
            None => Ok(peer),
            Some(current) => peer.recheck(&current.borrow()),
        }
    }

    /// Returns the peer as one whose rights follow the rules; `None` if there are no rules.
    #[must_use]
    pub fn follow(&self, peer: KnownPeer) -> Option<FollowedPeer> {
        Some(FollowedPeer {
            current: self.0.clone()?,
            renewed: None,
            peer,
        })
    }

    /// Returns a peer whose rights follow the rules and its newest credentials, those of a
    /// [`RenewablePeer`]; `None` if there are no rules.
    #[must_use]
    pub fn follow_renewed(&self, mut renewed: watch::Receiver<KnownPeer>) -> Option<FollowedPeer> {
        let current = self.0.clone()?;
        let peer = renewed.borrow_and_update().clone();
        Some(FollowedPeer {
            current,
            renewed: Some(renewed),
            peer,
        })
    }
}

impl KnownPeer {
    /// Returns the peer as other rules have it.
    ///
    /// # Errors
    ///
    /// If they do not accept its credentials, or if these have expired.
    pub fn recheck(self, access: &Arc<Access>) -> Result<Self, Refused> {
        if self.is_local {
            return Ok(self);
        }
        // Also under the same rules: time has passed.
        if self.expires_in() == Some(Duration::ZERO) {
            return Err(Refused::ExpiredToken);
        }
        if Arc::ptr_eq(&self.access, access) {
            return Ok(self);
        }
        Ok(Self {
            identity: access.recheck(&self.identity, SystemTime::now())?,
            access: Arc::clone(access),
            is_local: false,
            anonymous_client: self.anonymous_client,
        })
    }

    /// Returns true if the peer is a part of this process.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Returns true if both were checked by the same rules.
    #[must_use]
    pub fn has_rules_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.access, &other.access)
    }

    /// Returns the name of the principal. That of a part of this process has no colon, so that no policy can
    /// give it to another peer.
    #[must_use]
    pub fn principal(&self) -> String {
        if self.is_local {
            return "local".to_owned();
        }
        self.identity.principal()
    }

    /// Returns true if what the peer holds counts together with that of its principal's other connections.
    /// A part of this process serves clients that have limits of their own, and peers without credentials
    /// must not be able to use up the limits of each other.
    #[must_use]
    pub fn shares_limits(&self) -> bool {
        !self.is_local && self.identity.method() != Method::Anonymous
    }

    /// Returns the client whose calls those of the peer are.
    fn client_key(&self) -> ClientKey {
        let anonymous = self.anonymous_client.clone();
        anonymous.unwrap_or_else(|| ClientKey::Principal(self.principal().into()))
    }

    /// Returns true if the peer may do something that concerns no collection.
    #[must_use]
    pub fn allows(&self, action: Action) -> bool {
        self.access.allows(&self.identity, action)
    }

    /// Returns what the peer may do with a collection.
    #[must_use]
    pub fn decide(&self, action: Action, database: &str, collection: &str) -> Decision {
        self.access
            .decide(&self.identity, action, database, collection)
    }

    /// Returns true if the peer may register as this node.
    #[must_use]
    pub fn may_register(&self, node: &Node<'_>) -> bool {
        self.access.may_register(&self.identity, node)
    }

    /// Returns the time for which the credentials are still valid; `None` if they do not expire.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        let at = self.identity.expires_at()?;
        Some(
            at.duration_since(SystemTime::now())
                .unwrap_or(Duration::ZERO),
        )
    }

    /// Returns that time as messages have it, in milliseconds; 0 if the credentials do not expire.
    #[must_use]
    pub fn expires_in_ms(&self) -> u64 {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // At least 1, because 0 is never.
        self.expires_in().map_or(0, |time| millis(time).max(1))
    }
}

impl FollowedPeer {
    /// Returns the peer as it was checked last.
    #[must_use]
    pub fn peer(&self) -> &KnownPeer {
        &self.peer
    }

    /// Applies newer credentials and a change of the rules. Returns true if there was either since the last
    /// call.
    ///
    /// # Errors
    ///
    /// If the credentials are not valid any more, or name another principal now.
    pub fn update(&mut self) -> Result<bool, Refused> {
        let newer = self
            .renewed
            .as_mut()
            .map(watch::Receiver::borrow_and_update);
        let newer = newer.filter(watch::Ref::has_changed).map(|it| it.clone());
        let is_renewed = newer.is_some();
        if let Some(newer) = newer {
            self.peer = newer;
        }
        Ok(self.apply_rules()? || is_renewed)
    }

    fn apply_rules(&mut self) -> Result<bool, Refused> {
        let access = Arc::clone(&self.current.borrow_and_update());
        let has_changed = !self.peer.is_local && !Arc::ptr_eq(&access, &self.peer.access);
        if has_changed {
            let peer = self.peer.clone().recheck(&access)?;
            // What the call holds belongs to the principal that opened it.
            if peer.principal() != self.peer.principal() {
                return Err(Refused::OtherPrincipal);
            }
            self.peer = peer;
        }
        match self.peer.expires_in() {
            Some(Duration::ZERO) => Err(Refused::ExpiredToken),
            _ => Ok(has_changed),
        }
    }

    /// Resolves when the credentials are not valid any more or were renewed, or when the rules have changed:
    /// the caller checks its rights again.
    ///
    /// # Errors
    ///
    /// If the credentials are not valid any more, or name another principal now.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Result<(), Refused> {
        let mut is_followed = true;
        loop {
            let expires_in = self.peer.expires_in();
            let expiry = async {
                match expires_in {
                    Some(Duration::ZERO) => {}
                    // [`PolicyFile::follow`] ends the wait when the wall clock is set meanwhile.
                    Some(time) => sleep(time).await,
                    None => pending().await,
                }
            };
            let newer = async {
                match &mut self.renewed {
                    Some(renewed) => renewed.changed().await.map(|()| renewed.borrow().clone()),
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                // First: those before them may expire just now.
                newer = newer => match newer {
                    Ok(newer) => {
                        self.peer = newer;
                        self.apply_rules()?;
                        return Ok(());
                    }
                    Err(_) => self.renewed = None,
                },
                changed = self.current.changed(), if is_followed => match changed {
                    // The same rules: only the time until the expiry is another one.
                    Ok(()) => if self.apply_rules()? {
                        return Ok(());
                    },
                    // The server stops: nothing changes any more, but time passes.
                    Err(_) => is_followed = false,
                },
                () = expiry => if self.peer.expires_in() == Some(Duration::ZERO) {
                    return Err(Refused::ExpiredToken);
                }
            }
        }
    }
}

impl Clocks {
    fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            timers: Instant::now(),
        }
    }

    /// Returns true if one clock has gone further than the other since then.
    fn have_parted(&self) -> bool {
        let timers = self.timers.elapsed();
        // A wall clock before the earlier time was set back.
        let wall = self.wall.elapsed().ok();
        wall.is_none_or(|wall| wall.abs_diff(timers) > CLOCK_TOLERANCE)
    }
}

impl PolicyFile {
    /// Reads the file again when it has changed, until `stop` is cancelled, and passes the new rules on. A
    /// file with faults changes nothing. The same rules are passed on again when the wall clock was set or the
    /// system suspended, so that the times of expiry are computed again.
    pub async fn follow(self, on_change: impl Fn(Arc<Access>) + Send, stop: CancellationToken) {
        let Self {
            mut source,
            current,
        } = self;
        let mut has_panicked = false;
        let mut clocks = Clocks::now();
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if clocks.have_parted() {
                clocks = Clocks::now();
                current.send_modify(|_| {});
                let access = Arc::clone(&current.borrow());
                on_change(access);
            }
            // A copy, so that a panic leaves the source as it was.
            let mut polled = source.clone();
            let polling = tokio::task::spawn_blocking(move || {
                let read = polled.poll();
                (polled, read)
            });
            let polled = tokio::select! {
                polled = polling => polled,
                // A file on a disk that does not respond must not delay the end of the server.
                () = stop.cancelled() => return,
            };
            let (polled, read) = match polled {
                Ok(both) => both,
                Err(error) => {
                    if !std::mem::replace(&mut has_panicked, true) {
                        let path = source.path().display();
                        warn!(%path, %error, "reading the policy file panicked; it is tried again");
                    }
                    continue;
                }
            };
            has_panicked = false;
            source = polled;
            let path = source.path().display();
            match read {
                None => {}
                Some(Ok(access)) => {
                    info!(%path, "the policy file has changed and is in force");
                    let access = Arc::new(access);
                    current.send_replace(Arc::clone(&access));
                    on_change(access);
                }
                Some(Err(faults)) => {
                    warn!(%path, %faults, "the policy file has faults; the last good one stays in force");
                }
            }
        }
    }
}

/// Returns the status of a call whose credentials are refused, and logs the cause, which the peer is not told.
#[must_use]
pub fn unauthenticated(cause: &Refused) -> Status {
    debug!(%cause, "credentials refused");
    Status::unauthenticated(cause.public())
}

#[cfg(test)]
mod tests;
