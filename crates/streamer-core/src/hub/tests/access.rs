//! Rights: what a stream may see, for how long, and who may take over what.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use steadfast_wire::streamer::{
    FinalCode, Hello, RefusalCode, ResyncReason, SubscribeResponse,
    gateway_message::Payload as Request, streamer_message::Payload, value::Kind,
};

use super::server::*;
use crate::{filter::Filter, hub::*};

/// Rights on the collection `rooms` of the database `db`, and on nothing else.
#[derive(Debug)]
struct OnRooms(Grant);

impl Rights for OnRooms {
    fn grant(&self, database: &str, collection: &str) -> Grant {
        match (database, collection) {
            ("db", "rooms") => self.0.clone(),
            _ => Grant::Nothing,
        }
    }
}

fn any(filters: &[&str]) -> Grant {
    let filters = filters
        .iter()
        .map(|text| Filter::from_text([text]).unwrap());
    Grant::Any(filters.collect())
}

fn restricted() -> Server {
    let mut server = Server::new();
    server.hub = server.hub.restricted();
    server
}

pub(super) fn authorize(
    server: &mut Server,
    stream: StreamId,
    owner: &str,
    grant: Grant,
    lifetime: Option<u64>,
) {
    let access = StreamAccess {
        owner: owner.into(),
        // As for the parts of a process.
        shares_limits: owner != "local",
        rights: Arc::new(OnRooms(grant)),
        expires_at: lifetime.map(|it| server.now + seconds(it)),
    };
    server.step(Input::Authorized {
        stream,
        access,
        answers: lifetime.is_some(),
    });
}

/// Opens a profile stream of a principal.
pub(super) fn known(server: &mut Server, owner: &str, hello: Hello, grant: Grant) -> StreamId {
    let stream = server.open();
    authorize(server, stream, owner, grant, None);
    server.send(stream, Request::Hello(hello));
    assert!(matches!(server.next(stream), Some(Payload::Welcome(_))));
    stream
}

fn refused(response: &SubscribeResponse) -> Option<(RefusalCode, &str)> {
    (!response.success).then(|| (response.code(), &*response.error))
}

#[test]
fn nothing_is_served_before_rights_are_known() {
    let mut server = restricted();
    let stream = server.welcomed("s");
    let response = server.subscribe(stream, want("a", "rooms"));
    assert_eq!(response.code(), RefusalCode::Denied);
    authorize(&mut server, stream, "alice", Grant::Everything, None);
    assert!(server.subscribe(stream, want("a", "rooms")).success);
    server.commit("rooms", "r", 1);
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [1]);
    server.assert_frees_everything();
}

#[test]
fn forbidden_and_absent_collections_have_one_answer() {
    let mut server = restricted();
    server.commit("secrets", "r", 1);
    let stream = known(&mut server, "alice", hello("s", 1), Grant::Everything);
    let expected = Some((
        RefusalCode::Denied,
        "you may not subscribe to this collection",
    ));
    for wanted in [
        want("a", "secrets"),
        want("a", "nowhere"),
        want("a", ""),
        // A filter with a fault is not looked at.
        want("a", "secrets").filter("n", "like", Kind::IntValue(1)),
        want("a", "secrets").after(0).snapshot(Bytes::new()),
    ] {
        let response = server.subscribe(stream, wanted);
        assert_eq!(refused(&response), expected);
    }
    let plain = server.open();
    authorize(&mut server, plain, "alice", Grant::Nothing, None);
    let response = server.subscribe(plain, want("p", "rooms"));
    assert_eq!(response.error, "you may not subscribe to this collection");
    server.run_until_idle();
    assert_eq!(server.offsets(stream), [0; 0]);
    server.assert_frees_everything();
}

/// A naive reading of a filter: the index of a document.
type Selects = fn(usize) -> bool;

