use std::{fmt::Write as _, time::Duration};

use futures_util::FutureExt as _;
use steadfast::dial::Dialer;
use steadfast_access::NewToken;
use steadfast_net::{Tasks, access::PolicyFile};
use steadfast_streamer::{Epoch, Item, Operation, Position, Snapshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    classic::Classic,
    http::Stream,
    idempotency::Keys,
    limits::{Limits, Permits},
    options::GatewayOptions,
    rights::Rights,
    subscription::tests::change,
    upstream::{Upstream, UpstreamOptions},
    v1::Session,
};

/// A gateway without a listener, whose Streamers are never reached.
pub(crate) fn shared(rights: Rights, limits: Limits) -> Arc<Shared> {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let mut upstream = UpstreamOptions::new(Dialer::new([address.into()]));
    upstream.connects_at_first_use = true;
    let mut options = GatewayOptions::new(upstream.clone());
    options.limits = limits;
    Arc::new(Shared {
        server: "gateway".into(),
        upstream: Upstream::start(upstream).unwrap(),
        keys: Keys::default(),
        rights,
        permits: Permits::new(&options.limits),
        metrics: Arc::default(),
        sockets: Arc::default(),
        tasks: Tasks::new(),
        unfinished: Arc::default(),
        waiting: Arc::default(),
        is_loopback: true,
        started: Instant::now(),
        options,
    })
}

pub(crate) fn driver(shared: &Arc<Shared>, peer: Peer) -> Driver {
    driver_of(shared, Box::new(Session::default()), SocketKind::V1, peer)
}

fn driver_of(
    shared: &Arc<Shared>,
    machine: Box<dyn Machine>,
    kind: SocketKind,
    peer: Peer,
) -> Driver {
    let newcomer = Newcomer {
        peer: Some(peer),
        address: None,
        permit: None,
    };
    Driver::new(Arc::clone(shared), machine, kind, newcomer)
}

/// A policy file with the tokens of two principals, who may do everything with every collection.
pub(crate) struct Tokens {
    folder: tempfile::TempDir,
    all: [(&'static str, NewToken); 2],
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            all: ["alice", "bob"].map(|name| (name, NewToken::generate().unwrap())),
        }
    }

    /// Writes a file with the token of Alice that expires after a while.
    pub(crate) fn expiring(lifetime: Duration) -> Self {
        let tokens = Self::new();
        let until = jiff::Timestamp::now() + lifetime;
        tokens.write(&["alice"], &format!("expires = {until}"));
        tokens
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("access.toml")
    }

    /// Writes a file with the tokens of these principals, each with `more`.
    fn write(&self, names: &[&str], more: &str) {
        let mut text = String::new();
        for (name, token) in self.all.iter().filter(|(name, _)| names.contains(name)) {
            writeln!(text, "{}\n{more}", token.entry(name)).unwrap();
        }
        text += "[[grants]]\nrole = 'r'\ndatabases = ['*']\ncollections = ['*']\n\
                 actions = ['subscribe', 'publish']\n\
                 [[members]]\nroles = ['r']\nprincipals = ['token:alice', 'token:bob']\n";
        std::fs::write(self.path(), text).unwrap();
    }

    pub(crate) fn load(&self) -> (Rights, PolicyFile) {
        let (rights, file) = Rights::load(Some(&self.path())).unwrap();
        (rights, file.unwrap())
    }

    /// Returns the token of Alice.
    pub(crate) fn token(&self) -> &str {
        self.all[0].1.reveal()
    }

    pub(crate) fn alice(&self, rights: &Rights) -> Peer {
        rights.identify_token(self.token()).unwrap()
    }
}

/// The machine of each protocol.
fn machines() -> [(SocketKind, Box<dyn Machine>); 4] {
    [
        (SocketKind::V1, Box::new(Session::default())),
        (SocketKind::Classic, Box::new(Classic::new())),
        (SocketKind::Sse, Box::new(Classic::of_events())),
        (SocketKind::Sse, Box::new(Stream::default())),
    ]
}

/// Returns the time until a driver says that its client has no valid credentials any more.
async fn unauthenticated_after(mut driver: Driver) -> Duration {
    let started = Instant::now();
    loop {
        match std::future::poll_fn(|cx| driver.poll(cx)).await {
            Outgoing::Close { code: 4401, .. } => break,
            Outgoing::Text(text) if text.contains("unauthorized") => break,
            Outgoing::Text(_) | Outgoing::Ping => {}
            other => panic!("{other:?}"),
        }
    }
    started.elapsed()
}

