use std::time::Duration;

use serde_json::{Value as Json, json};
use steadfast_streamer::{
    Epoch, GapReason, Item, Operation, Position, ResyncReason, Snapshot,
    client::{Gap, Resync},
};

use super::{
    timers::{AUTHENTICATION, HEARTBEAT, PING, SILENCE},
    *,
};
use crate::{
    machine::{LATE, Opened},
    subscription::tests::change,
};

/// A machine and its time.
struct Script {
    machine: Classic,
    now: Time,
    next: Option<Time>,
}

impl Script {
    fn new(machine: Classic) -> Self {
        let mut script = Self {
            machine,
            now: Time::ZERO,
            next: None,
        };
        let opened = Opened {
            socket: 1,
            server: "gateway".into(),
            principal: None,
            is_restricted: true,
            heartbeat: HEARTBEAT,
        };
        assert_eq!(script.step(Input::Opened(opened)), []);
        script
    }

    /// A socket that is authenticated.
    fn authenticated() -> Self {
        let mut script = Self::new(Classic::new());
        let payload = json!({"token": "t", "database": "db"});
        let asked = script.text(&json!({"id": "a", "type": "auth", "payload": payload}));
        assert_eq!(asked, [Action::Authenticate("t".into())]);
        assert_eq!(
            sent(script.accept()),
            [json!({"id": "a", "type": "auth_ack"})]
        );
        script
    }

    fn step(&mut self, input: Input<'_>) -> Vec<Action> {
        let mut out = Actions::default();
        self.next = self.machine.step(self.now, input, &mut out);
        std::iter::from_fn(|| out.pop()).collect()
    }

    fn text(&mut self, message: &Json) -> Vec<Action> {
        self.step(Input::Text(&message.to_string()))
    }

    fn accept(&mut self) -> Vec<Action> {
        self.step(Input::Authenticated(Ok(Principal {
            name: "jwt:alice".into(),
            expires_in: None,
        })))
    }

    fn subscribe(&mut self, id: &str, query: &Json, snapshot: bool) -> Vec<Action> {
        let payload = json!({"query": query, "includeData": true, "sendSnapshot": snapshot});
        self.text(&json!({"id": id, "type": "subscribe", "payload": payload}))
    }

    /// A subscription that a Streamer has accepted.
    fn open(&mut self, id: &str, snapshot: bool) -> Key {
        let asked = self.subscribe(id, &json!({"collection": "orders"}), snapshot);
        let [Action::Subscribe(key, request)] = &*asked else {
            panic!("{asked:?}");
        };
        assert!(request.left && request.snapshot == snapshot && &*request.database == "db");
        let opened = self.step(Input::Event(*key, Event::Opened { position: None }));
        assert_eq!(sent(opened), [json!({"id": id, "type": "subscribe_ack"})]);
        *key
    }

    fn item(&mut self, key: Key, item: Item) -> Vec<Json> {
        sent(self.step(Input::Event(key, Event::Item(item))))
    }

    /// Passes time until the next tick.
    fn tick(&mut self) -> Vec<Action> {
        self.now = self.next.expect("a tick is wanted");
        self.step(Input::Tick)
    }
}

