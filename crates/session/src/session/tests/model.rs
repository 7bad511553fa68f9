//! Random inputs beside a model that knows only the invariants.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use super::{
    bench::{Bench, every_input},
    status::assert_history_is_consistent,
};
use crate::{
    Activity, Cause, Config, Generation, Jitter, Liveness, Ready, Recovery, Signal, State, Time,
    session::{Action, Input},
};

/// One step of a script: some time, then an input from an attempt up to three generations old.
#[derive(Clone, Copy, Debug)]
struct Step {
    micros: u64,
    age: u64,
    input: usize,
}

/// Most inputs come soon and from the current stream, or nothing would ever become live.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..20_000_000_u64, 0..4_u32, 0..20_u64, 0..INPUTS.len());
    let step = step.prop_map(|(micros, pace, age, input)| Step {
        micros: if pace == 3 { micros } else { micros / 400 },
        age: age.saturating_sub(16),
        input,
    });
    prop::collection::vec(step, 1..300)
}

/// The inputs to choose from: those on the way to a live stream are five times as frequent, `Close` is
/// rare.
static INPUTS: LazyLock<Vec<Input>> = LazyLock::new(|| {
    let mut inputs = Vec::new();
    for input in every_input(Generation(0)) {
        let weight = match &input {
            Input::Close => 1,
            Input::Connect
            | Input::Headers(_)
            | Input::Message(_)
            | Input::Received(_)
            | Input::Signal(_, Signal::Greeted | Signal::Restored) => 25,
            Input::Reconnect
            | Input::Leave
            | Input::Accepted(_)
            | Input::Ended(..)
            | Input::Probed(..)
            | Input::ReadPaused(..)
            | Input::Signal(..)
            | Input::Tick => 5,
        };
        inputs.extend(std::iter::repeat_n(input, weight));
    }
    inputs
});

/// The same input from another attempt.
fn of(from: Generation, input: &Input) -> Input {
    match input.clone() {
        Input::Accepted(_) => Input::Accepted(from),
        Input::Headers(_) => Input::Headers(from),
        Input::Received(_) => Input::Received(from),
        Input::Message(_) => Input::Message(from),
        Input::Ended(_, end) => Input::Ended(from, end),
        Input::Probed(_, alive) => Input::Probed(from, alive),
        Input::ReadPaused(_, held) => Input::ReadPaused(from, held),
        Input::Signal(_, signal) => Input::Signal(from, signal),
        Input::Connect => Input::Connect,
        Input::Reconnect => Input::Reconnect,
        Input::Leave => Input::Leave,
        Input::Close => Input::Close,
        Input::Tick => Input::Tick,
    }
}

fn configs() -> impl Strategy<Value = Config> {
    let ready = prop::sample::select(vec![
        Ready::Accepted,
        Ready::Headers,
        Ready::FirstMessage,
        Ready::Restored,
    ]);
    let liveness = prop::sample::select(vec![Liveness::Received, Liveness::Probed]);
    let jitter = prop::sample::select(vec![Jitter::Proportional(0.2), Jitter::Full]);
    let spread = any::<bool>();
    let max_retries = prop::sample::select(vec![0, 0, 4]);
    (ready, liveness, jitter, spread, max_retries).prop_map(
        |(ready, liveness, jitter, spread, max_retries)| Config {
            ready,
            liveness,
            jitter,
            max_retries,
            recovery: if spread {
                Recovery::Spread(Duration::from_secs(1))
            } else {
                Recovery::Backoff
            },
            stable_after: Duration::from_secs(5),
            ..Config::default()
        },
    )
}

/// At most one stream, opened once, possibly up, and killed once.
#[derive(Default)]
struct Model {
    newest: u64,
    open: Option<Generation>,
    killed: bool,
    up: bool,
    closed: bool,
    last_start: Option<Time>,
    lives: u64,
    reached: BTreeSet<String>,
}

