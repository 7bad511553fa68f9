//! The client core: the wanted subscriptions, and the streams on which they are served.
//!
//! [`Core`] is the [`Protocol`] of a Streamer client. The session below it decides when a stream
//! begins and ends. The core restores the wanted subscriptions on each stream and turns the messages
//! of the peer into events for the handles. It does no I/O and reads no clock.
//!
//! Its state is split by lifetime: `Subscriptions` outlives streams, while `PlainStream` or
//! `ProfileStream` belongs to one stream, depending on the peer, and is dropped with it.

mod backlog;
mod catch_up;
mod command;
mod config;
mod counters;
mod credit;
mod cursor;
mod greeting;
mod heartbeats;
pub(crate) mod item;
mod json;
mod json_fields;
mod live;
mod load;
mod message;
mod plain;
mod probes;
mod profile;
mod projection;
pub mod queue;
pub(crate) mod received;
mod refusal;
mod restore;
mod snapshot;
mod subscription;
mod subscriptions;
pub(crate) mod violation;
mod window;
mod window_documents;

use steadfast_session::{
    Authorization, Context, Detail, End, Generation, Initiator, Protocol, Reason, Renewal, Signal,
    Time,
};
use steadfast_wire::streamer::{self as wire, gateway_message, streamer_message::Payload};

pub use self::{
    command::{Command, Event, Refusal, Start, SubscribeOptions, SubscriptionId},
    config::{Config, SessionSecret},
    counters::Counters,
    credit::Limits,
    item::{Change, Gap, GapReason, Item, Resync, ResyncReason, Snapshot},
    json::JsonLines,
    json_fields::{JsonFieldsError, json_fields},
    live::{LiveDocuments, LiveUpdate},
    message::ClientMessage,
    projection::Projection,
    received::ServerMessage,
    window_documents::{WindowDocuments, WindowUpdate},
};
use self::{
    heartbeats::Heartbeats,
    plain::PlainStream,
    profile::ProfileStream,
    received::{Content, Delivery, Kind, Response},
    subscriptions::Subscriptions,
    violation::Violation,
};

use crate::Place;

/// The protocol of a Streamer client.
///
/// ```
/// use steadfast_session::{
///     Config, Endpoint, Generation, Ready, Session, Time,
///     endpoint::{Action, Input},
///     session,
/// };
/// use steadfast_streamer_core::client::{self, Core};
///
/// let mut config = Config::default();
/// config.ready = Ready::Restored;
/// let session = Session::new(config.check()?, 7);
/// let core = Core::new(client::Config::new("an unguessable id", "billing-7", 0));
/// let mut endpoint = Endpoint::new(session, core);
/// let mut actions = Vec::new();
/// endpoint.step(Time::ZERO, Input::Session(session::Input::Connect), &mut actions);
///
/// // A hello and a heartbeat go out with the call.
/// let is_sent = |action: &&Action<_, _>| matches!(action, Action::Send(Generation(1), _));
/// assert_eq!(actions.iter().filter(is_sent).count(), 2);
/// # Ok::<(), steadfast_session::ConfigFaults>(())
/// ```
#[derive(Debug)]
pub struct Core {
    config: Config,
    subscriptions: Subscriptions,
    heartbeats: Heartbeats,
    stream: Stream,
    /// Of the stream; without a meaning if there is none.
    renewal: Renewal,
    generation: Generation,
    oversized: Oversized,
}

/// Ends in a row because of a message that exceeds the limit, from peers with the resume profile.
///
/// Such a peer sends the event again on every stream, so that only a larger limit helps.
#[derive(Debug, Default)]
struct Oversized {
    count: u32,
    /// The changes delivered when the current stream opened.
    delivered: u64,
    newest: Option<End>,
}

/// The current stream, by what is known of its peer.
#[derive(Debug)]
enum Stream {
    /// No stream is open.
    Closed,
    /// The peer has not greeted.
    Greeting,
    /// The peer does not speak the resume profile.
    Plain(PlainStream),
    /// The peer speaks the resume profile.
    Profile(ProfileStream),
}

type Cx = Context<ClientMessage, Event>;

