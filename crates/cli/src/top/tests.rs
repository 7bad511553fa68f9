use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};
use serde_json::{Value, json};
use steadfast_streamer::server::operations::Report;

use super::{
    model::{Mode, Model},
    view,
};

fn stream(number: u64, lag: u64, queued: u64) -> Value {
    json!({
        "stream": number, "peer": format!("10.0.3.{number}:51312"), "kind": "profile",
        "session": format!("7c0d\u{1b}{number}"),
        "principal": (number == 7).then_some("jwt:billing"), "subscriptions": 4, "behind": 1,
        "withoutCredit": number % 2, "lag": lag, "queuedBytes": queued, "queuedMessages": 2,
        "blockedSeconds": 0.25,
        "slowest": {"id": format!("orders\u{202e}{number}"), "database": "shop", "collection": "orders"}
    })
}

/// A status after some seconds; counters grow by their rate.
pub(crate) fn report(server: &str, seconds: u64) -> Report {
    let durations =
        json!({"count": 7, "meanSeconds": 0.002, "p50Seconds": 0.001, "p99Seconds": 0.004});
    let value = json!({
        "version": "0.1.0", "serverId": server, "address": "127.0.0.1:9000", "state": "ready",
        "problems": ["the disk is full"], "uptimeSeconds": 120 + seconds,
        "log": {"epoch": "0000000000000007", "head": 1200 * seconds, "first": 0, "bytes": 12 << 20,
            "files": 1, "recoveredRecords": 0, "openedInSeconds": 0.01, "syncs": durations,
            "commits": durations},
        "slowestStreams": [stream(7, 4_211, 0), stream(8, 96, 261_904), stream(9, 12, 10)],
        "otherStreams": {"streams": 4, "behind": 0, "lag": 12},
        "lags": [{"max": 0, "streams": 4}, {"max": 100, "streams": 2}, {"max": null, "streams": 1}],
        "expensiveFilters": [
            {"database": "shop", "collection": "orders", "filter": "customer in [1024,1280]",
                "subscriptions": 1, "costShare": 0.613, "matchShare": 0.0},
            {"database": "shop", "collection": "orders", "filter": "total > 0",
                "subscriptions": 2000, "costShare": 0.041, "matchShare": 0.987}
        ],
        "puller": null,
        "figures": {"events": 1_200 * seconds, "entries_received": 1_300 * seconds,
            "deliveries": 2_400 * seconds, "delivered_subscriptions": 3_600 * seconds,
            "resyncs": 5 + seconds, "streams": 7, "subscriptions": 40, "subscriptions_behind": 3,
            "connections": 9, "connections_limit": 65_536, "subscriptions_taken_over": 12}
    });
    serde_json::from_value(value).unwrap()
}

/// A model that has read a status at each of the first seconds.
fn model(seconds: u64) -> Model {
    let mut model = Model::new("127.0.0.1:9080".to_owned());
    for second in 0..seconds {
        model.on_status(Duration::from_secs(second), Ok(report("a", second)), None);
    }
    model
}

fn press(model: &mut Model, keys: &[KeyCode]) -> bool {
    let mut keys = keys.iter();
    keys.all(|key| model.on_key(KeyEvent::new(*key, KeyModifiers::NONE)))
}

fn write(model: &mut Model, text: &str) {
    let keys: Vec<KeyCode> = text.chars().map(KeyCode::Char).collect();
    assert!(press(model, &keys));
}

fn screen(model: &Model, second: u64, (width, height): (u16, u16)) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let now = Duration::from_secs(second);
    terminal
        .draw(|frame| view::draw(model, now, frame.area(), frame.buffer_mut()))
        .unwrap();
    terminal.backend().clone()
}

/// The peers of the rows that are shown, and the selected one.
fn peers(model: &Model) -> (Vec<String>, String) {
    let peer = |row: &super::lists::Row| row.key.clone();
    let rows = model.rows().iter().map(peer).collect();
    (
        rows,
        model.selected_row().map_or(String::new(), |row| peer(&row)),
    )
}

#[test]
fn screen_has_rates_lag_gaps_recovery_and_slowest_streams() {
    insta::assert_snapshot!(screen(&model(5), 5, (120, 20)));
}

#[test]
fn other_lists_details_and_help_are_shown_on_a_small_terminal() {
    let mut model = model(3);
    press(&mut model, &[KeyCode::Char('2')]);
    insta::assert_snapshot!("filters", screen(&model, 3, (80, 16)));
    press(&mut model, &[KeyCode::Char('1'), KeyCode::Enter]);
    insta::assert_snapshot!("details", screen(&model, 3, (80, 24)));
    press(&mut model, &[KeyCode::Esc, KeyCode::Char('?')]);
    insta::assert_snapshot!("help", screen(&model, 3, (80, 24)));
}

#[test]
fn server_that_is_away_is_shown_with_the_time_and_the_reason() {
    let mut model = model(3);
    for second in 3..=9 {
        model.on_status(
            Duration::from_secs(second),
            Err("connection refused".to_owned()),
            None,
        );
    }
    let shown = screen(&model, 10, (100, 16)).to_string();
    let expected = "no figures for 7.0 s: connection refused; still trying";
    assert!(shown.contains(expected), "{shown}");
    assert!(
        shown.contains("1 200/s events"),
        "the last figures stay: {shown}"
    );
    // Another process under the same address: its counters are not compared with the old ones.
    model.on_status(Duration::from_secs(11), Ok(report("b", 0)), None);
    let shown = screen(&model, 11, (100, 16)).to_string();
    assert!(
        !shown.contains("no figures") && shown.contains("— events"),
        "{shown}"
    );
}