#[test]
fn each_kind_of_grant_restricts_each_kind_of_subscription() {
    let below = |id: &str| want(id, "rooms").filter("n", "<", Kind::IntValue(10));
    let grants = [
        (Grant::Everything, [true; 4]),
        (any(&["n == 2"]), [false, true, false, false]),
        (any(&["n == 1", "n == 12"]), [true, false, true, false]),
        (any(&["_id == r3"]), [false, false, false, true]),
        (any(&["n == 3", "_id == r0"]), [true, false, false, true]),
        (any(&[]), [false; 4]),
    ];
    for (grant, visible) in grants {
        let mut server = restricted();
        let stream = known(&mut server, "alice", hello("s", 1), grant.clone());
        let plain = server.open();
        authorize(&mut server, plain, "bob", grant.clone(), None);
        let documents = [("r0", 1), ("r1", 2), ("r2", 12), ("r3", 3)];
        let selections: [(NewSubscription, Selects); 4] = [
            (want("all", "rooms"), |_| true),
            (below("below"), |at| at != 2),
            (want("one", "rooms").document("r3"), |at| at == 3),
            (want("first", "rooms").document("r0"), |at| at == 0),
        ];
        for (wanted, _) in &selections {
            let is_any = grant != any(&[]);
            assert_eq!(server.subscribe(stream, wanted.clone()).success, is_any);
            server.subscribe(plain, wanted.clone());
        }
        for (at, (document, n)) in documents.into_iter().enumerate() {
            server.commit("rooms", document, n);
            server.run_until_idle();
            let mut expected: Vec<_> = selections
                .iter()
                .filter(|(_, selects)| selects(at) && visible[at])
                .collect();
            expected.sort_by(|a, b| a.0.0.subscription_id.cmp(&b.0.0.subscription_id));
            let expected: Vec<_> = expected
                .iter()
                .map(|(wanted, _)| wanted.0.subscription_id.clone())
                .collect();
            for stream in [stream, plain] {
                let mut ids: Vec<_> = server
                    .delivered(stream)
                    .into_iter()
                    .flat_map(|(_, ids)| ids)
                    .collect();
                ids.sort();
                assert_eq!(ids, expected, "{grant:?} {document}");
            }
        }
        server.assert_frees_everything();
    }
}

#[test]
fn document_out_of_sight_leaves_without_its_data() {
    // One filter is a part of the subscription's, two are evaluated beside it.
    for grant in [any(&["n < 5"]), any(&["n < 5", "n == 7"])] {
        let mut server = restricted();
        let stream = known(&mut server, "alice", hello("s", 1), grant);
        server.subscribe(stream, want("s", "rooms").left());
        for n in [50, 4, 51, 52] {
            server.commit("rooms", "r", n);
        }
        server.run_until_idle();
        let seen = server
            .deliveries(stream)
            .into_iter()
            .map(|it| (it.left, it.event.unwrap()));
        let seen: Vec<_> = seen
            .map(|(left, event)| (offset_of(&event.event_id), left, event.document_data))
            .collect();
        let visible = Bytes::from_static(b"{\"n\":4}");
        assert_eq!(seen, [(2, false, visible), (3, true, Bytes::new())]);
    }
}

#[test]
fn grants_have_fingerprints_that_last() {
    let fingerprint = |grant: &Grant| grant.restrict(Filter::all()).unwrap().fingerprint;
    let grants = [
        Grant::Everything,
        any(&["n < 5"]),
        any(&["n < 6"]),
        any(&["n < 5", "n < 6"]),
        any(&["n < 6", "n < 5"]),
    ];
    let known: BTreeSet<_> = grants.iter().map(fingerprint).collect();
    assert_eq!(known.len(), grants.len());
    assert_eq!(fingerprint(&grants[0]), 0);
    // Clients store it: another version of the server must find the same one.
    assert_eq!(fingerprint(&grants[1]), 4_641_048_297_434_540_505);
}

/// Rights that count the questions.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

impl Rights for Counting {
    fn grant(&self, _: &str, _: &str) -> Grant {
        self.0.fetch_add(1, Ordering::Relaxed);
        Grant::Everything
    }
}

#[test]
fn newer_rights_are_compared_once_per_collection() {
    let mut server = restricted();
    let stream = known(&mut server, "alice", hello("s", 1), Grant::Everything);
    for id in ["a", "b", "c", "d"] {
        assert!(server.subscribe(stream, want(id, "rooms")).success);
    }
    let rights = Arc::new(Counting::default());
    let access = StreamAccess {
        owner: "alice".into(),
        shares_limits: true,
        rights: Arc::clone(&rights) as Arc<dyn Rights>,
        expires_at: None,
    };
    server.step(Input::Authorized {
        stream,
        access,
        answers: false,
    });
    assert_eq!(rights.0.load(Ordering::Relaxed), 1);
    assert!(server.subscribe(stream, want("e", "rooms")).success);
}

