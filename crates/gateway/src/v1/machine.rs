//! The machine of one socket.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use steadfast_session::Time;
use steadfast_streamer::Position;

use super::{
    message::{self, ClientMessage, Message, MessageFault, UNAUTHENTICATED_CODE, millis},
    request,
    subscription::{Stage, Subscription},
};
use crate::{
    machine::{Action, Actions, Input, Key, LATE, Machine, Opened, Principal, TOO_MANY_SOCKETS},
    subscription::{End, EndCode, Event},
};

/// The protocol of one socket.
///
/// ```text
///               subscribe                Opened
///   (no such id) ───────> Opening ──────────────────> Live ──┐ items, while there is credit
///        ^                   │                         │  <──┘
///        └───────────────────┴─────────────────────────┘
///           refused, ended, unsubscribe, or a subscribe with the same id
/// ```
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// `None` before the socket is open.
    peer: Option<Peer>,
    /// In the order of their keys.
    subscriptions: Vec<Subscription>,
    next_key: u32,
    /// The messages after an `auth` of the same frame: they need its result.
    pending: VecDeque<Box<RawValue>>,
    is_closed: bool,
}

/// What is known of the other end.
#[derive(Debug)]
struct Peer {
    /// Its name; `None` while it has no credentials and needs some.
    principal: Option<Arc<str>>,
    /// Whether it presented credentials. Others may be given some later.
    is_named: bool,
    opened_at: Time,
    heartbeat: Duration,
    heard_at: Time,
    /// When it was pinged since then.
    pinged_at: Option<Time>,
}

/// The version of the protocol.
const VERSION: u32 = 1;

/// The heartbeats of silence after which a socket is pinged. It is closed one heartbeat later.
const PING_AFTER: u32 = 2;

/// The time that a socket has to send credentials, if it needs some.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// Codes of close frames.
const GOING_AWAY: u16 = 1001;
const BROKEN: u16 = 1008;
const RESTART: u16 = 1012;
const TRY_LATER: u16 = 1013;
const UNAUTHENTICATED: u16 = 4401;

impl Machine for Session {
    fn step(&mut self, now: Time, input: Input<'_>, out: &mut Actions) -> Option<Time> {
        if !self.is_closed {
            self.handle(now, input, out);
        }
        if self.is_closed {
            self.subscriptions = Vec::new();
            self.pending = VecDeque::new();
            return None;
        }
        debug_assert!(self.subscriptions.is_sorted_by_key(|it| it.key));
        self.peer.as_ref().map(Peer::deadline)
    }

    fn joins_frames(&self) -> bool {
        true
    }

    fn count_messages(&self, frame: &str) -> usize {
        let is_array = frame.trim_start().starts_with('[');
        // What is no JSON is refused by the next step.
        let messages = is_array.then(|| message::messages(frame).map_or(1, |it| it.len()));
        messages.map_or(1, |it| it.max(1))
    }
}

impl Session {
    fn handle(&mut self, now: Time, input: Input<'_>, out: &mut Actions) {
        match input {
            Input::Opened(opened) => self.on_opened(now, &opened, out),
            Input::Text(text) => {
                self.on_heard(now);
                self.on_text(text, out);
            }
            Input::Alive => self.on_heard(now),
            Input::Authenticated(Ok(principal)) => {
                self.on_authenticated(&principal, out);
                self.on_pending(out);
            }
            Input::Authenticated(Err(TOO_MANY_SOCKETS)) => {
                let (code, message) = (EndCode::Limit.as_str(), TOO_MANY_SOCKETS);
                Message::Error { code, message }.send(out);
                self.close(TRY_LATER, message, out);
            }
            Input::Authenticated(Err(reason)) | Input::Unauthenticated(reason) => {
                self.refuse_credentials(reason, out);
            }
            Input::Event(key, event) => self.on_event(key, &event, out),
            Input::Drain { retry_after } => {
                let retry_after_ms = millis(retry_after);
                Message::Drain { retry_after_ms }.send(out);
                self.close(RESTART, "the gateway stops", out);
            }
            Input::Tick => self.on_tick(now, out),
        }
    }

