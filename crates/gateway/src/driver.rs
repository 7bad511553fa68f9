//! Drives the machine of one socket: time, rights, subscriptions.

mod slots;
mod timer;

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use steadfast_access::Refused as CredentialsError;
use steadfast_net::{ClientKey, KeyedPermit, MessageRate};
use steadfast_session::Time;

use self::{slots::Slots, timer::Timer};
use crate::{
    limits::{Held, WAITING_BYTES, client_of},
    machine::{Action, Actions, Input, Key, Machine, Opened, Principal, TOO_MANY_SOCKETS},
    metrics::{Refused, SocketKind},
    rights::Peer,
    shared::Shared,
    sockets::OpenSocket,
    subscription::{End, EndCode, Event, Request},
    upstream::Handle,
};

/// The driver of one machine.
#[derive(Debug)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
    machine: Box<dyn Machine>,
    /// `None` while the client has no valid credentials.
    peer: Option<Peer>,
    /// The time at which the credentials expire.
    expires_at: Option<Time>,
    address: Option<IpAddr>,
    permit: Option<KeyedPermit>,
    socket: OpenSocket,
    out: VecDeque<Outgoing>,
    slots: Slots,
    rate: MessageRate,
    waiting: Held,
    /// The next tick of the machine.
    tick_at: Option<Time>,
    timer: Timer,
    is_closed: bool,
}

/// What the socket is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// Send a text frame.
    Text(String),
    /// Send a ping frame.
    Ping,
    /// Close in order.
    Close {
        /// The status code.
        code: u16,
        /// The reason.
        reason: &'static str,
    },
    /// Drop the connection.
    Cut,
}

/// The peer of a socket when it opens.
#[derive(Debug)]
pub(crate) struct Newcomer {
    /// `None` if it has no valid credentials.
    pub(crate) peer: Option<Peer>,
    pub(crate) address: Option<IpAddr>,
    /// The permit of its principal; see [`Driver::admit`].
    pub(crate) permit: Option<KeyedPermit>,
}

