//! A client process: the state machine under test and its applications.

use std::{sync::Arc, time::Duration};

use steadfast_session::{Config, Endpoint, Generation, Ready, Session, Time};
use steadfast_streamer_core::client::{Config as CoreConfig, Core, Limits};

use crate::{
    net::ConnectionId,
    pace::PaceChecker,
    rights::{MaySee, PeerRights},
    subscription::Subscription,
};

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) endpoint: Endpoint<Core>,
    pub(crate) config: Config,
    /// True with the resume profile.
    pub(crate) profile: bool,
    /// The limits on the changes that wait for the applications.
    pub(crate) limits: Limits,
    /// The deadline that is scheduled.
    pub(crate) scheduled_deadline: Option<Time>,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) generation: Generation,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) pace: PaceChecker,
    pub(crate) attempts: u64,
    /// New connections are blocked as well.
    pub(crate) unreachable: bool,
    /// Unsubscribe requests of the current connection that its stream has not received.
    pub(crate) unsubscribes_in_flight: usize,
    /// The application has ended, because its plain server could not go on.
    pub(crate) has_ended: bool,
    /// What it may see now, and everything that it might see before; empty if it may see everything.
    pub(crate) rights: Vec<Arc<PeerRights>>,
    /// What it might see when the message was sent that arrives.
    pub(crate) sees: Option<Arc<PeerRights>>,
    pub(crate) credentials: Lifetime,
    /// The reason for which the session gave up.
    pub(crate) stopped: Option<String>,
}

/// The time for which credentials are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Longer than a schedule.
    Long,
    /// A few seconds.
    Short,
}

impl Client {
    pub(crate) fn new(seed: u64, number: usize, profile: bool, limits: Limits) -> Self {
        let config = session_config();
        let mut core = CoreConfig::new(
            format!("session-{seed}-{number}"),
            format!("client-{number}"),
            0,
        );
        core.heartbeat_interval = config.heartbeat_interval;
        core.activity_timeout = config.activity_timeout;
        core.offer_profile = profile;
        core.limits = limits;
        if !profile {
            // A plain server cannot be slowed by credit, so its client needs room for every event.
            core.limits.messages = 4_000;
            core.limits.bytes = 4 << 20;
        }
        let checked = config.clone().check().expect("the settings are valid");
        // Different per client: equal jitter would let all of them reconnect in step.
        let session = Session::new(checked, seed.wrapping_mul(31).wrapping_add(number as u64));
        Self {
            endpoint: Endpoint::new(session, Core::new(core)),
            config,
            profile,
            limits,
            scheduled_deadline: None,
            connection: None,
            generation: Generation(0),
            subscriptions: Vec::new(),
            pace: PaceChecker::default(),
            attempts: 0,
            unreachable: false,
            unsubscribes_in_flight: 0,
            has_ended: false,
            rights: Vec::new(),
            sees: None,
            credentials: Lifetime::Long,
            stopped: None,
        }
    }

    /// Returns all rights that it has had on a collection.
    pub(crate) fn past_rights(&self, collection: &str) -> Vec<&MaySee> {
        self.rights.iter().map(|it| it.of(collection)).collect()
    }
}

/// Settings with short times, so that ninety seconds hold many attempts.
fn session_config() -> Config {
    let mut config = Config::default();
    config.initial_backoff = Duration::from_millis(200);
    config.max_backoff = Duration::from_secs(2);
    config.open_timeout = Duration::from_millis(1_500);
    config.greeting_timeout = Duration::from_millis(1_500);
    config.restoring_timeout = Duration::from_secs(3);
    config.probe_timeout = Duration::from_secs(1);
    config.heartbeat_interval = Some(Duration::from_millis(500));
    config.activity_timeout = Some(Duration::from_secs(2));
    config.stable_after = Duration::from_secs(3);
    config.ready = Ready::Restored;
    config.renews_credentials = true;
    config
}
