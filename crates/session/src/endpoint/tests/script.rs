//! A protocol that follows instructions in messages and commands, and records its calls.

use std::time::Duration;

use crate::{
    Activity, Config, Context, End, Endpoint, Generation, Jitter, Protocol, Ready, Session, Signal,
    Time,
    endpoint::{Action, Input},
    session,
};

/// One instruction for the protocol.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Play {
    /// Send, if a stream is open.
    Send(&'static str),
    Emit(&'static str),
    Signal(Signal),
    /// Arm the timer.
    Timer(Time),
    /// Signal this when the timer expires.
    OnTimer(Signal),
}

#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) calls: Vec<&'static str>,
    /// True if a stream was open at the last call.
    pub(super) open: bool,
    opening: Vec<Play>,
    timer: Option<Time>,
    on_timer: Option<Signal>,
}

type Cx = Context<&'static str, &'static str>;

impl Script {
    fn record(&mut self, what: &'static str, cx: &Cx) {
        self.calls.push(what);
        self.open = cx.is_open();
    }

    fn play(&mut self, plays: Vec<Play>, cx: &mut Cx) {
        for play in plays {
            match play {
                Play::Send(message) if cx.is_open() => cx.send(message),
                Play::Send(_) => {}
                Play::Emit(event) => cx.emit(event),
                Play::Signal(signal) => cx.signal(signal),
                Play::Timer(at) => self.timer = Some(at),
                Play::OnTimer(signal) => self.on_timer = Some(signal),
            }
        }
    }
}

impl Protocol for Script {
    type Send = &'static str;
    type Receive = Vec<Play>;
    type Command = Vec<Play>;
    type Event = &'static str;

    fn on_open(&mut self, _: Time, _: Generation, cx: &mut Cx) {
        self.record("open", cx);
        self.play(self.opening.clone(), cx);
    }

    fn on_connected(&mut self, _: Time, cx: &mut Cx) {
        self.record("connected", cx);
        if cx.is_open() {
            cx.send("newest");
        }
    }

    fn on_message(&mut self, _: Time, message: Vec<Play>, cx: &mut Cx) {
        self.record("message", cx);
        self.play(message, cx);
    }

    fn on_command(&mut self, _: Time, command: Vec<Play>, cx: &mut Cx) {
        self.record("command", cx);
        self.play(command, cx);
    }

    fn on_heartbeat(&mut self, _: Time, cx: &mut Cx) {
        self.record("heartbeat", cx);
        cx.send("heartbeat");
    }

    fn on_live(&mut self, _: Time, cx: &mut Cx) {
        self.record("live", cx);
        cx.emit("live");
    }

    fn on_down(&mut self, _: Time, _: &End, cx: &mut Cx) {
        self.record("down", cx);
        cx.emit("down");
    }

    fn on_stop(&mut self, _: Time, _: &End, cx: &mut Cx) {
        self.record("stop", cx);
        cx.emit("stop");
        self.timer = None;
    }

    fn deadline(&self) -> Option<Time> {
        self.timer
    }

    fn on_timer(&mut self, _: Time, cx: &mut Cx) {
        self.record("timer", cx);
        self.timer = None;
        cx.emit("timer");
        if cx.is_open()
            && let Some(signal) = self.on_timer.take()
        {
            cx.signal(signal);
        }
    }
}

pub(super) type Requested = Action<&'static str, &'static str>;

/// An endpoint with a virtual clock, and all its actions so far.
pub(super) struct Bench {
    pub(super) endpoint: Endpoint<Script>,
    pub(super) now: Time,
    done: Vec<Requested>,
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::opening_with(&[Play::Send("hello")])
    }

    pub(super) fn opening_with(opening: &[Play]) -> Self {
        let config = Config {
            jitter: Jitter::Proportional(0.0),
            ready: Ready::Restored,
            ..Config::default()
        };
        let script = Script {
            opening: opening.to_vec(),
            ..Script::default()
        };
        Self {
            endpoint: Endpoint::new(Session::new(config.check().unwrap(), 1), script),
            now: Time::ZERO,
            done: Vec::new(),
        }
    }

    pub(super) fn live() -> Self {
        let mut bench = Self::new();
        bench.go_live();
        bench
    }

    pub(super) fn go_live(&mut self) {
        self.session(session::Input::Connect);
        let from = self.endpoint.current().unwrap();
        self.session(session::Input::Headers(from));
        self.message(
            from,
            &[
                Play::Signal(Signal::Greeted),
                Play::Signal(Signal::Restored),
            ],
        );
        assert_eq!(self.endpoint.status().activity, Activity::Live);
    }

    pub(super) fn step(&mut self, input: Input<Vec<Play>, Vec<Play>>) -> Vec<Requested> {
        let mut out = Vec::new();
        let deadline = self.endpoint.step(self.now, input, &mut out);
        assert_eq!(deadline, self.endpoint.deadline());
        assert!(deadline.is_none_or(|deadline| deadline.at > self.now));
        self.done.extend(out.iter().cloned());
        out
    }

    pub(super) fn session(&mut self, input: session::Input) -> Vec<Requested> {
        self.step(Input::Session(input))
    }

    pub(super) fn connected(&mut self, from: Generation) -> Vec<Requested> {
        self.step(Input::Connected(from))
    }

    pub(super) fn message(&mut self, from: Generation, message: &[Play]) -> Vec<Requested> {
        self.step(Input::Message(from, message.to_vec()))
    }

    pub(super) fn command(&mut self, command: &[Play]) -> Vec<Requested> {
        self.step(Input::Command(command.to_vec()))
    }

    /// Advances the time through every deadline on the way.
    pub(super) fn wait(&mut self, span: Duration) -> Vec<Requested> {
        let end = self.now + span;
        let mut out = Vec::new();
        while let Some(deadline) = self.endpoint.deadline()
            && deadline.at <= end
        {
            self.now = deadline.at;
            out.extend(self.session(session::Input::Tick));
        }
        self.now = end;
        out
    }

    pub(super) fn opened(&self) -> usize {
        let opened = |action: &&Requested| matches!(action, Action::Open { .. });
        self.done.iter().filter(opened).count()
    }

    pub(super) fn sent(&self) -> Vec<(Generation, &'static str)> {
        let mut sent = Vec::new();
        for action in &self.done {
            if let Action::Send(generation, message) = action {
                sent.push((*generation, *message));
            }
        }
        sent
    }
}
