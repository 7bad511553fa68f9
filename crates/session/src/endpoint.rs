//! A session and its protocol, combined into one pure machine.

use std::{collections::VecDeque, fmt, mem};

use crate::{
    Context, Effect, End, Generation, Protocol, Time,
    session::{self, Session},
    status::{Activity, Status, Transition},
    timer,
};

/// Everything that can happen to an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<R, C> {
    /// An input for the session alone.
    Session(session::Input),
    /// The connection of an attempt is ready, and its call follows.
    Connected(Generation),
    /// A message of a stream.
    Message(Generation, R),
    /// A command of a handle.
    Command(C),
}

/// Everything an endpoint asks of its driver.
#[derive(Clone, Debug, PartialEq)]
pub enum Action<S, E> {
    /// Dial and open a stream. Messages sent on this generation before the stream is open are queued
    /// and go out with the call.
    Open {
        /// The attempt.
        generation: Generation,
        /// True if the peer refused the last credentials, so that new ones are needed.
        refresh: bool,
    },
    /// Queue a message on the stream.
    Send(Generation, S),
    /// End our half of the stream after the queued messages.
    Finish(Generation),
    /// Drop the stream and the connection that was dialled for it.
    Kill(Generation),
    /// Probe the peer on the stream's connection.
    Probe(Generation),
    /// Notify the handles.
    Event(E),
    /// The stream is live.
    Up(Generation),
    /// The stream, or the attempt to open it, is over.
    Down(Generation, End),
    /// No attempt follows until the caller connects again.
    Stopped(End),
    /// The state changed.
    Changed(Transition),
}

/// The purpose of an endpoint's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// A timer of the session.
    Session(timer::Timer),
    /// The deadline of the protocol.
    Protocol,
}

/// The time by which an endpoint must be stepped again, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time.
    pub at: Time,
    /// The timer that expires then.
    pub timer: Timer,
}

/// A session and a protocol: the session decides when to send, the protocol what.
///
/// The driver of a real link and the simulation step the same machine. Once its buffers have grown, a
/// step allocates nothing of its own.
///
/// ```
/// use steadfast_session::{
///     Config, Context, End, Endpoint, Generation, Protocol, Session, Time,
///     endpoint::{Action, Input}, session,
/// };
///
/// /// Says hello on every stream and reports every message.
/// struct Hello;
///
/// impl Protocol for Hello {
///     type Send = &'static str;
///     type Receive = String;
///     type Command = ();
///     type Event = String;
///
///     fn on_open(&mut self, _: Time, _: Generation, cx: &mut Context<&'static str, String>) {
///         cx.send("hello");
///     }
///     fn on_message(&mut self, _: Time, message: String, cx: &mut Context<&'static str, String>) {
///         cx.emit(message);
///     }
///     fn on_command(&mut self, _: Time, (): (), _: &mut Context<&'static str, String>) {}
///     fn on_heartbeat(&mut self, _: Time, cx: &mut Context<&'static str, String>) {
///         cx.send("still here");
///     }
///     fn on_down(&mut self, _: Time, _: &End, _: &mut Context<&'static str, String>) {}
///     fn on_stop(&mut self, _: Time, _: &End, _: &mut Context<&'static str, String>) {}
/// }
///
/// let config = Config::default().check().expect("the defaults are valid");
/// let mut endpoint = Endpoint::new(Session::new(config, 7), Hello);
/// let mut actions = Vec::new();
/// endpoint.step(Time::ZERO, Input::Session(session::Input::Connect), &mut actions);
/// assert!(actions.contains(&Action::Send(Generation(1), "hello")));
///
/// actions.clear();
/// endpoint.step(Time::ZERO, Input::Message(Generation(1), "welcome".into()), &mut actions);
/// assert!(actions.contains(&Action::Event("welcome".into())));
/// ```
pub struct Endpoint<P: Protocol> {
    session: Session,
    protocol: P,
    /// Inputs that the session has not seen yet, in order. Empty between two steps, as are the other
    /// buffers; they are kept for their capacity.
    pending: VecDeque<session::Input>,
    actions: Vec<session::Action>,
    context: Context<P::Send, P::Event>,
}

impl<P: Protocol> Endpoint<P> {
    /// Combines a session and a protocol.
    #[must_use]
    pub fn new(session: Session, protocol: P) -> Self {
        Self {
            session,
            protocol,
            pending: VecDeque::new(),
            actions: Vec::new(),
            context: Context::new(false),
        }
    }

