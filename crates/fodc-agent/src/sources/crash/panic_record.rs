//! The record of a panic, as a database node writes it into `panic.json`.

use std::collections::BTreeMap;

use jiff::Timestamp as Instant;
use prost_types::Timestamp;
use serde::Deserialize;
use serde_json::{Value, error::Error};
use steadfast_wire::fodc::{CrashBreadcrumb, CrashPanicRecord};

/// The contents of a file. Everything may be absent or null, as Go writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PanicFile {
    component: Option<String>,
    panic_value: Option<Value>,
    goroutine_stack: Option<String>,
    occurred_at: Option<String>,
    recovered: Option<bool>,
    breadcrumbs: Option<Vec<Breadcrumb>>,
    process_metadata: Option<BTreeMap<String, Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Breadcrumb {
    time: Option<String>,
    stage: Option<String>,
    component: Option<String>,
    fields: Option<BTreeMap<String, Value>>,
}

/// Parses a file. An error also means a file that is still being written.
pub(super) fn parse(contents: &[u8]) -> Result<CrashPanicRecord, Error> {
    // One bad byte in a stack must not hide the crash.
    let file: PanicFile = serde_json::from_str(&String::from_utf8_lossy(contents))?;
    let breadcrumbs = file.breadcrumbs.unwrap_or_default().into_iter();
    Ok(CrashPanicRecord {
        occurred_at: file.occurred_at.as_deref().and_then(time),
        component: file.component.unwrap_or_default(),
        panic_value: file.panic_value.map(text).unwrap_or_default(),
        recovered: file.recovered.unwrap_or_default(),
        goroutine_stack: file.goroutine_stack.unwrap_or_default(),
        breadcrumbs: breadcrumbs.map(Breadcrumb::into_message).collect(),
        process_metadata: texts(file.process_metadata),
    })
}

impl Breadcrumb {
    fn into_message(self) -> CrashBreadcrumb {
        CrashBreadcrumb {
            time: self.time.as_deref().and_then(time),
            stage: self.stage.unwrap_or_default(),
            component: self.component.unwrap_or_default(),
            fields: texts(self.fields),
        }
    }
}

fn texts<M: FromIterator<(String, String)>>(values: Option<BTreeMap<String, Value>>) -> M {
    let values = values.unwrap_or_default().into_iter();
    values.map(|(name, value)| (name, text(value))).collect()
}

/// Returns a string as it is, and any other value as JSON.
fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn time(text: &str) -> Option<Timestamp> {
    let time: Instant = text.parse().ok()?;
    Some(Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_panic_is_read() {
        let record = parse(
            br#"{"component":"measure","panicValue":"boom","goroutineStack":"goroutine 1",
            "occurredAt":"2026-03-01T08:00:00.5Z","recovered":true,
            "breadcrumbs":[{"time":"2026-03-01T07:59:59+01:00","stage":"flush","component":"c",
            "fields":{"part":"7","rows":12}}],"processMetadata":{"pid":"1"},"new":{}}"#,
        );
        let record = record.unwrap();
        let at = record.occurred_at.unwrap();
        assert_eq!((at.seconds, at.nanos), (1_772_352_000, 500_000_000));
        assert_eq!(record.panic_value, "boom");
        assert!(record.recovered);
        assert_eq!(record.process_metadata["pid"], "1");
        let breadcrumb = &record.breadcrumbs[0];
        assert_eq!(breadcrumb.time.unwrap().seconds, 1_772_348_399);
        assert_eq!(breadcrumb.fields["rows"], "12");
    }

    #[test]
    fn odd_files_are_read_as_far_as_they_say() {
        for (contents, panic_value) in [
            (&b"{}"[..], Some("")),
            (
                br#"{"panicValue":null,"breadcrumbs":null,"occurredAt":"soon"}"#,
                Some(""),
            ),
            (br#"{"panicValue":{"code":1}}"#, Some(r#"{"code":1}"#)),
            (b"{\"panicValue\":\"\xff\"}", Some("\u{fffd}")),
            // Still being written, empty, or something else.
            (br#"{"panicValue":"bo"#, None),
            (b"", None),
            (b"3", None),
        ] {
            let found = parse(contents).ok().map(|record| record.panic_value);
            assert_eq!(found.as_deref(), panic_value, "{contents:?}");
        }
    }
}
