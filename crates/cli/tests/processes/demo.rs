//! The demo, and kills of a server under load, as processes of their own.

use crate::process::{run, words};
use serde_json::Value;

#[tokio::test]
async fn a_short_demo_loses_nothing_and_reports_it() {
    let demo = "demo --duration 8s --json --publishers 2 --subscribers 8 --rate 200 --seed 3";
    let ended = run(&words(demo), None).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let count = |name: &str| {
        report[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}: {report}"))
    };
    for name in words("lost duplicated reordered unexpected altered unacknowledged") {
        assert_eq!(count(name), 0, "{name}: {report}");
    }
    for name in ["published", "delivered", "cuts"] {
        assert!(count(name) > 0, "{name}: {report}");
    }
    assert!(
        report["recovery_ms"]["max"].as_u64().unwrap() > 0,
        "{report}"
    );
    let faults: u64 = report["faults"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(faults, 2, "{report}");
}

#[tokio::test]
async fn kill_9_under_load_loses_doubles_and_reorders_nothing() {
    let ended = run(&words("kill9 --cycles 5 --rate 500 --seed 2 --json"), None).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["cycles"], 5, "{report}");
    for name in words("lost duplicated reordered unexpected altered gaps") {
        assert_eq!(report[name], 0, "{name}: {report}");
    }
    for name in words("acknowledged delivered") {
        assert!(report[name].as_u64().unwrap() > 0, "{name}: {report}");
    }
}