/// The size from which no message is added to a frame, in bytes.
const JOINED_BYTES: usize = 16 << 10;

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        machine: Box<dyn Machine>,
        kind: SocketKind,
        newcomer: Newcomer,
    ) -> Self {
        let socket = shared.sockets.open(kind, newcomer.address, &shared.metrics);
        let mut driver = Self {
            machine,
            peer: None,
            expires_at: None,
            address: newcomer.address,
            permit: newcomer.permit,
            socket,
            out: VecDeque::new(),
            slots: Slots::default(),
            rate: MessageRate::new(shared.options.limits.messages),
            waiting: Held::new(&shared.waiting),
            tick_at: None,
            timer: Timer::default(),
            is_closed: false,
            shared,
        };
        let principal = newcomer.peer.map(|peer| driver.set_peer(peer));
        let opened = Opened {
            socket: driver.socket.number,
            server: Arc::clone(&driver.shared.server),
            principal,
            is_restricted: driver.shared.rights.is_restricted(),
            heartbeat: driver.shared.options.heartbeat,
        };
        driver.step(Input::Opened(opened));
        driver
    }

    /// Returns the number of the socket.
    pub(crate) fn socket_number(&self) -> u64 {
        self.socket.number
    }

    /// Returns the permit of a socket of this peer, `None` if none is needed: of peers without credentials the
    /// connections of an address are limited.
    pub(crate) fn admit(shared: &Shared, peer: &Peer) -> Result<Option<KeyedPermit>, &'static str> {
        if !peer.shares_limits() {
            return Ok(None);
        }
        let key = ClientKey::Principal(peer.principal().name);
        let permit = shared.permits.socket(key);
        permit.map(Some).ok_or_else(|| {
            shared.metrics.refuse(Refused::PrincipalSockets);
            TOO_MANY_SOCKETS
        })
    }

    /// Takes a text frame of the client.
    pub(crate) fn on_text(&mut self, text: &str) {
        let messages = self.machine.count_messages(text);
        let received = &self.shared.metrics.messages_received;
        received.fetch_add(messages as u64, Relaxed);
        if self.admit_messages(messages) {
            self.step(Input::Text(text));
        }
    }

    /// Notes that the client sent another frame.
    pub(crate) fn on_alive(&mut self) {
        if self.admit_messages(1) {
            self.step(Input::Alive);
        }
    }

    /// Counts messages of the client. Returns false, and closes the socket, if they are too many.
    fn admit_messages(&mut self, messages: usize) -> bool {
        let is_allowed = self.rate.admit(messages);
        if !is_allowed {
            self.refuse(Refused::MessageRate, 1013, "too many messages");
        }
        is_allowed
    }

    /// Closes the socket because of a limit or a broken rule.
    pub(crate) fn refuse(&mut self, refused: Refused, code: u16, reason: &'static str) {
        self.shared.metrics.refuse(refused);
        self.close(Outgoing::Close { code, reason });
    }

    /// Returns the counter of the bytes of unfinished messages.
    pub(crate) fn unfinished(&self) -> Held {
        Held::new(&self.shared.unfinished)
    }

    /// Counts what the machine and this hold for the client, with the bytes that its connection has not
    /// taken. Returns what all sockets hold.
    pub(crate) fn note_unsent(&mut self, bytes: usize) -> usize {
        let out = self.out.iter().map(|it| match it {
            Outgoing::Text(text) => text.len(),
            Outgoing::Ping | Outgoing::Close { .. } | Outgoing::Cut => 0,
        });
        let own = self.machine.held_bytes() + out.sum::<usize>() + bytes;
        self.waiting.set(own)
    }

    /// Returns true if nothing waits to be sent, so that the client may send more.
    pub(crate) fn takes_messages(&self) -> bool {
        self.out.is_empty() && !self.is_closed
    }

    /// Polls for what the socket is to do. Items are taken from the subscriptions for the frame that is
    /// returned only, so that nothing is queued here for a slow client.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outgoing> {
        loop {
            if let Some(mut outgoing) = self.out.pop_front() {
                if let Outgoing::Text(text) = &mut outgoing
                    && self.machine.joins_frames()
                {
                    self.join(text, cx);
                }
                if self.out.is_empty() {
                    self.out = VecDeque::new();
                }
                if let Outgoing::Text(text) = &outgoing {
                    self.shared.metrics.messages_sent.fetch_add(1, Relaxed);
                    let bytes = text.len() as u64;
                    self.shared.metrics.bytes_sent.fetch_add(bytes, Relaxed);
                }
                return Poll::Ready(outgoing);
            }
            if self.is_closed {
                return Poll::Pending;
            }
            self.socket.signals.register(cx.waker());
            if !(self.take_signals() || self.take_time(cx) || self.take_event(cx)) {
                return Poll::Pending;
            }
        }
    }

    /// Makes an array of a frame and the messages after it that are there already.
    fn join(&mut self, frame: &mut String, cx: &mut Context<'_>) {
        let mut is_array = false;
        while frame.len() < JOINED_BYTES {
            match self.out.pop_front() {
                Some(Outgoing::Text(next)) => {
                    if !std::mem::replace(&mut is_array, true) {
                        frame.insert(0, '[');
                    }
                    frame.push(',');
                    frame.push_str(&next);
                }
                Some(other) => {
                    self.out.push_front(other);
                    break;
                }
                None if self.is_closed || !self.take_event(cx) => break,
                None => {}
            }
        }
        if is_array {
            frame.push(']');
        }
    }

    fn take_signals(&mut self) -> bool {
        let drains = self.socket.signals.take_drains();
        if drains {
            let retry_after = self.shared.options.retry_after;
            self.step(Input::Drain { retry_after });
        }
        let rights = self.socket.signals.take_rights_changed();
        if rights {
            self.recheck();
        }
        drains || rights
    }

    /// Applies the rules in force.
    fn recheck(&mut self) {
        let Some(peer) = &self.peer else { return };
        let before = peer.principal().name;
        match self.shared.rights.recheck(peer) {
            // The same rules are passed on again when the wall clock was set.
            Ok(None) => self.expires_at = self.expiry(peer.expires_in()),
            // Its subscriptions are those of the other one.
            Ok(Some(peer)) if peer.principal().name != before => {
                self.end_credentials(CredentialsError::OtherPrincipal.public());
            }
            Ok(Some(peer)) => {
                self.set_peer(peer);
            }
            Err(refused) => self.end_credentials(refused.public()),
        }
    }

    fn set_peer(&mut self, peer: Peer) -> Principal {
        let principal = peer.principal();
        self.expires_at = self.expiry(principal.expires_in);
        self.slots.apply_rights(&peer);
        self.peer = Some(peer);
        let name = Some(Arc::clone(&principal.name));
        self.socket.signals.figures.set_principal(name);
        principal
    }

    fn expiry(&self, expires_in: Option<Duration>) -> Option<Time> {
        expires_in.map(|left| self.shared.now() + left)
    }

    fn end_credentials(&mut self, why: &'static str) {
        self.shared.metrics.refuse(Refused::CredentialsEnded);
        (self.peer, self.expires_at) = (None, None);
        self.socket.signals.figures.set_principal(None);
        self.permit = None;
        self.slots.clear();
        self.step(Input::Unauthenticated(why));
    }

    fn take_time(&mut self, cx: &mut Context<'_>) -> bool {
        let earliest = [self.tick_at, self.expires_at].into_iter().flatten().min();
        let Some(at) = earliest else {
            self.timer.clear();
            return false;
        };
        let now = self.shared.now();
        if at > now && self.timer.poll(&self.shared, at, cx).is_pending() {
            return false;
        }
        let now = self.shared.now();
        if self.expires_at.is_some_and(|expires| expires <= now) {
            self.end_credentials(CredentialsError::ExpiredToken.public());
        }
        if self.tick_at.is_some_and(|tick| tick <= now) {
            self.step(Input::Tick);
        }
        true
    }

    /// Passes the next event of a subscription on.
    fn take_event(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready((key, event)) = self.slots.poll_next(cx) else {
            return false;
        };
        match &event {
            Event::Ended(end) => {
                if end.code == EndCode::Denied {
                    self.shared.metrics.refuse(Refused::Denied);
                }
            }
            Event::Item(_) | Event::Window { .. } => {
                self.shared.metrics.items.fetch_add(1, Relaxed);
                self.socket.signals.figures.items.fetch_add(1, Relaxed);
            }
            Event::Opened { .. } | Event::Progress(_) => {}
        }
        self.step(Input::Event(key, event));
        true
    }

    fn step(&mut self, input: Input<'_>) {
        if self.is_closed {
            return;
        }
        let mut actions = self.step_machine(input);
        while !self.is_closed
            && let Some(action) = actions.pop()
        {
            // Not by recursion: one frame may have thousands of messages that each need an answer first.
            if let Some(answer) = self.perform(action) {
                let first = self.step_machine(answer);
                actions.insert_first(first);
            }
        }
        // Without a snapshot nothing is refused here, and the socket counts what is unsent once for many events.
        let collects = self.machine.held_bytes() > 0;
        let counts = collects || self.waiting.own() > 0;
        if counts && self.note_unsent(0) > WAITING_BYTES && collects {
            let what = "the gateway collects too many snapshots; connect again later";
            self.refuse(Refused::Waiting, 1013, what);
        }
    }

    fn step_machine(&mut self, input: Input<'_>) -> Actions {
        let mut actions = Actions::default();
        self.tick_at = self.machine.step(self.shared.now(), input, &mut actions);
        actions
    }

    /// Performs an action. Returns what the machine is told of it, before anything else.
    fn perform(&mut self, action: Action) -> Option<Input<'static>> {
        match action {
            Action::Send(text) => self.out.push_back(Outgoing::Text(text)),
            Action::Ping => self.out.push_back(Outgoing::Ping),
            Action::Authenticate(token) => {
                return Some(Input::Authenticated(self.authenticate(&token)));
            }
            Action::Subscribe(key, request) => {
                let refused = self.subscribe(key, *request).err()?;
                return Some(Input::Event(key, Event::Ended(refused)));
            }
            Action::Unsubscribe(key) => self.slots.remove(key),
            Action::Pause(key) => self.slots.pause(key, true),
            Action::Resume(key) => self.slots.pause(key, false),
            Action::Close { code, reason } => self.close(Outgoing::Close { code, reason }),
            Action::Cut => self.close(Outgoing::Cut),
        }
        None
    }

    fn authenticate(&mut self, token: &str) -> Result<Principal, &'static str> {
        let peer = self.shared.rights.identify_token(token).map_err(|cause| {
            self.shared.metrics.refuse(Refused::Credentials);
            tracing::debug!(%cause, "credentials refused");
            cause.public()
        })?;
        // The permit stays if the principal is the same: it may have no second one.
        let name = |peer: &Peer| peer.principal().name;
        if self.peer.as_ref().map(name) != Some(name(&peer)) {
            self.permit = Self::admit(&self.shared, &peer)?;
        }
        Ok(self.set_peer(peer))
    }

    fn subscribe(&mut self, key: Key, request: Request) -> Result<(), End> {
        let peer = self.peer.as_ref().ok_or_else(End::denied)?;
        let handle = self.shared.upstream.open(request, peer);
        self.adopt(key, handle)
    }

    /// Adds a subscription that is open already.
    ///
    /// # Errors
    ///
    /// If a limit is reached.
    pub(crate) fn adopt(&mut self, key: Key, handle: Handle) -> Result<(), End> {
        let limits = &self.shared.options.limits;
        if self.slots.len() >= limits.subscriptions_per_socket {
            let max = limits.subscriptions_per_socket;
            self.shared.metrics.refuse(Refused::SocketSubscriptions);
            let text = format!("a socket may have {max} subscriptions");
            return Err(End::new(EndCode::Limit, text));
        }
        let client = client_of(self.peer.as_ref(), self.address);
        let socket = Some(&self.socket.signals);
        let counted = self.shared.count_subscription(client, socket)?;
        self.slots.add(key, handle, counted);
        Ok(())
    }

    fn close(&mut self, how: Outgoing) {
        if !std::mem::replace(&mut self.is_closed, true) {
            self.out.push_back(how);
            self.slots.clear();
            self.timer.clear();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
