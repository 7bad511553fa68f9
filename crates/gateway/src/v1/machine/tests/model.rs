//! Random clients and servers, compared with a model of what a client may be told.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use steadfast_streamer::{Epoch, Position};

use super::rig::{Rig, change};
use crate::{
    machine::{Action, Input, Key},
    subscription::{End, EndCode, Event},
};

/// Ids that clients choose. Few, so that they are repeated.
const IDS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Op {
    /// A frame of these messages.
    Frame(Vec<Sent>),
    /// The next event of the `n`th open subscription of the driver: its acceptance, then items.
    Event(usize),
    Progress(usize),
    End(usize),
}

#[derive(Clone, Debug)]
enum Sent {
    Subscribe {
        id: usize,
        credit: Option<u64>,
    },
    /// Not valid, but for its id.
    Invalid {
        id: usize,
    },
    Unsubscribe {
        id: usize,
    },
    Credit {
        id: usize,
        total: u64,
    },
    Auth,
    Ping(u8),
}

/// What the driver holds of a subscription.
#[derive(Debug)]
struct Upstream {
    is_open: bool,
    is_paused: bool,
    /// The number of its last item.
    items: u64,
}

/// What a client knows of a subscription.
#[derive(Debug)]
struct Known {
    key: Key,
    is_accepted: bool,
    credit: Option<u64>,
    items: u64,
}

#[derive(Debug)]
struct World {
    rig: Rig,
    upstream: BTreeMap<Key, Upstream>,
    /// By id, as the client's messages and those that it received make it.
    client: BTreeMap<String, Known>,
    /// The messages that the client waits for, in order.
    expected: Vec<String>,
    used: BTreeSet<Key>,
}

impl World {
    fn new() -> Self {
        Self {
            rig: Rig::open(),
            upstream: BTreeMap::new(),
            client: BTreeMap::new(),
            expected: Vec::new(),
            used: BTreeSet::new(),
        }
    }

    fn op(&mut self, op: Op) {
        let nth = |world: &Self, n: usize| {
            let keys: Vec<Key> = world.upstream.keys().copied().collect();
            (!keys.is_empty()).then(|| keys[n % keys.len()])
        };
        match op {
            Op::Frame(messages) => self.frame(messages),
            Op::Event(n) => {
                if let Some(key) = nth(self, n) {
                    self.next_event(key);
                }
            }
            Op::Progress(n) => {
                if let Some(key) = nth(self, n)
                    && self.upstream[&key].is_open
                    && !self.upstream[&key].is_paused
                {
                    let at = Position::new(Epoch(1), self.upstream[&key].items);
                    self.event(key, Event::Progress(at));
                }
            }
            Op::End(n) => {
                if let Some(key) = nth(self, n)
                    && !self.upstream[&key].is_paused
                {
                    self.upstream.remove(&key);
                    let end = End::new(EndCode::Unavailable, "gone");
                    self.event(key, Event::Ended(end));
                }
            }
        }
        assert_eq!(
            self.expected, [""; 0],
            "every request has its response at once"
        );
    }

    fn next_event(&mut self, key: Key) {
        let upstream = self.upstream.get_mut(&key).unwrap();
        if upstream.is_paused {
            return;
        }
        let event = if upstream.is_open {
            upstream.items += 1;
            Event::Item(change(upstream.items, "{}"))
        } else {
            upstream.is_open = true;
            Event::Opened { position: None }
        };
        self.event(key, event);
    }

    fn event(&mut self, key: Key, event: Event) {
        let actions = self.rig.actions(Input::Event(key, event));
        assert!(!actions.is_empty(), "every event is told");
        self.perform(actions, &mut Vec::new().into_iter());
    }

    fn frame(&mut self, messages: Vec<Sent>) {
        let text: Vec<Value> = messages.iter().map(|sent| self.message(sent)).collect();
        let frame = match &text[..] {
            [one] => one.to_string(),
            all => Value::from(all.to_vec()).to_string(),
        };
        let actions = self.rig.actions(Input::Text(&frame));
        // What the client wants, in the order in which the machine asks for it.
        let subscribes = messages.into_iter().filter_map(|sent| match sent {
            Sent::Subscribe { id, credit } => Some((IDS[id].to_owned(), credit)),
            _ => None,
        });
        self.perform(actions, &mut subscribes.collect::<Vec<_>>().into_iter());
    }

    /// Returns a message, and notes the response that it has.
    fn message(&mut self, sent: &Sent) -> Value {
        match sent {
            Sent::Subscribe { id, credit } => {
                let id = IDS[*id];
                let mut message =
                    json!({"type": "subscribe", "id": id, "database": "d", "collection": "c"});
                if let Some(credit) = credit {
                    message["credit"] = (*credit).into();
                }
                message
            }
            Sent::Invalid { id } => {
                self.expected.push(format!("refused {}", IDS[*id]));
                json!({"type": "subscribe", "id": IDS[*id], "limit": 1})
            }
            Sent::Unsubscribe { id } => {
                self.expected.push(format!("unsubscribed {}", IDS[*id]));
                json!({"type": "unsubscribe", "id": IDS[*id]})
            }
            Sent::Credit { id, total } => {
                json!({"type": "credit", "id": IDS[*id], "messages": total})
            }
            Sent::Auth => {
                self.expected.push("authenticated".to_owned());
                json!({"type": "auth", "token": "alice"})
            }
            Sent::Ping(n) => {
                self.expected.push(format!("pong {n}"));
                json!({"type": "ping", "n": n})
            }
        }
    }

