//! The JSON of `/cluster/lifecycle`: the shape of the releases since 0.10.3, in which groups and reports
//! are written by `protojson` with all fields.

use serde::Serialize;
use steadfast_wire::fodc::{GroupLifecycleInfo, LifecycleReport};

use super::Lifecycles;
use crate::{go_json, proto_json::Json, schema_consistency::SchemaHistory};

#[derive(Serialize)]
struct Page<'a> {
    agent_summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    groups: Json<'a, Vec<GroupLifecycleInfo>>,
    lifecycle_statuses: Vec<Status<'a>>,
}

#[derive(Serialize)]
struct Summary {
    total: usize,
    requested: usize,
    responded: usize,
    not_responded: usize,
}

#[derive(Serialize)]
struct Status<'a> {
    pod_name: &'a str,
    reports: Json<'a, Vec<LifecycleReport>>,
}

impl Lifecycles {
    /// Returns the JSON of the page, whose verdicts become part of the history.
    pub(crate) fn json(mut self, history: &mut SchemaHistory) -> Vec<u8> {
        let (requested, responded) = (self.missing.requested(), self.missing.responded());
        let summary = Summary {
            total: self.registered,
            requested,
            responded,
            not_responded: requested - responded,
        };
        let reports = std::mem::take(&mut self.reports);
        let error = error(&summary);
        let groups = self.into_groups(history);
        go_json::page(&Page {
            agent_summary: summary,
            error,
            groups: Json(&groups),
            lifecycle_statuses: reports
                .iter()
                .map(|((pod_name, _), reports)| Status {
                    pod_name,
                    reports: Json(reports),
                })
                .collect(),
        })
    }
}

/// Returns the reason why the page is empty, as far as the counts tell it.
fn error(summary: &Summary) -> Option<&'static str> {
    match summary {
        Summary { total: 0, .. } => Some("no agent is registered"),
        Summary { requested: 0, .. } => {
            Some("no agent offers lifecycle data: give the agents --lifecycle-port")
        }
        Summary { responded: 0, .. } => Some("no agent has responded"),
        Summary { .. } => None,
    }
}
