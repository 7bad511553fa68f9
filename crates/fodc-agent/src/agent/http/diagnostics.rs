//! `/diagnostics`: the crashes of the process beside the agent, as JSON.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use prost_types::Timestamp;
use serde::Serialize;
use steadfast_wire::fodc::{CrashBreadcrumb, CrashPanicRecord, StreamCrashDiagnosticsRequest};
use tokio::task::spawn_blocking;

use super::{busy, failure};
use crate::agent::app_state::AppState;

/// A crash in the original's shape.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Crash {
    fetched_at: String,
    source_endpoint: String,
    collection: Collection,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Collection {
    artifact_dir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Record>,
    files: Vec<String>,
}

/// The record of a panic in the shape of `panic.json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    component: String,
    panic_value: String,
    goroutine_stack: String,
    occurred_at: String,
    recovered: bool,
    breadcrumbs: Vec<Breadcrumb>,
    process_metadata: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Breadcrumb {
    time: String,
    stage: String,
    component: String,
    fields: BTreeMap<String, String>,
}

pub(super) async fn page(State(state): State<Arc<AppState>>) -> Response {
    if !state.crashes.is_configured() {
        let text = "no crashes are collected: set --crash-source-dir or --crash-files\n";
        return (StatusCode::NOT_IMPLEMENTED, text).into_response();
    }
    // A page of metrics takes as much memory.
    let Ok(permit) = Arc::clone(&state.pages).try_acquire_owned() else {
        return busy("too many pages are being built; try again");
    };
    let read = spawn_blocking(move || {
        let now = state.clock.now_ms();
        let found = state.crashes.find().into_iter();
        let crashes = found.filter_map(|crash| crash.read(now)).map(Crash::new);
        let crashes: Vec<_> = crashes.collect();
        drop(permit);
        crashes
    });
    match read.await {
        Ok(crashes) => Json(crashes).into_response(),
        Err(error) => failure(&error.to_string()),
    }
}

impl Crash {
    fn new(crash: StreamCrashDiagnosticsRequest) -> Self {
        Self {
            fetched_at: text(crash.fetched_at),
            source_endpoint: crash.source_endpoint,
            collection: Collection {
                artifact_dir: crash.artifact_dir,
                record: crash.panic_record.map(Record::new),
                files: crash.files,
            },
        }
    }
}

impl Record {
    fn new(record: CrashPanicRecord) -> Self {
        Self {
            component: record.component,
            panic_value: record.panic_value,
            goroutine_stack: record.goroutine_stack,
            occurred_at: text(record.occurred_at),
            recovered: record.recovered,
            breadcrumbs: record
                .breadcrumbs
                .into_iter()
                .map(Breadcrumb::new)
                .collect(),
            process_metadata: record.process_metadata.into_iter().collect(),
        }
    }
}

impl Breadcrumb {
    fn new(breadcrumb: CrashBreadcrumb) -> Self {
        Self {
            time: text(breadcrumb.time),
            stage: breadcrumb.stage,
            component: breadcrumb.component,
            fields: breadcrumb.fields.into_iter().collect(),
        }
    }
}

/// Returns a time as Go writes it, with its zero for none.
fn text(time: Option<Timestamp>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
    time.map_or_else(
        || "0001-01-01T00:00:00Z".to_owned(),
        |time| time.to_string(),
    )
}
