//! The publisher core against a scripted server.

mod model;
mod renewal;

use std::time::Duration;

use bytes::Bytes;
use steadfast_session::Effect;
use steadfast_wire::publisher::{
    Ack, Authenticated, Operation as WireOperation, PublisherWelcome, Refused,
};

use super::*;
use crate::{Epoch, Position};

use publish_request::Payload as Sent;
use publish_response::Payload as Response;

const EPOCH: u64 = 7;

/// A core, and its effects since the last look.
struct Script {
    core: Core,
    open: bool,
    now: Time,
    sent: Vec<Sent>,
    settled: Vec<Result<Published, PublishError>>,
    greeted: Vec<u64>,
    signals: Vec<Signal>,
    /// The requests for newer credentials.
    due: usize,
}

impl Script {
    fn new(first_sequence: u64) -> Self {
        Self {
            core: Core::new("p", first_sequence),
            open: false,
            now: Time::ZERO,
            sent: Vec::new(),
            settled: Vec::new(),
            greeted: Vec::new(),
            signals: Vec::new(),
            due: 0,
        }
    }

    /// A core whose server greeted with the newest sequence `last` and this window.
    fn greeted(last: u64, window: u32) -> Self {
        let mut script = Self::new(last + 1);
        script.open();
        script.welcome(last, window);
        script.sent.clear();
        script.signals.clear();
        script
    }

    fn call(&mut self, what: impl FnOnce(&mut Core, Time, &mut Cx)) {
        let mut cx = Cx::new(self.open);
        what(&mut self.core, self.now, &mut cx);
        for effect in cx.into_effects() {
            match effect {
                Effect::Send(request) => self.sent.extend(request.payload),
                Effect::Event(Event::Settled(result)) => self.settled.push(result),
                Effect::Event(Event::Greeted { last_sequence }) => {
                    self.greeted.push(last_sequence);
                }
                Effect::Event(Event::CredentialsDue) => self.due += 1,
                Effect::Signal(signal) => self.signals.push(signal),
            }
        }
    }

    fn open(&mut self) {
        self.open = true;
        self.call(|core, now, cx| core.on_open(now, Generation(1), cx));
    }

    fn cut(&mut self) {
        self.open = false;
        let end = End::retry(Initiator::Network, Reason::Lost("cut".into()));
        self.call(|core, now, cx| core.on_down(now, &end, cx));
    }

    fn publish(&mut self, documents: impl IntoIterator<Item = u64>) {
        for document in documents {
            let entry = Entry::upsert("default", "users", format!("u{document}"), "{}");
            self.call(|core, now, cx| core.on_command(now, Command::Publish(entry), cx));
        }
    }

    fn receive(&mut self, response: Response) {
        let payload = Some(response);
        self.call(|core, now, cx| core.on_message(now, PublishResponse { payload }, cx));
    }

    fn welcome(&mut self, last_sequence: u64, max_in_flight: u32) {
        self.receive(Response::Welcome(PublisherWelcome {
            last_sequence,
            max_in_flight,
            ..PublisherWelcome::default()
        }));
    }

    fn ack(&mut self, sequence: u64, offset: u64) {
        self.receive(Response::Ack(Ack {
            sequence,
            epoch: EPOCH,
            offset,
            duplicates: 0,
        }));
    }

    fn refuse(&mut self, sequence: u64) {
        self.receive(Response::Refused(Refused {
            sequence,
            message: "no".to_owned(),
            ..Refused::default()
        }));
    }

    fn stop(&mut self) -> End {
        self.open = false;
        let end = End::stop(Initiator::Local, Reason::Left);
        self.call(|core, now, cx| core.on_stop(now, &end, cx));
        end
    }

    /// The sequences of the entries sent since the last look. Nothing else was sent.
    fn entries(&mut self) -> Vec<u64> {
        let sequence = |sent| match sent {
            Sent::Entry(entry) => {
                assert_eq!(entry.document_id, format!("u{}", entry.sequence));
                entry.sequence
            }
            other => panic!("not an entry: {other:?}"),
        };
        std::mem::take(&mut self.sent)
            .into_iter()
            .map(sequence)
            .collect()
    }

    /// The entries settled since the last look.
    fn settled(&mut self) -> Vec<Result<Published, PublishError>> {
        std::mem::take(&mut self.settled)
    }