    fn perform(
        &mut self,
        actions: Vec<Action>,
        subscribes: &mut std::vec::IntoIter<(String, Option<u64>)>,
    ) {
        for action in actions {
            match action {
                Action::Subscribe(key, _) => {
                    assert!(self.used.insert(key), "{key:?} is used twice");
                    let (id, credit) = subscribes.next().expect("a request for each message");
                    let known = Known {
                        key,
                        is_accepted: false,
                        credit,
                        items: 0,
                    };
                    let before = self.client.insert(id, known);
                    let is_dropped = before.is_none_or(|it| !self.upstream.contains_key(&it.key));
                    assert!(is_dropped, "two subscriptions of one id");
                    let upstream = Upstream {
                        is_open: false,
                        is_paused: false,
                        items: 0,
                    };
                    self.upstream.insert(key, upstream);
                }
                Action::Unsubscribe(key) => {
                    assert!(self.upstream.remove(&key).is_some(), "{key:?} is not open");
                }
                Action::Pause(key) => self.pause(key, true),
                Action::Resume(key) => self.pause(key, false),
                Action::Send(text) => self.receive(&serde_json::from_str(&text).unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }

    fn pause(&mut self, key: Key, is_paused: bool) {
        let upstream = self.upstream.get_mut(&key).expect("it is open");
        assert_ne!(upstream.is_paused, is_paused, "{key:?} twice");
        upstream.is_paused = is_paused;
    }

    fn receive(&mut self, message: &Value) {
        let kind = message["type"].as_str().unwrap();
        let id = message.get("id").or_else(|| message.get("n"));
        let id = id.map_or(String::new(), |it| it.to_string().replace('"', ""));
        match kind {
            "pong" | "authenticated" => self.respond(format!("{kind} {id}").trim_end()),
            "unsubscribed" => {
                self.respond(&format!("unsubscribed {id}"));
                self.client.remove(&id);
            }
            "refused" => {
                let known = self.client.remove(&id);
                let response = format!("refused {id}");
                if self.expected.first() == Some(&response) {
                    return self.respond(&response);
                }
                // The driver ended one that nobody had accepted.
                let known = known.expect("it was asked for");
                assert!(!known.is_accepted && !self.upstream.contains_key(&known.key));
            }
            "subscribed" => {
                let known = self.client.get_mut(&id).expect("it was asked for");
                assert!(!known.is_accepted, "accepted twice");
                known.is_accepted = true;
            }
            "ended" => {
                let known = self.client.remove(&id).expect("it exists");
                assert!(known.is_accepted, "one that was not accepted is refused");
            }
            "progress" => {
                let known = &self.client[message["sub"].as_str().unwrap()];
                assert!(known.is_accepted);
            }
            "change" => {
                let id = message["sub"].as_str().unwrap();
                let known = self
                    .client
                    .get_mut(id)
                    .expect("nothing follows `unsubscribed`");
                assert!(known.is_accepted, "an item before `subscribed`");
                known.items += 1;
                let position = format!("0000000000000001-{}", known.items);
                assert_eq!(
                    message["position"], *position,
                    "in order, none twice, none missing"
                );
                assert!(
                    known.credit.is_none_or(|it| known.items <= it),
                    "beyond its credit"
                );
            }
            other => panic!("{other}"),
        }
    }

    fn respond(&mut self, response: &str) {
        assert!(!self.expected.is_empty(), "nobody waits for {response}");
        assert_eq!(
            self.expected.remove(0),
            response,
            "in the order of the messages"
        );
    }

    /// Grants credit, as the client counts it. Called before the frame is sent.
    fn grant(&mut self, sent: &Sent) {
        if let Sent::Credit { id, total } = sent
            && let Some(known) = self.client.get_mut(IDS[*id])
        {
            known.credit = known.credit.map(|credit| credit.max(*total));
        }
    }

    /// What may be read is read: nobody with credit is paused, nobody without is not.
    fn check(&self) {
        for (id, known) in &self.client {
            let Some(upstream) = self.upstream.get(&known.key) else {
                continue;
            };
            let has_credit = known.credit.is_none_or(|credit| known.items < credit);
            assert_eq!(upstream.is_paused, known.is_accepted && !has_credit, "{id}");
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let id = || 0..IDS.len();
    prop_oneof![
        4 => (id(), prop::option::of(0..4_u64)).prop_map(|(id, credit)| Sent::Subscribe { id, credit }),
        1 => id().prop_map(|id| Sent::Invalid { id }),
        2 => id().prop_map(|id| Sent::Unsubscribe { id }),
        3 => (id(), 0..9_u64).prop_map(|(id, total)| Sent::Credit { id, total }),
        1 => Just(Sent::Auth),
        1 => any::<u8>().prop_map(Sent::Ping),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::collection::vec(sent(), 1..5).prop_map(Op::Frame),
        12 => any::<usize>().prop_map(Op::Event),
        2 => any::<usize>().prop_map(Op::Progress),
        1 => any::<usize>().prop_map(Op::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn client_is_told_what_a_model_allows(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            // One message per frame where credit is compared: the model grants before the frame.
            match op {
                Op::Frame(messages) => for sent in messages {
                    world.grant(&sent);
                    world.op(Op::Frame(vec![sent]));
                    world.check();
                },
                other => {
                    world.op(other);
                    world.check();
                }
            }
        }
    }

    #[test]
    fn frame_means_the_same_as_its_messages(messages in prop::collection::vec(sent(), 1..8)) {
        let mut together = World::new();
        let mut apart = World::new();
        let texts: Vec<Value> = messages.iter().map(|it| together.message(it)).collect();
        let frame = Value::from(texts.clone()).to_string();
        let at_once = together.rig.step(Input::Text(&frame));
        let one_by_one: Vec<_> = texts.iter().flat_map(|text| apart.rig.text(&text.to_string())).collect();
        prop_assert_eq!(at_once, one_by_one);
    }
}