fn sent(actions: Vec<Action>) -> Vec<Json> {
    let text = |action| match action {
        Action::Send(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    };
    actions.into_iter().map(text).collect()
}

fn begin() -> Item {
    let follows = Position::new(Epoch(7), 1);
    Item::Snapshot(Snapshot::Begin { follows })
}

#[test]
fn each_kind_of_change_is_one_event() {
    let mut script = Script::authenticated();
    let key = script.open("s", false);
    let data = r#"{"n":1.10,"createdAt":1}"#;
    for (item, kind, document) in [
        (
            Item::Change(change("1", Operation::Insert, data)),
            "create",
            true,
        ),
        (
            Item::Change(change("1", Operation::Update, data)),
            "update",
            true,
        ),
        (
            Item::Change(change("1", Operation::Delete, r#"{"deleted":true}"#)),
            "delete",
            true,
        ),
        (
            Item::Left(change("1", Operation::Update, "")),
            "delete",
            false,
        ),
        // What is no object is left out, and never makes a message that is no JSON.
        (
            Item::Change(change("1", Operation::Update, "[1")),
            "update",
            false,
        ),
    ] {
        let sent = script.item(key, item);
        assert_eq!(sent.len(), 1);
        let delta = &sent[0]["payload"]["delta"];
        assert_eq!(
            (&sent[0]["payload"]["subId"], &delta["type"]),
            (&json!("s"), &json!(kind))
        );
        assert_eq!(
            (&delta["id"], &delta["timestamp"]),
            (&json!("orders/1"), &json!(5))
        );
        assert_eq!(delta.get("document").is_some(), document, "{kind}");
    }
    let raw = script.step(Input::Event(
        key,
        Event::Item(Item::Change(change("1", Operation::Update, data))),
    ));
    assert!(
        matches!(&raw[..], [Action::Send(text)] if text.contains(r#""n":1.10"#)),
        "{raw:?}"
    );
}

#[test]
fn repeated_subscription_goes_on_and_a_changed_one_is_replaced() {
    let mut script = Script::authenticated();
    // Before the response of the Streamer: one subscription, one acknowledgement.
    let query = json!({"collection": "orders"});
    assert_eq!(script.subscribe("s", &query, false).len(), 1);
    assert_eq!(script.subscribe("s", &query, false), []);
    let opened = script.step(Input::Event(Key(1), Event::Opened { position: None }));
    assert_eq!(sent(opened).len(), 1);
    let again = sent(script.subscribe("s", &query, false));
    assert_eq!(again, [json!({"id": "s", "type": "subscribe_ack"})]);
    let changed = script.subscribe("s", &json!({"collection": "others"}), false);
    assert!(matches!(
        &changed[..],
        [Action::Unsubscribe(Key(1)), Action::Subscribe(Key(2), _)]
    ));
    assert_eq!(
        script.item(Key(1), Item::Left(change("1", Operation::Update, ""))),
        Vec::<Json>::new()
    );
    // A snapshot is asked for anew, unless it is on its way.
    let first = script.open("t", true);
    let again = script.subscribe("t", &query, true);
    assert!(
        matches!(&again[..], [Action::Unsubscribe(old), Action::Subscribe(..)] if *old == first)
    );
    assert_eq!(script.subscribe("t", &query, true), []);
}

#[test]
fn snapshot_has_the_changes_that_happen_meanwhile() {
    let mut script = Script::authenticated();
    let key = script.open("s", true);
    let none: [Json; 0] = [];
    for item in [
        begin(),
        Item::Snapshot(Snapshot::Document(change(
            "1",
            Operation::Insert,
            r#"{"n":1}"#,
        ))),
        Item::Snapshot(Snapshot::Document(change(
            "2",
            Operation::Insert,
            r#"{"n":2}"#,
        ))),
        Item::Snapshot(Snapshot::Document(change(
            "3",
            Operation::Insert,
            r#"{"n":3}"#,
        ))),
        Item::Change(change("1", Operation::Update, r#"{"n":7}"#)),
        Item::Change(change("2", Operation::Delete, r#"{"deleted":true}"#)),
        Item::Left(change("3", Operation::Update, "")),
    ] {
        assert_eq!(script.item(key, item), none);
    }
    let end = Item::Snapshot(Snapshot::End(Position::new(Epoch(7), 9)));
    let documents = json!([{"id": "1", "collection": "orders", "n": 7}]);
    let payload = json!({"subId": "s", "documents": documents});
    let expected = json!({"id": "s", "type": "snapshot", "payload": payload});
    assert_eq!(script.item(key, end), [expected]);
}

#[test]
fn snapshot_that_is_too_large_is_refused_and_changes_follow() {
    let mut script = Script::authenticated();
    let key = script.open("s", true);
    script.item(key, begin());
    let data = format!(r#"{{"t":"{}"}}"#, "x".repeat(1 << 20));
    for id in 0..9 {
        let document = change(&id.to_string(), Operation::Insert, &data);
        script.item(key, Item::Snapshot(Snapshot::Document(document)));
    }
    let end = Item::Snapshot(Snapshot::End(Position::new(Epoch(7), 9)));
    let sent = script.item(key, end);
    assert_eq!(sent[0]["payload"]["code"], "snapshot_too_large");
    let change = Item::Change(change("9", Operation::Insert, "{}"));
    assert_eq!(script.item(key, change)[0]["type"], "event");
}

#[test]
fn message_that_is_not_json_and_one_of_another_shape_differ() {
    let mut script = Script::authenticated();
    for (text, what) in [
        ("{", "the message is not JSON"),
        (r#"{"type":7}"#, "the message is not an object with a type"),
    ] {
        let told = sent(script.step(Input::Text(text)));
        assert_eq!(told[0]["payload"]["message"], what);
    }
}

#[test]
fn order_of_more_than_eight_fields_is_refused() {
    let mut script = Script::authenticated();
    for (fields, is_accepted) in [(8, true), (9, false)] {
        let order = vec![json!({"field": "a"}); fields];
        let query = json!({"collection": "orders", "orderBy": order});
        let asked = script.subscribe("s", &query, true);
        assert_eq!(matches!(asked[..], [Action::Subscribe(..)]), is_accepted);
    }
}

#[test]
fn snapshots_of_one_socket_are_collected_one_at_a_time() {
    let mut script = Script::authenticated();
    let keys = ["1", "2", "3"].map(|id| script.open(id, true));
    let event = |item| Event::Item(item);
    let [first, second, third] = keys;
    assert_eq!(script.step(Input::Event(first, event(begin()))), []);
    assert_eq!(
        script.step(Input::Event(second, event(begin()))),
        [Action::Pause(second)]
    );
    assert_eq!(
        script.step(Input::Event(third, event(begin()))),
        [Action::Pause(third)]
    );
    let end = || event(Item::Snapshot(Snapshot::End(Position::new(Epoch(7), 9))));
    let ended = script.step(Input::Event(first, end()));
    assert!(matches!(&ended[..], [Action::Send(_), Action::Resume(key)] if *key == second));
    // The same if the client no longer wants it.
    let gone = json!({"id": "u", "type": "unsubscribe", "payload": {"id": "2"}});
    let gone = script.text(&gone);
    let expected = [Action::Unsubscribe(second), Action::Resume(third)];
    assert_eq!(gone[..2], expected);
    assert_eq!(script.step(Input::Event(third, end())).len(), 1);
}

#[test]
fn gaps_are_told_as_errors_of_their_subscription() {
    let mut script = Script::authenticated();
    let key = script.open("s", false);
    let at = |offset| Position::new(Epoch(7), offset);
    for item in [
        Item::Gap(Gap::new(GapReason::Disconnected)),
        Item::Resync(Resync::new(ResyncReason::Trimmed, at(1), at(9))),
    ] {
        let sent = script.item(key, item);
        assert_eq!(
            (&sent[0]["id"], &sent[0]["payload"]["code"]),
            (&json!("s"), &json!("gap"))
        );
    }
    let mut follows = Resync::new(ResyncReason::Trimmed, at(1), at(9));
    follows.snapshot_follows = true;
    assert_eq!(script.item(key, Item::Resync(follows)), Vec::<Json>::new());
}

#[test]
fn refused_token_says_that_the_client_is_unauthorized() {
    let mut script = Script::new(Classic::new());
    let payload = json!({"token": "t", "database": "db"});
    script.text(&json!({"id": "auth-init", "type": "auth", "payload": payload}));
    let refused = script.step(Input::Authenticated(Err("the credentials have expired")));
    let refused = &sent(refused)[0];
    assert_eq!(refused["id"], "auth-init");
    let text = "unauthorized: the credentials have expired";
    assert_eq!(
        refused["payload"],
        json!({"code": "unauthorized", "message": text})
    );
    // It has no database, so that no subscription is opened.
    let refused = sent(script.subscribe("s", &json!({"collection": "orders"}), false));
    assert_eq!(
        refused[0]["payload"]["message"],
        "unauthorized: auth required"
    );
}

#[test]
fn socket_without_credentials_is_closed_after_a_minute() {
    let closed_after = |mut script: Script| {
        let began = script.now;
        let mut actions = Vec::new();
        while !matches!(actions.last(), Some(Action::Close { .. })) {
            script.step(Input::Alive);
            actions = script.tick();
        }
        assert!(matches!(actions[..], [Action::Close { code: 4401, .. }]));
        script.now.since(began)
    };
    assert_eq!(closed_after(Script::new(Classic::new())), AUTHENTICATION);
    // The same after credentials have ended.
    let mut script = Script::authenticated();
    script.open("s", false);
    script.tick();
    let told = sent(script.step(Input::Unauthenticated("the credentials have expired")));
    assert_eq!(told[0]["payload"]["code"], "unauthorized");
    assert!(script.machine.subscriptions.is_empty());
    assert_eq!(closed_after(script), AUTHENTICATION);
}

#[test]
fn idle_socket_has_heartbeats_and_pings_and_a_silent_one_ends() {
    let mut script = Script::authenticated();
    let (mut heartbeats, mut pings) = (0, 0);
    while script.now < Time::ZERO + Duration::from_secs(600) {
        for action in script.tick() {
            match action {
                Action::Send(text) if text == message::HEARTBEAT => heartbeats += 1,
                Action::Ping => {
                    pings += 1;
                    script.step(Input::Alive);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((heartbeats, pings), (20, 24));
    let alive = script.now;
    script.step(Input::Alive);
    while script.tick() != [Action::Cut] {}
    assert_eq!(script.now, alive + SILENCE);
}

#[test]
fn client_that_took_a_frame_slowly_is_pinged_and_not_cut() {
    // Held up before the first ping, and after it.
    for held_up in [Duration::ZERO, PING] {
        let mut script = Script::authenticated();
        script.now = Time::ZERO + held_up;
        script.step(Input::Tick);
        script.now = Time::ZERO + SILENCE + 2 * LATE;
        let actions = script.step(Input::Tick);
        assert!(actions.contains(&Action::Ping), "{actions:?}");
        assert!(!actions.contains(&Action::Cut), "{actions:?}");
        let asked = script.now;
        while script.tick() != [Action::Cut] {}
        assert_eq!(script.now, asked + SILENCE);
    }
}

#[test]
fn renewed_credentials_continue_the_same_subscriptions() {
    let mut script = Script::authenticated();
    let at = |offset| Position::new(Epoch(7), offset);
    let [orders, others] = ["orders", "others"].map(|it| json!({"collection": it}));
    for (id, snapshot) in [("same", false), ("other", false), ("documents", true)] {
        script.subscribe(id, &orders, snapshot);
        let key = Key(script.machine.newest_key);
        let position = Some(at(5));
        script.step(Input::Event(key, Event::Opened { position }));
        script.step(Input::Event(key, Event::Progress(at(9))));
    }
    for _ in 0..2 {
        script.step(Input::Unauthenticated("the credentials have expired"));
        let payload = json!({"token": "t", "database": "db"});
        script.text(&json!({"id": "a", "type": "auth", "payload": payload}));
        script.accept();
        let mut from = |id: &str, query, snapshot| match &script.subscribe(id, query, snapshot)[..]
        {
            [Action::Subscribe(_, request)] => request.from,
            other => panic!("{other:?}"),
        };
        // Also if the credentials end again before the Streamer has answered.
        assert_eq!(from("same", &orders, false), Some(at(9)));
        assert_eq!(from("other", &others, false), None);
        // All documents come anew.
        assert_eq!(from("documents", &orders, true), None);
    }
}

#[test]
fn ends_of_subscriptions_are_told_by_their_cause() {
    for (code, is_open, expected) in [
        (EndCode::Denied, false, Some(None)),
        (EndCode::Limit, false, Some(None)),
        (EndCode::Denied, true, Some(Some("denied"))),
        // On a new socket the client asks for all of them again.
        (EndCode::Unavailable, false, None),
        (EndCode::Unavailable, true, None),
    ] {
        let mut script = Script::authenticated();
        let key = if is_open {
            script.open("s", false)
        } else {
            script.subscribe("s", &json!({"collection": "orders"}), false);
            Key(1)
        };
        let actions = script.step(Input::Event(key, Event::Ended(End::new(code, "why"))));
        match expected {
            None => assert!(matches!(actions[..], [Action::Close { code: 1013, .. }])),
            Some(code) => {
                let payload = &sent(actions)[0]["payload"];
                assert_eq!(payload.get("code").and_then(Json::as_str), code);
            }
        }
    }
}

#[test]
fn stream_of_events_has_no_acknowledgement_and_no_timers() {
    let mut script = Script::new(Classic::of_events());
    assert_eq!(script.next, None);
    let item = Item::Change(change("1", Operation::Insert, r#"{"n":1}"#));
    let sent = script.item(Classic::EVENTS_KEY, item);
    assert_eq!(sent[0]["payload"]["subId"], "default");
    assert_eq!(sent[0]["payload"]["delta"]["document"]["n"], 1);
    let ended = script.step(Input::Unauthenticated("the credentials have expired"));
    assert!(matches!(ended[..], [Action::Close { code: 4401, .. }]));
}