#[test]
fn gateway_has_a_line_of_its_own_and_a_list_of_sockets() {
    let gateway = |seconds: u64| {
        serde_json::from_value(json!({
            "version": "0.1.0", "server": "g", "state": "disconnected", "uptimeSeconds": 60 + seconds,
            "figures": {"sockets": 2, "subscriptions": 5, "items": 70 * seconds, "published": seconds},
            "sockets": [
                {"socket": 12, "protocol": "v1", "peer": "10.0.0.7", "principal": "token:\u{202e}app",
                    "subscriptions": 4, "items": 900, "openSeconds": 33.0},
                {"socket": 9, "protocol": "classic", "peer": null, "principal": null,
                    "subscriptions": 1, "items": 20, "openSeconds": 400.5}
            ],
            "otherSockets": 0
        }))
        .unwrap()
    };
    // Without a gateway there is no fourth list.
    let mut model = model(2);
    press(&mut model, &[KeyCode::Char('4')]);
    assert_eq!(peers(&model).0, ["7", "8", "9"]);
    // The gateway responds, and has no status of the server.
    for second in 2..4 {
        let reason = "not connected".to_owned();
        let now = Duration::from_secs(second);
        model.on_status(now, Err(reason), Some(gateway(second)));
    }
    press(&mut model, &[KeyCode::BackTab]);
    insta::assert_snapshot!("gateway", screen(&model, 4, (110, 18)));
    press(&mut model, &[KeyCode::Tab]);
    assert_eq!(peers(&model).0, ["7", "8", "9"]);
}

#[test]
fn server_that_was_never_there_is_named() {
    let mut model = Model::new("db-0:9080".to_owned());
    model.on_status(Duration::ZERO, Err("connection refused".to_owned()), None);
    let shown = screen(&model, 2, (80, 10)).to_string();
    assert!(shown.contains("db-0:9080, not reached yet"), "{shown}");
    assert!(shown.contains("no figures for 2.0 s"), "{shown}");
}

#[test]
fn selection_stays_with_its_row_when_the_order_changes() {
    let mut model = model(2);
    assert_eq!(peers(&model).0, ["7", "8", "9"]);
    press(&mut model, &[KeyCode::Char('j')]);
    assert_eq!(peers(&model).1, "8");
    let mut next = report("a", 3);
    next.slowest_streams.swap(0, 1);
    model.on_status(Duration::from_secs(3), Ok(next.clone()), None);
    assert_eq!(
        peers(&model),
        (vec!["8".into(), "7".into(), "9".into()], "8".into())
    );
    // Its details end with it: those of its successor would look the same.
    press(&mut model, &[KeyCode::Enter]);
    next.slowest_streams.remove(0);
    model.on_status(Duration::from_secs(4), Ok(next), None);
    assert_eq!((model.mode, peers(&model).1.as_str()), (Mode::Browse, "7"));
}

#[test]
fn rows_are_filtered_and_sorted_by_keys() {
    let mut model = model(2);
    // Lag, behind, no credit, queued: the largest first.
    write(&mut model, "ssss");
    assert_eq!(peers(&model).0, ["8", "9", "7"]);
    write(&mut model, "/0.3.9");
    assert_eq!(peers(&model).0, ["9"]);
    press(&mut model, &[KeyCode::Backspace]);
    assert_eq!(peers(&model).0, ["8", "9", "7"]);
    write(&mut model, "none such");
    assert_eq!(model.selected_row(), None);
    // Without a row there are no details.
    press(&mut model, &[KeyCode::Enter, KeyCode::Enter]);
    assert_eq!(model.mode, Mode::Browse);
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!(peers(&model).0.len(), 3);
    // Behind the last column comes the order of the server again.
    write(&mut model, "ssss");
    assert_eq!(peers(&model).0, ["7", "8", "9"]);
}

#[test]
fn keys_end_where_the_rows_end_and_quit() {
    let mut model = model(2);
    press(
        &mut model,
        &[KeyCode::Up, KeyCode::Char('G'), KeyCode::Down],
    );
    assert_eq!(peers(&model).1, "9");
    press(&mut model, &[KeyCode::Home]);
    assert_eq!(peers(&model).1, "7");
    // While a filter is written, letters are letters.
    assert!(press(&mut model, &[KeyCode::Char('/'), KeyCode::Char('q')]));
    assert!(!press(&mut model, &[KeyCode::Esc, KeyCode::Char('q')]));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert!(!model.on_key(interrupt));
}

#[test]
fn text_of_peers_is_escaped_on_every_screen() {
    let mut model = model(2);
    press(&mut model, &[KeyCode::Enter]);
    let shown = screen(&model, 2, (140, 30)).to_string();
    assert!(
        shown.contains("7c0d\\u{1b}7") && shown.contains("orders\\u{202e}7"),
        "{shown}"
    );
    assert!(!shown.contains(['\u{1b}', '\u{202e}']));
}

#[test]
fn screen_of_any_size_is_drawn() {
    let mut model = model(3);
    for keys in [
        KeyCode::Esc,
        KeyCode::Char('?'),
        KeyCode::Esc,
        KeyCode::Enter,
    ] {
        press(&mut model, &[keys]);
        for width in [1, 2, 7, 40, 200] {
            for height in [1, 2, 5, 30] {
                screen(&model, 3, (width, height));
            }
        }
    }
}