/// Everything that there is to send.
fn sent(driver: &mut Driver) -> Vec<Outgoing> {
    let next = || std::future::poll_fn(|cx| driver.poll(cx)).now_or_never();
    std::iter::from_fn(next).collect()
}

fn frame_of(message: &str, times: usize) -> String {
    format!("[{}]", vec![message; times].join(","))
}

fn limits(burst: u32) -> Limits {
    let mut limits = Limits::default();
    limits.messages.burst = burst.try_into().unwrap();
    limits
}

/// A machine that sends the lines of a frame, one by one, as frames that may be joined.
#[derive(Debug)]
struct Lines;

impl Machine for Lines {
    fn step(&mut self, _: Time, input: Input<'_>, out: &mut Actions) -> Option<Time> {
        if let Input::Text(text) = input {
            for line in text.lines() {
                match line {
                    "ping" => out.push(Action::Ping),
                    "cut" => out.push(Action::Cut),
                    text => out.send(text),
                }
            }
        }
        None
    }

    fn joins_frames(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn frames_that_wait_are_joined_in_order_up_to_a_size() {
    let shared = shared(Rights::default(), Limits::default());
    let text = |text: &str| Outgoing::Text(text.to_owned());
    let (half, whole) = ("5".repeat(JOINED_BYTES / 2), "8".repeat(JOINED_BYTES));
    for (lines, expected) in [
        ("1".to_owned(), vec![text("1")]),
        ("1\n2\n3".to_owned(), vec![text("[1,2,3]")]),
        // Nothing passes what is not text.
        (
            "1\n2\nping\n3\n4".to_owned(),
            vec![text("[1,2]"), Outgoing::Ping, text("[3,4]")],
        ),
        (
            "1\n2\ncut\n3".to_owned(),
            vec![text("[1,2]"), Outgoing::Cut],
        ),
        // A frame of the size has no company, and one below it gets one more.
        (format!("{whole}\n1"), vec![text(&whole), text("1")]),
        (
            format!("{half}\n{half}\n1\n2"),
            vec![text(&format!("[{half},{half}]")), text("[1,2]")],
        ),
    ] {
        let mut driver = driver_of(&shared, Box::new(Lines), SocketKind::V1, Peer::default());
        driver.on_text(&lines);
        assert!(sent(&mut driver) == expected, "{lines:.20}");
    }
}

#[tokio::test]
async fn thousands_of_credentials_in_one_frame_are_answered() {
    let shared = shared(Rights::default(), limits(3_000));
    let mut driver = driver(&shared, Peer::default());
    let frame = frame_of(r#"{"type":"auth","token":""}"#, 3_000);
    driver.on_text(&frame);
    let text: String = sent(&mut driver)
        .into_iter()
        .map(|it| match it {
            Outgoing::Text(text) => text,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(text.matches(r#""authenticated""#).count(), 3_000);
}

#[tokio::test]
async fn messages_of_one_array_count_one_by_one() {
    let shared = shared(Rights::default(), limits(100));
    for (messages, is_open) in [(100, true), (101, false)] {
        let mut driver = driver(&shared, Peer::default());
        driver.on_text(&frame_of(r#"{"type":"ping"}"#, messages));
        let is_closed = sent(&mut driver)
            .iter()
            .any(|it| matches!(it, Outgoing::Close { code: 1013, .. }));
        assert_eq!(!is_closed, is_open, "{messages}");
    }
}

#[tokio::test(start_paused = true)]
async fn rules_that_changed_before_a_socket_opened_apply_to_it() {
    let tokens = Tokens::new();
    tokens.write(&["alice", "bob"], "");
    let (rights, file) = tokens.load();
    let peer = tokens.alice(&rights);
    // Revoked after the check of the request, and before its socket can be told.
    tokens.write(&["bob"], "");
    let stop = CancellationToken::new();
    let changed = stop.clone();
    let following = file.follow(move |_| changed.cancel(), stop);
    tokio::time::timeout(Duration::from_secs(60), following)
        .await
        .unwrap();
    assert!(rights.recheck(&peer).is_err());
    let shared = shared(rights, Limits::default());
    let mut driver = driver(&shared, peer);
    let sent = sent(&mut driver);
    let last = sent.last();
    assert!(
        matches!(last, Some(Outgoing::Close { code: 4401, .. })),
        "{sent:?}"
    );
}

/// Virtual time passes and the wall clock stands still, as after a step backwards.
#[tokio::test(start_paused = true)]
async fn expiry_of_an_open_stream_follows_the_wall_clock() {
    let lifetime = Duration::from_secs(600);
    let tokens = Tokens::expiring(lifetime);
    let (rights, _file) = tokens.load();
    let peer = tokens.alice(&rights);
    let shared = shared(rights, Limits::default());
    let driver = driver_of(&shared, Box::new(Stream::default()), SocketKind::Sse, peer);
    tokio::time::advance(lifetime / 2).await;
    shared.sockets.signal_rights();
    let after = unauthenticated_after(driver).await;
    assert!(after + Duration::from_secs(60) > lifetime, "{after:?}");
}

#[tokio::test]
async fn snapshots_of_all_sockets_together_are_bounded() {
    let shared = shared(Rights::default(), Limits::default());
    let open = || {
        let machine = Box::new(Classic::new());
        let mut driver = driver_of(&shared, machine, SocketKind::Classic, Peer::default());
        driver.on_text(r#"{"id":"a","type":"auth","payload":{"token":"t","database":"db"}}"#);
        driver.on_text(
            r#"{"id":"s","type":"subscribe","payload":{"query":{"collection":"orders"},"sendSnapshot":true}}"#,
        );
        let follows = Position::new(Epoch(7), 1);
        let document = change("1", Operation::Insert, &"x".repeat(1_000));
        let document = Snapshot::Document(document);
        for item in [Snapshot::Begin { follows }, document] {
            driver.step(Input::Event(Key(1), Event::Item(Item::Snapshot(item))));
        }
        driver
    };
    let first = open();
    assert!(!first.is_closed);
    let held = shared.waiting.load(Relaxed);
    assert!((1_000..3_000).contains(&held), "{held}");
    shared.waiting.fetch_add(WAITING_BYTES, Relaxed);
    let second = open();
    let last = second.out.back();
    assert!(
        matches!(last, Some(Outgoing::Close { code: 1013, .. })),
        "{last:?}"
    );
    drop((first, second));
    assert_eq!(shared.waiting.load(Relaxed), WAITING_BYTES);
}

#[tokio::test(start_paused = true)]
async fn revoked_token_ends_every_protocol_within_a_second() {
    for (kind, machine) in machines() {
        let tokens = Tokens::new();
        tokens.write(&["alice", "bob"], "");
        let (rights, file) = tokens.load();
        let shared = shared(rights, Limits::default());
        let driver = driver_of(&shared, machine, kind, tokens.alice(&shared.rights));
        let (sockets, stop) = (Arc::clone(&shared.sockets), CancellationToken::new());
        let follow = file.follow(move |_| sockets.signal_rights(), stop.clone());
        let following = tokio::spawn(follow);
        // Between two looks at the file, so that the first one is awaited as well.
        tokio::time::sleep(Duration::from_millis(1_010)).await;
        tokens.write(&["bob"], "");
        let after = unauthenticated_after(driver).await;
        assert!(after <= Duration::from_secs(1), "{kind:?}: {after:?}");
        stop.cancel();
        following.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn expired_token_ends_every_protocol_on_time() {
    for (kind, machine) in machines() {
        let lifetime = Duration::from_secs(40);
        let tokens = Tokens::expiring(lifetime);
        let (rights, _file) = tokens.load();
        let shared = shared(rights, Limits::default());
        let driver = driver_of(&shared, machine, kind, tokens.alice(&shared.rights));
        let after = unauthenticated_after(driver).await;
        // The time of the token is that of the machine, which goes on while the test prepares.
        let expected = lifetime / 2..=lifetime + Duration::from_millis(10);
        assert!(expected.contains(&after), "{kind:?}: {after:?}");
    }
}

#[tokio::test]
async fn peers_without_credentials_count_by_their_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    let policy = "[[grants]]\nrole = 'r'\ndatabases = ['*']\ncollections = ['*']\n\
                  actions = ['subscribe']\n\
                  [[members]]\nroles = ['r']\nprincipals = ['anonymous']\n";
    std::fs::write(&path, policy).unwrap();
    let (rights, _file) = Rights::load(Some(&path)).unwrap();
    let shared = shared(rights, Limits::default());
    let stranger = || {
        let (headers, extensions) = Default::default();
        shared.rights.identify(&headers, &extensions).unwrap()
    };
    // None needs a permit of the principal that they have in common.
    assert!(Driver::admit(&shared, &stranger()).unwrap().is_none());
    let client = |last| client_of(Some(&stranger()), Some(IpAddr::from([192, 0, 2, last])));
    assert_ne!(client(1), client(2));
    assert_eq!(client(1), client(1));
}
