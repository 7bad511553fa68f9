//! The JSON of `/diagnostics`, in the shape of the original.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use steadfast_wire::fodc::{CrashBreadcrumb, CrashPanicRecord};

use crate::{
    crash_store::Crash,
    go_json::{self, rfc3339_or_zero as time},
};

#[derive(Serialize)]
struct CrashJson<'a> {
    fetched_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    panic_record: Option<PanicJson<'a>>,
    agent_id: String,
    pod_name: &'a str,
    role: &'a str,
    source_endpoint: &'a str,
    artifact_dir: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    files: &'a [String],
}

#[derive(Serialize)]
struct PanicJson<'a> {
    component: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    goroutine_stack: &'a str,
    panic_value: &'a str,
    occurred_at: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    process_metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    breadcrumbs: Vec<BreadcrumbJson<'a>>,
    recovered: bool,
}

#[derive(Serialize)]
struct BreadcrumbJson<'a> {
    occurred_at: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fields: &'a BTreeMap<String, String>,
    stage: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    component: &'a str,
}

/// Returns the page of these crashes.
pub(crate) fn page(crashes: &[Arc<Crash>]) -> Vec<u8> {
    let crashes = crashes.iter().map(|crash| CrashJson::new(crash));
    go_json::page(&crashes.collect::<Vec<_>>())
}

impl<'a> CrashJson<'a> {
    fn new(crash: &'a Crash) -> Self {
        let report = &crash.report;
        Self {
            fetched_at: time(report.fetched_at.as_ref()),
            panic_record: report.panic_record.as_ref().map(PanicJson::new),
            agent_id: crash.agent.to_string(),
            pod_name: &crash.identity.name,
            role: &crash.identity.role,
            source_endpoint: &report.source_endpoint,
            artifact_dir: &report.artifact_dir,
            files: &report.files,
        }
    }
}

impl<'a> PanicJson<'a> {
    fn new(record: &'a CrashPanicRecord) -> Self {
        Self {
            component: &record.component,
            goroutine_stack: &record.goroutine_stack,
            panic_value: &record.panic_value,
            occurred_at: time(record.occurred_at.as_ref()),
            process_metadata: &record.process_metadata,
            breadcrumbs: record.breadcrumbs.iter().map(BreadcrumbJson::new).collect(),
            recovered: record.recovered,
        }
    }
}

impl<'a> BreadcrumbJson<'a> {
    fn new(breadcrumb: &'a CrashBreadcrumb) -> Self {
        Self {
            occurred_at: time(breadcrumb.time.as_ref()),
            fields: &breadcrumb.fields,
            stage: &breadcrumb.stage,
            component: &breadcrumb.component,
        }
    }
}