impl Core {
    /// Creates a core that wants no subscription.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            subscriptions: Subscriptions::new(&config),
            heartbeats: Heartbeats::new(config.client_id.clone(), config.unix_ms),
            stream: Stream::Closed,
            renewal: Renewal::default(),
            generation: Generation(0),
            oversized: Oversized::default(),
            config,
        }
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.subscriptions.counters
    }

    /// Returns the number of wanted subscriptions.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    fn subscribe(&mut self, id: SubscriptionId, cx: &mut Cx) {
        match &mut self.stream {
            // It is subscribed with everything else once the peer has greeted.
            Stream::Closed | Stream::Greeting => {}
            Stream::Plain(_) => plain::subscribe(id, &mut self.subscriptions, cx),
            Stream::Profile(_) => profile::subscribe(id, &mut self.subscriptions, cx),
        }
    }

    fn unsubscribe(&mut self, id: SubscriptionId, cx: &mut Cx) {
        if !self.subscriptions.contains(id) {
            return;
        }
        match &mut self.stream {
            // No server has it, so there is nobody to tell.
            Stream::Closed | Stream::Greeting => {
                self.subscriptions.remove(id);
            }
            Stream::Plain(stream) => stream.unsubscribe(id, &mut self.subscriptions, cx),
            Stream::Profile(stream) => stream.unsubscribe(id, &mut self.subscriptions, cx),
        }
    }

    fn on_taken(&mut self, id: SubscriptionId, through: u64, cx: &mut Cx) {
        if !self.subscriptions.contains(id) {
            return;
        }
        match &mut self.stream {
            Stream::Closed | Stream::Greeting => {
                let (subscription, counters) = self.subscriptions.with_counters(id);
                subscription.on_taken(through, counters, cx);
            }
            Stream::Plain(stream) => stream.on_taken(id, through, &mut self.subscriptions, cx),
            Stream::Profile(_) => profile::on_taken(id, through, &mut self.subscriptions, cx),
        }
    }

    fn on_narrow(&mut self, id: SubscriptionId, snapshot: u64, bound: Place, cx: &mut Cx) {
        if let Some(window) = self.subscriptions.window_mut(id)
            && window.narrow(snapshot, bound)
            && let Stream::Profile(_) = &self.stream
        {
            profile::narrow(id, &mut self.subscriptions, cx);
        }
    }

    fn on_refill(&mut self, id: SubscriptionId, snapshot: u64, cx: &mut Cx) {
        let window = self.subscriptions.window_mut(id);
        if window.is_none_or(|window| !window.is_newest(snapshot)) {
            return;
        }
        let state = &mut self.subscriptions[id].snapshot;
        // A snapshot that is on its way already refills the window as well.
        if !state.is_open() {
            state.on_position_lost();
            if let Stream::Profile(_) = &self.stream {
                profile::refill(id, &mut self.subscriptions, cx);
            }
        }
    }

    fn send_heartbeat(&mut self, now: Time, cx: &mut Cx) {
        let heartbeat = self.heartbeats.next(now);
        send(cx, gateway_message::Payload::Heartbeat(heartbeat));
    }

    fn on_heartbeat_ack(
        &mut self,
        now: Time,
        ack: wire::HeartbeatAck,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        match self.heartbeats.acknowledge(ack.timestamp) {
            // Not taken for a sign of life: a peer that acknowledges anything would look healthy.
            None => self.subscriptions.counters.stray_acks += 1,
            Some(sent_at) => {
                // A peer with the profile sends its welcome before its first acknowledgement.
                if matches!(self.stream, Stream::Greeting) {
                    self.enter_plain(cx);
                }
                cx.signal(Signal::HeartbeatAcked);
                cx.emit(Event::Rtt(now.since(sent_at)));
            }
        }
        match (ack.progress, &mut self.stream) {
            (Some(progress), Stream::Profile(stream)) => {
                stream.on_progress(&progress, &mut self.subscriptions, cx)
            }
            (
                Some(_) | None,
                Stream::Closed | Stream::Greeting | Stream::Plain(_) | Stream::Profile(_),
            ) => Ok(()),
        }
    }

    fn enter_plain(&mut self, cx: &mut Cx) {
        cx.emit(Event::Greeted {
            server_id: String::new(),
            head: None,
        });
        cx.signal(Signal::Greeted);
        // After the signal: the session must wait for restoring before the first response can
        // finish it.
        let stream = PlainStream::start(&self.config, &mut self.subscriptions, cx);
        self.stream = Stream::Plain(stream);
    }

    fn on_welcome(
        &mut self,
        now: Time,
        welcome: wire::Welcome,
        cx: &mut Cx,
    ) -> Result<(), Violation> {
        match &self.stream {
            Stream::Greeting if self.config.offer_profile => {}
            // Without an offer the peer cannot know of the profile.
            Stream::Greeting => return Err(Violation::UnexpectedWelcome),
            // Everything was requested without positions by now. Starting over on a new stream is
            // simpler than taking it back.
            Stream::Plain(_) => return Err(Violation::LateWelcome),
            Stream::Profile(_) => return Err(Violation::SecondWelcome),
            Stream::Closed => return Ok(()),
        }
        let head = greeting::read_welcome(&welcome)?;
        greeting::apply_welcome(&welcome, cx);
        let stream = (&*self.config.session_id, self.generation.0);
        self.renewal = Renewal::start(now, welcome.expires_in_ms, stream);
        cx.emit(Event::Greeted {
            server_id: welcome.server_id,
            head: Some(head),
        });
        let stream = ProfileStream::start(head, &mut self.subscriptions, cx);
        self.stream = Stream::Profile(stream);
        Ok(())
    }

    fn receive(&mut self, now: Time, message: ServerMessage, cx: &mut Cx) -> Result<(), Violation> {
        let subscriptions = &mut self.subscriptions;
        let payload = match (message.into_content(), &mut self.stream) {
            (Content::Encoded(Kind::Delivery, delivery), Stream::Profile(stream)) => {
                return stream.on_delivery(&delivery, subscriptions, cx);
            }
            (Content::Encoded(Kind::Delivery, delivery), Stream::Plain(stream)) => {
                return stream.on_delivery(&delivery, subscriptions, cx);
            }
            // Nothing was requested on this stream yet.
            (Content::Encoded(Kind::Delivery, delivery), Stream::Greeting | Stream::Closed) => {
                let ids = Delivery::read(&delivery)?.ids.len();
                subscriptions.counters.unknown_ids += ids as u64;
                return Ok(());
            }
            (Content::Encoded(Kind::Response, response), stream) => {
                let response = Response::read(&response)?;
                return match stream {
                    Stream::Plain(stream) => stream.on_response(now, &response, subscriptions, cx),
                    Stream::Profile(stream) => stream.on_response(&response, subscriptions, cx),
                    Stream::Greeting | Stream::Closed => {
                        subscriptions.counters.stray_responses += 1;
                        Ok(())
                    }
                };
            }
            (Content::Other(payload), _) => payload.map(|payload| *payload),
        };
        match (payload, &mut self.stream) {
            (Some(Payload::HeartbeatAck(ack)), _) => self.on_heartbeat_ack(now, ack, cx)?,
            (Some(Payload::Welcome(welcome)), _) => self.on_welcome(now, welcome, cx)?,
            // The status of the call follows, but says less: this ends the stream with the better
            // reason.
            (Some(Payload::Final(last)), _) => cx.fail(greeting::read_final(last)?),
            (Some(Payload::Drain(drain)), _) => cx.signal(Signal::Drain(drain.reason)),
            (Some(Payload::Progress(progress)), Stream::Profile(stream)) => {
                stream.on_progress(&progress, subscriptions, cx)?;
            }
            (Some(Payload::Snapshot(snapshot)), Stream::Profile(stream)) => {
                stream.on_snapshot(snapshot, subscriptions, cx)?;
            }
            (Some(Payload::Authenticated(accepted)), Stream::Profile(_)) => {
                self.renewal.on_authenticated(now, accepted.expires_in_ms);
                subscriptions.counters.renewals += 1;
            }
            // Nothing waits for the acknowledgement: the subscription is gone already.
            (Some(Payload::UnsubscribeAck(_)), Stream::Profile(_)) => {}
            (
                Some(
                    Payload::Authenticated(_)
                    | Payload::Progress(_)
                    | Payload::UnsubscribeAck(_)
                    | Payload::Snapshot(_)
                    | Payload::Delivery(_)
                    | Payload::SubscribeResponse(_),
                )
                | None,
                _,
            ) => {
                subscriptions.counters.unknown_messages += 1;
            }
        }
        Ok(())
    }

    fn on_stream_gone(&mut self, end: Option<&End>) {
        let too_large = end.filter(|end| matches!(end.reason, Reason::MessageTooLarge(_)));
        match (&self.stream, too_large) {
            // A plain peer cannot resume, so each outage may have lost changes.
            (Stream::Plain(_), None) => {
                self.subscriptions.set_pending_gaps(GapReason::Disconnected);
            }
            // A plain peer does not send the event again, so a larger limit would come too late for
            // it.
            (Stream::Plain(_), Some(_)) => {
                self.subscriptions.set_pending_gaps(GapReason::TooLarge);
            }
            (Stream::Profile(_), Some(end)) => {
                let delivered = self.counters().delivered;
                // A delivery in between means that the client got past the event that was too
                // large.
                let progressed = self.oversized.delivered != delivered;
                self.oversized.count = if progressed {
                    1
                } else {
                    self.oversized.count + 1
                };
                self.oversized.newest = Some(end.clone());
            }
            (Stream::Profile(_) | Stream::Greeting | Stream::Closed, _) => {}
        }
        self.subscriptions.on_stream_gone();
        self.heartbeats.clear();
        self.renewal = Renewal::default();
        self.stream = Stream::Closed;
    }
}

