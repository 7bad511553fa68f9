//! Random operations against a model server: what a publisher is told of an entry is true of the log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Op {
    Publish {
        invalid: bool,
    },
    Open {
        window: u32,
    },
    ServerTakes,
    /// The server commits what it has received, but for some of the newest.
    ServerCommits {
        left: usize,
    },
    ClientTakes,
    /// Some of what is on its way to the server still arrives.
    Cut {
        arrive: usize,
    },
    Stop,
}

#[derive(Default)]
struct Server {
    window: u32,
    last_sequence: u64,
    /// The entries of the log, in order.
    log: Vec<u64>,
    refused: BTreeSet<u64>,
    /// Entries that were received and not committed.
    received: Vec<WireEntry>,
}

struct World {
    script: Script,
    server: Server,
    to_server: VecDeque<Sent>,
    to_client: VecDeque<Response>,
    published: u64,
    /// What the application was told, by sequence.
    told: BTreeMap<u64, Result<Published, PublishError>>,
    stopped: bool,
}

fn is_invalid(entry: &WireEntry) -> bool {
    entry.data.is_empty()
}

impl Server {
    fn take(&mut self, sent: Sent, to_client: &mut VecDeque<Response>) {
        match sent {
            Sent::Hello(_) => to_client.push_back(Response::Welcome(PublisherWelcome {
                last_sequence: self.last_sequence,
                max_in_flight: self.window,
                ..PublisherWelcome::default()
            })),
            Sent::Entry(entry) => {
                self.received.push(entry);
                let in_flight = self.received.len();
                assert!(in_flight <= self.window as usize, "{in_flight} in flight");
            }
            other => panic!("{other:?}"),
        }
    }

    /// Commits the oldest entries that were received, as the log does.
    fn commit(&mut self, count: usize, to_client: &mut VecDeque<Response>) {
        let mut ack = Ack {
            epoch: EPOCH,
            ..Ack::default()
        };
        for entry in self.received.drain(..count) {
            let sequence = entry.sequence;
            assert!(sequence <= self.last_sequence + 1, "{sequence} jumps");
            let is_new = sequence > self.last_sequence;
            self.last_sequence = self.last_sequence.max(sequence);
            ack.sequence = sequence;
            if is_invalid(&entry) {
                self.refused.insert(sequence);
                to_client.push_back(Response::Refused(Refused {
                    sequence,
                    ..Refused::default()
                }));
            } else if is_new {
                self.log.push(sequence);
                ack.offset = self.log.len() as u64;
            } else {
                ack.duplicates += 1;
            }
        }
        if count > 0 {
            to_client.push_back(Response::Ack(ack));
        }
    }
}

impl World {
    fn new() -> Self {
        Self {
            script: Script::new(1),
            server: Server::default(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            published: 0,
            told: BTreeMap::new(),
            stopped: false,
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Publish { invalid } => self.publish(invalid),
            Op::Open { window } if !self.script.open && !self.stopped => {
                self.server.window = window;
                self.script.open();
            }
            Op::ServerTakes => {
                if let Some(sent) = self.to_server.pop_front() {
                    self.server.take(sent, &mut self.to_client);
                }
            }
            Op::ServerCommits { left } => {
                let count = self.server.received.len().saturating_sub(left);
                self.server.commit(count, &mut self.to_client);
            }
            Op::ClientTakes => {
                if let Some(response) = self.to_client.pop_front() {
                    self.script.receive(response);
                }
            }
            Op::Cut { arrive } if self.script.open => {
                self.script.cut();
                self.end_stream(arrive);
            }
            Op::Open { .. } | Op::Cut { .. } => {}
            Op::Stop => {
                self.script.stop();
                self.stopped = true;
                self.end_stream(0);
            }
        }
        self.collect();
    }

    fn publish(&mut self, invalid: bool) {
        self.published += 1;
        let data = if invalid { "" } else { "{}" };
        let id = format!("u{}", self.published);
        let entry = Entry::upsert("default", "users", id, data);
        let command = Command::Publish(entry);
        let script = &mut self.script;
        script.call(|core, now, cx| core.on_command(now, command, cx));
    }

    /// Ends the stream. The server may still commit what had arrived, and nobody hears of it.
    fn end_stream(&mut self, arrive: usize) {
        for sent in self.to_server.drain(..).take(arrive) {
            self.server.take(sent, &mut self.to_client);
        }
        let count = self.server.received.len().min(arrive);
        self.server.commit(count, &mut self.to_client);
        self.server.received.clear();
        self.to_server.clear();
        self.to_client.clear();
    }

    /// Takes what the core did, and checks it.
    fn collect(&mut self) {
        for signal in self.script.signals.drain(..) {
            assert_eq!(signal, Signal::Greeted, "the server did nothing wrong");
        }
        self.to_server.extend(self.script.sent.drain(..));
        for told in self.script.settled() {
            // In the order in which they were published, each once.
            let sequence = self.told.len() as u64 + 1;
            let (of, is_true) = match &told {
                Ok(published) => {
                    let offset = published.position.map(|position| position.offset);
                    let committed = self.server.log.binary_search(&sequence);
                    // The position is that of the commit's last entry.
                    let reached = committed.map(|index| offset.is_none_or(|at| at > index as u64));
                    (published.sequence, reached == Ok(true))
                }
                Err(PublishError::Refused { sequence: of, .. }) => {
                    (*of, self.server.refused.contains(&sequence))
                }
                Err(PublishError::NotSent { sequence: of, .. }) => {
                    (*of, self.server.last_sequence < sequence)
                }
                Err(PublishError::Unknown { sequence: of, .. }) => (*of, self.stopped),
                Err(other) => panic!("{other:?}"),
            };
            assert_eq!(of, sequence);
            assert!(is_true, "{told:?}, and the log has {:?}", self.server.log);
            self.told.insert(sequence, told);
        }
    }

    /// Without further faults, every entry is settled and in the log, or was refused.
    fn settle(&mut self) {
        self.run(Op::Open { window: 3 });
        let rounds = 10 * (self.published + 10);
        for _ in 0..rounds {
            self.run(Op::ServerTakes);
            self.run(Op::ServerCommits { left: 0 });
            self.run(Op::ClientTakes);
        }
        assert_eq!(self.told.len() as u64, self.published);
        let log = &self.server.log;
        assert!(log.is_sorted_by(|one, next| one < next), "{log:?}");
        if !self.stopped {
            let stored = log.len() + self.server.refused.len();
            assert_eq!(stored as u64, self.published, "an entry is lost");
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => prop::bool::weighted(0.2).prop_map(|invalid| Op::Publish { invalid }),
        3 => (1..6_u32).prop_map(|window| Op::Open { window }),
        12 => Just(Op::ServerTakes),
        6 => (0..3_usize).prop_map(|left| Op::ServerCommits { left }),
        10 => Just(Op::ClientTakes),
        2 => (0..4_usize).prop_map(|arrive| Op::Cut { arrive }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 250,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn publisher_is_told_the_truth_over_random_cuts(
        ops in prop::collection::vec(op(), 1..200),
        stops in prop::bool::weighted(0.2),
    ) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        if stops {
            world.run(Op::Stop);
        }
        world.settle();
    }
}