    /// The violation that ended the stream.
    fn fault(&mut self) -> String {
        match &self.signals[..] {
            [
                Signal::Fail(End {
                    initiator: Initiator::Peer,
                    reason: Reason::Protocol(what),
                    ..
                }),
            ] => what.to_string(),
            other => panic!("not a fault of the peer: {other:?}"),
        }
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it is compared with settled entries"
)]
fn durable(sequence: u64, offset: u64) -> Result<Published, PublishError> {
    let position = (offset > 0).then(|| Position::new(Epoch(EPOCH), offset));
    Ok(Published { sequence, position })
}

#[test]
fn entries_are_sent_in_order_after_the_welcome() {
    // Sequences begin at 1 all the same.
    let mut script = Script::new(0);
    script.publish(1..=2);
    script.open();
    script.publish(3..=3);
    let hello = PublisherHello {
        producer_id: "p".to_owned(),
    };
    assert_eq!(std::mem::take(&mut script.sent), [Sent::Hello(hello)]);
    assert!(!script.core.caught_up());
    script.welcome(0, 10);
    assert_eq!(script.entries(), [1, 2, 3]);
    assert_eq!(script.greeted, [0]);
    assert_eq!(script.signals, [Signal::Greeted]);
    assert!(script.core.caught_up());
    script.open = false;
    script.publish(4..=4);
    assert_eq!(script.sent, [], "the session is leaving");
}

#[test]
fn pending_entries_are_sent_again_in_order() {
    let mut script = Script::greeted(0, 10);
    script.publish(1..=5);
    assert_eq!(script.entries(), [1, 2, 3, 4, 5]);
    script.ack(2, 2);
    assert_eq!(script.settled(), [durable(1, 2), durable(2, 2)]);
    script.cut();
    script.publish(6..=6);
    assert_eq!(script.sent, [], "there is no stream");
    script.open();
    script.sent.clear();
    script.welcome(4, 10);
    assert_eq!(script.entries(), [3, 4, 5, 6]);
    assert_eq!(script.settled(), [], "a welcome answers nothing");
}

#[test]
fn duplicate_entries_are_durable_without_a_position() {
    let mut script = Script::greeted(0, 10);
    script.publish(1..=3);
    script.cut();
    script.open();
    script.welcome(2, 10);
    // Two commits: the first was there before the cut.
    script.receive(Response::Ack(Ack {
        sequence: 2,
        epoch: EPOCH,
        offset: 0,
        duplicates: 2,
    }));
    assert_eq!(script.settled(), [durable(1, 0), durable(2, 0)]);
    script.ack(3, 3);
    assert_eq!(script.settled(), [durable(3, 3)]);
}

#[test]
fn refusal_within_a_commit_concerns_one_entry() {
    let mut script = Script::greeted(0, 10);
    script.publish(1..=4);
    script.refuse(2);
    let refused = Err(PublishError::Refused {
        sequence: 2,
        message: "no".to_owned(),
    });
    assert_eq!(script.settled(), [durable(1, 0), refused]);
    script.ack(4, 3);
    assert_eq!(script.settled(), [durable(3, 3), durable(4, 3)]);
    assert_eq!(script.signals, []);
}

#[test]
fn ack_after_a_refusal_settles_nothing_twice() {
    let mut script = Script::greeted(0, 10);
    script.publish(1..=2);
    script.refuse(2);
    assert_eq!(script.settled().len(), 2);
    script.ack(2, 1);
    assert_eq!((script.settled(), &*script.signals), (Vec::new(), &[][..]));
    script.publish(3..=3);
    script.ack(3, 2);
    assert_eq!(script.settled(), [durable(3, 2)]);
}

#[test]
fn pending_entries_keep_to_the_server_window() {
    let mut script = Script::greeted(0, 2);
    script.publish(1..=5);
    assert_eq!(script.entries(), [1, 2]);
    script.ack(1, 1);
    assert_eq!(script.entries(), [3]);
    script.refuse(3);
    assert_eq!(script.entries(), [4, 5]);
    // Another server may take another number.
    script.cut();
    script.open();
    script.sent.clear();
    script.welcome(3, 1);
    assert_eq!(script.entries(), [4]);
    // None at all would be for ever.
    script.cut();
    script.open();
    script.sent.clear();
    script.welcome(3, 0);
    assert_eq!(script.entries(), [4]);
}

