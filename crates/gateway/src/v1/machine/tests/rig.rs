//! A machine with what a driver does for it.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use steadfast_session::Time;
use steadfast_streamer::{Change, Epoch, Event, Item, Operation, Position, Previous};

use super::super::Session;
use crate::{
    machine::{Action, Actions, Input, Machine as _, Opened, Principal},
    subscription::Request,
};

#[derive(Debug)]
pub(super) struct Rig {
    session: Session,
    pub(super) now: Time,
    pub(super) deadline: Option<Time>,
}

pub(super) fn principal(name: &str) -> Principal {
    Principal {
        name: name.into(),
        expires_in: (name != "anonymous").then_some(Duration::from_secs(60)),
    }
}

/// A change of document `u{n}` by event `e{n}`.
pub(super) fn change(n: u64, data: &'static str) -> Item {
    let event = Event {
        offset: n,
        database: "d".into(),
        collection: "c".into(),
        document_id: format!("u{n}").into(),
        operation: Operation::Update,
        data: Bytes::from_static(data.as_bytes()),
        timestamp: n.cast_signed(),
        previous: Previous::Unknown,
    };
    let position = Some(Position::new(Epoch(1), n));
    Item::Change(Change::of(&event, &format!("e{n}"), position))
}

impl Rig {
    pub(super) fn new() -> Self {
        Self {
            session: Session::default(),
            now: Time::ZERO,
            deadline: None,
        }
    }

    /// Opens a socket for a peer without credentials, who needs none.
    pub(super) fn open() -> Self {
        let mut rig = Self::new();
        rig.opened(Some(principal("anonymous")));
        rig
    }

    /// Opens a socket that needs credentials.
    pub(super) fn open_restricted() -> Self {
        let mut rig = Self::new();
        rig.opened(None);
        rig
    }

    pub(super) fn opened(&mut self, principal: Option<Principal>) -> Vec<String> {
        self.step(Input::Opened(Opened {
            socket: 7,
            server: Arc::from("g1"),
            is_restricted: principal.is_none(),
            principal,
            heartbeat: Duration::from_secs(25),
        }))
    }

    pub(super) fn text(&mut self, text: &str) -> Vec<String> {
        self.step(Input::Text(text))
    }

    pub(super) fn tick_at(&mut self, now: Time) -> Vec<String> {
        self.now = now;
        self.step(Input::Tick)
    }

    /// Steps the machine and returns its frames and what else it does, in order.
    pub(super) fn step(&mut self, input: Input<'_>) -> Vec<String> {
        self.actions(input).iter().map(describe).collect()
    }

    /// Steps the machine and returns its actions. Tokens are checked as a driver does: only the empty one is
    /// not valid.
    pub(super) fn actions(&mut self, input: Input<'_>) -> Vec<Action> {
        let mut all = Vec::new();
        let mut actions = Actions::default();
        self.deadline = self.session.step(self.now, input, &mut actions);
        while let Some(action) = actions.pop() {
            let Action::Authenticate(token) = action else {
                all.push(action);
                continue;
            };
            let checked = if token.is_empty() {
                Err("the credentials are not valid")
            } else {
                Ok(principal(&format!("token:{token}")))
            };
            all.extend(self.actions(Input::Authenticated(checked)));
        }
        all
    }
}

fn describe(action: &Action) -> String {
    match action {
        Action::Send(text) => text.clone(),
        Action::Ping => "> ping".to_owned(),
        Action::Subscribe(_, request) => describe_request(request),
        Action::Unsubscribe(key) => format!("> unsubscribe {}", key.0),
        Action::Pause(key) => format!("> pause {}", key.0),
        Action::Resume(key) => format!("> resume {}", key.0),
        Action::Close { code, reason } => format!("> close {code} {reason}"),
        Action::Cut => "> cut".to_owned(),
        Action::Authenticate(_) => unreachable!("checked by the rig"),
    }
}

fn describe_request(request: &Request) -> String {
    let conditions = request.filter.conditions().iter();
    let conditions: Vec<_> = conditions.map(ToString::to_string).collect();
    let from = request.from.map_or("now".to_owned(), |it| it.to_string());
    let mut text = format!(
        "> subscribe {}/{} [{}] from {from}",
        request.database,
        request.collection,
        conditions.join(", "),
    );
    for (set, word) in [(request.snapshot, " snapshot"), (request.left, " left")] {
        text.push_str(if set { word } else { "" });
    }
    if let Some(order) = &request.window {
        write!(
            text,
            " by {} {:?} {}",
            order.field, order.direction, order.limit
        )
        .unwrap();
    }
    text
}
