//! Newer credentials on an open stream.

use super::*;

/// The validity of the credentials that the server accepts.
const VALID: Duration = Duration::from_secs(60);

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

impl Script {
    /// Opens a stream whose credentials are valid for some time.
    fn open_valid_for(&mut self, expires_in_ms: u64) {
        self.open();
        self.sent.clear();
        self.receive(Response::Welcome(PublisherWelcome {
            max_in_flight: 10,
            expires_in_ms,
            ..PublisherWelcome::default()
        }));
    }

    /// Lets time pass until credentials are wanted. Returns the time that passed, or `None` if they are not
    /// within `limit`.
    fn until_due(&mut self, limit: Duration) -> Option<Duration> {
        let began = self.now;
        let until = self.now + limit;
        while let Some(at) = self.core.deadline().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.call(Core::on_timer);
            if std::mem::take(&mut self.due) > 0 {
                return Some(self.now.since(began));
            }
        }
        self.now = until;
        None
    }

    fn authenticate(&mut self) {
        let newer = Command::Authenticate(Authorization("Bearer newer".to_owned()));
        self.call(|core, now, cx| core.on_command(now, newer, cx));
    }

    fn accept(&mut self, expires_in_ms: u64) {
        self.receive(Response::Authenticated(Authenticated { expires_in_ms }));
    }

    /// The credentials sent since the last look. Nothing else was sent.
    fn credentials(&mut self) -> usize {
        let sent = std::mem::take(&mut self.sent);
        for message in &sent {
            let newer = Authenticate {
                authorization: "Bearer newer".to_owned(),
            };
            assert_eq!(*message, Sent::Authenticate(newer));
        }
        sent.len()
    }
}

#[test]
fn ten_renewals_keep_the_stream_of_a_publisher() {
    let mut script = Script::new(1);
    script.open_valid_for(millis(VALID));
    for renewal in 1..=10 {
        let due = script.until_due(VALID).expect("before they expire");
        assert!((36..=48).contains(&due.as_secs()), "{due:?}");
        // The source takes its time, and entries do not wait for it.
        script.now = script.now + Duration::from_secs(1);
        script.publish([2 * renewal - 1]);
        assert_eq!(script.entries(), [2 * renewal - 1]);
        script.authenticate();
        assert_eq!(script.credentials(), 1);
        script.publish([2 * renewal]);
        assert_eq!(script.entries(), [2 * renewal]);
        script.now = script.now + Duration::from_millis(200);
        script.accept(millis(VALID));
        script.ack(2 * renewal, 2 * renewal);
        assert_eq!(script.settled().len(), 2);
    }
    assert_eq!(script.signals, [Signal::Greeted]);
    // The last ones never expire.
    script.accept(0);
    assert_eq!(script.core.deadline(), None);
}

#[test]
fn publisher_without_a_source_asks_until_the_end() {
    let mut script = Script::new(1);
    script.open_valid_for(millis(VALID));
    let mut asked = Vec::new();
    while let Some(after) = script.until_due(2 * VALID) {
        asked.push(after);
    }
    assert!(asked.len() >= 4, "{asked:?}");
    let least = Duration::from_secs(2);
    assert!(asked.iter().all(|it| *it >= least), "{asked:?}");
    assert!(asked.iter().sum::<Duration>() <= VALID + least, "{asked:?}");
    assert_eq!(script.credentials(), 0);
}

#[test]
fn refused_renewal_leaves_nothing_to_the_next_stream() {
    let mut script = Script::new(1);
    script.open_valid_for(millis(VALID));
    script.publish(1..=2);
    script.sent.clear();
    script.until_due(VALID).unwrap();
    script.authenticate();
    assert_eq!(script.credentials(), 1);
    // The server ends the stream instead of an answer.
    script.cut();
    assert_eq!(script.core.deadline(), None);
    script.authenticate();
    script.open();
    script.authenticate();
    assert!(
        matches!(script.sent[..], [Sent::Hello(_)]),
        "{:?}",
        script.sent
    );
    script.cut();
    // The next stream has credentials of its own, and sends what is pending.
    script.open_valid_for(millis(VALID));
    assert_eq!(script.entries(), [1, 2]);
    assert!(script.until_due(VALID).unwrap() >= Duration::from_secs(36));
    script.authenticate();
    assert_eq!(script.credentials(), 1, "also within two seconds");
    script.stop();
    assert_eq!(script.core.deadline(), None);
}

#[test]
fn expired_credentials_of_a_publisher_are_wanted_once() {
    // 1 ms is the least that a server tells, also of what has expired by its clock.
    let mut script = Script::new(1);
    script.open_valid_for(1);
    assert!(script.until_due(VALID).unwrap() < Duration::from_millis(1));
    script.now = script.now + Duration::from_millis(1);
    script.authenticate();
    assert_eq!(script.credentials(), 1);
    assert_eq!(script.until_due(VALID), None);
    // A server without this message tells no time, and is never sent it.
    script.cut();
    script.open_valid_for(0);
    script.authenticate();
    assert_eq!((script.credentials(), script.until_due(VALID)), (0, None));
}

#[test]
fn publisher_that_leaves_sends_no_credentials() {
    let mut script = Script::new(1);
    script.open_valid_for(millis(VALID));
    script.until_due(VALID).unwrap();
    script.open = false;
    script.authenticate();
    assert_eq!(script.credentials(), 0);
}
