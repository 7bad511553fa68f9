//! The protocol of the existing TypeScript client (docs/protocol-gateway.md, "Classic").
//!
//! ```text
//!   auth ──> auth_ack          subscribe ──> subscribe_ack, [snapshot], event...
//!                              unsubscribe ──> unsubscribe_ack
//! ```

mod message;
mod snapshot;
mod subscription;
#[cfg(test)]
mod tests;
mod timers;

use std::sync::Arc;

use serde_json::value::RawValue;
use steadfast_session::Time;
use steadfast_streamer::Filter;

use self::{
    message::{Auth, Envelope, Subscribe, Unsubscribe},
    subscription::Subscription,
    timers::Timers,
};
use crate::{
    machine::{Action, Actions, Input, Key, Machine, Principal},
    subscription::{End, EndCode, Event, Request},
};

/// The machine of one socket, or of one stream of events.
#[derive(Debug)]
pub(crate) struct Classic {
    /// A stream of events has one subscription and no way back.
    is_events: bool,
    /// The database of the newest authentication.
    database: Option<Arc<str>>,
    /// The authentication whose token is being checked.
    authenticating: Option<Auth>,
    authenticating_id: Option<String>,
    subscriptions: Vec<Subscription>,
    /// Those that ended with the credentials. They continue at their positions when the client repeats them.
    interrupted: Vec<Subscription>,
    newest_key: u32,
    timers: Timers,
}

/// The status code of a socket without valid credentials.
const UNAUTHORIZED: u16 = 4401;

impl Classic {
    /// The key of the subscription of a stream of events.
    pub(crate) const EVENTS_KEY: Key = Key(0);

    /// Creates the machine of a WebSocket.
    pub(crate) fn new() -> Self {
        Self {
            is_events: false,
            database: None,
            authenticating: None,
            authenticating_id: None,
            subscriptions: Vec::new(),
            interrupted: Vec::new(),
            newest_key: 0,
            timers: Timers::default(),
        }
    }

    /// Creates the machine of a stream of events. Its subscription is open already.
    pub(crate) fn of_events() -> Self {
        let mut machine = Self::new();
        machine.is_events = true;
        machine.subscriptions.push(Subscription {
            key: Self::EVENTS_KEY,
            id: "default".into(),
            asked: Subscribe {
                include_data: true,
                ..Subscribe::default()
            },
            database: "".into(),
            is_open: true,
            position: None,
            snapshot: None,
            is_paused: false,
        });
        machine
    }

    /// Returns the subscription of a stream of events.
    pub(crate) fn events_request(database: &str, collection: &str) -> Request {
        request(database.into(), collection, Filter::all())
    }

    fn on_text(&mut self, text: &str, out: &mut Actions) {
        let Envelope { id, kind, payload } = match serde_json::from_str(text) {
            Ok(envelope) => envelope,
            Err(error) => {
                let what = if error.is_data() {
                    "the message is not an object with a type"
                } else {
                    "the message is not JSON"
                };
                return out.send(message::error(None, Some("invalid_message"), what));
            }
        };
        let id = id.as_deref();
        let invalid = |what: &str| message::error(id, Some("invalid_payload"), what);
        match &*kind {
            "auth" => self.on_auth(id, payload.as_deref(), out),
            "subscribe" | "unsubscribe" if self.database.is_none() => {
                let text = "unauthorized: auth required";
                out.send(message::error(id, Some("unauthorized"), text));
            }
            "subscribe" => match (id, read::<Subscribe>(payload.as_deref())) {
                (Some(id), Some(asked)) => self.on_subscribe(id, asked, out),
                (None, _) => out.send(invalid("a subscribe message has an id")),
                (_, None) => out.send(invalid("the payload of subscribe cannot be read")),
            },
            "unsubscribe" => match read::<Unsubscribe>(payload.as_deref()) {
                Some(Unsubscribe { id: subscription }) => {
                    self.remove(&subscription, out);
                    out.send(message::acknowledgement("unsubscribe_ack", id));
                }
                None => out.send(invalid("the payload of unsubscribe cannot be read")),
            },
            _ => out.send(message::error(
                id,
                Some("unknown_type"),
                "there is no message of this type; there are auth, subscribe and unsubscribe",
            )),
        }
    }

