//! The protocol of the registration stream: the identity of the agent, once and then as heartbeats.

use std::{fmt, sync::Arc, time::Duration};

use steadfast::{InvalidMetadata, Metadata};
use steadfast_fodc_model::identity::Identity;
use steadfast_session::{
    Authorization, Context, End, Generation, Initiator, Protocol, Reason, Renewal, Signal, Time,
};
use steadfast_wire::fodc::{
    AgentProfile, ProxyProfile, RegisterAgentRequest, RegisterAgentResponse,
};

/// The version of our own profile that this agent speaks.
pub(crate) const PROFILE: u32 = 1;

/// The metadata that names the agent to the proxy.
pub(super) const AGENT_ID: &str = "agent_id";

/// The same for relays that drop names with an underscore, as nginx does by default.
const AGENT_ID_DASHED: &str = "agent-id";

/// The metadata that makes a stream a part of its registration.
const AGENT_KEY: &str = "agent-key";

/// An accepted registration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registered {
    /// The id that the proxy assigned. Each registration has a new one.
    pub agent_id: String,
    /// The attempt that made it.
    pub generation: Generation,
    /// The heartbeat interval that the proxy asks for; `None` leaves it to the agent.
    pub heartbeat_interval: Option<Duration>,
    /// The extensions that the proxy supports; `None` for a plain proxy.
    pub profile: Option<ProxyProfile>,
    pub(crate) stream_key: StreamKey,
}

/// The secret of a registration that its other streams show; empty without one. No output shows it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamKey(String);

impl Registered {
    /// Returns the longest message that the proxy announced.
    pub(crate) fn message_bytes(&self) -> Option<usize> {
        let profile = self.profile.as_ref()?;
        let bytes = usize::try_from(profile.max_message_bytes).ok()?;
        (bytes > 0).then_some(bytes)
    }

    /// Returns the metadata of its other streams.
    pub(crate) fn metadata(&self) -> Result<Metadata, InvalidMetadata> {
        let metadata = Metadata::new()
            .with(AGENT_ID, &self.agent_id)?
            .with(AGENT_ID_DASHED, &self.agent_id)?;
        match &self.stream_key {
            StreamKey(key) if key.is_empty() => Ok(metadata),
            StreamKey(key) => metadata.with(AGENT_KEY, key),
        }
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamKey({} bytes)", self.0.len())
    }
}

/// An event of the registration stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The proxy accepted the registration, and the link is live.
    Registered(Registered),
    /// The proxy refused the registration.
    Refused,
    /// A heartbeat was sent.
    HeartbeatSent,
    /// Newer credentials are wanted: those of the stream expire.
    CredentialsDue,
    /// The proxy accepted newer credentials.
    Renewed,
    /// The stream has ended.
    Down,
}

/// A command of the uplink.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Replaces the identity of the agent.
    SetIdentity(Arc<Identity>),
    /// Newer credentials for the stream, after [`Event::CredentialsDue`].
    Authenticate(Authorization),
}

/// The protocol of the registration stream.
///
/// ```text
///   Idle ── on_open ──> Dialling ── on_connected: send the request ──> Requested
///                                                                         │
///                  a failed attempt <── refused, or no id ────────────────┤
///                                                                         │ accepted
///                                             heartbeats <── Registered <─┘
/// ```
///
/// The request is built when the connection is ready: a dial may take long, and the releases ignore a
/// role that comes after the registration.
#[derive(Debug)]
pub(crate) struct Registration {
    identity: Arc<Identity>,
    instance: String,
    state: State,
    /// The renewal of the credentials of the registration.
    renewal: Renewal,
}

#[derive(Debug)]
enum State {
    /// No stream is open.
    Idle,
    /// A connection is awaited; nothing was sent.
    Dialling(Generation),
    /// The request was sent and its response is awaited.
    Requested(Generation),
    /// The proxy has accepted.
    Registered(Registered),
}

impl Registration {
    /// Creates the protocol. `instance` identifies this process in all its registrations.
    pub(crate) fn new(identity: Arc<Identity>, instance: String) -> Self {
        Self {
            identity,
            instance,
            state: State::Idle,
            renewal: Renewal::default(),
        }
    }

    fn request(&self) -> RegisterAgentRequest {
        // Always all five fields (R-150): the first version crashes without the address, and the
        // releases refuse a request without a pod name.
        RegisterAgentRequest {
            node_role: self.identity.role.clone(),
            labels: self.identity.labels.clone(),
            primary_address: Some(self.identity.primary_address()),
            pod_name: self.identity.pod(),
            container_names: self.identity.container_names.clone(),
            profile: Some(AgentProfile {
                version: PROFILE,
                instance: self.instance.clone(),
                authorization: String::new(),
            }),
        }
    }