#[test]
fn in_doubt_only_the_selected_document_leaves() {
    let mut server = restricted();
    server.reads_previous = false;
    let stream = known(&mut server, "alice", hello("s", 1), any(&["n < 5"]));
    server.subscribe(stream, want("s", "rooms").document("r").left());
    for (document, n) in [("hidden", 50), ("r", 50), ("hidden", 51), ("r", 51)] {
        server.commit("rooms", document, n);
    }
    server.run_until_idle();
    let seen = server.deliveries(stream).into_iter();
    let seen: Vec<_> = seen
        .map(|it| (it.left, it.event.unwrap().document_id))
        .collect();
    assert_eq!(seen, [(true, "r".to_owned())]);
}

#[test]
fn session_belongs_to_its_principal_and_its_secret() {
    let mut server = restricted();
    let with = |secret: &'static [u8], attempt| Hello {
        secret: Bytes::from_static(secret),
        ..hello("s", attempt)
    };
    let owner = known(&mut server, "alice", with(b"x", 1), Grant::Everything);
    // The highest attempt there is would fence its owner for good.
    for (principal, secret) in [("mallory", &b"x"[..]), ("alice", b""), ("alice", b"y")] {
        let other = known(
            &mut server,
            principal,
            with(secret, u64::MAX),
            Grant::Everything,
        );
        assert_eq!(server.code(owner), None, "{principal} {secret:?}");
        server.end(other);
    }
    let newer = known(&mut server, "alice", with(b"x", 2), Grant::Everything);
    assert_eq!(server.code(owner), Some(EndCode::Aborted));
    assert_eq!(server.code(newer), None);
    // Without principals, the secret alone protects.
    let mut server = Server::new();
    let owner = server.open();
    server.send(owner, Request::Hello(with(b"x", 1)));
    let other = server.hello("s", u64::MAX);
    assert_eq!((server.code(owner), server.code(other)), (None, None));
}

#[test]
fn plain_ids_of_one_principal_are_free_for_another() {
    let mut server = restricted();
    let streams = ["alice", "mallory"].map(|owner| {
        let stream = server.open();
        authorize(&mut server, stream, owner, Grant::Everything, None);
        assert!(server.subscribe(stream, want("same", "rooms")).success);
        stream
    });
    server.commit("rooms", "r", 1);
    server.run_until_idle();
    for stream in streams {
        assert_eq!(server.offsets(stream), [1]);
    }
    server.assert_frees_everything();
}

#[test]
fn subscriptions_of_a_principal_are_limited_over_its_streams() {
    let mut server = Server::with(Limits {
        subscriptions_per_principal: 3,
        ..Limits::default()
    });
    server.hub = server.hub.restricted();
    let mut open = |owner: &str, session: &str| {
        known(&mut server, owner, hello(session, 1), Grant::Everything)
    };
    let (first, second, other) = (open("alice", "a"), open("alice", "b"), open("bob", "c"));
    let part = open("local", "d");
    let full = (
        RefusalCode::Limit,
        "you have 3 subscriptions, which is the limit of one principal (subscriptions_per_principal)",
    );
    for (stream, id, refusal) in [
        (first, "1", None),
        (first, "2", None),
        (second, "3", None),
        (second, "4", Some(full)),
        (first, "4", Some(full)),
        // What replaces another one takes no capacity, and others have their own.
        (first, "2", None),
        (other, "1", None),
        (part, "1", None),
        (part, "2", None),
        (part, "3", None),
        (part, "4", None),
    ] {
        let response = server.subscribe(stream, want(id, "rooms"));
        assert_eq!(refused(&response), refusal, "{id}");
    }
    server.unsubscribe(first, "1", 0);
    // Its acknowledgement.
    server.take(first);
    assert!(server.subscribe(second, want("4", "rooms")).success);
    // The end of a stream gives back what it had.
    server.end(second);
    assert!(server.subscribe(first, want("5", "rooms")).success);
    assert!(server.subscribe(first, want("6", "rooms")).success);
    assert!(!server.subscribe(first, want("7", "rooms")).success);
    assert_eq!(server.hub.stats().counters.principals_full, 3);
    server.assert_frees_everything();
}