    fn on_auth(&mut self, id: Option<&str>, payload: Option<&RawValue>, out: &mut Actions) {
        let invalid = |what| message::error(id, Some("invalid_auth"), what);
        match read::<Auth>(payload) {
            None => out.send(invalid("invalid payload")),
            Some(auth) if auth.database.is_empty() => out.send(invalid("database is required")),
            Some(mut auth) => {
                out.push(Action::Authenticate(std::mem::take(&mut auth.token)));
                self.authenticating = Some(auth);
                self.authenticating_id = id.map(str::to_owned);
            }
        }
    }

    fn on_authenticated(&mut self, result: Result<Principal, &'static str>, out: &mut Actions) {
        let (auth, id) = (self.authenticating.take(), self.authenticating_id.take());
        match (result, auth) {
            (Ok(_), Some(auth)) => {
                self.database = Some(auth.database.into());
                self.timers.on_authenticated();
                out.send(message::acknowledgement("auth_ack", id.as_deref()));
            }
            (Err(why), _) => {
                // The client refreshes its token only if the text says this.
                let text = format!("unauthorized: {why}");
                out.send(message::error(id.as_deref(), Some("unauthorized"), &text));
            }
            (Ok(_), None) => {}
        }
    }

    fn on_unauthenticated(&mut self, now: Time, why: &str, out: &mut Actions) {
        let ended = std::mem::take(&mut self.subscriptions);
        if self.is_events {
            out.push(Action::Close {
                code: UNAUTHORIZED,
                reason: "unauthorized",
            });
            return;
        }
        self.database = None;
        if !ended.is_empty() {
            // Those with a snapshot get another one, which has everything.
            let continues = |it: &Subscription| !it.asked.send_snapshot;
            self.interrupted = ended.into_iter().filter(continues).collect();
        }
        // It refreshes its token now, and repeats its subscriptions after the acknowledgement.
        self.timers.await_credentials(now);
        let text = format!("unauthorized: {why}");
        out.send(message::error(None, Some("unauthorized"), &text));
    }

    fn on_subscribe(&mut self, id: &str, asked: Subscribe, out: &mut Actions) {
        let Some(database) = self.database.clone() else {
            return;
        };
        // The client repeats all subscriptions after each acknowledgement of its token. What is the same
        // goes on: a new one would miss what happened between the two, or tell it twice.
        let same = self.subscriptions.iter().find(|it| *it.id == *id);
        if let Some(same) = same.filter(|it| it.asked == asked && it.database == database) {
            let waits = !same.is_open || same.snapshot.is_some();
            if same.is_open && (waits || !asked.send_snapshot) {
                out.send(message::acknowledgement("subscribe_ack", Some(id)));
            }
            if waits || !asked.send_snapshot {
                return;
            }
        }
        let interrupted = self.interrupted.iter().find(|it| *it.id == *id);
        let continues = interrupted.filter(|it| it.asked == asked && it.database == database);
        let from = continues.and_then(|it| it.position);
        self.remove(id, out);
        let query = &asked.query;
        let filter = match query.filter() {
            Ok(filter) => filter,
            Err(fault) => {
                out.send(refused(id, &fault));
                return;
            }
        };
        self.newest_key += 1;
        let key = Key(self.newest_key);
        let wanted = Request {
            from,
            snapshot: asked.send_snapshot,
            progress: !asked.send_snapshot,
            ..request(Arc::clone(&database), &query.collection, filter)
        };
        self.subscriptions.push(Subscription {
            key,
            id: id.into(),
            asked,
            database,
            is_open: false,
            position: from,
            snapshot: None,
            is_paused: false,
        });
        out.push(Action::Subscribe(key, Box::new(wanted)));
    }

