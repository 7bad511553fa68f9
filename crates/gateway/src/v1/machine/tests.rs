mod model;
mod rig;

use std::time::Duration;

use steadfast_session::Time;
use steadfast_streamer::{Epoch, Position};

use self::rig::{Rig, change, principal};
use crate::{
    machine::{Input, Key},
    subscription::{End, EndCode, Event},
};

/// What a client sends, and what it is sent. `>` stands before actions.
type Row<'a> = (&'a str, &'a [&'a str]);

fn check(rig: &mut Rig, rows: &[Row<'_>]) {
    for (text, expected) in rows {
        assert_eq!(rig.text(text), *expected, "{text}");
    }
}

#[test]
fn requests_are_read_or_refused_with_a_reason() {
    let refused = |message: &str| {
        format!(r#"{{"type":"refused","id":"a","code":"invalid","message":"{message}"}}"#)
    };
    let subscribe = |rest: &str| {
        format!(r#"{{"type":"subscribe","id":"a","database":"d","collection":"c"{rest}}}"#)
    };
    let position = "0000000000000007-12";
    for (rest, expected) in [
        ("", "> subscribe d/c [] from now".to_owned()),
        (
            r#","snapshot":true"#,
            "> subscribe d/c [] from now snapshot left".to_owned(),
        ),
        (
            r#","left":true,"unknown":[1]"#,
            "> subscribe d/c [] from now left".to_owned(),
        ),
        (
            &format!(r#","from":"{position}""#),
            format!("> subscribe d/c [] from {position}"),
        ),
        (
            r#","filters":["total > 5",{"field":"a.b","op":"==","value":"x"}]"#,
            r#"> subscribe d/c [total > 5, a.b == "x"] from now"#.to_owned(),
        ),
        (
            r#","orderBy":{"field":"n","descending":true},"limit":3"#,
            "> subscribe d/c [] from now snapshot left by n Descending 3".to_owned(),
        ),
        (r#","limit":3"#, refused("`limit` needs `orderBy`")),
        (
            r#","orderBy":{"field":"n"}"#,
            refused("`orderBy` needs `limit`"),
        ),
        (
            r#","orderBy":{"field":"n"},"limit":0"#,
            refused("`limit` must be at least 1"),
        ),
        (
            &format!(r#","orderBy":{{"field":"n"}},"limit":1,"from":"{position}""#),
            refused("`from` is not allowed with `orderBy`"),
        ),
    ] {
        let mut rig = Rig::open();
        assert_eq!(rig.text(&subscribe(rest)), [expected], "{rest}");
    }
    for (rest, part) in [
        (r#","from":"12""#, "is not a position"),
        (r#","filters":["total >"]"#, "column 8: expected a value"),
        (
            r#","filters":[{"field":"a","op":"~","value":1}]"#,
            "unsupported operator: ~",
        ),
        (
            r#","filters":[{"field":"a","op":"==","value":{}}]"#,
            "cannot be an object",
        ),
        (r#","filters":[7]"#, "a filter: "),
        (r#","filters":{}"#, "expected a sequence"),
        (r#","fields":["a b"]"#, "field \\\"a b\\\": "),
        (r#","credit":-1"#, "expected u64"),
        (r#","snapshot":1"#, "expected a boolean"),
        (r#","database":"""#, "duplicate field"),
    ] {
        let mut rig = Rig::open();
        let [answer] = &rig.text(&subscribe(rest))[..] else {
            panic!("{rest} has one answer");
        };
        assert!(
            answer.contains(r#""code":"invalid""#) && answer.contains(part),
            "{answer}"
        );
    }
}

#[test]
fn messages_that_cannot_be_understood_are_told() {
    let mut rig = Rig::open();
    let error =
        |message: &str| format!(r#"{{"type":"error","code":"invalid","message":"{message}"}}"#);
    for (text, expected) in [
        ("{}", error("a message is an object with a text `type`")),
        ("7", error("a message is an object with a text `type`")),
        (
            r#"[["ping"]]"#,
            error("a message is an object with a text `type`"),
        ),
        (
            r#"{"type":"unsubscribe"}"#,
            error("unsubscribe: missing field `id`"),
        ),
        (
            r#"{"type":"unsubscribe","id":""}"#,
            error("unsubscribe: `id` is a text of 1 to 128 bytes"),
        ),
        (
            r#"{"type":"credit","id":"a"}"#,
            error("credit: missing field `messages`"),
        ),
        (r#"{"type":"auth"}"#, error("auth: missing field `token`")),
    ] {
        assert_eq!(rig.text(text), [expected], "{text}");
    }
    let long = format!(r#"{{"type":"unsubscribe","id":"{}"}}"#, "x".repeat(129));
    assert_eq!(
        rig.text(&long),
        [error("unsubscribe: `id` is a text of 1 to 128 bytes")]
    );
    check(
        &mut rig,
        &[
            (r#"{"type":"later","id":"a"}"#, &[]),
            ("[]", &[]),
            (
                r#"[{"type":"ping","n":1.0},{},{"type":"ping"},{"type":"ping","n":{}}]"#,
                &[
                    r#"{"type":"pong","n":1.0}"#,
                    &error("a message is an object with a text `type`"),
                    r#"{"type":"pong"}"#,
                    r#"{"type":"pong"}"#,
                ],
            ),
        ],
    );
    let [told, closed] = &rig.text("{")[..] else {
        panic!("an error, then the end")
    };
    assert!(told.contains("the frame is not JSON: EOF"), "{told}");
    assert_eq!(closed, "> close 1008 a frame is not JSON");
    assert_eq!(
        rig.text(r#"{"type":"ping"}"#),
        [""; 0],
        "nothing follows the end"
    );
}

#[test]
fn credentials_are_checked_before_what_follows_them() {
    let mut rig = Rig::open_restricted();
    let refused = r#"{"type":"refused","id":"a","code":"denied","message":"credentials are required; send `auth` first"}"#;
    check(
        &mut rig,
        &[
            (
                r#"{"type":"subscribe","id":"a","database":"d","collection":"c"}"#,
                &[refused],
            ),
            (
                r#"[{"type":"auth","token":"alice"},{"type":"ping","n":1},{"type":"auth","token":"alice"},{"type":"ping","n":2}]"#,
                &[
                    r#"{"type":"authenticated","principal":"token:alice","expiresInMs":60000}"#,
                    r#"{"type":"pong","n":1}"#,
                    r#"{"type":"authenticated","principal":"token:alice","expiresInMs":60000}"#,
                    r#"{"type":"pong","n":2}"#,
                ],
            ),
            (
                r#"{"type":"subscribe","id":"a","database":"d","collection":"c"}"#,
                &["> subscribe d/c [] from now"],
            ),
            (
                r#"[{"type":"auth","token":"bob"},{"type":"ping"}]"#,
                &[
                    r#"{"type":"error","code":"unauthenticated","message":"the token is of another principal; open another connection"}"#,
                    "> close 4401 the token is of another principal; open another connection",
                ],
            ),
        ],
    );
    let mut rig = Rig::open_restricted();
    check(
        &mut rig,
        &[(
            r#"[{"type":"auth","token":""},{"type":"ping"}]"#,
            &[
                r#"{"type":"error","code":"unauthenticated","message":"the credentials are not valid"}"#,
                "> close 4401 the credentials are not valid",
            ],
        )],
    );
}

#[test]
fn principals_of_the_request_are_told_unless_anonymous() {
    let welcome = |auth: &str| {
        format!(
            r#"{{"type":"welcome","version":1,"server":"g1","heartbeatMs":25000,"auth":"{auth}","socket":7}}"#
        )
    };
    let alice = r#"{"type":"authenticated","principal":"token:alice","expiresInMs":60000}"#;
    for (principal, expected) in [
        (None, vec![welcome("required")]),
        (Some(principal("anonymous")), vec![welcome("optional")]),
        (
            Some(principal("token:alice")),
            vec![welcome("optional"), alice.to_owned()],
        ),
    ] {
        assert_eq!(Rig::new().opened(principal), expected);
    }
    // Somebody without credentials may present some later.
    let mut rig = Rig::open();
    assert_eq!(rig.text(r#"{"type":"auth","token":"alice"}"#), [alice]);
}

#[test]
fn ends_of_credentials_and_of_the_gateway_close_the_socket() {
    let error =
        r#"{"type":"error","code":"unauthenticated","message":"the credentials have expired"}"#;
    let limit =
        r#"{"type":"error","code":"limit","message":"this principal has too many sockets"}"#;
    let retry_after = Duration::from_secs(3);
    for (input, expected) in [
        (
            Input::Unauthenticated("the credentials have expired"),
            [error, "> close 4401 the credentials have expired"],
        ),
        (
            Input::Authenticated(Err("this principal has too many sockets")),
            [limit, "> close 1013 this principal has too many sockets"],
        ),
        (
            Input::Drain { retry_after },
            [
                r#"{"type":"drain","retryAfterMs":3000}"#,
                "> close 1012 the gateway stops",
            ],
        ),
    ] {
        let mut rig = Rig::open();
        assert_eq!(rig.step(input), expected);
        assert_eq!(rig.deadline, None);
        assert_eq!(rig.text(r#"{"type":"ping"}"#), [""; 0]);
    }
    let mut rig = Rig::open();
    assert_eq!(rig.text(r#"[{"type":"cut"},{"type":"ping"}]"#), ["> cut"]);
}

#[test]
fn silent_sockets_are_pinged_and_then_closed() {
    let seconds = |seconds: u64| Time::ZERO + Duration::from_secs(seconds);
    let mut rig = Rig::open();
    assert_eq!(rig.deadline, Some(seconds(50)));
    assert_eq!(rig.tick_at(seconds(50)), ["> ping"]);
    assert_eq!(rig.deadline, Some(seconds(75)));
    rig.now = seconds(60);
    assert_eq!(rig.step(Input::Alive), [""; 0]);
    assert_eq!(
        rig.deadline,
        Some(seconds(110)),
        "a page that sleeps still responds to pings"
    );
    assert_eq!(
        rig.tick_at(seconds(109)),
        [""; 0],
        "an early tick does nothing"
    );
    assert_eq!(rig.tick_at(seconds(110)), ["> ping"]);
    let closed = "> close 1001 the client was silent for too long";
    assert_eq!(rig.tick_at(seconds(135)), [closed]);

    // A tick is late while a client takes a frame slowly: its answer may wait to be read.
    let mut rig = Rig::open();
    assert_eq!(rig.tick_at(seconds(200)), ["> ping"]);
    assert_eq!(rig.deadline, Some(seconds(225)));
    assert_eq!(rig.tick_at(seconds(240)), ["> ping"]);
    assert_eq!(rig.tick_at(seconds(265)), [closed]);

    let mut rig = Rig::open_restricted();
    assert_eq!(rig.deadline, Some(seconds(10)));
    rig.now = seconds(9);
    rig.text(r#"{"type":"ping"}"#);
    let error = r#"{"type":"error","code":"unauthenticated","message":"credentials are required"}"#;
    assert_eq!(
        rig.tick_at(seconds(10)),
        [error, "> close 4401 credentials are required"]
    );
}

#[test]
fn items_are_sent_with_credit_and_the_selected_fields() {
    let mut rig = Rig::open();
    let subscribe = r#"{"type":"subscribe","id":"a","database":"d","collection":"c","fields":["n"],"credit":1}"#;
    rig.text(subscribe);
    let at = |offset| Position::new(Epoch(1), offset);
    let event = |rig: &mut Rig, event| rig.step(Input::Event(Key(0), event));
    assert_eq!(
        event(
            &mut rig,
            Event::Opened {
                position: Some(at(4))
            }
        ),
        [r#"{"type":"subscribed","id":"a","position":"0000000000000001-4"}"#]
    );
    let item = |n| Event::Item(change(n, r#"{"m":1,"n":1.10}"#));
    let line = |n| {
        format!(
            r#"{{"collection":"c","database":"d","eventId":"e{n}","id":"u{n}","op":"update","position":"0000000000000001-{n}","sub":"a","timestamp":{n},"type":"change","data":{{"n":1.10}}}}"#
        )
    };
    assert_eq!(event(&mut rig, item(5)), [line(5), "> pause 0".to_owned()]);
    let credit = |messages| format!(r#"{{"type":"credit","id":"a","messages":{messages}}}"#);
    assert_eq!(rig.text(&credit(1)), [""; 0], "a total, not an increment");
    assert_eq!(rig.text(&credit(3)), ["> resume 0"]);
    assert_eq!(
        rig.text(&credit(2)),
        [""; 0],
        "an older total changes nothing"
    );
    assert_eq!(event(&mut rig, item(6)), [line(6)]);
    assert_eq!(
        event(&mut rig, Event::Progress(at(9))),
        [r#"{"type":"progress","sub":"a","position":"0000000000000001-9"}"#]
    );
    assert_eq!(
        event(&mut rig, item(10)),
        [line(10), "> pause 0".to_owned()]
    );
    let end = End::new(EndCode::Unavailable, "gone");
    assert_eq!(
        event(&mut rig, Event::Ended(end)),
        [r#"{"type":"ended","id":"a","code":"unavailable","message":"gone"}"#]
    );
    assert_eq!(rig.text(&credit(9)), [""; 0]);
    let unsubscribed = r#"{"type":"unsubscribed","id":"a"}"#;
    assert_eq!(
        rig.text(r#"{"type":"unsubscribe","id":"a"}"#),
        [unsubscribed]
    );
}

#[test]
fn without_credit_only_the_acceptance_is_told() {
    let mut rig = Rig::open();
    rig.text(r#"{"type":"subscribe","id":"a","database":"d","collection":"c","credit":0}"#);
    assert_eq!(
        rig.step(Input::Event(Key(0), Event::Opened { position: None })),
        [r#"{"type":"subscribed","id":"a"}"#, "> pause 0"]
    );
}

#[test]
fn refused_request_also_ends_the_subscription_of_its_id() {
    let mut rig = Rig::open();
    rig.text(r#"{"type":"subscribe","id":"a","database":"d","collection":"c"}"#);
    assert_eq!(
        rig.text(r#"{"type":"subscribe","id":"a"}"#),
        [
            "> unsubscribe 0",
            r#"{"type":"refused","id":"a","code":"invalid","message":"missing field `database`"}"#,
        ]
    );
    // What a limit refuses is told in between.
    let event = Event::Ended(End::new(EndCode::Limit, "too many"));
    assert_eq!(rig.step(Input::Event(Key(0), event.clone())), [""; 0]);
    rig.text(r#"{"type":"subscribe","id":"a","database":"d","collection":"c"}"#);
    assert_eq!(
        rig.step(Input::Event(Key(1), event)),
        [r#"{"type":"refused","id":"a","code":"limit","message":"too many","retryAfterMs":5000}"#]
    );
}