    fn on_opened(&mut self, now: Time, opened: &Opened, out: &mut Actions) {
        let is_required = opened.principal.is_none();
        self.peer = Some(Peer {
            principal: None,
            is_named: false,
            opened_at: now,
            heartbeat: opened.heartbeat,
            heard_at: now,
            pinged_at: None,
        });
        Message::Welcome {
            version: VERSION,
            server: &opened.server,
            heartbeat_ms: millis(opened.heartbeat),
            auth: if is_required { "required" } else { "optional" },
            socket: opened.socket,
        }
        .send(out);
        let Some(principal) = &opened.principal else {
            return;
        };
        if &*principal.name == ANONYMOUS {
            self.peer_mut().principal = Some(Arc::clone(&principal.name));
        } else {
            self.on_authenticated(principal, out);
        }
    }

    fn on_heard(&mut self, now: Time) {
        let peer = self.peer_mut();
        peer.heard_at = now;
        peer.pinged_at = None;
    }

    fn on_text(&mut self, text: &str, out: &mut Actions) {
        debug_assert!(self.pending.is_empty(), "an auth has its result first");
        let messages = match message::messages(text) {
            Ok(messages) => messages,
            Err(fault) => {
                on_fault(&fault, out);
                return self.close(BROKEN, "a frame is not JSON", out);
            }
        };
        let mut messages = messages.into_iter();
        while let Some(message) = messages.next() {
            let waits = self.on_message(message, out);
            if self.is_closed {
                return;
            }
            if waits {
                self.pending = messages.map(ToOwned::to_owned).collect();
                return;
            }
        }
    }

    /// Takes the messages that waited for the result of an `auth`.
    fn on_pending(&mut self, out: &mut Actions) {
        while !self.is_closed
            && let Some(message) = self.pending.pop_front()
        {
            if self.on_message(&message, out) {
                return;
            }
        }
        self.pending = VecDeque::new();
    }

    /// Takes a message, and returns true if those after it must wait for [`Input::Authenticated`].
    fn on_message(&mut self, message: &RawValue, out: &mut Actions) -> bool {
        match ClientMessage::read(message) {
            Ok(ClientMessage::Auth { token }) => {
                out.push(Action::Authenticate(token.into_owned()));
                return true;
            }
            Ok(ClientMessage::Subscribe { id, message }) => self.on_subscribe(&id, message, out),
            Ok(ClientMessage::Unsubscribe { id }) => {
                self.remove(&id, out);
                Message::Unsubscribed { id: &id }.send(out);
            }
            Ok(ClientMessage::Credit { id, messages }) => {
                let mut subscriptions = self.subscriptions.iter_mut();
                if let Some(subscription) = subscriptions.find(|it| *it.id == *id) {
                    subscription.grant(messages, out);
                }
            }
            Ok(ClientMessage::Ping { n }) => Message::Pong { n }.send(out),
            Ok(ClientMessage::Cut) => {
                self.is_closed = true;
                out.push(Action::Cut);
            }
            Ok(ClientMessage::Unknown) => {}
            // Later messages do not depend on it: each names its subscription.
            Err(fault) => on_fault(&fault, out),
        }
        false
    }

    fn on_authenticated(&mut self, principal: &Principal, out: &mut Actions) {
        let peer = self.peer_mut();
        let is_other = peer.principal.as_ref() != Some(&principal.name);
        if peer.is_named && is_other {
            // Its subscriptions belong to the principal before.
            let reason = "the token is of another principal; open another connection";
            return self.refuse_credentials(reason, out);
        }
        peer.is_named = true;
        peer.principal = Some(Arc::clone(&principal.name));
        Message::Authenticated {
            principal: &principal.name,
            expires_in_ms: principal.expires_in.map(millis),
        }
        .send(out);
    }

    fn on_subscribe(&mut self, id: &str, message: &RawValue, out: &mut Actions) {
        // Also if the new one is refused: the id then has no subscription, as the client is told.
        self.remove(id, out);
        let end = if self.peer_mut().principal.is_none() {
            End::new(
                EndCode::Denied,
                "credentials are required; send `auth` first",
            )
        } else {
            match request::read(message) {
                Ok(subscribe) => return self.add(id, subscribe, out),
                Err(fault) => End::new(EndCode::Invalid, fault),
            }
        };
        Message::refused(id, &end).send(out);
    }