impl Model {
    fn see(&mut self, at: Time, action: &Action, config: &Config) {
        assert!(!self.closed, "after the close: {action:?}");
        match action {
            Action::Open { generation, .. } => {
                assert_eq!(self.open, None, "two streams");
                assert_eq!(generation.0, self.newest + 1);
                if let Some(last) = self.last_start {
                    assert!(at - last >= config.min_interval(), "{:?} apart", at - last);
                }
                self.newest = generation.0;
                self.open = Some(*generation);
                self.killed = false;
                self.last_start = Some(at);
            }
            Action::Kill(generation) => {
                self.assert_open(*generation, action);
                self.killed = true;
            }
            Action::Down(generation, _) => {
                assert_eq!(self.open, Some(*generation), "{action:?}");
                assert!(self.killed, "down, but not dropped");
                self.open = None;
                self.up = false;
            }
            Action::Up(generation) => {
                self.assert_open(*generation, action);
                assert!(!self.up, "up twice");
                self.up = true;
                self.lives += 1;
            }
            Action::Heartbeat(generation) => self.assert_open(*generation, action),
            Action::Finish(generation) | Action::Probe(generation) => {
                self.assert_open(*generation, action);
                assert!(self.up, "{action:?} before it was live");
            }
            Action::Stopped(_) => assert_eq!(self.open, None, "stopped with a stream"),
            Action::Changed(_) => {}
        }
    }

    fn assert_open(&self, generation: Generation, action: &Action) {
        assert_eq!(self.open, Some(generation), "{action:?}");
        assert!(!self.killed, "{action:?} after the kill");
    }

    fn assert_agrees(&self, bench: &Bench) {
        let status = bench.session.status();
        assert_eq!(bench.session.current(), self.open);
        assert_eq!(status.generation.0, self.newest);
        assert_eq!(status.streams_established, self.lives);
        let moving = matches!(status.cause, Cause::PeerDraining(_));
        assert_eq!(
            status.state == State::Connected,
            self.up || moving,
            "{status:?}"
        );
        let deadline = bench.session.deadline();
        assert!(deadline.is_none_or(|deadline| deadline.at > bench.now));
        assert!(!self.closed || deadline.is_none());
        assert_eq!(
            status.next_retry_at.is_some(),
            status.activity == Activity::Backoff
        );
    }
}

fn play(config: &Config, seed: u64, script: &[Step]) -> (Bench, Model) {
    let mut bench = Bench::seeded(config.clone(), seed);
    let mut model = Model::default();
    for Step { micros, age, input } in script {
        let told = bench.done.len();
        bench.wait(Duration::from_micros(*micros));
        let from = Generation(bench.generation().0.saturating_sub(*age));
        let input = of(from, &INPUTS[*input]);
        let close = input == Input::Close;
        bench.feed(input);
        for (at, action) in &bench.done[told..] {
            model.see(*at, action, config);
        }
        model.closed |= close;
        model.assert_agrees(&bench);
        model.reached.insert(format!("{:?}", bench.activity()));
    }
    (bench, model)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_inputs_keep_one_ordered_stream_until_close(
        config in configs(),
        seed in any::<u64>(),
        script in steps(),
    ) {
        play(&config, seed, &script);
    }

    #[test]
    fn random_inputs_give_valid_and_complete_transitions(
        config in configs(),
        seed in any::<u64>(),
        script in steps(),
    ) {
        let (bench, _) = play(&config, seed, &script);
        assert_history_is_consistent(&bench);
    }

    #[test]
    fn equal_seeds_and_inputs_give_equal_actions(
        config in configs(),
        seed in any::<u64>(),
        script in steps(),
    ) {
        let (first, _) = play(&config, seed, &script);
        let (second, _) = play(&config, seed, &script);
        prop_assert_eq!(first.done, second.done);
    }
}

#[test]
fn random_inputs_reach_every_phase() {
    let mut runner = TestRunner::deterministic();
    let mut reached = BTreeSet::new();
    let mut lives = 0;
    for _ in 0..200 {
        let config = configs().new_tree(&mut runner).unwrap().current();
        let script = steps().new_tree(&mut runner).unwrap().current();
        let (_, model) = play(&config, 7, &script);
        reached.extend(model.reached);
        lives += model.lives;
    }
    assert_eq!(reached.len(), 8, "{reached:?}");
    assert!(lives > 200, "{lives}");
}