impl Protocol for Core {
    type Send = ClientMessage;
    type Receive = ServerMessage;
    type Command = Command;
    type Event = Event;

    fn on_open(&mut self, now: Time, generation: Generation, cx: &mut Cx) {
        // Usually a repetition of `on_down`. It makes a stream start clean whatever the driver did.
        self.on_stream_gone(None);
        self.stream = Stream::Greeting;
        self.generation = generation;
        self.oversized.delivered = self.counters().delivered;
        if self.oversized.count >= self.config.max_rejections.max(1)
            && let Some(end) = self.oversized.newest.take()
        {
            // Here and not in `on_down`, because a signal without a stream is void.
            return cx.fail(End::stop(end.initiator, end.reason));
        }
        if self.config.offer_profile {
            let hello = greeting::hello(&self.config, generation.0);
            send(cx, gateway_message::Payload::Hello(hello));
        }
        // A plain server ignores the hello, and some send no headers before they have something to
        // answer. The acknowledgement of this heartbeat tells such a peer.
        self.send_heartbeat(now, cx);
    }

    fn on_message(&mut self, now: Time, message: ServerMessage, cx: &mut Cx) {
        if let Err(violation) = self.receive(now, message, cx) {
            let reason = Reason::Protocol(Detail::from_error(violation));
            cx.fail(End::retry(Initiator::Peer, reason));
        }
    }

