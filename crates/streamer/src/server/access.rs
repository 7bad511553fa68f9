//! The identities and rights of peers, by the policy file of the server.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use steadfast_access::{
    Access, Action, Certificate, Condition, Decision, Faults, Identity, NewToken, Presented,
    Refused, Source,
};
use steadfast_net::Peer;
use steadfast_session::Time;
use steadfast_streamer_core::filter::InvalidText;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    codegen::http::{Extensions, HeaderMap, HeaderValue, header::AUTHORIZATION},
};
use tracing::{info, warn};

use crate::{
    filter::Filter,
    hub::{Grant, Rights, StreamAccess},
};

/// The rules in force. Without a policy file there are none, and everybody may do everything.
#[derive(Clone, Debug, Default)]
pub(super) struct AccessControl(Option<watch::Receiver<Arc<Access>>>);

/// A peer whose credentials were accepted, and the configuration that did.
#[derive(Clone, Debug)]
pub(super) struct KnownPeer {
    access: Arc<Access>,
    identity: Identity,
    /// It is a part of this process, and no policy holds for it.
    is_local: bool,
}

/// The rights of a call that is no stream of the hub, for as long as it lasts.
#[derive(Clone, Debug)]
pub(super) struct CallRights {
    current: watch::Receiver<Arc<Access>>,
    peer: KnownPeer,
    /// The collection that entries were published to last.
    publishes_to: Option<(Arc<str>, Arc<str>)>,
}

/// The policy file, and those who follow it.
#[derive(Debug)]
pub struct PolicyFile {
    source: Source,
    current: watch::Sender<Arc<Access>>,
}

/// The time between two looks at the policy file. Two must find the same, and a change acts on open streams
/// within a second.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

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
///
/// # Errors
///
/// At the first condition that is none of a subscription.
pub fn policy_filter(conditions: &[Condition]) -> Result<Filter, InvalidText> {
    Filter::from_text(conditions.iter().map(|condition| match &condition.value {
        None => condition.text.clone(),
        Some(value) => format!("{} {value}", condition.text),
    }))
}

impl AccessControl {
    /// Reads the policy file, if there is one.
    pub(super) fn load(path: Option<&Path>) -> Result<(Self, Option<PolicyFile>), Faults> {
        let Some(path) = path else {
            return Ok((Self(None), None));
        };
        let (receiver, file) = PolicyFile::load(path)?;
        Ok((Self(Some(receiver)), Some(file)))
    }