    /// Handles one input, then every timer that is due, and returns the next deadline.
    ///
    /// All actions are appended to `out`, in order; nothing stays queued inside.
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
            Input::Session(input) => self.step_session(now, input, out),
            Input::Connected(from) => {
                self.step_session(now, session::Input::Tick, out);
                // A deadline that was due at the same time may just have ended the attempt.
                if self.session.current() == Some(from) {
                    self.notify(now, out, |protocol, cx| protocol.on_connected(now, cx));
                }
            }
            Input::Message(from, message) => {
                self.step_session(now, session::Input::Message(from), out);
                // A deadline that was due at the same time may just have ended the stream.
                if self.session.current() == Some(from) {
                    self.notify(now, out, |protocol, cx| {
                        protocol.on_message(now, message, cx);
                    });
                }
            }
            Input::Command(command) => {
                // Timers that are due go first, so that the command meets the stream as it is now.
                self.step_session(now, session::Input::Tick, out);
                self.notify(now, out, |protocol, cx| {
                    protocol.on_command(now, command, cx);
                });
            }
        }
        // After the input, for the same reason as in the session: what just arrived may move the
        // deadline.
        while self.protocol.deadline().is_some_and(|at| at <= now) {
            self.notify(now, out, |protocol, cx| protocol.on_timer(now, cx));
        }
        self.deadline()
    }

    /// Returns the time by which the endpoint must be stepped again.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let session = self.session.deadline().map(|deadline| Deadline {
            at: deadline.at,
            timer: Timer::Session(deadline.timer),
        });
        let protocol = self.protocol.deadline().map(|at| Deadline {
            at,
            timer: Timer::Protocol,
        });
        // The session's comes first and wins a tie, so that every run reports the same reason.
        [session, protocol]
            .into_iter()
            .flatten()
            .min_by_key(|deadline| deadline.at)
    }

    /// Returns the status of the session.
    #[must_use]
    pub fn status(&self) -> &Status {
        self.session.status()
    }

    /// Returns the stream that is being opened, held or ended.
    #[must_use]
    pub fn current(&self) -> Option<Generation> {
        self.session.current()
    }

    /// Returns the protocol.
    #[must_use]
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    fn step_session(
        &mut self,
        now: Time,
        input: session::Input,
        out: &mut Vec<Action<P::Send, P::Event>>,
    ) {
        self.pending.push_back(input);
        self.settle(now, out);
    }

    /// Calls the protocol with the current stream, then steps the session with its signals.
    fn notify(
        &mut self,
        now: Time,
        out: &mut Vec<Action<P::Send, P::Event>>,
        call: impl FnOnce(&mut P, &mut Context<P::Send, P::Event>),
    ) {
        // After `Finish` nothing can be sent, although the peer may still send.
        let leaving = self.session.status().activity == Activity::Draining;
        let stream = self.session.current().filter(|_| !leaving);
        self.call(stream, out, call);
        self.settle(now, out);
    }

    /// Steps the session until neither it nor the protocol has anything more to say.
    fn settle(&mut self, now: Time, out: &mut Vec<Action<P::Send, P::Event>>) {
        while let Some(input) = self.pending.pop_front() {
            // A queue and no recursion: the protocol's signals are handled after the actions that
            // caused them, in order, at any depth.
            let mut actions = mem::take(&mut self.actions);
            self.session.step(now, input, &mut actions);
            for action in actions.drain(..) {
                self.perform(now, action, out);
            }
            self.actions = actions;
        }
    }

    fn perform(
        &mut self,
        now: Time,
        action: session::Action,
        out: &mut Vec<Action<P::Send, P::Event>>,
    ) {
        match action {
            session::Action::Open {
                generation,
                refresh,
            } => {
                // First the driver's action, then the protocol's messages, which go out on that
                // stream.
                out.push(Action::Open {
                    generation,
                    refresh,
                });
                self.call(Some(generation), out, |protocol, cx| {
                    protocol.on_open(now, generation, cx);
                });
            }
            session::Action::Heartbeat(generation) => {
                self.call(Some(generation), out, |protocol, cx| {
                    protocol.on_heartbeat(now, cx);
                });
            }
            session::Action::Up(generation) => {
                out.push(Action::Up(generation));
                self.call(Some(generation), out, |protocol, cx| {
                    protocol.on_live(now, cx);
                });
            }
            session::Action::Down(generation, end) => {
                out.push(Action::Down(generation, end.clone()));
                // Without a stream: it is gone, and a message for the next one belongs in
                // `on_open`.
                self.call(None, out, |protocol, cx| protocol.on_down(now, &end, cx));
            }
            session::Action::Stopped(end) => {
                out.push(Action::Stopped(end.clone()));
                self.call(None, out, |protocol, cx| protocol.on_stop(now, &end, cx));
            }
            session::Action::Finish(generation) => out.push(Action::Finish(generation)),
            session::Action::Kill(generation) => out.push(Action::Kill(generation)),
            session::Action::Probe(generation) => out.push(Action::Probe(generation)),
            session::Action::Changed(transition) => out.push(Action::Changed(transition)),
        }
    }

    /// Calls the protocol and forwards its effects. Without a stream, messages and signals are void.
    fn call(
        &mut self,
        stream: Option<Generation>,
        out: &mut Vec<Action<P::Send, P::Event>>,
        call: impl FnOnce(&mut P, &mut Context<P::Send, P::Event>),
    ) {
        self.context.set_open(stream.is_some());
        call(&mut self.protocol, &mut self.context);
        for effect in self.context.drain() {
            match (effect, stream) {
                (Effect::Event(event), _) => out.push(Action::Event(event)),
                (Effect::Send(message), Some(generation)) => {
                    out.push(Action::Send(generation, message));
                }
                (Effect::Signal(signal), Some(generation)) => {
                    let input = session::Input::Signal(generation, signal);
                    self.pending.push_back(input);
                }
                (Effect::Send(_) | Effect::Signal(_), None) => {}
            }
        }
    }
}

impl<P: Protocol + fmt::Debug> fmt::Debug for Endpoint<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("session", &self.session)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