    fn on_command(&mut self, now: Time, command: Command, cx: &mut Cx) {
        match command {
            Command::Subscribe {
                id,
                database,
                collection,
                filter,
                start,
                options,
            } => {
                // Wanted first, sent second: it is restored on later streams whether or not this
                // one takes it.
                self.subscriptions
                    .add(id, database, collection, filter, (start, options));
                self.subscribe(id, cx);
            }
            Command::Unsubscribe { id } => self.unsubscribe(id, cx),
            Command::Taken { id, through } => self.on_taken(id, through, cx),
            Command::Narrow {
                id,
                snapshot,
                bound,
            } => self.on_narrow(id, snapshot, bound, cx),
            Command::Refill { id, snapshot } => self.on_refill(id, snapshot, cx),
            Command::Authenticate(Authorization(authorization)) => {
                // Those that come after their stream has ended are asked for again by the next one.
                if cx.is_open() && self.renewal.may_send(now) {
                    let newer = wire::Authenticate { authorization };
                    send(cx, gateway_message::Payload::Authenticate(newer));
                }
            }
            Command::Report => cx.emit(Event::Counters(Box::new(*self.counters()))),
        }
    }

    fn on_heartbeat(&mut self, now: Time, cx: &mut Cx) {
        self.send_heartbeat(now, cx);
    }

    fn on_live(&mut self, now: Time, cx: &mut Cx) {
        if let Stream::Profile(stream) = &mut self.stream {
            // The first request for progress is due at once, so it is sent here and not at the next
            // timer.
            stream.on_live(now);
            self.on_timer(now, cx);
        }
    }

    fn on_down(&mut self, _now: Time, end: &End, _cx: &mut Cx) {
        self.on_stream_gone(Some(end));
    }

    fn on_stop(&mut self, _now: Time, end: &End, cx: &mut Cx) {
        self.on_stream_gone(Some(end));
        self.oversized = Oversized::default();
        // Their handles end with `Stopped`. A later start begins with none.
        self.subscriptions.clear();
        cx.emit(Event::Stopped(end.clone()));
    }

    fn caught_up(&self) -> bool {
        match &self.stream {
            Stream::Closed | Stream::Greeting => true,
            Stream::Plain(stream) => stream.is_restored(),
            Stream::Profile(stream) => stream.is_caught_up(),
        }
    }

    fn deadline(&self) -> Option<Time> {
        match &self.stream {
            Stream::Closed | Stream::Greeting => None,
            Stream::Plain(stream) => stream.deadline(),
            Stream::Profile(stream) => [stream.deadline(), self.renewal.deadline()]
                .into_iter()
                .flatten()
                .min(),
        }
    }

    fn on_timer(&mut self, now: Time, cx: &mut Cx) {
        match &mut self.stream {
            Stream::Closed | Stream::Greeting => {}
            Stream::Plain(stream) => stream.on_timer(now, &mut self.subscriptions, cx),
            Stream::Profile(stream) => {
                if self.renewal.on_timer(now) {
                    cx.emit(Event::CredentialsDue);
                }
                if stream.needs_progress(now) {
                    self.send_heartbeat(now, cx);
                }
            }
        }
    }
}

/// Sends a message, unless the session is leaving: it still receives then, but sends nothing more.
fn send(cx: &mut Cx, message: impl Into<ClientMessage>) {
    if cx.is_open() {
        cx.send(message.into());
    }
}

#[cfg(test)]
mod tests;