    fn on_response(
        &mut self,
        now: Time,
        generation: Generation,
        response: RegisterAgentResponse,
        cx: &mut Context<RegisterAgentRequest, Event>,
    ) {
        if !response.success || response.agent_id.is_empty() {
            let reason = match (response.success, response.message) {
                // Without an id the metrics stream could not be attributed to the agent.
                (true, _) => "registered, but without an agent id".to_owned(),
                (false, message) if message.is_empty() => "no reason given".to_owned(),
                (false, message) => message,
            };
            return refuse(reason, cx);
        }
        // 0 means that the proxy sets no interval; it also sends less than a second as 0.
        let interval = u64::try_from(response.heartbeat_interval_seconds).unwrap_or(0);
        let heartbeat_interval = (interval > 0).then(|| Duration::from_secs(interval));
        // A later version is expected to include this one.
        let profile = response.profile;
        let mut profile = profile.filter(|profile| profile.version >= PROFILE);
        let key = profile
            .as_mut()
            .map(|it| std::mem::take(&mut it.stream_key));
        let registered = Registered {
            agent_id: response.agent_id,
            generation,
            heartbeat_interval,
            profile,
            stream_key: StreamKey(key.unwrap_or_default()),
        };
        if let Err(error) = registered.metadata() {
            return refuse(
                format!("registered, but the agent id cannot be sent: {error}"),
                cx,
            );
        }
        let expires = registered.profile.as_ref().and_then(|it| it.expires_in_ms);
        let stream = (&*self.instance, generation.0);
        self.renewal = Renewal::start(now, expires.unwrap_or(0), stream);
        self.state = State::Registered(registered);
        // The session is live from here on, not from the response headers: a proxy that accepts the
        // stream and refuses the agent must meet a growing backoff.
        cx.signal(Signal::Greeted);
        if let Some(interval) = heartbeat_interval {
            cx.signal(Signal::HeartbeatInterval(interval));
        }
    }

    fn on_gone(&mut self, cx: &mut Context<RegisterAgentRequest, Event>) {
        self.state = State::Idle;
        self.renewal = Renewal::default();
        cx.emit(Event::Down);
    }
}

impl Protocol for Registration {
    type Send = RegisterAgentRequest;
    type Receive = RegisterAgentResponse;
    type Command = Command;
    type Event = Event;

    fn on_open(
        &mut self,
        _now: Time,
        generation: Generation,
        _cx: &mut Context<RegisterAgentRequest, Event>,
    ) {
        self.state = State::Dialling(generation);
    }

    fn on_connected(&mut self, _now: Time, cx: &mut Context<RegisterAgentRequest, Event>) {
        // A link that is left meanwhile sends nothing more.
        if let State::Dialling(generation) = self.state
            && cx.is_open()
        {
            self.state = State::Requested(generation);
            cx.send(self.request());
        }
    }

    fn on_message(
        &mut self,
        now: Time,
        response: RegisterAgentResponse,
        cx: &mut Context<RegisterAgentRequest, Event>,
    ) {
        match self.state {
            State::Requested(generation) => self.on_response(now, generation, response, cx),
            State::Registered(_) => {
                // The response to newer credentials; those to heartbeats carry nothing new.
                if let Some(expires) = response.profile.and_then(|it| it.expires_in_ms) {
                    self.renewal.on_authenticated(now, expires);
                    cx.emit(Event::Renewed);
                }
            }
            State::Dialling(_) | State::Idle => {}
        }
    }

    fn on_command(
        &mut self,
        now: Time,
        command: Command,
        cx: &mut Context<RegisterAgentRequest, Event>,
    ) {
        let identity = match command {
            Command::SetIdentity(identity) => identity,
            Command::Authenticate(Authorization(authorization)) => {
                // Those that come after their stream has ended are asked for again by the next one.
                if cx.is_open() && self.renewal.may_send(now) {
                    let mut heartbeat = self.request();
                    let profile = heartbeat.profile.get_or_insert_default();
                    profile.authorization = authorization;
                    cx.send(heartbeat);
                }
                return;
            }
        };
        if self.identity == identity {
            return;
        }
        self.identity = identity;
        match self.state {
            // A heartbeat would deliver the change too, but up to one interval later.
            State::Registered(_) | State::Requested(_) if cx.is_open() => cx.send(self.request()),
            // The next request carries the new identity.
            State::Registered(_) | State::Requested(_) | State::Dialling(_) | State::Idle => {}
        }
    }

    fn on_heartbeat(&mut self, _now: Time, cx: &mut Context<RegisterAgentRequest, Event>) {
        match self.state {
            State::Registered(_) => {
                cx.send(self.request());
                cx.emit(Event::HeartbeatSent);
            }
            // A heartbeat repeats the request, whose response is still awaited.
            State::Requested(_) | State::Dialling(_) | State::Idle => {}
        }
    }

    fn on_live(&mut self, _now: Time, cx: &mut Context<RegisterAgentRequest, Event>) {
        match &self.state {
            State::Registered(registered) => cx.emit(Event::Registered(registered.clone())),
            State::Requested(_) | State::Dialling(_) | State::Idle => {
                unreachable!("only a registered agent greets")
            }
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.renewal.deadline()
    }

    fn on_timer(&mut self, now: Time, cx: &mut Context<RegisterAgentRequest, Event>) {
        if self.renewal.on_timer(now) {
            cx.emit(Event::CredentialsDue);
        }
    }

    fn on_down(&mut self, _now: Time, _end: &End, cx: &mut Context<RegisterAgentRequest, Event>) {
        self.on_gone(cx);
    }

    fn on_stop(&mut self, _now: Time, _end: &End, cx: &mut Context<RegisterAgentRequest, Event>) {
        self.on_gone(cx);
    }
}

/// Ends the stream: the registration of this peer is of no use.
fn refuse(reason: String, cx: &mut Context<RegisterAgentRequest, Event>) {
    cx.emit(Event::Refused);
    cx.fail(End::retry(Initiator::Peer, Reason::Refused(reason)));
}

#[cfg(test)]
mod tests;
