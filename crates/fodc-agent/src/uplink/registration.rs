//! What is said on the registration stream: who we are, once and then as heartbeats.

use std::{sync::Arc, time::Duration};

use steadfast_session::{Context, End, Generation, Initiator, Protocol, Reason, Signal, Time};
use steadfast_wire::fodc::{
    AgentProfile, ProxyProfile, RegisterAgentRequest, RegisterAgentResponse,
};

use steadfast_fodc_model::identity::Identity;

/// The version of our own profile that is spoken here.
pub(crate) const PROFILE: u32 = 1;

/// A registration that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registered {
    /// The id the proxy gave. Every registration has another one.
    pub agent_id: String,
    /// The attempt that made it.
    pub generation: Generation,
    /// How often the proxy wants heartbeats; `None` leaves it to us.
    pub heartbeat_interval: Option<Duration>,
    /// What the proxy speaks beyond the original; `None` for a plain one.
    pub profile: Option<ProxyProfile>,
}

/// What the registration tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The proxy said yes, and the link is live.
    Registered(Registered),
    /// The proxy said no.
    Refused,
    /// A heartbeat was sent.
    Beat,
    /// The stream is gone.
    Down,
}

/// What handles ask of it.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// From now on the agent is this one.
    Become(Arc<Identity>),
}

/// The protocol of the registration stream.
///
/// ```text
///   open: register ──> awaiting the answer ── yes ──> registered ── heartbeats
///                              │ no, or no id
///                              v
///                         a failed attempt
/// ```
#[derive(Debug)]
pub(crate) struct Registration {
    identity: Arc<Identity>,
    instance: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No stream.
    Away,
    /// The request is out.
    Asked(Generation),
    /// The answer was yes.
    Registered(Registered),
}

impl Registration {
    /// `instance` is the same for all registrations of one process, and of no other.
    pub(crate) fn new(identity: Arc<Identity>, instance: String) -> Self {
        Self {
            identity,
            instance,
            state: State::Away,
        }
    }

    /// All five fields always, whoever the proxy is: the first version dies without the address, the
    /// releases refuse what has no pod. R-150.
    fn request(&self) -> RegisterAgentRequest {
        RegisterAgentRequest {
            node_role: self.identity.role.clone(),
            labels: self.identity.labels.clone(),
            primary_address: Some(self.identity.primary_address()),
            pod_name: self.identity.pod(),
            container_names: self.identity.container_names.clone(),
            profile: Some(AgentProfile {
                version: PROFILE,
                instance: self.instance.clone(),
            }),
        }
    }

    fn on_answer(
        &mut self,
        generation: Generation,
        answer: RegisterAgentResponse,
        cx: &mut Context<RegisterAgentRequest, Event>,
    ) {
        if !answer.success || answer.agent_id.is_empty() {
            let why = match (answer.success, answer.message) {
                (true, _) => "registered, but without an agent id".to_owned(),
                (false, message) if message.is_empty() => "no reason given".to_owned(),
                (false, message) => message,
            };
            cx.emit(Event::Refused);
            cx.fail(End::retry(Initiator::Peer, Reason::Refused(why)));
            return;
        }
        // Less than a second arrives as 0, and 0 means that the proxy has no wish.
        let interval = u64::try_from(answer.heartbeat_interval_seconds).unwrap_or(0);
        let heartbeat_interval = (interval > 0).then(|| Duration::from_secs(interval));
        self.state = State::Registered(Registered {
            agent_id: answer.agent_id,
            generation,
            heartbeat_interval,
            profile: answer.profile.filter(|profile| profile.version >= PROFILE),
        });
        cx.signal(Signal::Greeted);
        if let Some(interval) = heartbeat_interval {
            cx.signal(Signal::HeartbeatInterval(interval));
        }
    }

    fn gone(&mut self, cx: &mut Context<RegisterAgentRequest, Event>) {
        self.state = State::Away;
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
        cx: &mut Context<RegisterAgentRequest, Event>,
    ) {
        self.state = State::Asked(generation);
        cx.send(self.request());
    }

    fn on_message(
        &mut self,
        _now: Time,
        answer: RegisterAgentResponse,
        cx: &mut Context<RegisterAgentRequest, Event>,
    ) {
        match self.state {
            State::Asked(generation) => self.on_answer(generation, answer, cx),
            // No proxy answers a heartbeat; one that does means nothing by it.
            State::Registered(_) | State::Away => {}
        }
    }

    fn on_command(
        &mut self,
        _now: Time,
        command: Command,
        cx: &mut Context<RegisterAgentRequest, Event>,
    ) {
        let Command::Become(identity) = command;
        if self.identity == identity {
            return;
        }
        self.identity = identity;
        match self.state {
            // A change is told at once, not with the next heartbeat.
            State::Registered(_) | State::Asked(_) if cx.is_open() => cx.send(self.request()),
            State::Registered(_) | State::Asked(_) | State::Away => {}
        }
    }

    fn on_heartbeat(&mut self, _now: Time, cx: &mut Context<RegisterAgentRequest, Event>) {
        match self.state {
            State::Registered(_) => {
                cx.send(self.request());
                cx.emit(Event::Beat);
            }
            State::Asked(_) | State::Away => {}
        }
    }

    fn on_live(&mut self, _now: Time, cx: &mut Context<RegisterAgentRequest, Event>) {
        match &self.state {
            State::Registered(registered) => cx.emit(Event::Registered(registered.clone())),
            State::Asked(_) | State::Away => unreachable!("only a registered agent greets"),
        }
    }

    fn on_down(&mut self, _now: Time, _end: &End, cx: &mut Context<RegisterAgentRequest, Event>) {
        self.gone(cx);
    }

    fn on_stop(&mut self, _now: Time, _end: &End, cx: &mut Context<RegisterAgentRequest, Event>) {
        self.gone(cx);
    }
}

#[cfg(test)]
mod tests;