    /// Returns true if peers need rights.
    pub(super) fn is_restricted(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the peer of a call, or `None` if everybody may do everything. The extensions are those of the
    /// listener.
    pub(super) fn identify(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<KnownPeer>, Status> {
        if !self.is_restricted() {
            return Ok(None);
        }
        // No request from outside has this extension.
        if let Some(LocalPeer(peer)) = extensions.get() {
            return Ok(Some(peer.clone()));
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let authorization = values.next().map(HeaderValue::as_bytes);
        // Programs on the way may have looked at the other one.
        if values.next().is_some() {
            return Err(refused(&Refused::Scheme));
        }
        let peer = extensions.get::<Peer>();
        let der = peer.and_then(|it| it.certificate.as_deref());
        let certificate = der.map(Certificate::from_der).transpose();
        let certificate = certificate.map_err(|fault| refused(&fault.into()))?;
        self.authenticate(Presented {
            authorization,
            certificate: certificate.as_ref(),
        })
    }

    /// Returns the peer that sends newer credentials on its stream.
    pub(super) fn reidentify(&self, authorization: &str) -> Result<Option<KnownPeer>, Status> {
        self.authenticate(Presented {
            authorization: Some(authorization.as_bytes()),
            certificate: None,
        })
    }

    fn authenticate(&self, presented: Presented<'_>) -> Result<Option<KnownPeer>, Status> {
        let Some(current) = &self.0 else {
            return Ok(None);
        };
        let access = Arc::clone(&current.borrow());
        match access.authenticate(presented, SystemTime::now()) {
            Ok(identity) => Ok(Some(KnownPeer {
                access,
                identity,
                is_local: false,
            })),
            Err(cause) => Err(refused(&cause)),
        }
    }

    /// Returns a peer as the rules in force have it.
    pub(super) fn recheck(&self, peer: KnownPeer) -> Result<KnownPeer, Refused> {
        match &self.0 {
            None => Ok(peer),
            Some(current) => peer.recheck(&current.borrow()),
        }
    }

    /// Returns the rights of a call, or `None` if everybody may do everything.
    pub(super) fn call_rights(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Option<CallRights>, Status> {
        let peer = self.identify(headers, extensions)?;
        Ok(peer.zip(self.0.clone()).map(|(peer, current)| CallRights {
            current,
            peer,
            publishes_to: None,
        }))
    }
}

impl KnownPeer {
    pub(super) fn recheck(self, access: &Arc<Access>) -> Result<Self, Refused> {
        if self.is_local || Arc::ptr_eq(&self.access, access) {
            return Ok(self);
        }
        Ok(Self {
            identity: access.recheck(&self.identity, SystemTime::now())?,
            access: Arc::clone(access),
            is_local: false,
        })
    }

    pub(super) fn is_admin(&self) -> bool {
        self.access.is_admin(&self.identity)
    }

    /// Returns what the hub needs to know. `now` is the time of the hub.
    pub(super) fn on_stream(&self, now: Time) -> StreamAccess {
        StreamAccess {
            owner: self.identity.principal().into(),
            rights: Arc::new(self.clone()),
            expires_at: self.identity.expires_at().map(|at| now + remaining(at)),
        }
    }
}

impl Rights for KnownPeer {
    fn grant(&self, database: &str, collection: &str) -> Grant {
        let decided = self
            .access
            .decide(&self.identity, Action::Subscribe, database, collection);
        match decided {
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

impl CallRights {
    /// Returns the name under which the log knows a producer. It contains the principal, so that nobody can
    /// take the next sequence of another's.
    pub(super) fn own_producer(&self, producer: &str) -> String {
        // A principal has no control characters, so that no two pairs have one name.
        format!("{}\u{1f}{producer}", self.peer.identity.principal())
    }

    /// Applies a change of the rules, and returns an error if the credentials are not valid any more.
    pub(super) fn update(&mut self) -> Result<(), Status> {
        let access = Arc::clone(&self.current.borrow_and_update());
        if !Arc::ptr_eq(&access, &self.peer.access) {
            self.publishes_to = None;
            let peer = self.peer.clone().recheck(&access);
            let peer = peer.map_err(|cause| refused(&cause))?;
            // The producer of the call belongs to the principal that opened it.
            if peer.identity.principal() != self.peer.identity.principal() {
                return Err(Status::unauthenticated(
                    "the credentials are those of another principal now",
                ));
            }
            self.peer = peer;
        }
        match self.peer.identity.expires_at() {
            Some(at) if remaining(at).is_zero() => Err(expired()),
            _ => Ok(()),
        }
    }

    /// Returns an error unless the peer may change documents of a collection.
    pub(super) fn check_publish(&mut self, database: &str, collection: &str) -> Result<(), Status> {
        let last = self.publishes_to.as_ref();
        if last.is_some_and(|(of, name)| **of == *database && **name == *collection) {
            return Ok(());
        }
        let KnownPeer {
            access, identity, ..
        } = &self.peer;
        match access.decide(identity, Action::Publish, database, collection) {
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
        if self.peer.is_admin() {
            Ok(())
        } else {
            Err(Status::permission_denied("you may not read the whole log"))
        }
    }

    /// Resolves when the credentials are not valid any more, or when the rules have changed: the caller
    /// checks its rights again.
    pub(super) async fn changed(&mut self) -> Result<(), Status> {
        let expires_at = self.peer.identity.expires_at();
        let expiry = async {
            match expires_at {
                Some(at) => sleep(remaining(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(expiry);
        tokio::select! {
            changed = self.current.changed() => match changed {
                Ok(()) => return self.update(),
                // The server stops: nothing changes any more, but time passes.
                Err(_) => expiry.await,
            },
            () = &mut expiry => {}
        }
        Err(expired())
    }
}

impl PolicyFile {
    /// Reads a policy file. The rules change while somebody calls [`PolicyFile::follow`].
    ///
    /// # Errors
    ///
    /// All faults of the file.
    pub fn load(path: &Path) -> Result<(watch::Receiver<Arc<Access>>, Self), Faults> {
        let mut source = policy_source(path);
        let access = source.poll().unwrap_or_else(|| Ok(Access::default()))?;
        let (current, receiver) = watch::channel(Arc::new(access));
        Ok((receiver, Self { source, current }))
    }

    /// Reads the file again when it has changed, until `stop` is cancelled, and passes the new rules on. A
    /// file with faults changes nothing.
    pub async fn follow(self, on_change: impl Fn(Arc<Access>) + Send, stop: CancellationToken) {
        let Self {
            mut source,
            current,
        } = self;
        let mut has_panicked = false;
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // A copy, so that a panic leaves the source as it was.
            let mut polled = source.clone();
            let polling = tokio::task::spawn_blocking(move || {
                let read = polled.poll();
                (polled, read)
            });
            let (polled, read) = match polling.await {
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

/// A peer of this process, as an extension of its requests.
#[derive(Clone, Debug)]
pub(super) struct LocalPeer(pub(super) KnownPeer);

/// The token of the parts of this process that may do everything, and the configuration that knows it alone.
#[derive(Debug)]
pub(super) struct LocalAccess {
    access: Arc<Access>,
    token: NewToken,
}

/// The rights of a local peer.
const LOCAL_GRANTS: &str = "
[[grants]]
role = 'local'
databases = ['**']
collections = ['**']
actions = ['subscribe', 'publish']
[[grants]]
role = 'local'
actions = ['admin']
[[members]]
roles = ['local']
principals = ['token:local']
";

impl LocalAccess {
    /// Creates a random token. `None` if the system has no randomness.
    pub(super) fn generate() -> Option<Self> {
        let token = NewToken::generate()?;
        let text = format!("{}\n{LOCAL_GRANTS}", token.entry("local"));
        let no_keys = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let access = Access::parse("local", &text, no_keys, |_| Ok(()));
        let access = Arc::new(access.expect("a text of the program is valid"));
        Some(Self { access, token })
    }

    /// Returns the value of the header `authorization` of local peers.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.token.reveal())
    }

    /// Returns the local peer if the headers have its token.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<LocalPeer, Status> {
        let presented = Presented {
            authorization: headers.get(AUTHORIZATION).map(HeaderValue::as_bytes),
            certificate: None,
        };
        let identity = self.access.authenticate(presented, SystemTime::now());
        Ok(LocalPeer(KnownPeer {
            access: Arc::clone(&self.access),
            identity: identity.map_err(|cause| refused(&cause))?,
            is_local: true,
        }))
    }
}

/// Returns the status for a refusal, and logs its cause, which the peer is not told.
fn refused(cause: &Refused) -> Status {
    tracing::debug!(%cause, "credentials refused");
    Status::unauthenticated(cause.public())
}

fn expired() -> Status {
    Status::unauthenticated("the credentials have expired")
}

fn remaining(until: SystemTime) -> Duration {
    until
        .duration_since(SystemTime::now())
        .unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credentials_expire_also_when_nobody_follows_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        let token = NewToken::generate().unwrap();
        let until = jiff::Timestamp::now() + Duration::from_secs(1);
        let entry = format!("{}\nexpires = {until}\n", token.entry("feeder"));
        std::fs::write(&path, entry).unwrap();
        let (control, file) = AccessControl::load(Some(&path)).unwrap();
        let mut headers = HeaderMap::new();
        let value = format!("Bearer {}", token.reveal());
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        let rights = control.call_rights(&headers, &Extensions::new()).unwrap();
        drop(file);
        let mut rights = rights.unwrap();
        let changed = tokio::time::timeout(Duration::from_secs(60), rights.changed());
        let status = changed.await.unwrap().unwrap_err();
        assert_eq!(status.message(), "the credentials have expired");
    }

    #[tokio::test]
    async fn panic_while_reading_does_not_end_following() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        std::fs::write(&path, "").unwrap();
        let understands = |condition: &Condition| {
            assert!(!condition.text.starts_with("panic"), "as the test wants");
            Ok(())
        };
        let (current, mut receiver) = watch::channel(Arc::new(Access::default()));
        let source = Source::new(&path, understands);
        let stop = CancellationToken::new();
        let file = PolicyFile { source, current };
        let following = tokio::spawn(file.follow(|_| {}, stop.clone()));
        let grant = |field: &str| {
            format!(
                "[[grants]]\nrole = 'a'\ndatabases = ['a']\ncollections = ['a']\n\
                 actions = ['subscribe']\nfilter = ['{field} == 1']\n"
            )
        };
        std::fs::write(&path, grant("panic")).unwrap();
        sleep(4 * POLL_INTERVAL).await;
        assert!(!following.is_finished());
        receiver.mark_unchanged();
        std::fs::write(&path, grant("n")).unwrap();
        let changed = tokio::time::timeout(Duration::from_secs(60), receiver.changed());
        changed.await.unwrap().unwrap();
        stop.cancel();
        following.await.unwrap();
    }
}
