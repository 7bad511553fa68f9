//! A session and the protocol spoken on it, put together into one pure machine.

use std::collections::VecDeque;

use crate::{
    Context, Effect, End, Generation, Protocol, Time,
    session::{self, Session},
    status::{Activity, Status, Transition},
    timer::{Deadline, Timer},
};

/// Everything that can happen to an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<R, C> {
    /// Something that concerns the session alone.
    Session(session::Input),
    /// A message of a stream.
    Message(Generation, R),
    /// A handle asks for something.
    Command(C),
}

/// Everything an endpoint asks of its driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Action<S, E> {
    /// Dial and open a stream, with new credentials if `refresh`. What is sent on the generation
    /// before the stream is open is to be queued and goes out with the call.
    Open {
        /// Names the attempt.
        generation: Generation,
        /// The peer refused the credentials of the last attempt.
        refresh: bool,
    },
    /// Queue a message on the stream.
    Send(Generation, S),
    /// End our half of the stream after what is queued.
    Finish(Generation),
    /// Drop the stream and the connection it dialled.
    Kill(Generation),
    /// Ask the peer whether it lives.
    Probe(Generation),
    /// Tell the handles.
    Event(E),
    /// The stream is live.
    Up(Generation),
    /// The stream, or the attempt at it, is over.
    Down(Generation, End),
    /// Nothing more will be attempted unless the caller connects again.
    Stopped(End),
    /// The state changed.
    Changed(Transition),
}

/// One machine of two: the session decides when, the protocol what.
///
/// The driver of a real link and the simulation step the same machine.
#[derive(Debug)]
pub struct Endpoint<P> {
    session: Session,
    protocol: P,
}

impl<P: Protocol> Endpoint<P> {
    /// Puts the two together.
    #[must_use]
    pub fn new(session: Session, protocol: P) -> Self {
        Self { session, protocol }
    }

    /// Feeds one input and returns the next deadline. Everything the driver must do is appended to
    /// `out`, in order, when this returns.
    ///
    /// # Panics
    ///
    /// As [`Session::step`].
    pub fn step(
        &mut self,
        now: Time,
        input: Input<P::Receive, P::Command>,
        out: &mut Vec<Action<P::Send, P::Event>>,
    ) -> Option<Deadline> {
        match input {
            Input::Session(input) => self.drive(now, input, out),
            Input::Message(from, message) => {
                self.drive(now, session::Input::Message(from), out);
                if self.session.current() == Some(from) {
                    self.tell(now, out, |protocol, cx| {
                        protocol.on_message(now, message, cx);
                    });
                }
            }
            Input::Command(command) => {
                self.drive(now, session::Input::Tick, out);
                self.tell(now, out, |protocol, cx| {
                    protocol.on_command(now, command, cx);
                });
            }
        }
        while self.protocol.deadline().is_some_and(|at| at <= now) {
            self.tell(now, out, |protocol, cx| protocol.on_timer(now, cx));
        }
        self.deadline()
    }

    /// When the endpoint must be stepped again.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let protocol = self.protocol.deadline().map(|at| Deadline {
            at,
            timer: Timer::Protocol,
        });
        [self.session.deadline(), protocol]
            .into_iter()
            .flatten()
            .min_by_key(|deadline| deadline.at)
    }

    /// The session as an observer sees it.
    #[must_use]
    pub fn status(&self) -> &Status {
        self.session.status()
    }

    /// The stream that is being opened or held.
    #[must_use]
    pub fn current(&self) -> Option<Generation> {
        self.session.current()
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    /// Steps the session, and whatever its actions make the protocol signal, until both are quiet.
    fn drive(
        &mut self,
        now: Time,
        input: session::Input,
        out: &mut Vec<Action<P::Send, P::Event>>,
    ) {
        let mut inputs = VecDeque::from([input]);
        let mut actions = Vec::new();
        while let Some(input) = inputs.pop_front() {
            self.session.step(now, input, &mut actions);
            for action in actions.drain(..) {
                let signals = self.perform(now, action, out);
                inputs.extend(signals);
            }
        }
    }

    fn perform(
        &mut self,
        now: Time,
        action: session::Action,
        out: &mut Vec<Action<P::Send, P::Event>>,
    ) -> Vec<session::Input> {
        match action {
            session::Action::Open {
                generation,
                refresh,
            } => {
                out.push(Action::Open {
                    generation,
                    refresh,
                });
                self.call(Some(generation), out, |protocol, cx| {
                    protocol.on_open(now, generation, cx);
                })
            }
            session::Action::Heartbeat(generation) => {
                self.call(Some(generation), out, |protocol, cx| {
                    protocol.on_heartbeat(now, cx);
                })
            }
            session::Action::Up(generation) => {
                out.push(Action::Up(generation));
                self.call(Some(generation), out, |protocol, cx| {
                    protocol.on_live(now, cx);
                })
            }
            session::Action::Down(generation, end) => {
                out.push(Action::Down(generation, end.clone()));
                self.call(None, out, |protocol, cx| protocol.on_down(now, &end, cx))
            }
            session::Action::Stopped(end) => {
                out.push(Action::Stopped(end.clone()));
                self.call(None, out, |protocol, cx| protocol.on_stop(now, &end, cx))
            }
            session::Action::Finish(generation) => push(out, Action::Finish(generation)),
            session::Action::Kill(generation) => push(out, Action::Kill(generation)),
            session::Action::Probe(generation) => push(out, Action::Probe(generation)),
            session::Action::Changed(transition) => push(out, Action::Changed(transition)),
        }
    }

    /// Calls the protocol and drives the session with what it signals.
    fn tell(
        &mut self,
        now: Time,
        out: &mut Vec<Action<P::Send, P::Event>>,
        call: impl FnOnce(&mut P, &mut Context<P::Send, P::Event>),
    ) {
        let leaving = self.session.status().activity == Activity::Draining;
        let stream = self.session.current().filter(|_| !leaving);
        for signal in self.call(stream, out, call) {
            self.drive(now, signal, out);
        }
    }

    /// Calls the protocol with what it may send on: the stream the call is about, if it still is.
    fn call(
        &mut self,
        stream: Option<Generation>,
        out: &mut Vec<Action<P::Send, P::Event>>,
        call: impl FnOnce(&mut P, &mut Context<P::Send, P::Event>),
    ) -> Vec<session::Input> {
        let mut cx = Context::new(stream.is_some());
        call(&mut self.protocol, &mut cx);
        let mut signals = Vec::new();
        for effect in cx.drain() {
            match (effect, stream) {
                (Effect::Event(event), _) => out.push(Action::Event(event)),
                (Effect::Send(message), Some(generation)) => {
                    out.push(Action::Send(generation, message));
                }
                (Effect::Signal(signal), Some(generation)) => {
                    signals.push(session::Input::Signal(generation, signal));
                }
                (Effect::Send(_) | Effect::Signal(_), None) => {}
            }
        }
        signals
    }
}

fn push<S, E>(out: &mut Vec<Action<S, E>>, action: Action<S, E>) -> Vec<session::Input> {
    out.push(action);
    Vec::new()
}

#[cfg(test)]
mod tests;