#[test]
fn unexpected_responses_end_the_stream() {
    type Case = (&'static str, fn(&mut Script));
    let cases: [Case; 8] = [
        ("a response to sequence 3", |script| script.ack(3, 3)),
        ("a response to sequence 3", |script| script.refuse(3)),
        ("a response to sequence 9", |script| script.ack(9, 9)),
        ("a response to sequence 3", |script| {
            script.ack(2, 2);
            script.ack(3, 3);
        }),
        ("a second welcome", |script| script.welcome(2, 1)),
        ("a response before the welcome", |script| {
            script.cut();
            script.open();
            script.ack(1, 1);
        }),
        ("a response before the welcome", |script| {
            script.cut();
            script.open();
            script.refuse(1);
        }),
        ("a response before the welcome", |script| {
            script.cut();
            script.open();
            script.receive(Response::Authenticated(Authenticated { expires_in_ms: 1 }));
        }),
    ];
    for (what, case) in cases {
        let mut script = Script::greeted(0, 4);
        script.publish(1..=2);
        case(&mut script);
        assert!(script.fault().contains(what), "{what}");
    }
}

#[test]
fn response_to_an_unsent_entry_ends_the_stream() {
    let mut script = Script::greeted(0, 2);
    script.publish(1..=4);
    script.ack(3, 3);
    assert!(script.fault().contains("a response to sequence 3"));
    assert_eq!(script.settled(), [], "nothing is durable by that");
}

#[test]
fn a_message_without_a_payload_is_skipped() {
    let mut script = Script::greeted(0, 2);
    script.call(|core, now, cx| core.on_message(now, PublishResponse { payload: None }, cx));
    assert_eq!((&*script.sent, &*script.signals), (&[][..], &[][..]));
}

#[test]
fn stopping_settles_entries_as_not_sent_or_unknown() {
    let mut script = Script::greeted(0, 2);
    script.publish(1..=4);
    script.ack(1, 1);
    script.settled();
    script.cut();
    // Another stream on which nothing is sent changes nothing.
    script.open();
    script.cut();
    let end = script.stop();
    let unknown = |sequence| {
        Err(PublishError::Unknown {
            sequence,
            end: end.clone(),
        })
    };
    let not_sent = |sequence| {
        Err(PublishError::NotSent {
            sequence,
            end: end.clone(),
        })
    };
    // 2 and 3 were in the window, 4 was not.
    assert_eq!(script.settled(), [unknown(2), unknown(3), not_sent(4)]);
}

#[test]
fn stopped_publisher_reuses_no_sequence() {
    let mut script = Script::greeted(0, 2);
    script.publish(1..=1);
    assert_eq!(script.entries(), [1]);
    let end = script.stop();
    script.settled();
    script.publish(2..=2);
    let not_sent = PublishError::NotSent {
        sequence: 2,
        end: end.clone(),
    };
    assert_eq!(script.settled(), [Err(not_sent)]);
    script.open();
    let fail = Signal::Fail(End::stop(end.initiator, end.reason));
    assert_eq!(script.signals, [fail], "and it does not come back");
    assert_eq!(script.entries(), [] as [u64; 0]);
}

#[test]
fn ping_carries_the_time_and_pong_is_life() {
    let mut script = Script::greeted(0, 2);
    script.now = Time::ZERO + Duration::from_millis(1_234);
    script.call(Core::on_heartbeat);
    let ping = Ping { timestamp: 1_234 };
    assert_eq!(script.sent, [Sent::Ping(ping)]);
    script.receive(Response::Pong(ping));
    assert_eq!(script.signals, [Signal::HeartbeatAcked]);
}

#[test]
fn an_entry_travels_as_it_was_given() {
    let mut script = Script::greeted(41, 2);
    let entry = Entry {
        operation: Some(Operation::Delete),
        data: Bytes::from_static(b"{ }"),
        ..Entry::upsert("d", "c", "i", "")
    };
    script.call(|core, now, cx| core.on_command(now, Command::Publish(entry), cx));
    let sent = WireEntry {
        sequence: 42,
        database: "d".to_owned(),
        collection: "c".to_owned(),
        document_id: "i".to_owned(),
        operation: WireOperation::Delete.into(),
        data: Bytes::from_static(b"{ }"),
    };
    assert_eq!(script.sent, [Sent::Entry(sent)]);
}
