//! Allocations of a live endpoint: none per input.

use std::time::Duration;

use allocation_counter::measure;
use steadfast_session::{
    Activity, Config, Context, End, Endpoint, Generation, Protocol, Session, Signal, Time,
    endpoint::{Action, Input},
    session,
};

/// Answers every message and every command with a message, an event and a signal.
#[derive(Debug)]
struct Echo;

impl Protocol for Echo {
    type Send = u64;
    type Receive = u64;
    type Command = u64;
    type Event = u64;

    fn on_open(&mut self, _: Time, _: Generation, _: &mut Context<u64, u64>) {}

    fn on_message(&mut self, _: Time, message: u64, cx: &mut Context<u64, u64>) {
        cx.send(message);
        cx.emit(message);
        cx.signal(Signal::HeartbeatAcked);
    }

    fn on_command(&mut self, now: Time, command: u64, cx: &mut Context<u64, u64>) {
        self.on_message(now, command, cx);
    }

    fn on_heartbeat(&mut self, _: Time, cx: &mut Context<u64, u64>) {
        cx.send(0);
    }

    fn on_down(&mut self, _: Time, _: &End, _: &mut Context<u64, u64>) {}

    fn on_stop(&mut self, _: Time, _: &End, _: &mut Context<u64, u64>) {}
}

#[test]
fn a_step_of_a_live_endpoint_allocates_nothing() {
    let config = Config::default().check().unwrap();
    let mut endpoint = Endpoint::new(Session::new(config, 1), Echo);
    let mut out: Vec<Action<u64, u64>> = Vec::with_capacity(16);
    let mut now = Time::ZERO;
    let mut step = |endpoint: &mut Endpoint<Echo>, input| {
        now = now + Duration::from_secs(1);
        out.clear();
        endpoint.step(now, input, &mut out);
    };
    let generation = Generation(1);
    for input in [session::Input::Connect, session::Input::Headers(generation)] {
        step(&mut endpoint, Input::Session(input));
    }
    let mut round = |endpoint: &mut Endpoint<Echo>| {
        step(endpoint, Input::Message(generation, 1));
        step(endpoint, Input::Command(2));
        step(
            endpoint,
            Input::Session(session::Input::Received(generation)),
        );
        step(endpoint, Input::Session(session::Input::Tick));
    };
    // The first rounds grow the buffers and pass a heartbeat and the stable timer.
    for _ in 0..20 {
        round(&mut endpoint);
    }
    let allocations = measure(|| {
        for _ in 0..100 {
            round(&mut endpoint);
        }
    });
    assert_eq!(endpoint.status().activity, Activity::Live);
    assert_eq!(allocations.count_total, 0);
}