#[test]
fn stream_ends_when_its_credentials_expire() {
    let mut server = restricted();
    let stream = known(&mut server, "alice", hello("s", 1), Grant::Everything);
    server.subscribe(stream, want("a", "rooms"));
    authorize(&mut server, stream, "alice", Grant::Everything, Some(10));
    let expires_in = |message| match message {
        Some(Payload::Authenticated(it)) => it.expires_in_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!(expires_in(server.next(stream)), 10_000);
    server.pass(seconds(9));
    // Newer credentials keep the stream.
    authorize(&mut server, stream, "alice", Grant::Everything, Some(10));
    assert_eq!(expires_in(server.next(stream)), 10_000);
    server.pass(seconds(9));
    assert_eq!(server.code(stream), None);
    server.pass(seconds(1));
    let ended = &server.ended[&stream];
    assert_eq!(ended.status.code, EndCode::Unauthenticated);
    assert_eq!(
        (ended.final_code, ended.flush),
        (Some(FinalCode::Unauthenticated), false)
    );
    server.commit("rooms", "r", 1);
    server.run_until_idle();
    assert_eq!(server.hub.stats().counters.unauthenticated, 1);
    server.assert_frees_everything();
}

#[test]
fn welcome_tells_how_long_credentials_last() {
    let mut server = restricted();
    let stream = server.open();
    authorize(&mut server, stream, "alice", Grant::Everything, Some(60));
    server.send(stream, Request::Hello(hello("s", 1)));
    match server.next(stream) {
        Some(Payload::Welcome(welcome)) => assert_eq!(welcome.expires_in_ms, 60_000),
        other => panic!("{other:?}"),
    }
}

#[test]
fn revoked_and_foreign_credentials_end_the_stream() {
    let mut server = restricted();
    let revoked = known(&mut server, "alice", hello("a", 1), Grant::Everything);
    let reason = "the credentials are not valid".to_owned();
    server.step(Input::Revoked {
        stream: revoked,
        reason,
    });
    let foreign = known(&mut server, "alice", hello("b", 1), Grant::Everything);
    authorize(&mut server, foreign, "bob", Grant::Everything, None);
    for stream in [revoked, foreign] {
        assert_eq!(server.code(stream), Some(EndCode::Unauthenticated));
    }
}

#[test]
fn only_rights_that_concern_a_stream_end_it() {
    let mut server = restricted();
    let below = || any(&["n < 5"]);
    let subscribed = known(&mut server, "alice", hello("a", 1), below());
    server.subscribe(subscribed, want("s", "rooms"));
    let idle = known(&mut server, "bob", hello("b", 1), below());
    authorize(&mut server, subscribed, "alice", below(), None);
    authorize(&mut server, idle, "bob", Grant::Nothing, None);
    assert_eq!((server.code(subscribed), server.code(idle)), (None, None));
    assert_eq!(
        server.subscribe(idle, want("s", "rooms")).code(),
        RefusalCode::Denied
    );
    authorize(&mut server, subscribed, "alice", any(&["n < 6"]), None);
    assert_eq!(server.code(subscribed), Some(EndCode::Unavailable));
    assert_eq!(
        server.ended[&subscribed].final_code,
        Some(FinalCode::Rights)
    );
}

#[test]
fn resumed_documents_of_unknown_rights_are_sent_anew() {
    let part = || any(&["n >= 5"]);
    for (grant, is_resumed) in [(Grant::Everything, true), (part(), false)] {
        let mut server = restricted();
        server.commit("rooms", "d1", 7);
        let stream = known(&mut server, "alice", hello("s", 1), grant);
        // As an application does that has stored its position and was down since.
        let wanted = want("a", "rooms").snapshot(Bytes::new()).after(1);
        let response = server.subscribe(stream, wanted);
        let reason = response.resync.map(|resync| resync.reason());
        let expected = (!is_resumed).then_some(ResyncReason::Rights);
        assert_eq!((response.success, reason), (true, expected));
        server.run_until_idle();
        let documents = server
            .take(stream)
            .into_iter()
            .filter_map(|payload| match payload {
                Payload::Snapshot(snapshot) => Some(snapshot.documents.len()),
                _ => None,
            });
        assert_eq!(documents.sum::<usize>(), usize::from(!is_resumed));
    }
}
