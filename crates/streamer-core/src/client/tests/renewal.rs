//! Newer credentials on an open stream.

use super::*;

/// The validity of the credentials that the peer accepts.
const VALID: Duration = Duration::from_secs(60);

impl Rig {
    /// Opens a stream whose credentials are valid for some time.
    fn open_valid_for(&mut self, time: Duration) {
        self.open();
        self.receive(Payload::Welcome(Welcome {
            expires_in_ms: time.as_millis() as u64,
            ..match welcome(20) {
                Payload::Welcome(welcome) => welcome,
                other => panic!("{other:?}"),
            }
        }));
        self.events.clear();
    }

    /// Lets time pass until credentials are wanted. Returns the time that passed, or `None` if they are not
    /// within `limit`.
    fn until_due(&mut self, limit: Duration) -> Option<Duration> {
        let began = self.now;
        while self.now.since(began) < limit {
            self.wait(Duration::from_millis(100));
            if self.events.contains(&Event::CredentialsDue) {
                self.events.clear();
                return Some(self.now.since(began));
            }
        }
        None
    }

    fn authenticate(&mut self) {
        let newer = Authorization("Bearer newer".to_owned());
        self.command(Command::Authenticate(newer));
    }

    /// Returns the number of messages with credentials since the last look.
    fn credentials_sent(&mut self) -> usize {
        let sent = std::mem::take(&mut self.sent).into_iter();
        sent.filter(|it| matches!(it, gateway_message::Payload::Authenticate(_)))
            .count()
    }

    fn accept(&mut self, time: Duration) {
        self.receive(Payload::Authenticated(wire::Authenticated {
            expires_in_ms: time.as_millis() as u64,
        }));
    }
}

#[test]
fn ten_renewals_keep_one_stream() {
    let mut rig = Rig::new();
    rig.open_valid_for(VALID);
    let mut shares = BTreeSet::new();
    for renewal in 1..=10 {
        let due = rig.until_due(VALID).expect("before they expire");
        assert!((36..=48).contains(&due.as_secs()), "{due:?}");
        shares.insert(due.as_millis());
        // The source takes its time.
        rig.wait(Duration::from_secs(1));
        rig.authenticate();
        assert_eq!(rig.credentials_sent(), 1);
        rig.wait(Duration::from_millis(200));
        rig.accept(VALID);
        assert_eq!(rig.core.counters().renewals, renewal);
    }
    let signals = rig.take_signals();
    assert!(
        !signals.iter().any(|it| matches!(it, Signal::Fail(_))),
        "{signals:?}"
    );
    // Other streams, of this client or of others, renew at other times.
    for _ in 0..10 {
        rig.cut();
        rig.open_valid_for(VALID);
        shares.insert(rig.until_due(VALID).unwrap().as_millis());
    }
    assert!(shares.len() > 3, "{shares:?}");
}

#[test]
fn source_without_an_answer_is_asked_until_the_end() {
    let mut rig = Rig::new();
    rig.open_valid_for(VALID);
    let began = rig.now;
    let mut asked = Vec::new();
    while let Some(after) = rig.until_due(VALID) {
        asked.push(after);
    }
    assert!(asked.len() >= 4, "{asked:?}");
    assert!(
        asked.iter().all(|it| *it >= Duration::from_secs(2)),
        "{asked:?}"
    );
    let last: Duration = asked.iter().sum();
    assert!(last <= VALID + Duration::from_secs(2), "{asked:?}");
    assert!(rig.now.since(began) > VALID);
    // Nothing of it outlives the stream, and the next one begins anew.
    rig.cut();
    assert_eq!(rig.core.deadline(), None);
    rig.authenticate();
    rig.open_valid_for(VALID);
    assert_eq!(rig.credentials_sent(), 0);
    assert!(rig.until_due(VALID).unwrap() >= Duration::from_secs(36));
}

#[test]
fn credentials_are_never_sent_twice_in_two_seconds() {
    let mut rig = Rig::new();
    rig.open_valid_for(Duration::from_secs(3));
    let mut last: Option<Time> = None;
    // A source that answers whenever it likes, and a peer that shortens the time each time.
    for step in 0..200 {
        rig.wait(Duration::from_millis(100));
        rig.authenticate();
        if rig.credentials_sent() > 0 {
            if let Some(last) = last.replace(rig.now) {
                let apart = rig.now.since(last);
                assert!(apart >= Duration::from_secs(2), "{apart:?}");
            }
            rig.accept(Duration::from_millis(3_000 - step));
        }
    }
    assert!(last.is_some());
}

#[test]
fn credentials_are_sent_on_the_stream_that_asked() {
    let mut rig = Rig::new();
    rig.open_valid_for(VALID);
    rig.cut();
    rig.open();
    rig.authenticate();
    assert_eq!(rig.credentials_sent(), 0, "the peer has not greeted");
    rig.open_valid_for(VALID);
    // The session is leaving.
    rig.open = false;
    rig.authenticate();
    assert_eq!(rig.credentials_sent(), 0);
}

#[test]
fn progress_is_requested_before_credentials_are_due() {
    let mut rig = Rig::new();
    rig.subscribe_from(1, Start::After(at(5)));
    rig.open_valid_for(VALID);
    rig.accept_one(at(5));
    rig.call(Protocol::on_live);
    let sent = rig.take_sent();
    assert!(
        matches!(sent[..], [gateway_message::Payload::Heartbeat(_)]),
        "{sent:?}"
    );
    let next = rig.now + Duration::from_millis(50);
    assert_eq!(rig.core.deadline(), Some(next));
}

#[test]
fn credentials_without_an_end_are_not_renewed() {
    for time in [Duration::ZERO, Duration::from_millis(u64::MAX)] {
        let mut rig = Rig::new();
        rig.open_valid_for(time);
        assert_eq!(rig.until_due(60 * VALID), None, "{time:?}");
        rig.accept(Duration::ZERO);
        assert_eq!(rig.until_due(VALID), None);
    }
}