    fn add(&mut self, id: &str, subscribe: request::Subscribe, out: &mut Actions) {
        let key = Key(self.next_key);
        self.next_key += 1;
        out.push(Action::Subscribe(key, Box::new(subscribe.request)));
        let subscription = Subscription::new(id, key, subscribe.fields, subscribe.credit);
        self.subscriptions.push(subscription);
    }

    fn remove(&mut self, id: &str, out: &mut Actions) {
        let mut subscriptions = self.subscriptions.iter();
        if let Some(index) = subscriptions.position(|it| *it.id == *id) {
            let removed = self.subscriptions.remove(index);
            out.push(Action::Unsubscribe(removed.key));
        }
    }

    fn on_event(&mut self, key: Key, event: &Event, out: &mut Actions) {
        let index = self.subscriptions.binary_search_by_key(&key, |it| it.key);
        // A later message of the same frame may have removed what a limit then refuses.
        let Ok(index) = index else { return };
        let subscription = &mut self.subscriptions[index];
        match event {
            Event::Opened { position } => {
                debug_assert_eq!(subscription.stage, Stage::Opening);
                subscription.stage = Stage::Live;
                let (id, position) = (&*subscription.id, position.map(text_of));
                Message::Subscribed { id, position }.send(out);
                // Not before: nothing is told of a subscription that is paused.
                subscription.pause_without_credit(out);
            }
            Event::Item(item) => subscription.send(out, |lines, text| lines.write(item, text)),
            Event::Window {
                update,
                document,
                position,
            } => subscription.send(out, |lines, text| {
                lines.write_update(update, document.as_deref(), *position, text);
            }),
            Event::Progress(position) => {
                let (sub, position) = (&*subscription.id, text_of(*position));
                Message::Progress { sub, position }.send(out);
            }
            Event::Ended(end) => {
                let subscription = self.subscriptions.remove(index);
                let id = &*subscription.id;
                match subscription.stage {
                    Stage::Opening => Message::refused(id, end),
                    Stage::Live => Message::ended(id, end),
                }
                .send(out);
            }
        }
    }

    fn on_tick(&mut self, now: Time, out: &mut Actions) {
        let peer = self.peer_mut();
        if peer.auth_deadline().is_some_and(|at| at <= now) {
            return self.refuse_credentials("credentials are required", out);
        }
        let deadline = peer.idle_deadline();
        if deadline > now {
            return;
        }
        // Late, its answer may wait to be read.
        if peer.pinged_at.is_some() && now <= deadline + LATE {
            return self.close(GOING_AWAY, "the client was silent for too long", out);
        }
        peer.pinged_at = Some(now);
        out.push(Action::Ping);
    }

    fn refuse_credentials(&mut self, message: &'static str, out: &mut Actions) {
        let code = UNAUTHENTICATED_CODE;
        Message::Error { code, message }.send(out);
        self.close(UNAUTHENTICATED, message, out);
    }

    fn close(&mut self, code: u16, reason: &'static str, out: &mut Actions) {
        self.is_closed = true;
        out.push(Action::Close { code, reason });
    }

    fn peer_mut(&mut self) -> &mut Peer {
        self.peer
            .as_mut()
            .expect("the first input opens the socket")
    }
}

impl Peer {
    fn idle_deadline(&self) -> Time {
        match self.pinged_at {
            Some(at) => at + self.heartbeat,
            None => self.heard_at + self.heartbeat * PING_AFTER,
        }
    }

    fn auth_deadline(&self) -> Option<Time> {
        let waits = self.principal.is_none();
        waits.then(|| self.opened_at + AUTH_TIMEOUT)
    }

    fn deadline(&self) -> Time {
        let idle = self.idle_deadline();
        self.auth_deadline().map_or(idle, |at| at.min(idle))
    }
}

/// The name of a peer without credentials.
const ANONYMOUS: &str = "anonymous";

fn on_fault(fault: &MessageFault, out: &mut Actions) {
    let (code, message) = (EndCode::Invalid.as_str(), &*fault.to_string());
    Message::Error { code, message }.send(out);
}

fn text_of(position: Position) -> String {
    position.to_string()
}

#[cfg(test)]
mod tests;