    fn remove(&mut self, id: &str, out: &mut Actions) {
        self.interrupted.retain(|it| *it.id != *id);
        if let Some(index) = self.subscriptions.iter().position(|it| *it.id == *id) {
            let removed = self.subscriptions.remove(index);
            out.push(Action::Unsubscribe(removed.key));
            self.take_turns(out);
        }
    }

    /// Lets one snapshot at a time collect its documents, so that a socket holds no more than one message has.
    fn take_turns(&mut self, out: &mut Actions) {
        let begun = |it: &&mut Subscription| it.snapshot.is_some();
        for (turn, subscription) in self.subscriptions.iter_mut().filter(begun).enumerate() {
            let waits = turn > 0;
            if waits != std::mem::replace(&mut subscription.is_paused, waits) {
                out.push(if waits {
                    Action::Pause(subscription.key)
                } else {
                    Action::Resume(subscription.key)
                });
            }
        }
    }

    fn on_event(&mut self, key: Key, event: Event, out: &mut Actions) {
        let Some(index) = self.subscriptions.iter().position(|it| it.key == key) else {
            return;
        };
        let subscription = &mut self.subscriptions[index];
        match event {
            Event::Opened { position } => {
                subscription.is_open = true;
                subscription.position = position.or(subscription.position);
                out.send(message::acknowledgement(
                    "subscribe_ack",
                    Some(&subscription.id),
                ));
            }
            Event::Item(item) => {
                subscription.position = item.position().or(subscription.position);
                subscription.on_item(item, out);
                self.take_turns(out);
            }
            Event::Progress(position) => subscription.position = Some(position),
            // Not asked for.
            Event::Window { .. } => {}
            Event::Ended(end) => {
                let ended = self.subscriptions.remove(index);
                self.on_ended(&ended, &end, out);
                self.take_turns(out);
            }
        }
    }

    fn on_ended(&self, ended: &Subscription, end: &End, out: &mut Actions) {
        if end.code == EndCode::Unavailable || self.is_events {
            // The client never repeats a single subscription, but all of them on a new socket.
            out.push(Action::Close {
                code: 1013,
                reason: "a subscription ended; connect again",
            });
        } else if ended.is_open {
            let text = format!("subscription {} ended: {end}", ended.id);
            out.send(message::error(
                Some(&ended.id),
                Some(end.code.as_str()),
                &text,
            ));
        } else {
            out.send(refused(&ended.id, &end.message));
        }
    }
}

impl Machine for Classic {
    fn held_bytes(&self) -> usize {
        self.subscriptions
            .iter()
            .map(Subscription::held_bytes)
            .sum()
    }

    fn step(&mut self, now: Time, input: Input<'_>, out: &mut Actions) -> Option<Time> {
        match input {
            Input::Opened(_) if self.is_events => {}
            Input::Opened(_) => self.timers.start(now),
            Input::Text(text) => {
                self.timers.on_heard(now);
                self.on_text(text, out);
            }
            Input::Alive => self.timers.on_heard(now),
            Input::Authenticated(result) => self.on_authenticated(result, out),
            Input::Event(key, event) => self.on_event(key, event, out),
            Input::Unauthenticated(why) => self.on_unauthenticated(now, why, out),
            Input::Drain { .. } => out.push(Action::Close {
                code: 1012,
                reason: "the gateway restarts",
            }),
            Input::Tick => self.timers.on_time(now, out),
        }
        self.timers.next()
    }
}

fn request(database: Arc<str>, collection: &str, filter: Filter) -> Request {
    Request {
        // A document that leaves is told as a delete without a document.
        left: true,
        ..Request::changes(database, collection.into(), filter)
    }
}

fn read<'a, T: serde::Deserialize<'a>>(payload: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(payload?.get()).ok()
}

/// Returns the refusal of a subscription, which has no code.
fn refused(id: &str, why: &str) -> String {
    message::error(
        Some(id),
        None,
        &format!("Subscribe failed: subscribe failed: {why}"),
    )
}
